"""Import the CSV facts of a suite: its data mix and the scores its authors published."""

import csv
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from analysis_db.errors import StoreError
from analysis_db.store import Store, insert


def import_data_mix(store: Store, suite: str, path: Path) -> int:
    """Replace the suite's data mix by the rows of a CSV; returns their number.

    Columns: phase, run, mix_id, source, group, category, bucket, tokens_b (billions). Raises
    StoreError naming file and line of a wrong row; then nothing is changed.
    """
    columns = ("phase", "run", "mix_id", "source", "group", "category", "bucket", "tokens_b")
    rows = [
        {
            "suite": suite,
            "phase": _number(row, "phase", int, where),
            "run": row["run"],
            "mix_id": row["mix_id"],
            "source": row["source"],
            "source_group": row["group"],
            "category": row["category"],
            "bucket": row["bucket"],
            "tokens_b": _number(row, "tokens_b", float, where),
        }
        for where, row in _rows(path, columns)
    ]
    _replace(store, "data_mix", suite, rows)
    return len(rows)


def import_published_scores(store: Store, suite: str, path: Path) -> int:
    """Replace the suite's published scores by the rows of a CSV; returns their number.

    Columns: model, phase, benchmark, setting, score, footnote, source; phase and score may be
    empty (another model; a cell that the authors left blank). Raises StoreError naming file and
    line of a wrong row; then nothing is changed.
    """
    columns = ("model", "phase", "benchmark", "setting", "score", "footnote", "source")
    rows = [
        {
            "suite": suite,
            "model": row["model"],
            "phase": _number(row, "phase", int, where) if row["phase"] else None,
            "benchmark": row["benchmark"],
            "setting": row["setting"],
            "score": _number(row, "score", float, where) if row["score"] else None,
            "footnote": row["footnote"] or None,
            "source": row["source"],
        }
        for where, row in _rows(path, columns)
    ]
    _replace(store, "published_score", suite, rows)
    return len(rows)


def _rows(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[str, dict[str, str]]]:
    """("FILE, line N", row) of every row; the line is the last one of the row."""
    try:
        with path.open(encoding="utf-8", newline="") as lines:
            reader = csv.DictReader(lines)
            missing = [name for name in columns if name not in (reader.fieldnames or [])]
            if missing:
                raise StoreError(
                    f"{path} lacks the column {missing[0]}: it needs {', '.join(columns)}."
                )
            for row in reader:
                where = f"{path}, line {reader.line_num}"
                if None in row or None in row.values():
                    raise StoreError(
                        f"{where}: the row has more or fewer cells than the header; nothing was "
                        "imported."
                    )
                yield where, row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise StoreError(f"{path} cannot be read as CSV: {error}; nothing was imported.") from None


def _number(
    row: Mapping[str, str], column: str, kind: type[int] | type[float], where: str
) -> int | float:
    try:
        value = kind(row[column])
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise StoreError(
            f"{where}: {column} is {row[column]!r}, not a number from 0 on; nothing was imported."
        )
    return value


def _replace(store: Store, table: str, suite: str, rows: list[dict[str, Any]]) -> None:
    with store.write() as connection:
        connection.execute(f"DELETE FROM data.{table} WHERE suite = $suite", {"suite": suite})
        insert(connection, table, rows)
