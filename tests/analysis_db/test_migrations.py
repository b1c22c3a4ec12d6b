"""Stores of every earlier schema version are brought forward, every value kept."""

import lzma
from pathlib import Path

import duckdb
import pytest

from analysis_db.docs import described
from analysis_db.errors import StoreTooNew
from analysis_db.store import Store, schema_scripts

STORES = sorted((Path(__file__).parent / "stores").glob("schema_*.duckdb.xz"))
TABLES = "SELECT table_name FROM duckdb_tables() WHERE schema_name = 'data' ORDER BY table_name"


def contents(path):
    """Table -> (columns, rows) as DuckDB itself sees the file."""
    with duckdb.connect(path, read_only=True) as connection:
        found = {}
        for (table,) in connection.execute(TABLES).fetchall():
            cursor = connection.execute(f"FROM data.{table}")
            columns = [column[0] for column in cursor.description]
            found[table] = (columns, sorted(map(repr, cursor.fetchall())))
        versions = connection.execute("SELECT number FROM schema_version ORDER BY 1").fetchall()
        return found, [number for (number,) in versions]


@pytest.fixture(params=STORES, ids=lambda path: path.name.partition(".")[0])
def old(request, tmp_path):
    path = tmp_path / "metrics.duckdb"
    path.write_bytes(lzma.decompress(request.param.read_bytes()))
    return path


def test_every_version_in_use_has_a_store():
    assert [int(path.name[7]) for path in STORES] == [1, 2, 3, 4]


def test_an_old_store_is_brought_forward_with_every_value(old):
    before, versions = contents(old)
    assert sum(len(rows) for _, rows in before.values()) > 2000
    store = Store(old)
    views = {}
    for view, _, columns in described(store):
        names = [name for name, _, _ in columns]
        table = store.table(f"FROM {view}")
        assert table.column_names == names
        views[view] = table.num_rows
    assert {"phases": 29, "runs": 125}.items() <= views.items()
    assert views["phase_metrics"] > 1000
    newest = [number for number, _ in schema_scripts()]
    assert versions == [number for number in newest if number <= max(versions)]
    kept, counted = (
        store.table(f"FROM data.{name} ORDER BY ALL") for name in ("measured", "measured_of_values")
    )
    assert kept.to_pylist() == counted.to_pylist()
    after, now = contents(old)
    assert now == newest
    with duckdb.connect(old, read_only=True) as connection:
        for table, (columns, rows) in before.items():
            listed = ", ".join(f'"{column}"' for column in columns)
            kept = connection.execute(f"SELECT {listed} FROM data.{table}").fetchall()
            assert sorted(map(repr, kept)) == rows, table
            assert after[table][0][: len(columns)] == columns


def test_a_store_of_the_future_is_refused_and_stays_as_it_is(old):
    with duckdb.connect(old) as connection:
        connection.execute("INSERT INTO schema_version VALUES (999, now())")
    content = old.read_bytes()
    with pytest.raises(StoreTooNew, match=r"newer workbench \(schema 999.*update the workbench"):
        Store(old).frame("FROM phases")
    assert old.read_bytes() == content


def test_imported_scores_of_before_get_the_model_that_they_name(tmp_path):
    path = tmp_path / "metrics.duckdb"
    score = "('s', {phase}, {model}, 'arc', 'acc', 0.5, 'a.json', '0')"
    models = ["'Org/A'", "'org/a'", "'org/b'", "NULL"]
    with duckdb.connect(path) as connection:
        for number, script in schema_scripts():
            if number < 13:
                connection.execute(script)
                connection.execute("INSERT INTO schema_version VALUES (?, now())", [number])
        connection.execute("INSERT INTO data.suite (suite, title) VALUES ('s', 'Suite S')")
        connection.execute(
            "INSERT INTO data.phase (suite, phase, label, repo_id) "
            "VALUES ('s', 1, 'a', 'org/a'), ('s', 2, 'b', 'org/b')"
        )
        rows = ", ".join(score.format(phase=1, model=model) for model in models)
        connection.execute(
            "INSERT INTO data.imported_score (suite, phase, model, task, metric, value, "
            f"imported_from, file_sha256) VALUES {rows}"
        )
    found = Store(path).table("SELECT model, own FROM benchmarks ORDER BY model NULLS LAST")
    assert [tuple(row.values()) for row in found.to_pylist()] == [
        ("Org/A", True),
        ("org/a", True),
        ("org/b", False),  # of another phase
        (None, None),
    ]
