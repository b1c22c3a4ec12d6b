"""Audits: a new one replaces what the last one of the phase found, and old stores learn of them."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import pytest

from analysis_db import Store, queries
from analysis_db.sandbox import run_sql
from analysis_db.store import schema_scripts

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)


def row(phase: int, **fields: object) -> dict[str, object]:
    sha = {"commit_sha": "0" * 40, "bytes_read": 10}
    return {"phase": phase, "repo_id": "org/repo", "revision": "main", **sha, **fields}


def finding(phase: int, severity: str = "error", check: str = "missing-file") -> dict[str, object]:
    message = f"{check} in {phase}."
    return {
        "phase": phase,
        "severity": severity,
        "check_id": check,
        "message": message,
        "evidence": '{"file": "config.json"}',
    }


def found(store: Store) -> list[tuple[int, str]]:
    rows = store.table("SELECT phase, check_id FROM findings ORDER BY ALL").to_pylist()
    return [(r["phase"], r["check_id"]) for r in rows]


def test_findings_carry_the_audit_they_are_of(store):
    store.put_audits("s", [row(1), row(2)], [finding(1), finding(1, "note")], audited_at=NOON)
    (first, _) = store.table("FROM findings").to_pylist()
    assert first == {
        "suite": "s", "phase": 1, "repo_id": "org/repo", "commit_sha": "0" * 40,
        "severity": "error", "check_id": "missing-file", "message": "missing-file in 1.",
        "evidence": '{"file": "config.json"}', "found_at": NOON,
    }  # fmt: skip
    audits = store.table("FROM audits ORDER BY phase").to_pylist()
    counts = [(a["phase"], a["errors"], a["warnings"], a["notes"]) for a in audits]
    assert counts == [(1, 1, 0, 1), (2, 0, 0, 0)]
    assert audits[1]["bytes_read"] == 10


def test_new_audit_of_a_phase_replaces_its_findings_alone(store):
    both = [row(1), row(2)]
    store.put_audits("s", both, [finding(1), finding(2)], audited_at=NOON)
    store.put_audits("other", [row(2)], [finding(2, check="gated")], audited_at=NOON)
    store.put_audits("s", [row(2)], [], audited_at=NOON + timedelta(hours=1))
    assert found(store) == [(1, "missing-file"), (2, "gated")]
    store.put_audits("s", both, [finding(2)], audited_at=NOON + timedelta(hours=2))
    assert found(store) == [(2, "gated"), (2, "missing-file")]
    assert store.table("FROM audits").num_rows == 3


def test_audit_that_cannot_be_stored_leaves_the_last_one(store):
    store.put_audits("s", [row(1)], [finding(1)], audited_at=NOON)
    with pytest.raises(duckdb.Error):
        store.put_audits("s", [row(1)], [{"phase": 1}], audited_at=NOON)
    assert found(store) == [(1, "missing-file")]


def test_phase_without_a_repository(store):
    lacking = row(3, repo_id=None, commit_sha=None)
    store.put_audits("s", [lacking], [finding(3, "note", "not-published")], audited_at=NOON)
    (only,) = store.table("FROM findings").to_pylist()
    assert (only["repo_id"], only["commit_sha"]) == (None, None)


def test_queries_of_the_dashboard_put_errors_first(store):
    rows = [finding(1, "note"), finding(2, "warning"), finding(3), finding(1)]
    store.put_audits("s", [row(p) for p in (1, 2, 3)], rows, audited_at=NOON)
    frame = queries.findings(store, "s")
    assert frame[["severity", "phase"]].values.tolist() == [
        ["error", 1], ["error", 3], ["warning", 2], ["note", 1],
    ]  # fmt: skip
    assert queries.audits(store, "s")["phase"].tolist() == [1, 2, 3]
    assert queries.findings(store, "nobody").empty


@pytest.fixture
def old_store(tmp_path: Path) -> Store:
    """A store as the first schema made it, with a suite in it."""
    path = tmp_path / "old.duckdb"
    number, script = schema_scripts()[0]
    with duckdb.connect(path) as connection:
        connection.execute(script)
        connection.execute("INSERT INTO schema_version VALUES ($n, now())", {"n": number})
        connection.execute("INSERT INTO data.suite VALUES ('old', 'Old', '', '')")
    return Store(path)


def migrated(store: Store) -> bool:
    versions = store.table("SELECT number FROM schema_version ORDER BY number")
    kept = store.table("SELECT title FROM suites")["title"].to_pylist()
    expected = [number for number, _ in schema_scripts()]
    return versions["number"].to_pylist() == expected and kept == ["Old"]


def test_reader_of_an_old_store_finds_every_view(old_store):
    assert queries.findings(old_store, "old").empty
    assert migrated(old_store)


def test_sandboxed_query_on_an_old_store(old_store):
    assert run_sql(old_store, "FROM audits").table.num_rows == 0
    assert migrated(old_store)


def test_writer_brings_an_old_store_up_to_date(old_store):
    old_store.put_audits("old", [row(1)], [finding(1)], audited_at=NOON)
    assert found(old_store) == [(1, "missing-file")]
    assert migrated(old_store)
