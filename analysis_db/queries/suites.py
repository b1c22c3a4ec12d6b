"""Suites as a whole: phases, coverage, audits, scores, the data mix."""

from typing import Any

import pandas as pd

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
    """phase, probe, status (measured, failed, missing, absent), reason: the view ``coverage``."""
    return store.frame(
        "SELECT phase, probe, status, reason FROM coverage WHERE suite = $suite "
        "ORDER BY probe, phase",
        {"suite": suite},
    )


def failures(store: Store, suite: str) -> pd.DataFrame:
    """The newest failed run of each phase, probe and part that has not succeeded since.

    Columns: phase, probe, part, started_at, seconds, error (the traceback), measured (whether the
    values of an older run are shown).
    """
    return store.frame(
        """
        SELECT r.phase, r.probe, r.part, r.started_at, r.seconds, r.error, r.measured
        FROM data.open_failure r
        JOIN phases p ON p.suite = r.suite AND p.phase = r.phase
        WHERE r.suite = $suite
        ORDER BY r.phase, r.probe, r.part
        """,
        {"suite": suite},
    )


def warnings(store: Store, suite: str) -> pd.DataFrame:
    """run_id, phase, part, warning: what probes say of the values of their newest runs."""
    return store.frame(
        """
        SELECT run_id, phase, part, json_extract_string(notes, '$.warning') AS warning
        FROM data.newest_run WHERE suite = $suite AND warning IS NOT NULL
        ORDER BY phase, part
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


def benchmarks(store: Store, suite: str) -> pd.DataFrame:
    """Measured, imported and published scores of a suite: the columns of ``benchmarks``."""
    return store.frame(
        "SELECT * FROM benchmarks WHERE suite = $suite ORDER BY source, task, metric, model, phase",
        {"suite": suite},
    )


def benchmark_tasks(store: Store) -> pd.DataFrame:
    """Which task stands for which published benchmark: the columns of ``benchmark_tasks``."""
    return store.frame("SELECT * FROM benchmark_tasks ORDER BY task_group, benchmark, task")
