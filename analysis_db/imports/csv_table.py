"""CSV files in the dialects that logs come in: separators, decimal commas, encodings."""

import csv
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from analysis_db.errors import StoreError
from analysis_db.imports.files import encoding_of
from analysis_db.imports.runs import STEP_NAMES

_ROWS = 50_000
_DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs"}
_MARKS = (".", ",")
_COMMA_NUMBER = re.compile(r"[+-]?\d+,\d+(?:[eE][+-]?\d+)?")
_WITH_COMMA = re.compile(r"[+-]?[\d.,]+(?:[eE][+-]?\d+)?")
_THOUSANDS = r"^\s*\d{1,3}([.,]\d{3})+\s*$"
_THOUSANDS_COMMA = r"^\s*\d{1,3}(,\d{3})+\s*$"


class CsvTable:
    """A CSV file, read in blocks of rows as columns.

    Cells are separated by the one of comma, semicolon and tab that makes the step, ``step`` or a
    usual name of it, a column of its own. A number may have a decimal comma unless commas separate
    the cells; a file has one decimal mark.
    """

    def __init__(self, path: Path, step: str | None = None) -> None:
        self.path = path
        self._step_names = (step,) if step else STEP_NAMES
        self._decimal: tuple[str, str] | None = None
        """(decimal mark, the first cell that has it)."""

    def __enter__(self) -> "CsvTable":
        try:
            self.encoding = encoding_of(self.path)
            self._file = self.path.open(encoding=self.encoding, newline="")
        except OSError as error:
            raise self._unreadable(error) from None
        try:
            self._open_reader()
        except (UnicodeError, csv.Error) as error:
            self._file.close()
            raise self._unreadable(error) from None
        except StoreError:
            self._file.close()
            raise
        return self

    def _open_reader(self) -> None:
        headers: dict[str, list[str]] = {}
        error: csv.Error | None = None
        for delimiter in _DELIMITERS:
            self._file.seek(0)
            try:
                cells = next(csv.reader(self._file, delimiter=delimiter, strict=True), [])
            except csv.Error as wrong:  # a quote that ends before another separator
                error = error or wrong
                continue
            headers[delimiter] = [name.strip() for name in cells]
        if error is not None and not headers:
            raise error
        with_step = [
            delimiter
            for delimiter, header in headers.items()
            if len(header) > 1 and not set(header).isdisjoint(self._step_names)
        ]
        if len(with_step) > 1:
            named = " or ".join(_DELIMITERS[delimiter] for delimiter in with_step)
            raise StoreError(
                f"{self.path}, line 1: cells may be separated by {named}; nothing was imported."
            )
        widest = max(headers, key=lambda delimiter: len(headers[delimiter]))
        self.delimiter = with_step[0] if with_step else widest
        self._file.seek(0)
        self._reader = csv.reader(self._file, delimiter=self.delimiter, strict=True)
        next(self._reader, None)
        self.header = headers[self.delimiter]
        twice = [name for name in self.header if self.header.count(name) > 1]
        if twice:
            raise self.wrong(1, twice[0], "is the name of two columns")

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def wrong(self, line: int, field: str, what: str) -> StoreError:
        return StoreError(f"{self.path}, line {line}: field {field} {what}; nothing was imported.")

    def _unreadable(self, error: Exception) -> StoreError:
        return StoreError(f"{self.path} cannot be read as CSV ({error}); nothing was imported.")

    def remarks(self) -> list[str]:
        """How the file was read, where that is not as a CSV usually is."""
        ways = []
        if self.delimiter != ",":
            ways.append(f"cells separated by {_DELIMITERS[self.delimiter]}")
        if self._decimal is not None and self._decimal[0] == ",":
            cell = self._decimal[1]
            ways.append(f"decimal commas ({cell} is {cell.replace(',', '.')})")
        if self.encoding == "utf-16":
            ways.append("UTF-16")
        return [f"{self.path}: read with {', '.join(ways)}."] if ways else []

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
        except (UnicodeError, csv.Error) as error:
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
        texts = self._with_points(field, lines, texts)
        try:
            values = pc.if_else(present, texts, None).cast(pa.float64())
        except pa.ArrowInvalid:
            wrong = zip(lines, cells, texts.to_pylist(), strict=True)
            line, cell = next((n, c) for n, c, text in wrong if text and not _is_number(text))
            raise self.wrong(line, field, f"is {cell.strip()!r}, not a number") from None
        return (
            values.to_numpy(zero_copy_only=False),
            present.to_numpy(zero_copy_only=False),
        )

    def is_number(self, cell: str) -> bool:
        """Whether it is a number, possibly with a decimal comma."""
        return _is_number(cell) or bool(_COMMA_NUMBER.fullmatch(cell))

    def _with_points(self, field: str, lines: Sequence[int], texts: pa.StringArray) -> Any:
        """The cells with decimal points. Raises StoreError when a comma may be anything else."""
        firsts = ((pc.index(pc.match_substring(texts, m), True).as_py(), m) for m in _MARKS)
        for row, mark in sorted(firsts):
            if row < 0:
                continue
            cell = texts[row].as_py()
            if mark == "," and self.delimiter == ",":
                if not _WITH_COMMA.fullmatch(cell):
                    raise self.wrong(lines[row], field, f"is {cell!r}, not a number")
                raise self.wrong(
                    lines[row], field,
                    f"is {cell!r}: a decimal comma cannot be told from a separator of thousands in "
                    "a file whose cells are separated by commas, write a decimal point",
                )  # fmt: skip
            if self._decimal is None:
                self._decimal = mark, cell
            elif self._decimal[0] != mark:
                raise self.wrong(
                    lines[row], field,
                    f"is {cell!r}, and {self._decimal[1]!r} has another decimal mark",
                )  # fmt: skip
        if self._decimal is None or self._decimal[0] == ".":
            return texts
        return pc.replace_substring(texts, ",", ".")

    @staticmethod
    def _first(cells: Sequence[str], pattern: str) -> int | None:
        """Number of the first cell that matches."""
        row = pc.index(pc.match_substring_regex(pa.array(cells, pa.string()), pattern), True)
        return None if row.as_py() < 0 else int(row.as_py())

    def whole(
        self, field: str, lines: Sequence[int], cells: Sequence[str], *, empty: bool
    ) -> "np.ndarray[Any, np.dtype[np.int64]]":
        """Whole numbers from 0 on, -1 for an empty cell where one may be empty."""
        grouped = self._first(cells, _THOUSANDS_COMMA if self.delimiter == "," else _THOUSANDS)
        if grouped is not None:
            cell = cells[grouped].strip()
            raise self.wrong(
                lines[grouped], field, f"is {cell!r}: write whole numbers without separators"
            )
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
