"""The comments in the schema are the documentation."""

from analysis_db.docs import described, schema_markdown


def test_every_view_and_column_is_described(store):
    lines = schema_markdown().splitlines()
    for view, about, columns in described(store):
        at = lines.index(f"## {view}")
        assert lines[at + 2] == about
        table = lines[at + 6 : at + 6 + len(columns)]
        for (name, kind, _), line in zip(columns, table, strict=True):
            shown, what = line.removeprefix(f"| `{name}` | ").removesuffix(" |").split(" | ")
            assert shown == kind
            assert what.endswith("."), f"{view}.{name}"


def test_tables_are_described(store):
    tables = store.table(
        "SELECT table_name FROM duckdb_tables() WHERE schema_name = 'data' AND comment IS NULL"
    )
    assert tables["table_name"].to_pylist() == []
