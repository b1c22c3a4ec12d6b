"""Rows of a query as CSV, JSON or Parquet, written while they come: for SQL and for exports."""

import errno
import json
import os
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from analysis_db.errors import QueryError, StoreError

if TYPE_CHECKING:
    import pyarrow as pa

    from analysis_db.sandbox import Rows

SUFFIXES = {".csv": "csv", ".json": "json", ".parquet": "parquet"}
_ODD = ("blob", "bit", "interval", "time with time zone")
_AS_PRINTED = (*_ODD, "list", "array", "struct", "map", "union", "enum", "uuid")
AS_TEXT: dict[str, tuple[str, ...]] = {
    "table": _AS_PRINTED,
    "csv": _AS_PRINTED,
    "json": _ODD,
    "parquet": ("bit", "interval", "time with time zone", "union"),
}
"""Format -> the types of SQL that it cannot hold otherwise, at any depth, for ``stream_sql``."""


def format_of(out: Path) -> str:
    """The format that the suffix of a file names; raises QueryError."""
    if out.suffix not in SUFFIXES:
        raise QueryError(f"{out} names no format: end it in {', '.join(SUFFIXES)}.")
    return SUFFIXES[out.suffix]


def write_file(rows: "Rows", format: str, out: Path) -> int:
    """Write to a file that appears when it is complete, and replaces what was there.

    A device or a pipe is written to as it is. Returns the number of rows. Raises StoreError when
    the file cannot be written, and what the rows raise.
    """
    try:
        if not out.parent.is_dir():
            raise StoreError(
                f"{out} cannot be written, there is no folder {out.parent}: create it, or name a "
                "file in another folder."
            )
        if out.is_dir():
            raise StoreError(f"{out} is a folder: name a file in it.")
        if out.exists() and not out.is_file():
            with out.open("wb") as device:
                return write(rows, format, device)
        out = out.resolve()  # of a symbolic link, the file that it names is replaced
        draft = out.with_name(f".{out.name}.part")
        if out.exists() and not os.access(out, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(out))
        try:
            with draft.open("wb") as file:
                count = write(rows, format, file)
            draft.replace(out)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(
            f"{out} cannot be written ({error.strerror}): choose another place."
        ) from None
    return count


def write(rows: "Rows", format: str, out: IO[bytes]) -> int:
    """Write to an open file; returns the number of rows."""
    return {"csv": _write_csv, "json": _write_json, "parquet": _write_parquet}[format](rows, out)


def _write_csv(rows: "Rows", out: IO[bytes]) -> int:
    from pyarrow import csv

    count = 0
    with csv.CSVWriter(out, rows.schema) as writer:
        for batch in rows.batches:
            writer.write_batch(batch)
            count += batch.num_rows
    return count


def _write_parquet(rows: "Rows", out: IO[bytes]) -> int:
    import pyarrow as pa
    from pyarrow import parquet

    count, waiting = 0, 0
    kept: list[pa.RecordBatch] = []
    with parquet.ParquetWriter(out, rows.schema) as writer:

        def flush() -> None:
            writer.write_table(pa.Table.from_batches(kept, rows.schema))
            kept.clear()

        for batch in rows.batches:
            kept.append(batch)
            count, waiting = count + batch.num_rows, waiting + batch.num_rows
            if waiting >= 100_000:  # rows of a row group
                flush()
                waiting = 0
        if kept:
            flush()
    return count


def _write_json(rows: "Rows", out: IO[bytes]) -> int:
    count = 0
    out.write(b"[")
    for row in plain_rows(rows):
        text = json.dumps(row, default=str, ensure_ascii=False, allow_nan=False)
        out.write((",\n " if count else "\n ").encode() + text.encode())
        count += 1
    out.write(b"\n]\n")
    return count


def plain_rows(rows: "Rows") -> Iterator[dict[str, Any]]:
    """Each row as a dict of what JSON knows; a number that is not finite becomes None."""
    for batch in rows.batches:
        for row in dicts(batch):
            yield _plain(row)


def dicts(batch: "pa.RecordBatch") -> list[dict[str, Any]]:
    """The rows of a batch by column name; raises QueryError for a date that Python cannot hold."""
    try:
        return cast("list[dict[str, Any]]", batch.to_pylist())
    except (OverflowError, ValueError):
        raise QueryError(
            "A date or time is infinite or outside the years 1 to 9999: CAST it AS VARCHAR."
        ) from None


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_plain(entry) for entry in value]
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, float) and value - value != 0:  # NaN or infinite
        return None
    return value
