"""Training runs: what they logged, and the spikes found in it."""

from dataclasses import asdict

import pandas as pd

from analysis_db.detectors import configured
from analysis_db.series import SeriesKey, list_series, read_series
from analysis_db.spike_events import find_events
from analysis_db.store import Store

SPIKE_COLUMNS = (
    "kind", "detector", "start_step", "end_step", "peak_step", "peak_value", "severity",
    "severity_score", "recovered_at", "agreement", "window_values", "threshold", "join_steps",
    "attempt", "superseded_from", "note",
)  # fmt: skip


def training_runs(store: Store, suite: str) -> pd.DataFrame:
    """The training runs of a suite, newest first: the columns of ``training_runs``."""
    return store.frame(
        "SELECT * EXCLUDE (recipe_json) FROM training_runs WHERE suite = $suite "
        "ORDER BY started_at DESC, run",
        {"suite": suite},
    )


def training_menu(store: Store, run: str) -> pd.DataFrame:
    """metric, module, by_layer of everything that a training run logged."""
    return store.frame(
        """
        SELECT metric, module, bool_or(layer IS NOT NULL) AS by_layer
        FROM training_steps WHERE run = $run GROUP BY metric, module ORDER BY metric, module
        """,
        {"run": run},
    )


def training_series(store: Store, run: str, metric: str, module: str | None) -> pd.DataFrame:
    """step, tokens, layer, value of one logged series, every step."""
    return store.frame(
        """
        SELECT step, tokens, layer, value
        FROM training_steps
        WHERE run = $run AND metric = $metric AND module IS NOT DISTINCT FROM $module
        ORDER BY layer, step
        """,
        {"run": run, "metric": metric, "module": module},
    )


def every_training_run(store: Store) -> pd.DataFrame:
    """run, suite, status, last_step, metrics, values, imported_from of every run of the store."""
    return store.frame(
        """
        SELECT r.run, r.suite, r.status, max(s.step) AS last_step,
               count(DISTINCT s.metric) AS metrics, count(s.step) AS "values", r.imported_from
        FROM training_runs r
        LEFT JOIN training_steps s USING (run)
        GROUP BY ALL ORDER BY r.run
        """
    )


def series_names(store: Store, run: str) -> pd.DataFrame:
    """name, metric, module, layer of every series of a run; the name is without the run."""
    keys = list_series(store, run)
    rows = [(k.name.removeprefix(f"{run}/"), k.metric, k.module, k.layer) for k in keys]
    return pd.DataFrame(rows, columns=["name", "metric", "module", "layer"], dtype=object)


def training_history(
    store: Store, run: str, metric: str, module: str | None, layer: int | None
) -> pd.DataFrame:
    """A logged series in the order of the log: step, value, attempt (from 1), holds, after_gap.

    ``holds`` is false for what a restart from an earlier step overrode, ``after_gap`` true for the
    first value after a gap in the steps.
    """
    series = read_series(store, SeriesKey(run, metric, module, layer))
    frame = pd.DataFrame(
        {"step": series.steps, "value": series.values, "attempt": series.attempts + 1}
    )
    line = pd.MultiIndex.from_arrays([series.current.steps, series.current.attempts + 1])
    frame["holds"] = pd.MultiIndex.from_frame(frame[["step", "attempt"]]).isin(line)
    frame["holds"] &= ~frame.duplicated(["step", "attempt"], keep="last")
    after = [step for _, step in series.current.gaps]
    frame["after_gap"] = frame["holds"] & frame["step"].isin(after)
    return frame


def run_spikes(store: Store, run: str) -> pd.DataFrame:
    """Spikes and values that are not finite, of each searched series of a run.

    Columns: series and ``SPIKE_COLUMNS``. A series that was searched and has none has a row with
    kind NULL.
    """
    columns = ", ".join(f"e.{name}" for name in SPIKE_COLUMNS)
    return store.frame(
        f"""
        SELECT s.series, {columns}
        FROM (SELECT DISTINCT series FROM spike_scores WHERE run = $run) s
        LEFT JOIN spikes e ON e.series = s.series AND e.run = $run AND e.kind <> 'fall'
        ORDER BY s.series, e.start_step, e.detector
        """,
        {"run": run},
    )


def spike_settings(store: Store, run: str) -> pd.DataFrame:
    """series, detector, window_values, threshold of every stored search of a run."""
    return store.frame(
        "SELECT series, detector, window_values, threshold FROM spike_scores WHERE run = $run "
        "ORDER BY ALL",
        {"run": run},
    )


def found_spikes(
    store: Store,
    run: str,
    metric: str,
    module: str | None,
    layer: int | None,
    detector: str,
    window: int,
    threshold: float,
) -> pd.DataFrame:
    """As ``run_spikes``, of one series, searched now by a detector of these settings."""
    series = read_series(store, SeriesKey(run, metric, module, layer))
    settings = configured({detector: window}, {detector: threshold})
    events, _ = find_events(series, [settings[detector]])
    rows = [asdict(event) for event in events if event.kind != "fall"]
    return pd.DataFrame(rows or [{"series": series.key.name}], columns=["series", *SPIKE_COLUMNS])
