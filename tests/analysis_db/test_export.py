"""Exports: whole, at full resolution, and a store made of one that is equal."""

import json

import pytest
from pyarrow import csv, parquet

from analysis_db import Store
from analysis_db.errors import QueryError, StoreError
from analysis_db.export import export_all, export_query, rebuild
from analysis_db.store import insert
from probes.base import Measurements
from tests.analysis_db.rows import SUITE, measurements, phase, run


@pytest.fixture
def filled(store):
    found = Measurements()
    found.add_histogram("log10_abs", [0.0, 0.5, 1.0], [3, 4], view="stored", layer=0)
    store.write_run(run("a"), measurements(0.1 + 0.2, None, 1e-300))
    store.write_run(run("b", phase=2, minutes=1), found.tables())
    return store


def tables(store):
    names = store.table("SELECT table_name FROM duckdb_tables() WHERE schema_name = 'data'")
    return {
        name: store.table(f"FROM data.{name} ORDER BY ALL")
        for name in names["table_name"].to_pylist()
    }


def test_a_view_to_parquet_is_the_view(filled, tmp_path):
    out = tmp_path / "values.parquet"
    assert export_query(filled, "phase_metrics", out) == 2
    written, asked = parquet.read_table(out), filled.table("FROM phase_metrics")
    assert written.cast(asked.schema).equals(asked)


def test_a_query_to_csv_keeps_every_digit_and_writes_lists_as_text(filled, tmp_path):
    out = tmp_path / "values.csv"
    out.write_text("of an earlier export")
    sql = "SELECT value FROM phase_metrics WHERE phase = $p ORDER BY value"
    assert export_query(filled, sql, out, {"p": "1"}) == 2
    assert csv.read_csv(out)["value"].to_pylist() == [1e-300, 0.1 + 0.2]
    export_query(filled, "histograms", out)
    assert csv.read_csv(out)["counts"].to_pylist() == ["[3, 4]"]


@pytest.mark.parametrize(
    ("sql", "name", "says"),
    [
        ("phase_metrics", "out.xlsx", "end it in .csv, .json, .parquet"),
        ("FROM nowhere", "out.csv", "nowhere does not exist"),
        ("no_such_view", "out.csv", "no_such_view does not exist"),
        ("FROM read_csv('/etc/passwd')", "out.csv", "disabled"),
        ("SELECT error('in the middle') FROM phase_metrics", "out.parquet", "in the middle"),
    ],
)
def test_what_fails_leaves_the_file_that_was_there(filled, tmp_path, sql, name, says):
    out = tmp_path / name
    out.write_text("of an earlier export")
    with pytest.raises(QueryError, match=says) as caught:
        export_query(filled, sql, out)
    assert "Traceback" not in str(caught.value)
    assert out.read_text() == "of an earlier export"
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {name, filled.path.name}


def test_a_store_made_of_an_export_is_equal(filled, tmp_path):
    folder = tmp_path / "all"
    rows = export_all(filled, folder)
    assert (rows["measurement"], rows["run"], rows["histogram"], rows["spike"]) == (3, 2, 1, 0)
    readme = (folder / "README.md").read_text()
    for table in rows:
        assert f"## {table} " in readme
    again = Store(tmp_path / "again" / "metrics.duckdb")
    assert rebuild(again, folder) == rows
    before, after = tables(filled), tables(again)
    assert before.keys() == after.keys()
    for name, table in before.items():
        assert after[name].equals(table), name
    again.write_run(run("c", minutes=2), measurements(5.0))
    assert again.table("SELECT value FROM phase_metrics WHERE phase = 1")["value"].to_pylist() == [
        5.0
    ]


def test_an_export_of_before_the_table_measured_makes_an_equal_store(filled, tmp_path):
    folder = tmp_path / "all"
    export_all(filled, folder)
    (folder / "measured.parquet").unlink()
    about = json.loads((folder / "store.json").read_text())
    del about["rows"]["measured"]
    (folder / "store.json").write_text(json.dumps(about))
    again = Store(tmp_path / "again" / "metrics.duckdb")
    rebuild(again, folder)
    sql = "FROM data.measured ORDER BY ALL"
    assert again.table(sql).num_rows > 0
    assert again.table(sql).equals(filled.table(sql))


def test_an_export_of_before_scores_had_a_model_of_their_own(filled, tmp_path):
    filled.put_suite(SUITE, [phase(1), phase(2)])
    row = {"suite": "s", "phase": 1, "task": "arc", "metric": "acc", "value": 0.5,
           "imported_from": "a.json", "file_sha256": "0"}  # fmt: skip
    with filled.write() as connection:
        models = ("org/repo", "gpt2", None)
        insert(connection, "imported_score", [row | {"model": model} for model in models])
    folder = tmp_path / "all"
    export_all(filled, folder)
    path = folder / "imported_score.parquet"
    parquet.write_table(parquet.read_table(path).drop_columns(["own"]), path)
    again = Store(tmp_path / "again" / "metrics.duckdb")
    rebuild(again, folder)
    found = again.table("SELECT model, own FROM data.imported_score ORDER BY model").to_pylist()
    assert [tuple(score.values()) for score in found] == [
        ("gpt2", False),
        ("org/repo", True),
        (None, None),
    ]


def test_an_export_does_not_replace_a_folder(filled, tmp_path):
    (tmp_path / "all").mkdir()
    with pytest.raises(StoreError, match="exists already"):
        export_all(filled, tmp_path / "all")


@pytest.mark.parametrize("damage", ["missing", "cut", "short", "newer", "strange", "no export"])
def test_a_damaged_export_makes_no_store(filled, tmp_path, damage):
    folder = tmp_path / "all"
    export_all(filled, folder)
    file, about = folder / "run.parquet", folder / "store.json"
    facts = json.loads(about.read_text())
    if damage == "missing":
        file.unlink()
    elif damage == "cut":
        file.write_bytes(file.read_bytes()[:-20])
    elif damage == "short":
        parquet.write_table(parquet.read_table(file).slice(1), file)
    elif damage == "newer":
        about.write_text(json.dumps(facts | {"schema": 999}))
    elif damage == "strange":
        parquet.write_table(parquet.read_table(file), folder / "x.parquet")
        about.write_text(json.dumps(facts | {"rows": facts["rows"] | {"x": 2}}))
    else:
        about.unlink()
    again = Store(tmp_path / "again" / "metrics.duckdb")
    with pytest.raises(StoreError) as caught:
        rebuild(again, folder)
    assert "\n" not in str(caught.value)
    assert not again.path.exists()
    assert not again.path.parent.exists() or not list(again.path.parent.iterdir())


def test_a_store_that_is_there_is_not_replaced(filled, tmp_path):
    export_all(filled, tmp_path / "all")
    with pytest.raises(StoreError, match="move it away"):
        rebuild(filled, tmp_path / "all")
