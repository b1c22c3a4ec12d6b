"""The user's SQL: refused by the connection, bounded in time and rows."""

import time

import pytest

from analysis_db.errors import QueryError
from analysis_db.sandbox import run_sql
from analysis_db.store import Store
from tests.analysis_db.rows import SUITE, phase


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    store = Store(tmp_path_factory.mktemp("sandbox") / "metrics.duckdb")
    store.put_suite(SUITE, [phase(1), phase(2)])
    return store


@pytest.mark.parametrize(
    "sql",
    [
        "COPY (SELECT 1) TO '{folder}/out.csv'",
        "COPY (SELECT 1) TO '{store}'",
        "SELECT * FROM read_csv('{folder}/secret.csv')",
        "SELECT * FROM '{folder}/secret.csv'",
        "SELECT * FROM glob('{folder}/*')",
        "ATTACH '{folder}/other.duckdb'",
        "EXPORT DATABASE '{folder}/all'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SET memory_limit = '100GB'",
        "SET enable_external_access = true",
        "DELETE FROM data.suite",
        "DROP TABLE data.suite",
        "DROP VIEW suites",
        "UPDATE data.suite SET title = 'mine'",
        "INSERT INTO data.suite VALUES ('a', 'b', 'c', 'd')",
        "SELECT * FROM params",  # a variable of the function that runs the query
    ],
)
def test_refused(store, tmp_path, sql):
    (tmp_path / "secret.csv").write_text("a\n1\n")
    with pytest.raises(QueryError) as refusal:
        run_sql(
            store,
            sql.format(folder=tmp_path, store=store.path),
            {"p": "1"} if "params" in sql else None,
        )
    assert "\n" not in str(refusal.value)
    assert [p.name for p in tmp_path.iterdir()] == ["secret.csv"]
    assert run_sql(store, "SELECT title FROM suites").table.to_pylist() == [{"title": "Suite S"}]


def test_a_parameter_is_a_value(store):
    sql = "SELECT phase FROM phases WHERE suite = $suite ORDER BY phase"
    assert run_sql(store, sql, {"suite": "s"}).table["phase"].to_pylist() == [1, 2]
    assert run_sql(store, sql, {"suite": "s' OR true --"}).table.num_rows == 0
    with pytest.raises(QueryError, match="suite"):
        run_sql(store, sql)


def test_rows_are_limited_and_it_is_said(store):
    cut = run_sql(store, "SELECT * FROM range(100) t(n) ORDER BY n DESC", max_rows=7)
    assert cut.truncated
    assert cut.table["n"].to_pylist() == list(range(99, 92, -1))
    whole = run_sql(store, "SELECT * FROM range(7)", max_rows=7)
    assert (whole.truncated, whole.table.num_rows) == (False, 7)


def test_a_long_query_is_stopped_and_frees_the_store(store):
    started = time.monotonic()
    with pytest.raises(QueryError, match=r"stopped after 0\.3 s") as stopped:
        run_sql(store, "SELECT sum(a.range * b.range) FROM range(10000000) a, range(1000000) b",
                timeout_s=0.3)  # fmt: skip
    assert time.monotonic() - started < 3
    store.register_probes([], [])  # a write, while the error is still held
    assert stopped.value.exit_code == 1


@pytest.mark.parametrize(
    ("sql", "says"),
    [
        ("SELEC 1", "syntax error"),
        ("SELECT * FROM runz", "Did you mean"),
        ("", "SELECT"),
    ],
)
def test_a_wrong_query_is_explained_in_one_line(store, sql, says):
    with pytest.raises(QueryError, match=says) as wrong:
        run_sql(store, sql)
    assert "\n" not in str(wrong.value)
