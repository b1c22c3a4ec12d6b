"""docs/schema.md, written from the schema itself."""

import tempfile
from pathlib import Path

from analysis_db.store import Store


def schema_markdown() -> str:
    """The public views as Markdown, from a store made for the purpose."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder) / "metrics.duckdb")
        with store.write():
            pass
        views = described(store)
        version = store.schema_version()
    lines = [
        "# Schema of the metrics store",
        "",
        f"Schema {version}. These views are a contract: renaming one, or a column of one, is a "
        "breaking change.",
        "The tables behind them, in the schema `data`, may change at any time.",
        "Ask with `workbench sql`, on the SQL page, or with DuckDB itself.",
    ]
    for view, about, columns in views:
        lines += ["", f"## {view}", "", about, "", "| column | type | |", "|---|---|---|"]
        lines += [f"| `{name}` | {kind} | {what} |" for name, kind, what in columns]
    return "\n".join(lines) + "\n"


def described(store: Store) -> list[tuple[str, str, list[tuple[str, str, str]]]]:
    """(view, comment, [(column, type, comment)]) from the comments in the schema files."""
    with store.read() as connection:
        views = connection.execute(
            "SELECT view_name, comment FROM duckdb_views() "
            "WHERE schema_name = 'main' AND NOT internal ORDER BY view_name"
        ).fetchall()
        columns = connection.execute(
            "SELECT table_name, column_name, data_type, comment FROM duckdb_columns() "
            "WHERE schema_name = 'main' AND NOT internal ORDER BY table_name, column_index"
        ).fetchall()
    return [(view, about, [c[1:] for c in columns if c[0] == view]) for view, about in views]
