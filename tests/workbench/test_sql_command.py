"""`workbench sql` through the real command: formats, limits, parameters, examples."""

import csv
import io
import json
import math

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
    out = tmp_path / "new" / "rows.parquet"
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
