"""Training logs as CSV: any table with a step, and what Weights & Biases exports."""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from analysis_db.errors import StoreError
from analysis_db.imports.runs import Columns, StepRows

_ROWS = 50_000
_ENVELOPES = ("__MIN", "__MAX")


def read_csv_log(path: Path, columns: Columns, rows: StepRows) -> None:
    """Add the values of a CSV; an empty cell was not logged.

    A column whose first value is no number holds text and is skipped, unless it was asked for.
    Raises StoreError naming the file, line and field that is wrong.
    """
    with _Table(path) as table:
        columns = columns.settle(table.header, f"{path}, line 1")
        names = {column: columns.name_of(column) for column in table.header}
        _add(table, columns, {c: (rows, name) for c, name in names.items() if name is not None})


def read_wandb(path: Path, columns: Columns, run: str | None) -> dict[str, StepRows]:
    """The values of an export of a chart or of a run's history, by run.

    A chart names its columns "RUN - METRIC", or "METRIC" alone for one run, and gives for each the
    least and largest value of what was drawn as one point; those two are no log and left out, as
    are columns that begin with an underscore. ``run`` names the run where the file holds one.
    Raises StoreError naming the file, line and field that is wrong.
    """
    with _Table(path) as table:
        places = Columns(columns.step, columns.tokens).settle(table.header, f"{path}, line 1")
        columns = Columns(places.step, places.tokens, columns.metrics)
        runs: dict[str, StepRows] = {}
        taken: dict[str, tuple[StepRows, str]] = {}
        asked = dict.fromkeys(columns.metrics)
        for column in table.header:
            owner, _, metric = column.rpartition(" - ")
            if columns.metrics:
                given = column if column in columns.metrics else metric
                name = columns.metrics.get(given)
                asked.pop(given, None)
            else:
                envelope = column.endswith(_ENVELOPES) and column[:-5] in table.header
                hidden = envelope or metric.startswith("_") or not metric
                name = None if hidden or column in (columns.step, columns.tokens) else metric
            if name is not None:
                taken[column] = runs.setdefault(owner, StepRows()), name
        if asked:
            raise table.wrong(1, next(iter(asked)), "is not there")
        named = [owner for owner in runs if owner]
        if len(runs) > 1 and (run is not None or len(named) < len(runs)):
            raise StoreError(
                f"{path}, line 1: the file holds the runs {', '.join(named)}: leave out --run, or "
                "choose columns of one with --metric; nothing was imported."
            )
        if run is not None:
            runs = dict(zip([run], runs.values(), strict=False))
        elif runs and not named:
            raise StoreError(
                f"{path}, line 1: no column names a run: name it with --run; nothing was imported."
            )
        _add(table, columns, taken)
    return runs


def _add(table: "_Table", columns: Columns, taken: dict[str, tuple[StepRows, str]]) -> None:
    assert columns.step is not None
    text: set[str] = set()
    known: set[str] = set(taken) if columns.metrics else set()
    for lines, cells in table.blocks():
        steps = table.whole(columns.step, lines, cells[columns.step], empty=False)
        tokens = None
        if columns.tokens is not None:
            tokens = table.whole(columns.tokens, lines, cells[columns.tokens], empty=True)
        for column, (rows, name) in taken.items():
            if column in text:
                continue
            if column not in known:
                first = next(filter(None, map(str.strip, cells[column])), None)
                if first is None:
                    continue
                if _is_number(first):
                    known.add(column)
                else:
                    text.add(column)
                    rows.skipped[column] = None
                    continue
            values, present = table.numbers(column, lines, cells[column])
            at = tokens[present] if tokens is not None else None
            rows.extend(name, steps[present], values[present], at)


class _Table:
    """A CSV file, read in blocks of rows as columns."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> "_Table":
        try:
            self._file = self.path.open(encoding="utf-8-sig", newline="")
        except OSError as error:
            raise self._unreadable(error) from None
        try:
            self._reader = csv.reader(self._file)
            self.header = [name.strip() for name in next(self._reader, [])]
        except (UnicodeDecodeError, csv.Error) as error:
            self._file.close()
            raise self._unreadable(error) from None
        twice = [name for name in self.header if self.header.count(name) > 1]
        if twice:
            self._file.close()
            raise self.wrong(1, twice[0], "is the name of two columns")
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def wrong(self, line: int, field: str, what: str) -> StoreError:
        return StoreError(f"{self.path}, line {line}: field {field} {what}; nothing was imported.")

    def _unreadable(self, error: Exception) -> StoreError:
        return StoreError(f"{self.path} cannot be read as CSV ({error}); nothing was imported.")

    def blocks(self) -> Iterator[tuple[Sequence[int], dict[str, tuple[str, ...]]]]:
        """(line of each row, cells by column); empty lines are no rows."""
        lines: list[int] = []
        block: list[list[str]] = []
        width = len(self.header)
        try:
            for row in self._reader:
                if not row:
                    continue
                if len(row) != width:
                    raise StoreError(
                        f"{self.path}, line {self._reader.line_num}: the row has {len(row)} cells, "
                        f"the header {width}; nothing was imported."
                    )
                lines.append(self._reader.line_num)
                block.append(row)
                if len(block) == _ROWS:
                    yield lines, self._columns(block)
                    lines, block = [], []
        except (UnicodeDecodeError, csv.Error) as error:
            raise self._unreadable(error) from None
        if block:
            yield lines, self._columns(block)

    def _columns(self, block: list[list[str]]) -> dict[str, tuple[str, ...]]:
        return dict(zip(self.header, zip(*block, strict=True), strict=True))

    def numbers(
        self, field: str, lines: Sequence[int], cells: Sequence[str]
    ) -> "tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]":
        """(values, which cells are not empty); an empty cell's value is NaN."""
        texts = pc.utf8_trim_whitespace(pa.array(cells, pa.string()))
        present = pc.not_equal(texts, "")
        try:
            values = pc.if_else(present, texts, None).cast(pa.float64())
        except pa.ArrowInvalid:
            cells = texts.to_pylist()
            row = next(i for i, cell in enumerate(cells) if cell and not _is_number(cell))
            raise self.wrong(lines[row], field, f"is {cells[row]!r}, not a number") from None
        return (
            values.to_numpy(zero_copy_only=False),
            present.to_numpy(zero_copy_only=False),
        )

    def whole(
        self, field: str, lines: Sequence[int], cells: Sequence[str], *, empty: bool
    ) -> "np.ndarray[Any, np.dtype[np.int64]]":
        """Whole numbers from 0 on, -1 for an empty cell where one may be empty."""
        values, present = self.numbers(field, lines, cells)
        with np.errstate(invalid="ignore"):
            right = (values >= 0) & (values < 2**53) & (values == np.floor(values))
        bad = np.flatnonzero(~right & (present if empty else True))
        if len(bad):
            cell = cells[bad[0]].strip()
            what = f"is {cell!r}, not a whole number from 0 on" if cell else "is empty"
            raise self.wrong(lines[bad[0]], field, what)
        return np.where(present, values, -1).astype(np.int64)


def _is_number(cell: str) -> bool:
    try:
        pa.scalar(cell).cast(pa.float64())
    except pa.ArrowInvalid:
        return False
    return True
