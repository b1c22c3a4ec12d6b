"""The user's SQL: refused by the connection, bounded in time and rows."""

import errno
import subprocess
import sys
import time
import unicodedata
from pathlib import Path

import pytest

from analysis_db.errors import QueryError
from analysis_db.parameters import typed
from analysis_db.sandbox import run_sql
from analysis_db.store import Store
from bench.sandbox import attempt, stage, state
from tests.analysis_db.escapes import BOUNDED, ESCAPES
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
    assert "Traceback" not in str(refusal.value)
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
    assert time.monotonic() - started < 60
    store.register_probes([], [])  # a write, while the error is still held
    assert stopped.value.exit_code == 1


@pytest.mark.parametrize(
    ("sql", "says", "marked"),
    [
        ("SELEC 1", "syntax error", "SELEC"),
        ("SELECT *\n\tFROM runz", "Did you mean", "runz"),
        ("SELECT '数学', phase + metrik FROM phases", "metrik", "metrik"),
        ("SELECT sum('a')", r"There are: sum\(", "sum('a')"),
        ("SELECT 'a'::INT", "Could not convert", None),
        (f"SELECT {'1 + ' * 60} metrik {'+ 1' * 60}", "metrik", "metrik"),
        ("", "There is no query", None),
        ("-- nothing\n;", "There is no query", None),
        ("SELECT 1; SELECT 2", "these are 2", None),
        ("SELECT error('boom')", "^boom$", None),
    ],
)
def test_a_wrong_query_is_explained_and_its_place_shown(store, sql, says, marked):
    with pytest.raises(QueryError, match=says) as wrong:
        run_sql(store, sql)
    sentence, *place = str(wrong.value).splitlines()
    assert "Traceback" not in sentence
    assert "{" not in sentence
    if marked is None:
        assert place == []
        return
    line, carets = place
    assert len(line) < 130
    wide = sum(unicodedata.east_asian_width(c) == "W" for c in line[: line.index(marked)])
    assert carets == " " * (line.index(marked) + wide) + "^" * len(marked)
    assert line.startswith("  line 2: " if "\n" in sql else "  line 1: ")


def test_what_is_left_of_a_parameter(store):
    for sql, params, says in (
        ("SELECT $a", {}, r"asks for \$a: give it with -p a=VALUE"),
        ("SELECT 1", {"a": 1}, r"has no \$a"),
    ):
        with pytest.raises(QueryError, match=says):
            run_sql(store, sql, params)
    table = run_sql(store, "SELECT $n + 1 AS n, $l AS l, $t AS t FROM phases LIMIT $k",
                    {"n": 1, "l": [1, 2], "t": "x", "k": 1}).table  # fmt: skip
    assert table.to_pylist() == [{"n": 2, "l": [1, 2], "t": "x"}]
    values = ("5", "0.5", "true", "null", "[1, 2]", '"7"', "007", "NaN", "{}", "a=b", "")
    assert [typed(text) for text in values] == [
        5, 0.5, True, None, [1, 2], "7", "007", "NaN", "{}", "a=b", "",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "sql",
    ["FROM phases", "WITH a AS (SELECT 1) FROM a", "DESCRIBE phases", "SHOW TABLES", "VALUES (1)",
     "SUMMARIZE phases", "EXPLAIN SELECT 1", "PIVOT phases ON phase USING count(*)", "SELECT 1;"],
)  # fmt: skip
def test_what_only_reads_is_allowed(store, sql):
    assert run_sql(store, sql).table.num_rows > 0


def test_columns_of_one_name_are_told_apart(store):
    assert run_sql(store, 'SELECT 1 AS a, 2 AS a, 3 AS "b""c"').table.to_pylist() == [
        {"a": 1, "a_1": 2, 'b"c': 3}
    ]


def test_one_huge_function_is_stopped_too(store):
    """DuckDB looks for an interrupt only between chunks of rows."""
    for sql in (
        "SELECT length(repeat('x', 1000000000))",
        "SELECT levenshtein(repeat('a', 1000000), repeat('b', 1000000))",
        "SELECT sleep_ms(100000)",
    ):
        started = time.monotonic()
        with pytest.raises(QueryError, match=r"stopped after 0\.3 s"):
            run_sql(store, sql, timeout_s=0.3)
        assert time.monotonic() - started < 60  # not the hours that they would take


def test_too_much_memory_is_one_sentence(store):
    for sql in (
        "SELECT len(range(3000000000))",
        "SELECT sum(length(repeat('x', (3000000000 + range)::BIGINT))) FROM range(10)",
        "SELECT max(r) FROM (SELECT list(range) AS r FROM range(1000000000))",
    ):
        with pytest.raises(QueryError, match="memory") as refused:
            run_sql(store, sql)
        assert "\n" not in str(refused.value)
    with pytest.raises(QueryError, match="larger than 1 MB"):
        run_sql(store, "SELECT repeat('x', 100000) FROM range(100)", max_bytes=1_000_000)


def test_an_error_in_the_middle_of_the_answer_is_no_short_answer(store):
    sql = (
        "SELECT CASE WHEN range = 900000 THEN error('late') ELSE range END AS n FROM range(1000000)"
    )
    with pytest.raises(QueryError, match="late"):
        run_sql(store, sql)


CALLER = """
import pathlib, sys
from analysis_db.parameters import typed
from analysis_db.sandbox import run_sql
from analysis_db.store import Store
from bench.sandbox import attempt, stage, state
from tests.analysis_db.escapes import BOUNDED, ESCAPES
run_sql(Store(pathlib.Path(sys.argv[1])), "SELECT sleep_ms(600000)", timeout_s=600)
"""


def test_a_query_ends_with_the_process_that_asked(store):
    caller = subprocess.Popen(
        [sys.executable, "-c", CALLER, str(store.path)], cwd=Path(__file__).parents[2]
    )
    children = Path(f"/proc/{caller.pid}/task/{caller.pid}/children")
    child = ""
    while not child:
        child = children.read_text().strip()
        time.sleep(0.01)
    while b"sandbox_child" not in Path(f"/proc/{child}/cmdline").read_bytes():
        time.sleep(0.01)
    time.sleep(0.5)  # into the query
    caller.kill()
    caller.wait()
    deadline = time.monotonic() + 60
    while Path(f"/proc/{child}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_asking_loads_neither_pandas_nor_numpy_where_the_query_runs():
    code = (
        "import sys, analysis_db.sandbox_child; "
        "print(sorted({'pandas', 'torch'} & set(sys.modules)), sys.modules['numpy'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] None"


def test_no_attempt_escapes(tmp_path):
    store = stage(tmp_path)
    before = state(tmp_path)
    ended = {e.what: attempt(store, tmp_path, e)[0] for e in ESCAPES if e.ends != BOUNDED}
    assert ended == {e.what: e.ends for e in ESCAPES if e.ends != BOUNDED}
    assert state(tmp_path) == before


SEALED = """
import pathlib, socket, sys
from analysis_db import sandbox_child
sandbox_child._give_up_the_world(1)
for act in (lambda: open('/etc/passwd'), socket.socket):
    try:
        act()
    except OSError as error:
        sys.stdout.write(f'{error.errno} ')
"""


def test_the_kernel_refuses_files_and_sockets_whatever_the_database_does():
    done = subprocess.run(
        [sys.executable, "-c", SEALED], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [str(errno.EMFILE)] * 2
