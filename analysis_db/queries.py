"""What the dashboard asks of the store: public views in, pandas frames out.

Every function takes a ``Store`` first, then plain values (so that results can be cached by them).
A suite, run or metric that the store does not know gives an empty frame with the same columns.
"""

from typing import Any

import pandas as pd

from analysis_db.store import Store

EXAMPLES: dict[str, str] = {
    "Loss of each domain, phase by phase": """\
SELECT phase, label, domain, round(value, 4) AS bits_per_byte
FROM phase_metrics
WHERE probe = 'loss' AND metric = 'bits_per_byte'
ORDER BY suite, domain, phase""",
    "What is missing, and what failed": """\
SELECT suite, probe, status, count(*) AS phases, string_agg(phase, ', ' ORDER BY phase) AS which
FROM coverage
WHERE status <> 'measured'
GROUP BY ALL
ORDER BY ALL""",
    "Matrices that grew most between first and last phase": """\
SELECT layer, module, min_by(value, phase) AS first, max_by(value, phase) AS last,
       round(last / first, 2) AS growth
FROM phase_metrics
WHERE metric = 'rms' AND view = 'effective' AND layer IS NOT NULL AND head IS NULL
GROUP BY suite, layer, module
ORDER BY growth DESC
LIMIT 20""",
    "Share of each bucket in the data mix": """\
SELECT phase, run, bucket, round(100 * sum(share), 2) AS percent
FROM data_mix_share
GROUP BY suite, phase, run, bucket
ORDER BY suite, phase, run, bucket""",
    "Slowest runs": """\
SELECT suite, phase, probe, status, round(seconds, 2) AS seconds, device, dtype, started_at
FROM runs
ORDER BY seconds DESC
LIMIT 20""",
    "Training loss, mean of every 50 steps": """\
SELECT run, step // 50 * 50 AS from_step, round(avg(value), 4) AS loss
FROM training_steps
WHERE metric = 'loss'
GROUP BY ALL
ORDER BY ALL""",
}
"""Title -> query: starting points for the SQL page."""

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
    """phase, probe, status (measured, failed, missing, absent), a row for each pair."""
    return store.frame(
        "SELECT phase, probe, status FROM coverage WHERE suite = $suite ORDER BY probe, phase",
        {"suite": suite},
    )


def failures(store: Store, suite: str) -> pd.DataFrame:
    """The newest failed run of each phase and probe that has no complete one.

    Columns: phase, probe, started_at, seconds, error (the traceback).
    """
    return store.frame(
        """
        SELECT r.phase, r.probe, r.started_at, r.seconds, r.error
        FROM runs r
        JOIN coverage c ON c.suite = r.suite AND c.phase = r.phase AND c.probe = r.probe
        WHERE r.suite = $suite AND r.status = 'failed' AND c.status = 'failed'
        QUALIFY row_number() OVER (PARTITION BY r.phase, r.probe ORDER BY r.started_at DESC) = 1
        ORDER BY r.phase, r.probe
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


def metric_menu(store: Store, suite: str, probe: str) -> pd.DataFrame:
    """What a probe has measured of a suite, with its definition.

    One row per metric, view and module; by_layer, by_head, by_domain say which coordinates its
    values have; formula, unit and source are those registered with the metric.
    """
    return store.frame(
        """
        WITH found AS (
            SELECT metric, view, module, bool_or(layer IS NOT NULL) AS by_layer,
                   bool_or(head IS NOT NULL) AS by_head, bool_or(domain IS NOT NULL) AS by_domain
            FROM phase_metrics
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


def benchmarks(store: Store, suite: str) -> pd.DataFrame:
    """Measured and published scores of a suite: the columns of ``benchmarks``."""
    return store.frame(
        "SELECT * FROM benchmarks WHERE suite = $suite ORDER BY source, task, metric, model, phase",
        {"suite": suite},
    )


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


def view_columns(store: Store) -> pd.DataFrame:
    """view, about, column, type of every public view, as they stand in the store."""
    return store.frame(
        """
        SELECT v.view_name AS "view", v.comment AS about, c.column_name AS "column",
               c.data_type AS "type"
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
        SELECT count(*) AS runs, coalesce(sum(seconds), 0) AS seconds
        FROM runs WHERE suite = $suite AND status = 'complete'
        """,
        {"suite": suite},
    ).iloc[0]
    values = store.frame(
        "SELECT count(*) AS n FROM phase_metrics WHERE suite = $suite", {"suite": suite}
    ).iloc[0]
    return {"runs": int(row["runs"]), "seconds": float(row["seconds"]), "values": int(values["n"])}
