"""`workbench spikes`: loss spikes, and what moved before them."""

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from workbench.cli import app
from workbench.cli.output import Json, note, print_json, print_rows

if TYPE_CHECKING:
    from analysis_db.spike_events import Score


class DetectorName(StrEnum):
    olmo2 = "olmo2"
    olmo_core = "olmo_core"
    mad = "mad"


@app.command(epilog="Example: workbench spikes demo --detector mad")
def spikes(
    target: Annotated[
        str,
        typer.Argument(
            help="A training run, or one series: RUN/METRIC, RUN/METRIC/MODULE or "
            "RUN/METRIC/MODULE/LAYER."
        ),
    ],
    detector: Annotated[
        DetectorName | None, typer.Option("--detector", help="One detector; default all three.")
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option("--metric", help="Metric to search; repeatable; default loss, grad_norm."),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Search every series of the run.")] = False,
    join: Annotated[
        int | None,
        typer.Option(
            "--join", min=0, help="Flags so many steps apart are one event; default 10 values."
        ),
    ] = None,
    look_back: Annotated[
        int | None,
        typer.Option(
            "--look-back",
            min=1,
            help="Steps before an event to look for leads; default 100 values.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Find spikes in a training run, what moved before them, and keep both in the store."""
    from analysis_db.spikes import find_spikes, incidents, write_spikes
    from analysis_db.store import Store
    from workbench.settings import Home

    store = Store(Home.from_env().store)
    found = find_spikes(
        store, target, detector=detector and detector.value, metrics=metric or [], every=every,
        join_steps=join, look_back=look_back,
    )  # fmt: skip
    write_spikes(store, found)
    if as_json:
        print_json(found.as_dict())
        return
    events, leads, _ = found.frames()
    table = incidents(events, leads)
    rows = [_short(dict(row), found.run) for _, row in table.iterrows()]
    print_rows(rows, as_json=False, title=f"Events of {target}", empty="No events.")
    print_rows(
        [
            {
                "series": series.removeprefix(f"{found.run}/"), "values": scores[0].n,
                "restarts": len(scores[0].restarts), "gaps": len(scores[0].gaps),
                **{score.detector: _percent(score) for score in scores},
            }
            for series, scores in found.scores_by_series().items()
        ],
        as_json=False, title="Spike scores: percent of all values (and of those judged)",
    )  # fmt: skip
    for line in found.remarks():
        note.print(line, style="dim")


def _percent(score: "Score") -> str:
    if score.spike_score_eligible is None:
        return "not judged"
    return f"{score.spike_score_all:.3g} ({score.spike_score_eligible:.3g})"


def _short(row: dict[str, Any], run: str) -> dict[str, Any]:
    """An incident in the width of a terminal; all of it is in --json."""
    back, left = row["recovered_at"], row["superseded_from"]
    leaders = [f"{lead['leader'].removeprefix(f'{run}/')} -{lead['lead_steps']}"
               for lead in row["led_by"]]  # fmt: skip
    more = f" and {len(leaders) - 3} more" if len(leaders) > 3 else ""
    return {
        "series": row["series"].removeprefix(f"{run}/"),
        "kind": row["kind"] + ("" if left != left or left is None else ", overridden"),
        "steps": f"{row['start_step']}-{row['end_step']}",
        "peak": row["peak_step"],
        "value": None if row["peak_value"] != row["peak_value"] else row["peak_value"],
        "back at": "never" if back != back or back is None else str(int(back)),
        "severity": row["severity"] or "",
        "agree": f"{row['agreement']} of {row['judges']}" if row["judges"] else "",
        "led by": ", ".join(leaders[:3]) + more,
    }
