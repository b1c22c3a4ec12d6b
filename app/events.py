"""Events in logged series: those in the store, or those of a search with other settings."""

from dataclasses import dataclass

import pandas as pd
import streamlit as st

from analysis_db.detectors import DETECTORS
from app.components import pick, table
from app.data import load
from app.escape import md

STORED = "as stored"
COLUMNS = [
    "run", "series", "kind", "severity", "severity_score", "start_step", "end_step", "peak_step",
    "peak_value", "recovered_at", "attempt", "superseded_from", "detector", "window_values",
    "threshold", "join_steps", "agreement", "note",
]  # fmt: skip


@dataclass(frozen=True)
class Search:
    """A detector and its settings, as chosen on the page."""

    detector: str
    window: int
    threshold: float


def pick_search() -> Search | None:
    """The choice of what finds the spikes; None for those that the store holds."""
    detector_box, window_box, threshold_box = st.columns(3, vertical_alignment="bottom")
    with detector_box:
        name = pick(
            "Spikes", [STORED, *DETECTORS], "spike_search",
            help="Those that `workbench spikes` stored, or those that a detector finds now, with "
            "the window and the threshold chosen here.",
        )  # fmt: skip
    if name == STORED:
        return None
    default = DETECTORS[name]
    with window_box:
        window = st.number_input(
            "Window (values)", 2, None, default.window, key=f"spike_window_{name}",
            bind="query-params", help="Number of values before a value that it is compared with.",
        )  # fmt: skip
    with threshold_box:
        threshold = st.number_input(
            "Threshold (spreads)", 0.1, None, default.threshold, 0.5, key=f"spike_threshold_{name}",
            bind="query-params", help="Distance from the window's centre that is flagged.",
        )  # fmt: skip
    return Search(name, int(window), float(threshold))


def events_of(
    search: Search | None, run: str, name: str, metric: str, module: str | None, layer: int | None
) -> pd.DataFrame | None:
    """Spikes and values not finite of the series ``name``; None when it was not searched."""
    if search is not None:
        found = load(
            "found_spikes", run, metric, module, layer, search.detector, search.window,
            search.threshold,
        )  # fmt: skip
    else:
        stored = load("run_spikes", run)
        found = stored[stored["series"] == f"{run}/{name}"]
        if found.empty:
            return None
    found = found[found["kind"].notna()].assign(run=run, series=name)
    found.attrs = {"run": run, "series": f"{run}/{name}"}
    return found


def show_events(search: Search | None, events: list[pd.DataFrame]) -> None:
    """Every event of the series shown, the most severe first, and what settings found them."""
    st.subheader("Events, most severe first", anchor=False)
    if search is None:
        st.caption(
            md(
                "Those that `workbench spikes` stored: {}. `--window` and `--threshold` search "
                "with others.",
                _settings_of(events),
            )
        )
    else:
        options = (
            f"--detector {search.detector} --window {search.window} "
            f"--threshold {search.threshold:g}"
        )
        st.caption(
            md(
                "Found now by {}, window {:,} values, threshold {:g}; not stored. {:code} stores "
                "them.",
                search.detector,
                search.window,
                search.threshold,
                f"workbench spikes RUN {options}",
            )
        )
    filled = [frame for frame in events if not frame.empty]
    if not filled:
        st.caption("No events in the series shown." if events else "No series was searched.")
        return
    frame = pd.concat(filled, ignore_index=True)[COLUMNS]
    table(
        frame.sort_values(["severity_score", "start_step"], ascending=[False, True]),
        "training-events",
    )


def _settings_of(events: list[pd.DataFrame]) -> str:
    """Windows and thresholds of the stored searches of these series; where they differ, all."""
    found = set()
    for frame in events:
        stored = load("spike_settings", frame.attrs["run"])
        rows = stored[stored["series"] == frame.attrs["series"]]
        found |= set(rows[["detector", "window_values", "threshold"]].itertuples(index=False))
    named = [
        f"{detector} window {window:,} values, threshold {threshold:g}"
        for detector, window, threshold in sorted(found)
    ]
    return "; ".join(named) or "no search"
