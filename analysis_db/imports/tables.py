"""Import the CSV facts of a suite: its data mix and the scores its authors published."""

import csv
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from analysis_db.errors import StoreError
from analysis_db.store import Store, insert


def import_data_mix(store: Store, suite: str, path: Path) -> int:
    """Replace the suite's data mix by the rows of a CSV; returns their number.

    Columns: phase, run, mix_id, source, group, category, bucket, tokens_b (billions).
    """
    rows = [
        {
            "suite": suite,
            "phase": _number(row, "phase", int, path, line),
            "run": row["run"],
            "mix_id": row["mix_id"],
            "source": row["source"],
            "source_group": row["group"],
            "category": row["category"],
            "bucket": row["bucket"],
            "tokens_b": _number(row, "tokens_b", float, path, line),
        }
        for line, row in _rows(
            path, ("phase", "run", "mix_id", "source", "group", "category", "bucket", "tokens_b")
        )
    ]
    _replace(store, "data_mix", suite, rows)
    return len(rows)


def import_published_scores(store: Store, suite: str, path: Path) -> int:
    """Replace the suite's published scores by the rows of a CSV; returns their number.

    Columns: model, phase, benchmark, setting, score, footnote, source; phase and score may be
    empty (a table cell that the authors left blank).
    """
    rows = [
        {
            "suite": suite,
            "model": row["model"],
            "phase": _number(row, "phase", int, path, line) if row["phase"] else None,
            "benchmark": row["benchmark"],
            "setting": row["setting"],
            "score": _number(row, "score", float, path, line) if row["score"] else None,
            "footnote": row["footnote"],
            "source": row["source"],
        }
        for line, row in _rows(
            path, ("model", "phase", "benchmark", "setting", "score", "footnote", "source")
        )
    ]
    _replace(store, "published_score", suite, rows)
    return len(rows)


def _rows(path: Path, columns: tuple[str, ...]) -> list[tuple[int, dict[str, str]]]:
    try:
        with path.open(encoding="utf-8", newline="") as lines:
            reader = csv.DictReader(lines)
            missing = [name for name in columns if name not in (reader.fieldnames or [])]
            if missing:
                raise StoreError(
                    f"{path} lacks the column {missing[0]}: it needs {', '.join(columns)}."
                )
            return [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise StoreError(f"{path} cannot be read as CSV ({error}); nothing was imported.") from None


def _number(
    row: Mapping[str, str], column: str, kind: type[int] | type[float], path: Path, line: int
) -> int | float:
    try:
        number = kind(row[column])
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise StoreError(
            f"{path}, line {line}: {column} is {row[column]!r}, not a number; nothing was imported."
        )
    return number


def _replace(store: Store, table: str, suite: str, rows: list[dict[str, Any]]) -> None:
    with store.write() as connection:
        connection.execute(f"DELETE FROM data.{table} WHERE suite = $suite", {"suite": suite})
        insert(connection, table, rows)
