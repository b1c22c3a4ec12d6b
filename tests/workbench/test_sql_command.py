"""`workbench sql` through the real command: formats, limits, parameters, examples."""

import csv
import io
import json
import math
import shutil

import duckdb
import pytest
from pyarrow import parquet

from tests.app.synthetic import build
from tests.e2e.command import workbench


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sql") / "home"
    folder.mkdir()
    build(folder)
    return folder


ODD = (
    "SELECT * FROM (VALUES (1, 'a,\"b\"\n数', 'nan'::DOUBLE, [1, 2], NULL, DATE '2026-11-24', "
    "INTERVAL 1 DAY, 170141183460469231731687303715884105727::HUGEINT, {'k': [1.5]}, 1.50::DECIMAL)"
    ") t(n, s, x, l, z, d, i, h, st, de)"
)


def test_every_format_holds_every_type(home, tmp_path):
    (row,) = json.loads(workbench("sql", ODD, "--format", "json", home=home).stdout)
    assert (row["n"], row["s"], row["x"], row["l"]) == (1, 'a,"b"\n数', None, [1, 2])
    assert (row["h"], row["st"], row["de"]) == (2**127 - 1, {"k": [1.5]}, 1.5)
    (text,) = csv.DictReader(
        io.StringIO(workbench("sql", ODD, "--format", "csv", home=home).stdout)
    )
    assert (text["l"], text["s"], text["i"], text["z"]) == ("[1, 2]", 'a,"b"\n数', "1 day", "")
    out = tmp_path / "rows.parquet"
    done = workbench("sql", ODD, "--output", str(out), home=home)
    assert "1 row in" in done.stderr
    (kept,) = parquet.read_table(out).to_pylist()
    assert (kept["l"], kept["i"], math.isnan(kept["x"])) == ([1, 2], "1 day", True)
    assert "数" in workbench("sql", ODD, home=home).stdout


def test_a_table_is_cut_with_a_notice_and_files_are_not(home, tmp_path):
    query = "SELECT phase, value FROM phase_metrics ORDER BY ALL"
    done = workbench("sql", query, home=home)
    assert "1,000 rows, cut at the row limit; there are more" in done.stderr
    whole = json.loads(workbench("sql", query, "--json", home=home).stdout)
    assert len(whole) > 1000
    out = tmp_path / "rows.csv"
    workbench("sql", query, "-o", str(out), "--limit", "3", home=home)
    assert len(out.read_text().splitlines()) == 4


def test_brackets_in_a_table_are_not_taken_for_colours(home):
    shown = workbench("sql", "SELECT '[red]x[/red]' AS a, 'lm-eval[math]' AS b", home=home).stdout
    assert "[red]x[/red]" in shown
    assert "lm-eval[math]" in shown


def test_parameters_are_what_they_look_like(home):
    query = "SELECT phase FROM phases WHERE suite = $s AND phase IN $p ORDER BY phase LIMIT $n"
    words = ("-p", "s=small", "-p", "p=[3, 5, 9]", "-p", "n=2", "--json")
    assert json.loads(workbench("sql", query, *words, home=home).stdout) == [
        {"phase": 3}, {"phase": 5},
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("SELECT 1", "-p", "x"), 2, "-p x is not of the form name=value"),
        (("SELECT $x",), 1, "give it with -p x=VALUE"),
        (("SELECT 1", "--example", "missing"), 2, "Give one query"),
        (("--example", "nope"), 2, "workbench sql --examples"),
        (("SELECT 1", "-o", "rows.xlsx"), 1, "end it in .csv, .json, .parquet"),
        (("SELECT sleep_ms(60000)", "--timeout", "0.2"), 1, "stopped after 0.2 s"),
        (("DROP VIEW runs",), 1, "DROP is not allowed"),
        ((), 2, "Give one query"),
    ],
)
def test_what_is_asked_badly(home, words, code, says):
    done = workbench("sql", *words, home=home, expect=code)
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_failed_query_leaves_the_file_that_was_there(home, tmp_path):
    out = tmp_path / "rows.csv"
    out.write_text("of before")
    late = "SELECT CASE WHEN range = 99999 THEN error('late') END FROM range(100000)"
    workbench("sql", late, "-o", str(out), home=home, expect=1)
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("rows.csv", "of before")]


def test_examples_are_listed_and_run(home):
    listed = json.loads(workbench("sql", "--examples", "--json", home=home).stdout)
    assert len(listed) >= 12
    rows = json.loads(workbench("sql", "--example", "residual-growth", "--json", home=home).stdout)
    assert {"layer", "growth_of_norm"} <= rows[0].keys()


def test_schema_tells_what_a_column_means(home):
    columns = json.loads(workbench("schema", "phase_metrics", "--json", home=home).stdout)
    assert {row["column"] for row in columns} >= {"phase", "value"}
    assert all(row["what"].endswith(".") for row in columns)
    assert "no view 'x'" in workbench("schema", "x", home=home, expect=2).stderr


LONG = (
    "PIVOT (SELECT range % 3 AS k, md5(range::VARCHAR) AS m FROM range(20000000)) ON k USING max(m)"
)


@pytest.mark.parametrize("query", [LONG, "SUMMARIZE FROM range(60000000)"])
def test_a_statement_that_duckdb_runs_at_once_for_seconds_answers(home, query):
    assert json.loads(workbench("sql", query, "--json", home=home).stdout)


def test_the_time_limit_is_reported_for_such_a_statement_too(home):
    query = "PIVOT (SELECT a.range % 3 AS k FROM range(100000) a, range(1000000) b) ON k"
    said = workbench("sql", query, "--timeout", "4", home=home, expect=1).stderr
    assert "stopped after 4 s, the time limit" in said
    assert "--timeout 40" in said


def test_the_memory_limit_is_reported_and_can_be_raised(home):
    query = "SELECT length(string_agg(repeat('x', 1000000), '')) FROM range(1100)"
    said = workbench("sql", query, "--memory", "1", home=home, expect=1).stderr
    assert "more than 1 GB, the memory limit" in said
    assert "--memory 2" in said
    query = "SELECT len(list(range)) AS n FROM range(60000000)"
    workbench("sql", query, "--memory", "1", home=home, expect=1)
    assert "60" in workbench("sql", query, "--memory", "4", home=home).stdout


@pytest.mark.parametrize(
    "query",
    [
        "PIVOT (SELECT suite FROM phases WHERE phase < $p AND suite <> $s) ON suite USING count(*)",
        "WITH a AS (PIVOT (SELECT suite FROM phases) ON suite USING count(*)) "
        "SELECT $p AS p, $s AS s, '$p' AS t FROM a",
    ],
)
def test_pivot_without_in_takes_parameters(home, query):
    words = ("-p", "p=3", "-p", "s=a'b$p", "--json")
    (row,) = json.loads(workbench("sql", query, *words, home=home).stdout)
    assert row.get("s", "a'b$p") == "a'b$p"
    assert "asks for $s" in workbench("sql", query, "-p", "p=3", home=home, expect=1).stderr


def test_integers_that_arrow_has_no_type_for_are_text(home, tmp_path):
    query = f"SELECT {2**128 - 1}::UHUGEINT AS u, [{2**128 - 1}::UHUGEINT] AS l, 5::BIGNUM AS b"
    (row,) = json.loads(workbench("sql", query, "--json", home=home).stdout)
    assert row == {"u": str(2**128 - 1), "l": f"[{2**128 - 1}]", "b": "5"}
    text = workbench("sql", query, "--format", "csv", home=home).stdout
    assert str(2**128 - 1) in text


def test_a_nested_interval_in_parquet_and_an_infinite_date_in_json(home, tmp_path):
    out = tmp_path / "rows.parquet"
    workbench("sql", "SELECT {'i': [INTERVAL 1 DAY]} AS s", "-o", str(out), home=home)
    assert parquet.read_table(out).to_pylist() == [{"s": "{'i': [1 day]}"}]
    for style in ("json", "table"):
        done = workbench(
            "sql", "SELECT 'infinity'::TIMESTAMP", "--format", style, home=home, expect=1
        )
        assert "CAST it AS VARCHAR" in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("none/rows.csv", "there is no folder"),
        ("folder.csv", "is a folder"),
        ("file/rows.csv", "there is no folder"),
        ("a" * 300 + ".csv", "File name too long"),
    ],
)
def test_an_output_that_cannot_be_written_makes_no_folder(home, tmp_path, name, says):
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "file").write_text("")
    done = workbench("sql", "SELECT 1", "-o", str(tmp_path / name), home=home, expect=1)
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder.csv"]


def test_an_output_that_is_a_link_or_a_device(home, tmp_path):
    (tmp_path / "rows.csv").write_text("old")
    (tmp_path / "link.csv").symlink_to("rows.csv")
    workbench("sql", "SELECT 1 AS a", "-o", str(tmp_path / "link.csv"), home=home)
    assert (tmp_path / "link.csv").is_symlink()
    assert (tmp_path / "rows.csv").read_text().split() == ['"a"', "1"]
    device = ("-o", "/dev/full", "--format", "csv")
    assert "No space left" in workbench("sql", "SELECT 1", *device, home=home, expect=1).stderr


def test_a_file_of_the_working_directory_is_not_imported(home, tmp_path, monkeypatch):
    for name in ("json", "duckdb", "pyarrow", "resource", "decimal"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported')")
    monkeypatch.chdir(tmp_path)
    assert "42" in workbench("sql", "SELECT 42", home=home).stdout


def damage(home, tmp_path, change):
    folder = tmp_path / "damaged"
    folder.mkdir()
    shutil.copy(home / "metrics.duckdb", folder)
    path = folder / "metrics.duckdb"
    content = bytearray(path.read_bytes())
    path.write_bytes(change(content))
    return folder


def overwrite_every_block(content):
    for start in range(12288 + 50_000, len(content) - 64, 262_144):
        content[start : start + 64] = b"\xaa" * 64
    return content


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda content: b"", "is empty"),
        (lambda content: b"text" * 100, "is not a DuckDB database"),
        (lambda content: content[:4096], "is damaged or incomplete"),
        (lambda content: b"\0" * 64 + content[64:], "header is overwritten"),
        (overwrite_every_block, "is damaged or incomplete"),
    ],
)
def test_a_damaged_store_names_backup_and_export(home, tmp_path, change, what):
    folder = damage(home, tmp_path, change)
    before = (folder / "metrics.duckdb").read_bytes()
    for words in (("sql", "FROM phase_metrics"), ("suites",), ("spikes", "small")):
        done = workbench(*words, home=folder, expect=1)
        assert what in done.stderr
        assert "restore a backup" in done.stderr
        assert "workbench import store" in done.stderr
        assert len(done.stderr.splitlines()) == 1
    assert (folder / "metrics.duckdb").read_bytes() == before


def test_a_log_of_another_store_is_what_has_to_be_moved(home, tmp_path):
    folder = damage(home, tmp_path, lambda content: content)
    connection = duckdb.connect(tmp_path / "other.duckdb")
    connection.execute("PRAGMA disable_checkpoint_on_shutdown")
    connection.execute("CREATE TABLE t (a INT)")
    connection.execute("CHECKPOINT")
    connection.execute("INSERT INTO t FROM range(100)")
    shutil.copy(tmp_path / "other.duckdb.wal", folder / "metrics.duckdb.wal")
    connection.close()
    done = workbench("sql", "FROM suites", home=folder, expect=1)
    assert "move only metrics.duckdb.wal" in done.stderr
    (folder / "metrics.duckdb.wal").rename(tmp_path / "log")
    workbench("sql", "FROM suites", home=folder)
