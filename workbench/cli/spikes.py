"""`workbench spikes`: loss spikes, and what moved before them."""

import math
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from workbench.cli import app
from workbench.cli.output import Json, note, print_json, print_rows
from workbench.errors import UsageError

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
    window: Annotated[
        list[str] | None,
        typer.Option(
            "--window",
            help="Values before a value that it is compared with, of every detector, or "
            "DETECTOR=VALUES; repeatable; default olmo2=1000, olmo_core=128, mad=128.",
        ),
    ] = None,
    threshold: Annotated[
        list[str] | None,
        typer.Option(
            "--threshold",
            help="Spreads above the window's centre at which a value is flagged, of every "
            "detector, or DETECTOR=SPREADS; repeatable; default olmo2=7, olmo_core=6, mad=7.",
        ),
    ] = None,
    top: Annotated[
        int | None,
        typer.Option("--top", min=1, help="Print the most severe events only; all are stored."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Find spikes in a training run, most severe first, and what moved before them; store both."""
    from analysis_db.detectors import configured
    from analysis_db.spikes import find_spikes, incidents, most_severe, write_spikes
    from analysis_db.store import Store
    from workbench.settings import Home

    store = Store(Home.from_env().store)
    detectors = configured(
        {name: _window(text) for name, text in _by_detector(window or [], "--window").items()},
        {
            name: _spreads(text)
            for name, text in _by_detector(threshold or [], "--threshold").items()
        },
    )
    found = find_spikes(
        store, target, detector=detector and detector.value, metrics=metric or [], every=every,
        join_steps=join, look_back=look_back, detectors=detectors,
    )  # fmt: skip
    replaced = write_spikes(store, found)
    if as_json:
        print_json(found.as_dict(top) | {"remarks": replaced + found.remarks()})
        return
    events, leads, _ = found.frames()
    table = incidents(events, leads)
    shown = most_severe(table, top)
    rows = [_short(dict(row), found.run) for _, row in shown.iterrows()]
    title = f"Events of {target}, most severe first"
    if len(shown) < len(table):
        title += f" ({len(shown)} of {len(table)})"
    print_rows(rows, as_json=False, title=title, empty="No events.")
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
    used = (detectors[name] for name in dict.fromkeys(score.detector for score in found.scores))
    settings = ", ".join(f"{d.name} window {d.window:,}, threshold {d.threshold:g}" for d in used)
    note.print(f"Searched with {settings}.", style="dim")
    for line in replaced + found.remarks():
        note.print(line, style="dim")


def _by_detector(texts: list[str], option: str) -> dict[str, str]:
    """The values of an option that is for every detector, or for one as DETECTOR=VALUE."""
    values: dict[str, str] = {}
    for text in texts:
        name, separator, value = text.rpartition("=")
        if separator and name not in list(DetectorName):
            raise UsageError(
                f"{option} {text}: there is no detector {name!r}; choose one of "
                f"{', '.join(DetectorName)}."
            )
        values |= {name: value} if separator else dict.fromkeys(map(str, DetectorName), value)
    return values


def _window(text: str) -> int:
    if not text.isdecimal() or int(text) < 2:
        raise UsageError(f"--window {text!r} is not a number of values from 2 on.")
    return int(text)


def _spreads(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise UsageError(f"--threshold {text!r} is not a number of spreads above 0.")
    return number


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
        "attempt": row["attempt"],
        "peak": row["peak_step"],
        "value": None if row["peak_value"] != row["peak_value"] else row["peak_value"],
        "back at": "never" if back != back or back is None else str(int(back)),
        "severity": row["severity"] or "",
        "score": "" if math.isnan(row["severity_score"]) else f"{row['severity_score']:.1f}",
        "agree": f"{row['agreement']} of {row['judges']}" if row["judges"] else "",
        "led by": ", ".join(leaders[:3]) + more,
    }
