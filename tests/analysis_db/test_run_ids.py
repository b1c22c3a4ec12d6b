"""Ids of runs sort by their start within the 8 bytes that DuckDB compares."""

from datetime import UTC, datetime, timedelta

from analysis_db.run_ids import new_run_id


def test_ids_are_unique_and_sort_by_time():
    start = datetime(2026, 11, 24, tzinfo=UTC)
    times = [start + timedelta(milliseconds=step) for step in (0, 1, 35, 36, 10**6, 10**12)]
    ids = [new_run_id(time) for time in times]
    assert [i[:8] for i in ids] == sorted({i[:8] for i in ids})
    assert {len(i) for i in ids} == {24}
    assert new_run_id(start) != new_run_id(start)
    assert int(ids[0][:8], 36) == start.timestamp() * 1000
