"""Data mixes that a user brings: one JSON file a phase, as YuLan-Mini's authors publish them, or
a CSV with the columns of a suite's own."""

import math
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import duckdb

from analysis_db.errors import StoreError
from analysis_db.imports import Imported
from analysis_db.imports.documents import Document, is_number
from analysis_db.imports.tables import read_mix
from analysis_db.store import Store, insert

_SELECTED, _TOTAL = "Number of Selected Tokens(B)", "Total Tokens(B)"
_FILE_NAME = re.compile(r"(?P<phase>\d+)_(?P<mix_id>.+)")
_CLASSES = ("source_group", "category", "bucket")


def read_mixes(
    paths: Sequence[Path], phases: Collection[int], *, phase: int | None = None
) -> tuple[list[dict[str, Any]], list[str]]:
    """(rows of ``data.data_mix`` without the suite, remarks) of CSV and JSON files.

    A JSON file holds one phase, whose number its name begins with (``05_20241022.json``) unless
    ``phase`` gives it. Where files share a phase each is a run of its own. Raises StoreError naming
    the file, line and field that is wrong.
    """
    rows: list[dict[str, Any]] = []
    remarks: list[str] = []
    documents = [(path, *_named(path, phases, phase)) for path in paths if path.suffix == ".json"]
    numbers = [number for _, number, _ in documents]
    for path, number, mix_id in documents:
        document = Document.read(path)
        tokens = _tokens(document)
        run = str(number) if numbers.count(number) == 1 else f"{number}-{mix_id}"
        rows += [
            {"phase": number, "run": run, "mix_id": mix_id, "source": source, "tokens_b": billions}
            | dict.fromkeys(_CLASSES) | {"imported_from": str(path)}
            for source, billions in tokens.items()
        ]  # fmt: skip
        total, found = document.content.get(_TOTAL), math.fsum(tokens.values())
        if is_number(total) and not math.isclose(total, found, rel_tol=1e-6):
            remarks.append(
                f"{path} states {total:g} B tokens, its sources sum to {found:g} B: the sum is "
                "shown."
            )
    for path in paths:
        if path.suffix != ".json":
            rows += [row | {"imported_from": str(path)} for row in read_mix(path, phases)]
    taken: dict[tuple[Any, ...], str] = {}
    for row in rows:
        key = (row["phase"], row["run"], row["source"])
        other = taken.setdefault(key, row["imported_from"])
        if other != row["imported_from"]:
            raise StoreError(
                f"{row['imported_from']} and {other} both hold {row['source']} of phase "
                f"{row['phase']}: import one of them; nothing was imported."
            )
    return rows, remarks


def _named(path: Path, phases: Collection[int], phase: int | None) -> tuple[int, str]:
    """(phase, id of the mix) of a JSON file."""
    found = _FILE_NAME.fullmatch(path.stem)
    number = phase if phase is not None else int(found["phase"]) if found else None
    if number is None:
        raise StoreError(
            f"The name of {path} does not begin with its phase, as 05_{path.name} would: give it "
            "with --phase; nothing was imported."
        )
    if number not in phases:
        raise StoreError(
            f"{path} is of phase {number}, which the suite does not have; nothing was imported."
        )
    return number, found["mix_id"] if found else path.stem


def _tokens(document: Document) -> dict[str, float]:
    tokens = document.mapping(_SELECTED)
    for source, billions in tokens.items():
        if not is_number(billions) or not 0 <= billions < math.inf:
            raise document.wrong(
                [_SELECTED, source], f"is {billions!r}, not a number of tokens from 0 on"
            )
    if not tokens:
        raise document.wrong([_SELECTED], "names no source")
    return tokens


def store_mixes(store: Store, suite: str, rows: Sequence[dict[str, Any]]) -> Imported:
    """Replace the mix of every phase that ``rows`` hold.

    A source without group, category and bucket takes those that the suite's mix has for it.
    """
    numbers = sorted({row["phase"] for row in rows})
    with store.write() as connection:
        known = _known_classes(connection, suite)
        classed = [{"suite": suite} | known.get(row["source"], {}) | _given(row) for row in rows]
        connection.execute(
            "DELETE FROM data.data_mix WHERE suite = $suite AND phase IN $phases",
            {"suite": suite, "phases": numbers},
        )
        insert(connection, "data_mix", [dict.fromkeys(_CLASSES) | row for row in classed])
    unknown = {row["source"] for row in classed if row.get("category") is None}
    remarks = []
    if unknown:
        remarks.append(
            f"{len(unknown)} of {len({row['source'] for row in rows})} sources have no category, "
            "as the suite's mix does not know them."
        )
    return Imported(
        [
            {
                "suite": suite,
                "phase": number,
                "sources": sum(row["phase"] == number for row in rows),
                "tokens_b": math.fsum(r["tokens_b"] for r in rows if r["phase"] == number),
            }
            for number in numbers
        ],
        remarks,
    )


def _given(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if value is not None}


def _known_classes(connection: duckdb.DuckDBPyConnection, suite: str) -> dict[str, dict[str, Any]]:
    """What the suite's mix says of each source, where it says one thing only."""
    found = connection.execute(
        f"""
        SELECT source, {", ".join(f"any_value({name})" for name in _CLASSES)}
        FROM data.data_mix WHERE suite = $suite AND category IS NOT NULL
        GROUP BY source HAVING count(DISTINCT ({", ".join(_CLASSES)})) = 1
        """,
        {"suite": suite},
    ).fetchall()
    return {source: dict(zip(_CLASSES, classes, strict=True)) for source, *classes in found}
