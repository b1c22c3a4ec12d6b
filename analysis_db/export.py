"""What is in the store, written to files: any query in a file, or the whole store.

The store is copied first, in a moment, and read from the copy: a long export keeps no writer
waiting and sees one state of the store.
"""

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
from pyarrow import parquet

from analysis_db.errors import StoreError
from analysis_db.formats import AS_TEXT, format_of, write_file
from analysis_db.sandbox import stream_sql
from analysis_db.store import Store, insert, schema_scripts

BATCH = 100_000
"""Rows that are in memory at a time."""
_README = "README.md"
_ABOUT = "store.json"
_OWN_BY_REPOSITORY = """
UPDATE data.imported_score AS i SET own = EXISTS (
    SELECT 1 FROM data.phase p
    WHERE p.suite = i.suite AND p.phase = i.phase AND lower(p.repo_id) = lower(i.model)
)
WHERE i.model IS NOT NULL
"""


def export_query(
    store: Store, query: str, out: Path, params: Mapping[str, Any] | None = None
) -> int:
    """Write the rows of a query, or of a view that is named, to ``out``; returns their number.

    The suffix of ``out`` says Parquet, CSV or JSON. It appears when it is complete, and replaces
    what was there. Raises QueryError for another suffix, or what is wrong with the query.
    """
    format = format_of(out)
    sql = f'FROM "{query}"' if query.isidentifier() else query
    with (
        _copy(store) as copy,
        stream_sql(copy, sql, params, timeout_s=None, text=AS_TEXT[format]) as rows,
    ):
        return write_file(rows, format, out)


@contextmanager
def _copy(store: Store) -> Iterator[Store]:
    with tempfile.TemporaryDirectory(dir=store.path.parent, prefix=".export-") as folder:
        copy = Path(folder) / store.path.name
        with store.read():  # nobody writes meanwhile
            shutil.copyfile(store.path, copy)
            for log in store.path.parent.glob(f"{store.path.name}.wal"):  # of a killed writer
                shutil.copyfile(log, copy.with_name(log.name))
        yield Store(copy)


def _write(reader: pa.RecordBatchReader, out: Path) -> int:
    out.parent.mkdir(parents=True, exist_ok=True)
    draft = out.with_name(f".{out.name}.part")
    rows = 0
    try:
        with parquet.ParquetWriter(draft, reader.schema) as writer:
            for batch in reader:
                writer.write_batch(batch)
                rows += batch.num_rows
        draft.replace(out)
    finally:
        draft.unlink(missing_ok=True)
    return rows


def export_all(store: Store, folder: Path) -> dict[str, int]:
    """Write every table as Parquet into a new folder, with a README of tables and columns.

    Returns the rows by table. ``rebuild`` makes an equal store of it. The folder appears when it
    is complete; raises StoreError when it exists.
    """
    if folder.exists():
        raise StoreError(f"{folder} exists already: name a new folder.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    try:
        with _copy(store) as copy, copy.read() as connection:
            version = copy.schema_version()
            rows = {
                table: _write(
                    connection.sql(f"FROM data.{table}").to_arrow_reader(BATCH),
                    draft / f"{table}.parquet",
                )
                for table in _tables(connection)
            }
            (draft / _README).write_text(_readme(connection, rows), encoding="utf-8")
        about = {"schema": version, "rows": rows}
        (draft / _ABOUT).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
        draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return rows


def _tables(connection: duckdb.DuckDBPyConnection) -> list[str]:
    found = connection.execute(
        "SELECT table_name FROM duckdb_tables() WHERE schema_name = 'data' ORDER BY table_name"
    )
    return [name for (name,) in found.fetchall()]


def _readme(connection: duckdb.DuckDBPyConnection, rows: Mapping[str, int]) -> str:
    about = dict(
        connection.execute(
            "SELECT table_name, comment FROM duckdb_tables() WHERE schema_name = 'data'"
        ).fetchall()
    )
    columns: list[tuple[Any, ...]] = connection.execute(
        "SELECT table_name, column_name, data_type, coalesce(comment, '') FROM duckdb_columns() "
        "WHERE schema_name = 'data' ORDER BY table_name, column_index"
    ).fetchall()
    lines = [
        "# A metrics store as Parquet",
        "",
        "One file a table. `workbench import store` makes a metrics store of this folder again;",
        "what the columns mean is said best by the public views, `workbench schema`.",
    ]
    for table, count in rows.items():
        lines += ["", f"## {table} ({count:,} rows)", "", str(about.get(table) or ""), ""]
        lines += ["| column | type | |", "|---|---|---|"]
        lines += [f"| `{c[1]}` | {c[2]} | {c[3]} |" for c in columns if c[0] == table]
    return "\n".join(lines) + "\n"


def rebuild(store: Store, folder: Path) -> dict[str, int]:
    """Make the store of what ``export_all`` wrote; returns the rows by table.

    All in one transaction. Raises StoreError when there is a store already, when the folder is no
    export, when a file of it is missing, damaged or shorter than it was, or when it was made by a
    newer schema.
    """
    if store.path.exists():
        raise StoreError(f"There is a metrics store at {store.path} already: move it away.")
    try:
        about = json.loads((folder / _ABOUT).read_text(encoding="utf-8"))
        version, rows = int(about["schema"]), dict(about["rows"])
    except (OSError, ValueError, LookupError, TypeError):
        raise StoreError(
            f"{folder} is no export of a store ({_ABOUT} is missing or damaged): name a folder "
            "that `workbench export --all` wrote."
        ) from None
    known = schema_scripts()[-1][0]
    if version > known:
        raise StoreError(
            f"{folder} was made by a newer workbench (schema {version}, this one knows {known}): "
            "update the workbench."
        )
    try:
        files = {table: parquet.ParquetFile(folder / f"{table}.parquet") for table in rows}
        short = [table for table, n in rows.items() if files[table].metadata.num_rows != n]
        if short:
            raise StoreError(f"{folder / short[0]}.parquet does not hold what was exported.")
        _fill(store, files)
    except (OSError, pa.ArrowException, duckdb.Error) as error:
        raise StoreError(
            f"{folder} cannot be read ({str(error).splitlines()[0]}): export the store again."
        ) from None
    return rows


def _fill(store: Store, files: Mapping[str, parquet.ParquetFile]) -> None:
    """Beside its place first: the store appears complete, or not at all."""
    store.path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=store.path.parent, prefix=".import-") as folder:
        draft = Store(Path(folder) / store.path.name)
        with draft.write() as connection:
            known = _tables(connection)
            for table in files:
                if table not in known:
                    raise StoreError(f"An exported store has no table {table}: export it again.")
            for table, file in files.items():
                for batch in file.iter_batches(BATCH):
                    insert(connection, table, pa.Table.from_batches([batch]))
            if "measured" not in files:  # an export of before there was that table
                connection.execute("INSERT INTO data.measured FROM data.measured_of_values")
            scores = files.get("imported_score")
            if scores is not None and "own" not in scores.schema_arrow.names:
                connection.execute(_OWN_BY_REPOSITORY)  # as migration 013 does
        draft.path.rename(store.path)
