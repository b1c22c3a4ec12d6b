"""What the dashboard asks of the store: pandas frames out of the public views, and of the table
``data.measured`` where going through every value would take too long.

Every function takes a ``Store`` first, then plain values (so that results can be cached by them).
A suite, run or metric that the store does not know gives an empty frame with the same columns.
"""

from typing import Any

import pandas as pd

from analysis_db.companions import Moved, mix_levels, moved_with, score_levels
from analysis_db.series import SeriesKey, list_series, read_series
from analysis_db.store import Store

_MIX_COLUMNS = {"category", "bucket", "source_group"}


def suites(store: Store) -> pd.DataFrame:
    """suite, title, about, licence of every suite, the one with most complete runs first."""
    return store.frame(
        """
        SELECT s.suite, s.title, s.about, s.licence
        FROM suites s
        LEFT JOIN runs r ON r.suite = s.suite AND r.status = 'complete'
        GROUP BY ALL
        ORDER BY count(r.run_id) DESC, s.suite
        """
    )


def phases(store: Store, suite: str) -> pd.DataFrame:
    """Every phase of a suite, in order: the columns of the view ``phases``."""
    return store.frame("SELECT * FROM phases WHERE suite = $suite ORDER BY phase", {"suite": suite})


def coverage(store: Store, suite: str) -> pd.DataFrame:
    """phase, probe, status (measured, failed, missing, absent), reason, a row for each pair."""
    return store.frame(
        "SELECT phase, probe, status, reason FROM coverage WHERE suite = $suite "
        "ORDER BY probe, phase",
        {"suite": suite},
    )


def failures(store: Store, suite: str) -> pd.DataFrame:
    """The newest failed run of each phase, probe and part that has no complete one.

    Columns: phase, probe, part, started_at, seconds, error (the traceback).
    """
    return store.frame(
        """
        SELECT r.phase, r.probe, r.part, r.started_at, r.seconds, r.error
        FROM runs r
        JOIN phases p ON p.suite = r.suite AND p.phase = r.phase
        WHERE r.suite = $suite AND r.status = 'failed' AND NOT EXISTS (
            FROM runs c
            WHERE c.suite = r.suite AND c.phase = r.phase AND c.probe = r.probe
              AND c.status = 'complete' AND (c.part = r.part OR r.part = '')
        )
        QUALIFY row_number() OVER (
            PARTITION BY r.phase, r.probe, r.part ORDER BY r.started_at DESC
        ) = 1
        ORDER BY r.phase, r.probe, r.part
        """,
        {"suite": suite},
    )


def audits(store: Store, suite: str) -> pd.DataFrame:
    """The newest audit of each phase that was ever audited: the columns of ``audits``."""
    return store.frame("SELECT * FROM audits WHERE suite = $suite ORDER BY phase", {"suite": suite})


def findings(store: Store, suite: str) -> pd.DataFrame:
    """What the newest audits found, errors first: phase, severity, check_id, message, evidence."""
    return store.frame(
        """
        SELECT phase, severity, check_id, message, evidence
        FROM findings WHERE suite = $suite
        ORDER BY list_position(['error', 'warning', 'note'], severity), phase, check_id
        """,
        {"suite": suite},
    )


def probes_with_values(store: Store, suite: str) -> pd.DataFrame:
    """probe: those that have values of a suite in ``phase_metrics``, by id."""
    return store.frame(
        """
        SELECT DISTINCT r.probe
        FROM runs r
        WHERE r.suite = $suite AND r.status = 'complete'
          AND EXISTS (SELECT 1 FROM phase_metrics m WHERE m.run_id = r.run_id AND m.suite = $suite)
        ORDER BY r.probe
        """,
        {"suite": suite},
    )


def metric_menu(store: Store, suite: str, probe: str) -> pd.DataFrame:
    """What a probe has measured of a suite, with its definition.

    One row per metric, view and module; by_layer, by_head, by_domain say which coordinates its
    values have; formula, unit and source are those registered with the metric.
    """
    return store.frame(
        """
        WITH found AS (
            SELECT metric, view, module, bool_or(by_layer) AS by_layer,
                   bool_or(by_head) AS by_head, bool_or(by_domain) AS by_domain
            FROM data.measured JOIN data.newest_run USING (run_id)
            WHERE suite = $suite AND probe = $probe
            GROUP BY metric, view, module
        )
        SELECT f.*, m.formula, m.unit, m.source
        FROM found f
        LEFT JOIN metrics m ON m.metric = f.metric AND m.probe = $probe
        ORDER BY metric, view, module
        """,
        {"suite": suite, "probe": probe},
    )


def metric_values(
    store: Store, suite: str, probe: str, metric: str, view: str | None, module: str | None
) -> pd.DataFrame:
    """phase, label, step, tokens_b, layer, head, domain, value of one metric of one module."""
    return store.frame(
        """
        SELECT phase, label, step, tokens_b, layer, head, domain, value
        FROM phase_metrics
        WHERE suite = $suite AND probe = $probe AND metric = $metric
          AND view IS NOT DISTINCT FROM $view AND module IS NOT DISTINCT FROM $module
        ORDER BY phase, layer, head, domain
        """,
        {"suite": suite, "probe": probe, "metric": metric, "view": view, "module": module},
    )


def position_values(store: Store, suite: str) -> pd.DataFrame:
    """phase, label, domain, low, high, nll, tokens: the loss by position in the window.

    A row for each bucket of positions, ``low`` to ``high`` inclusive.
    """
    return store.frame(
        """
        SELECT phase, label, domain,
               CAST(regexp_extract(module, '(\\d+)-', 1) AS INTEGER) AS low,
               CAST(regexp_extract(module, '-(\\d+)', 1) AS INTEGER) AS high,
               max(value) FILTER (WHERE metric = 'nll') AS nll,
               CAST(max(value) FILTER (WHERE metric = 'tokens') AS BIGINT) AS tokens
        FROM phase_metrics
        WHERE suite = $suite AND probe = 'loss' AND module LIKE 'position %'
        GROUP BY phase, label, domain, module
        ORDER BY phase, domain, low
        """,
        {"suite": suite},
    )


def extreme_places(store: Store, suite: str, module: str) -> pd.DataFrame:
    """phase, label, layer, rank, size, median, position, feature, token, text.

    Where a module's three largest activations sit: size |x|, the median |x| of its windows, the
    position and feature, and the token there as an id and as what it spells.
    """
    return store.frame(
        """
        WITH places AS (
            SELECT run_id, phase, label, layer,
                   TRY_CAST(substr(metric, 4, 1) AS INTEGER) AS rank,
                   max(value) FILTER (WHERE metric LIKE '%_abs') AS size,
                   CAST(max(value) FILTER (WHERE metric LIKE '%_position') AS INTEGER) AS position,
                   CAST(max(value) FILTER (WHERE metric LIKE '%_feature') AS INTEGER) AS feature,
                   CAST(max(value) FILTER (WHERE metric LIKE '%_token') AS INTEGER) AS token
            FROM phase_metrics
            WHERE suite = $suite AND probe = 'activations' AND module = $module
              AND regexp_full_match(metric, 'top[123]_(abs|position|feature|token)')
            GROUP BY ALL
        ), medians AS (
            SELECT run_id, layer, value AS median FROM phase_metrics
            WHERE suite = $suite AND probe = 'activations' AND module = $module
              AND metric = 'median_abs'
        )
        SELECT p.phase, p.label, p.layer, p.rank, p.size, m.median, p.position, p.feature, p.token,
               json_extract_string(
                   json_extract_string(r.notes, '$.token_text'), '$."' || p.token || '"'
               ) AS text
        FROM places p
        JOIN runs r USING (run_id)
        LEFT JOIN medians m ON m.run_id = p.run_id AND m.layer IS NOT DISTINCT FROM p.layer
        WHERE p.size IS NOT NULL
        ORDER BY p.phase, p.layer, p.rank
        """,
        {"suite": suite, "module": module},
    )


def token_sets(store: Store, suite: str, probe: str) -> pd.DataFrame:
    """phase, token_set: the hash of the tokens that a probe's newest run of each phase read."""
    return store.frame(
        """
        SELECT DISTINCT r.phase, json_extract_string(r.notes, '$.token_set_sha256') AS token_set
        FROM runs r
        JOIN phase_metrics m ON m.run_id = r.run_id AND m.suite = r.suite AND m.probe = r.probe
        WHERE r.suite = $suite AND r.probe = $probe
        ORDER BY r.phase
        """,
        {"suite": suite, "probe": probe},
    )


def seam(store: Store, suite: str, metric: str, module: str) -> pd.DataFrame:
    """Mean over layers of a weight metric in both views, and of the alphas.

    Columns: phase, series (stored, effective, alpha), value. Alphas exist where a checkpoint has
    them; a merged checkpoint has none.
    """
    return store.frame(
        """
        SELECT phase, CASE WHEN metric = 'alpha' THEN 'alpha' ELSE view END AS series,
               avg(value) AS value
        FROM phase_metrics
        WHERE suite = $suite AND probe = 'weights' AND module = $module
          AND metric IN ($metric, 'alpha') AND head IS NULL
        GROUP BY ALL
        ORDER BY series, phase
        """,
        {"suite": suite, "metric": metric, "module": module},
    )


def distribution(
    store: Store, suite: str, view: str | None, module: str | None, layer: int | None
) -> pd.DataFrame:
    """phase, low, high, count, share: each bin of the histogram of log10|w| of one tensor."""
    return store.frame(
        """
        WITH bins AS (
            SELECT phase, unnest(edges[:len(counts)]) AS low, unnest(edges[2:]) AS high,
                   unnest(counts) AS "count", list_sum(counts) AS total
            FROM histograms
            WHERE suite = $suite AND metric = 'log10_abs' AND view IS NOT DISTINCT FROM $view
              AND module IS NOT DISTINCT FROM $module AND layer IS NOT DISTINCT FROM $layer
        )
        SELECT phase, low, high, "count", "count" / total AS share FROM bins ORDER BY phase, low
        """,
        {"suite": suite, "view": view, "module": module, "layer": layer},
    )


def missing_values(
    store: Store, suite: str, probe: str, metric: str, view: str | None, module: str | None
) -> pd.DataFrame:
    """phase, layer, head, domain, reason of values that do not exist though the run succeeded."""
    return store.frame(
        """
        SELECT phase, layer, head, domain, reason
        FROM missing_values
        WHERE suite = $suite AND probe = $probe AND metric = $metric
          AND view IS NOT DISTINCT FROM $view AND module IS NOT DISTINCT FROM $module
        ORDER BY phase, layer, head, domain
        """,
        {"suite": suite, "probe": probe, "metric": metric, "view": view, "module": module},
    )


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

    Columns: series, kind, detector, start_step, end_step, peak_step, peak_value, severity,
    agreement, superseded_from. A series that was searched and has none has a row with kind NULL.
    """
    return store.frame(
        """
        SELECT s.series, e.kind, e.detector, e.start_step, e.end_step, e.peak_step, e.peak_value,
               e.severity, e.agreement, e.superseded_from
        FROM (SELECT DISTINCT series FROM spike_scores WHERE run = $run) s
        LEFT JOIN spikes e ON e.series = s.series AND e.kind <> 'fall'
        ORDER BY s.series, e.start_step, e.detector
        """,
        {"run": run},
    )


def benchmarks(store: Store, suite: str) -> pd.DataFrame:
    """Measured, imported and published scores of a suite: the columns of ``benchmarks``."""
    return store.frame(
        "SELECT * FROM benchmarks WHERE suite = $suite ORDER BY source, task, metric, model, phase",
        {"suite": suite},
    )


def benchmark_tasks(store: Store) -> pd.DataFrame:
    """Which task stands for which published benchmark: the columns of ``benchmark_tasks``."""
    return store.frame("SELECT * FROM benchmark_tasks ORDER BY task_group, benchmark, task")


def data_mix(store: Store, suite: str, by: str) -> pd.DataFrame:
    """phase, run, part, tokens_b, share (0 to 1) of the mix; ``by`` category, bucket or
    source_group."""
    if by not in _MIX_COLUMNS:
        raise ValueError(f"The data mix has no column {by!r}; use one of {sorted(_MIX_COLUMNS)}.")
    return store.frame(
        f"""
        SELECT phase, run, coalesce({by}, 'not classified') AS part,
               sum(tokens_b) AS tokens_b, sum(share) AS share
        FROM data_mix_share WHERE suite = $suite
        GROUP BY ALL ORDER BY phase, run, part
        """,
        {"suite": suite},
    )


def moved(
    store: Store,
    suite: str,
    probe: str,
    metric: str,
    view: str | None,
    module: str | None,
    companions: str,
    mean: bool,
    across_gaps: bool = False,
) -> Moved:
    """What moved along with a metric: every layer (or domain), or their mean, against companions.

    ``companions`` is category or bucket, for the mix, or scores. Heads are averaged where a metric
    has nothing but heads. Raises QueryError when there is too little to compare.
    """
    rows = metric_values(store, suite, probe, metric, view, module)
    if rows["head"].isna().any():
        rows = rows[rows["head"].isna()]  # the whole tensor, beside its heads
    if rows["domain"].notna().any():
        rows = rows.assign(series=rows["domain"])
    else:
        names = rows["layer"].map(lambda layer: "whole" if pd.isna(layer) else f"layer {layer:02}")
        rows = rows.assign(series=names)
    values = rows.pivot_table(index="phase", columns="series", values="value")
    if mean:  # a phase that lacks a layer has no mean: another set of layers would make a change
        values = values.mean(axis=1, skipna=False).to_frame("mean")
    levels = score_levels(store, suite) if companions == "scores" else mix_levels(
        store, suite, companions
    )  # fmt: skip
    return moved_with(values, levels, across_gaps=across_gaps)


def view_columns(store: Store) -> pd.DataFrame:
    """view, about, column, type, what of every public view, as they stand in the store."""
    return store.frame(
        """
        SELECT v.view_name AS "view", v.comment AS about, c.column_name AS "column",
               c.data_type AS "type", c.comment AS what
        FROM duckdb_views() v
        JOIN duckdb_columns() c ON c.table_name = v.view_name AND c.schema_name = v.schema_name
        WHERE v.schema_name = 'main' AND NOT v.internal
        ORDER BY v.view_name, c.column_index
        """
    )


def totals(store: Store, suite: str) -> dict[str, Any]:
    """Numbers of a suite for the Overview: runs, seconds of all complete runs, measurements."""
    row = store.frame(
        """
        SELECT count(*) AS runs, coalesce(sum(seconds), 0) AS seconds, (
            SELECT coalesce(sum(n), 0)
            FROM data.measured JOIN data.newest_run USING (run_id) WHERE suite = $suite
        ) AS "values"
        FROM runs WHERE suite = $suite AND status = 'complete'
        """,
        {"suite": suite},
    ).iloc[0]
    return {
        "runs": int(row["runs"]), "seconds": float(row["seconds"]), "values": int(row["values"])
    }  # fmt: skip


def pair_choices(store: Store, suite: str) -> pd.DataFrame:
    """metric, module, layer of all that was compared; and the metric's formula, unit, source."""
    return store.frame(
        """
        SELECT c.*, m.formula, coalesce(m.unit, '') AS unit, m.source
        FROM (SELECT DISTINCT metric, module, layer FROM pair_metrics WHERE suite = $suite) c
        LEFT JOIN metrics m ON m.metric = c.metric AND m.probe = 'changes'
        ORDER BY ALL
        """,
        {"suite": suite},
    )


def pair_values(
    store: Store, suite: str, metric: str, module: str, layer: int | None
) -> pd.DataFrame:
    """phase_a, phase_b, value, exact, error_bound of one metric and place, for every pair."""
    return store.frame(
        """
        SELECT phase_a, phase_b, value, exact, error_bound
        FROM pair_metrics
        WHERE suite = $suite AND metric = $metric AND module = $module
          AND layer IS NOT DISTINCT FROM $layer
        ORDER BY phase_a, phase_b
        """,
        {"suite": suite, "metric": metric, "module": module, "layer": layer},
    )


def pair_reasons(store: Store, suite: str) -> pd.DataFrame:
    """kind, reason, pairs: why phases could not be compared, or not in full."""
    return store.frame(
        "SELECT kind, reason, count(*) AS pairs FROM pair_runs "
        "WHERE suite = $suite AND reason IS NOT NULL GROUP BY ALL ORDER BY ALL",
        {"suite": suite},
    )


def identity_alarms(store: Store, suite: str) -> pd.DataFrame:
    """phase_a, phase_b, label_a, label_b of phases whose weights are all equal."""
    return store.frame(
        "SELECT phase_a, phase_b, label_a, label_b FROM identity_alarms WHERE suite = $suite "
        "ORDER BY ALL",
        {"suite": suite},
    )
