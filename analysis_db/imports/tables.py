"""The tables of a suite: its data mix, and the scores that its authors published.

A suite brings its own; what a user imports stands beside its scores, and in the place of its mix
of the same phases, and stays when the suite is recorded again.
"""

import csv
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb

from analysis_db.errors import StoreError
from analysis_db.store import Store, insert

_MIX_COLUMNS = ("phase", "run", "mix_id", "source", "group", "category", "bucket", "tokens_b")
_SCORE_COLUMNS = ("model", "phase", "benchmark", "setting", "score", "footnote", "source")


def import_data_mix(store: Store, suite: str, path: Path) -> int:
    """Replace the suite's own data mix by the rows of a CSV; returns their number.

    Columns: phase, run, mix_id, source, group, category, bucket, tokens_b (billions). Phases whose
    mix a user imported keep that. Raises StoreError naming file and line of a wrong row; then
    nothing is changed.
    """
    rows = read_mix(path)
    with store.write() as connection:
        _replace_own(connection, "data_mix", suite, rows)
        connection.execute(
            "DELETE FROM data.data_mix WHERE suite = $suite AND imported_from IS NULL AND phase IN "
            "(SELECT phase FROM data.data_mix WHERE suite = $suite AND imported_from IS NOT NULL)",
            {"suite": suite},
        )
    return len(rows)


def import_published_scores(store: Store, suite: str, path: Path) -> int:
    """Replace the scores that belong to the suite by the rows of a CSV; returns their number.

    Columns: model, phase, benchmark, setting, score, footnote, source; phase and score may be
    empty (another model; a cell that the authors left blank). Raises StoreError naming file and
    line of a wrong row; then nothing is changed.
    """
    rows = read_scores(path)
    with store.write() as connection:
        _replace_own(connection, "published_score", suite, rows)
    return len(rows)


def read_mix(path: Path, phases: Collection[int] | None = None) -> list[dict[str, Any]]:
    """Rows of ``data.data_mix`` without the suite; ``phases`` are those that may occur."""
    return [
        {
            "phase": _phase(row, phases, where),
            "run": row["run"],
            "mix_id": row["mix_id"],
            "source": row["source"],
            "source_group": row["group"],
            "category": row["category"],
            "bucket": row["bucket"],
            "tokens_b": _number(row, "tokens_b", float, where),
        }
        for where, row in _rows(path, _MIX_COLUMNS)
    ]


def read_scores(path: Path, phases: Collection[int] | None = None) -> list[dict[str, Any]]:
    """Rows of ``data.published_score`` without the suite; ``phases`` are those that may occur."""
    return [
        {
            "model": row["model"],
            "phase": _phase(row, phases, where) if row["phase"] else None,
            "benchmark": row["benchmark"],
            "setting": row["setting"],
            "score": _number(row, "score", float, where) if row["score"] else None,
            "footnote": row["footnote"] or None,
            "source": row["source"],
        }
        for where, row in _rows(path, _SCORE_COLUMNS)
    ]


def store_scores(store: Store, suite: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Replace the scores that a user imported for a suite; rows have ``imported_from``."""
    with store.write() as connection:
        connection.execute(
            "DELETE FROM data.published_score WHERE suite = $suite AND imported_from IS NOT NULL",
            {"suite": suite},
        )
        insert(connection, "published_score", [{"suite": suite, **row} for row in rows])


def _replace_own(
    connection: duckdb.DuckDBPyConnection, table: str, suite: str, rows: list[dict[str, Any]]
) -> None:
    connection.execute(
        f"DELETE FROM data.{table} WHERE suite = $suite AND imported_from IS NULL",
        {"suite": suite},
    )
    insert(connection, table, [{"suite": suite, **row} for row in rows])


def _rows(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[str, dict[str, str]]]:
    """("FILE, line N", row) of every row; the line is the last one of the row."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
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


def _phase(row: Mapping[str, str], phases: Collection[int] | None, where: str) -> int:
    phase = int(_number(row, "phase", int, where))
    if phases is not None and phase not in phases:
        raise StoreError(
            f"{where}: field phase is {phase}, which the suite does not have; nothing was imported."
        )
    return phase


def _number(
    row: Mapping[str, str], column: str, kind: type[int] | type[float], where: str
) -> int | float:
    try:
        value = kind(row[column])
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise StoreError(
            f"{where}: field {column} is {row[column]!r}, not a number from 0 on; nothing was "
            "imported."
        )
    return value
