"""Training runs: every logged series of the store's runs, imported ones too, with their spikes."""

import pandas as pd
import streamlit as st

from app.components import chart, heading, nothing, table
from app.data import load
from app.escape import Markdown, joined, md, plain, shell
from app.events import Search, events_of, pick_search, show_events
from app.figures.runs import RunSeries, gap_spans, restart_steps, run_panels
from app.figures.training import DRAWN_POINTS
from app.frames import rows_of

FIRST = ("loss", "grad_norm", "lr")
MOST_PANELS, MOST_RUNS = 6, 8
IMPORT = "workbench import trainer-state trainer_state.json --run mine"


def page() -> None:
    heading("Training runs", "What was logged while a model was trained, here or elsewhere.")
    runs = load("every_training_run")
    if runs.empty:
        nothing("The store holds no training run.", IMPORT)
        return
    names = [str(run) for run in runs["run"]]
    left, right = st.columns([1, 2], vertical_alignment="bottom")
    with left:
        chosen = st.multiselect(
            "Runs", names, default=names[:1], max_selections=MOST_RUNS, key="training_runs",
            format_func=plain,
        )  # fmt: skip
    keys = {run: load("series_names", run) for run in chosen}
    options = list(dict.fromkeys(str(name) for found in keys.values() for name in found["name"]))
    with right:
        series = st.multiselect(
            "Series", options, default=[name for name in FIRST if name in options] or options[:1],
            max_selections=MOST_PANELS, key="training_series", format_func=plain,
        )  # fmt: skip
    log = st.toggle("Logarithmic", key="training_log", bind="query-params")
    search = pick_search()
    if chosen and series:
        show(keys, series, log, search)
    with st.expander("Every run of the store", expanded=not (chosen and series)):
        table(runs, "training-runs")


def show(
    keys: dict[str, pd.DataFrame], series: list[str], log: bool, search: Search | None
) -> None:
    """The figure, its data, in words what to know of each run, and the events."""
    panels: dict[str, list[RunSeries]] = {}
    rows, notes, events = [], [], []
    for run, names in keys.items():
        unsearched = []
        for row in rows_of(names[names["name"].isin(series)]):
            history = load("training_history", run, row.metric, row.module, row.layer)
            found = events_of(search, run, str(row.name), row.metric, row.module, row.layer)
            if found is None:
                unsearched.append(str(row.name))
                spiked = pd.DataFrame(columns=["peak_step", "peak_value"])
            else:
                events.append(found)
                spiked = found[(found["kind"] == "spike") & found["superseded_from"].isna()]
            panels.setdefault(str(row.name), []).append(
                RunSeries(run, history, spiked.drop_duplicates("peak_step"))
            )
            rows.append(history.assign(run=run, series=row.name))
            notes += said_of(f"{run}/{row.name}", history)
        if unsearched:
            notes.append(
                md(
                    "**{}**: not searched for spikes: {}. {:code} searches loss and gradient norm, "
                    "`--all` every series.",
                    run,
                    ", ".join(unsearched),
                    f"workbench spikes {shell(run)}",
                )
            )
    data = pd.concat(rows, ignore_index=True)
    ordered = {name: panels[name] for name in series if name in panels}
    fig = run_panels(
        ordered,
        title=", ".join(ordered),
        subtitle="triangles: spikes; dotted: overridden by a restart; broken where steps are "
        "missing",
        log=log,
    )
    chart(fig, data, f"training-{'-'.join(keys)}", "Logged series of training runs over the step.")
    if len(data) > DRAWN_POINTS:
        st.caption(
            md(
                "A line has at most {:,} points: the lowest and the highest value of {:,} "
                "stretches, each narrower than a pixel of most screens, so that every peak shows. "
                "The CSV holds every value, what was overridden too.",
                DRAWN_POINTS,
                DRAWN_POINTS // 2,
            )
        )
    if notes:
        st.caption(joined(dict.fromkeys(notes)))
    show_events(search, events)


def said_of(name: str, history: pd.DataFrame) -> list[Markdown]:
    """Restarts, gaps and values that are not finite, a sentence each."""
    found = []
    restarts = restart_steps(history)
    if restarts:
        again = ", ".join(f"{step:,}" for step in restarts)
        overridden = int((~history["holds"]).sum())
        found.append(
            md(
                "**{}**: taken up again from step {}; {:,} values were overridden.",
                name,
                again,
                overridden,
            )
        )
    gaps = gap_spans(history)
    if gaps:
        spans = ", ".join(f"{a + 1:,} to {b - 1:,}" for a, b in gaps[:5])
        more = f" and {len(gaps) - 5} more" if len(gaps) > 5 else ""
        found.append(md("**{}**: steps without a value: {}{}.", name, spans, more))
    missing = int(history["value"].isna().sum())
    if missing:
        found.append(
            md("**{}**: {:,} values are not finite; the line breaks there.", name, missing)
        )
    return found


page()
