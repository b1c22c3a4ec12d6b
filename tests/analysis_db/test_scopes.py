"""Scopes in the store: one row per metric and place where there was one, all of them in a view."""

import pyarrow as pa
import pytest

import analysis_db
from analysis_db import queries
from analysis_db.errors import QueryError
from analysis_db.export import export_all, rebuild
from analysis_db.store import Store
from probes.base import MEASUREMENTS, SCOPES, Measurements
from tests.analysis_db.rows import run

SITE = {"module": "residual", "layer": 3}


@pytest.fixture
def scoped(store):
    for phase in (1, 2):
        found = Measurements()
        for i, scope in enumerate(SCOPES):
            found.add("variance_mean", phase * 100.0 / 10**i, scope=scope, **SITE)
            told = "all are zero" if scope == "no_massive" else None
            found.add("kurtosis", None if told else 1.0, scope=scope, reason=told, **SITE)
        found.add("variance_median", 7.0, **SITE)
        store.write_run(run(f"a{phase}", phase=phase), found.tables())
    return store


def rows(store, sql):
    return store.table(sql).to_pylist()


def test_views_of_before_have_one_row_per_metric_and_place(scoped):
    values = rows(scoped, "SELECT phase, metric, value FROM phase_metrics ORDER BY ALL")
    assert [(r["phase"], r["metric"], r["value"]) for r in values] == [
        (phase, metric, value)
        for phase in (1, 2)
        for metric, value in (
            ("kurtosis", 1.0), ("variance_mean", phase * 100.0), ("variance_median", 7.0),
        )
    ]  # fmt: skip
    assert rows(scoped, "FROM missing_values") == []
    changes = rows(scoped, "SELECT metric, change FROM metric_changes ORDER BY ALL")
    assert [tuple(r.values()) for r in changes] == [
        ("kurtosis", 0.0), ("variance_mean", 100.0), ("variance_median", 0.0),
    ]  # fmt: skip
    counted = rows(scoped, "SELECT metric, sum(n) AS n FROM data.measured GROUP BY 1 ORDER BY 1")
    assert {r["metric"]: r["n"] for r in counted} == {
        "kurtosis": 2, "variance_mean": 2, "variance_median": 2,
    }  # fmt: skip


def test_the_view_with_a_scope_has_them_all(scoped):
    found = rows(
        scoped,
        "SELECT scope, value FROM scoped_metrics WHERE metric = 'variance_mean' AND phase = 2 "
        "ORDER BY value DESC",
    )
    assert [tuple(r.values()) for r in found] == [
        ("all", 200.0), ("no_start", 20.0), ("no_massive", 2.0),
    ]  # fmt: skip
    (missing,) = rows(scoped, "SELECT DISTINCT metric, scope, reason FROM scoped_missing_values")
    assert missing == {"metric": "kurtosis", "scope": "no_massive", "reason": "all are zero"}
    columns = [scoped.table(f"FROM {v}").column_names for v in ("phase_metrics", "scoped_metrics")]
    assert columns[1] == [*columns[0], "scope"]


@pytest.mark.parametrize("column", ["missing", "empty"])
def test_rows_of_another_package_that_know_no_scope_are_of_all_tokens(store, column):
    table = pa.Table.from_pylist([{"metric": "m", "value": 1.0}], schema=MEASUREMENTS)
    if column == "missing":
        table = table.drop_columns(["scope"])
    store.write_run(run("other"), {"measurements": table})
    assert rows(store, "SELECT value FROM phase_metrics") == [{"value": 1.0}]
    assert rows(store, "SELECT scope FROM scoped_metrics") == [{"scope": "all"}]
    assert rows(store, "SELECT metric FROM data.measured") == [{"metric": "m"}]


def test_a_notebook_reads_all_tokens_unless_it_names_a_scope(scoped):
    notebook = analysis_db.open(scoped.path)
    assert notebook.metric("variance_mean")[3].tolist() == [100.0, 200.0]
    assert notebook.metric("variance_mean", scope="no_massive")[3].tolist() == [1.0, 2.0]
    assert notebook.changes("variance_mean")["change"].tolist() == [100.0]
    assert notebook.changes("variance_mean", scope="no_start")["change"].tolist() == [10.0]
    with pytest.raises(QueryError, match="no value of variance_median, scope no_start"):
        notebook.metric("variance_median", scope="no_start")


def test_change_points_and_correlations_take_a_scope(store):
    store.put_suite(
        {"name": "s", "title": "", "about": "", "licence": ""},
        [{"phase": p, "repo_id": "o/r"} for p in range(1, 28)],
    )
    for phase in range(1, 28):
        found = Measurements()
        found.add("v", float(phase % 2), **SITE)
        found.add("v", 10.0 * (phase > 14) + phase % 3 / 10, scope="no_start", **SITE)
        store.write_run(run(f"r{phase}", phase=phase), found.tables())
    notebook = analysis_db.open(store.path)
    assert notebook.change_points("v").empty
    (point,) = notebook.change_points("v", scope="no_start").to_dict("records")
    assert (point["phase_a"], point["phase_b"]) == (14, 15)
    with pytest.raises(QueryError, match="mix"):
        notebook.correlate("v", scope="no_start")


def test_pages_ask_for_a_scope(scoped):
    which = (scoped, "s", "loss", "variance_mean", None, "residual")
    assert queries.metric_scopes(*which)["scope"].tolist() == ["all", "no_start", "no_massive"]
    assert queries.metric_values(*which)["value"].tolist() == [100.0, 200.0]
    assert queries.metric_values(*which, "no_massive")["value"].tolist() == [1.0, 2.0]
    kurtosis = (scoped, "s", "loss", "kurtosis", None, "residual")
    assert queries.missing_values(*kurtosis).empty
    assert queries.missing_values(*kurtosis, "no_massive")["phase"].tolist() == [1, 2]


def test_an_export_keeps_the_scopes(scoped, tmp_path):
    export_all(scoped, tmp_path / "all")
    again = Store(tmp_path / "again.duckdb")
    rebuild(again, tmp_path / "all")
    for view in ("scoped_metrics", "phase_metrics", "data.measured"):
        sql = f"FROM {view} ORDER BY ALL"
        assert rows(again, sql) == rows(scoped, sql)
