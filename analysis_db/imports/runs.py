"""Logs of training runs on their way into the store, whatever they were read from."""

from array import array
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from analysis_db.errors import StoreError
from analysis_db.imports import Imported
from analysis_db.store import Store, insert

STEP_NAMES = (
    "step", "Step", "_step", "global_step", "train/global_step", "trainer/global_step",
    "iteration", "iter",
)  # fmt: skip
"""A column of such a name holds the step, unless another one could as well."""
TOKENS_NAMES = ("tokens_seen", "num_input_tokens_seen")
"""A column of such a name counts all tokens seen so far."""
STEP_SCHEMA = pa.schema(
    [
        ("run", pa.string()),
        ("step", pa.int64()),
        ("tokens", pa.int64()),
        ("metric", pa.string()),
        ("layer", pa.int16()),
        ("module", pa.string()),
        ("value", pa.float64()),
    ]
)
_RUN_TABLES = ("training_run", "training_step", "spike", "spike_lead", "spike_score")
_LARGEST = 2**53
_UNKNOWN = -1
_PLACES = 2**40
"""Places per file: a place is the number of the file times this, plus the number of the line."""
Ints = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class Columns:
    """Which columns of a log are taken, and under what names; what is empty is found out."""

    step: str | None = None
    tokens: str | None = None
    metrics: Mapping[str, str] = field(default_factory=dict)
    """Column -> metric; empty takes every column of numbers under its own name."""

    def settle(self, names: Sequence[str], where: str) -> "Columns":
        """With the columns of step and tokens chosen among ``names``.

        Raises StoreError when a column is missing, or none or several could hold the step.
        """
        wanted = [name for name in (self.step, self.tokens, *self.metrics) if name is not None]
        missing = [name for name in wanted if name not in names]
        if missing:
            raise StoreError(
                f"{where}: there is no column {missing[0]!r} among {', '.join(names)}; nothing was "
                "imported."
            )
        steps = [self.step] if self.step else [name for name in STEP_NAMES if name in names]
        if len(steps) != 1:
            found = " and ".join(map(repr, steps)) or f"none of {', '.join(names)}"
            raise StoreError(
                f"{where}: {found} may hold the step; name the column with --step; nothing was "
                "imported."
            )
        tokens = [self.tokens] if self.tokens else [n for n in TOKENS_NAMES if n in names]
        return Columns(steps[0], tokens[0] if len(tokens) == 1 else None, self.metrics)

    def name_of(self, column: str) -> str | None:
        """The metric of a column; None when it is not taken."""
        if self.metrics:
            return self.metrics.get(column)
        return None if column in (self.step, self.tokens, "") else column


class StepRows:
    """The values of one run, series by series, each in the order of the log.

    A reader calls ``begin`` for each file and sets ``number`` to that of the line that it reads, so
    that what is unusual in a log can be reported with its place.
    """

    def __init__(self) -> None:
        self._series: dict[str, tuple[array[int], array[int], array[float], array[int]]] = {}
        self.skipped: dict[str, None] = {}
        """Columns that hold no numbers, in the order of their first appearance."""
        self._sources: list[tuple[Path, str]] = []
        self.number = 0
        """Number of the line, or of another unit, that holds the next value."""

    def begin(self, path: Path, unit: str = "line") -> None:
        """The next values come from ``path``, whose places are counted in ``unit``."""
        self._sources.append((path, unit))

    def where(self, place: int) -> str:
        """Such as ``train.log, line 12``."""
        path, unit = self._sources[place // _PLACES]
        return f"{path}, {unit} {place % _PLACES:,}"

    def add(self, metric: str, step: int, value: float, tokens: int | None = None) -> None:
        steps, counts, values, places = self._of(metric)
        steps.append(step)
        counts.append(_UNKNOWN if tokens is None else tokens)
        values.append(value)
        places.append(self._base + self.number)

    def extend(
        self,
        metric: str,
        steps: "np.ndarray[Any, np.dtype[np.int64]]",
        values: "np.ndarray[Any, np.dtype[np.float64]]",
        numbers: "np.ndarray[Any, np.dtype[np.int64]]",
        tokens: "np.ndarray[Any, np.dtype[np.int64]] | None" = None,
    ) -> None:
        """Arrays of one length, ``numbers`` those of the lines; ``tokens`` is -1 where unknown."""
        if tokens is None:
            tokens = np.full(len(steps), _UNKNOWN, np.int64)
        known_steps, known_tokens, known_values, known_places = self._of(metric)
        known_steps.frombytes(steps.tobytes())
        known_tokens.frombytes(tokens.tobytes())
        known_values.frombytes(values.tobytes())
        known_places.frombytes((numbers + self._base).tobytes())

    @property
    def _base(self) -> int:
        return _PLACES * (len(self._sources) - 1)

    def _of(self, metric: str) -> tuple["array[int]", "array[int]", "array[float]", "array[int]"]:
        if metric not in self._series:
            self._series[metric] = (array("q"), array("q"), array("d"), array("q"))
        return self._series[metric]

    @property
    def metrics(self) -> list[str]:
        return sorted(self._series)

    @property
    def last_step(self) -> int | None:
        return max((max(steps) for steps, *_ in self._series.values()), default=None)

    def steps_and_places(self) -> dict[str, tuple[Ints, Ints]]:
        """(steps, places in the log) of every series; see ``where``."""
        return {
            metric: (np.array(steps, np.int64), np.array(places, np.int64))
            for metric, (steps, _, _, places) in self._series.items()
        }

    def between(self, begin: int, end: int) -> "StepRows":
        """The values whose place is at least ``begin`` and less than ``end``."""
        part = StepRows()
        part.skipped, part._sources = self.skipped, self._sources
        for metric, columns in self._series.items():
            first, last = np.searchsorted(np.array(columns[3], np.int64), (begin, end))
            if first < last:
                steps, tokens, values, places = (column[first:last] for column in columns)
                part._series[metric] = (steps, tokens, values, places)  # type: ignore[assignment]
        return part

    def table(self, run: str) -> pa.Table:
        """Rows of ``STEP_SCHEMA``; a value that is not finite is NULL."""
        blocks = []
        for metric, (steps, tokens, values, _) in self._series.items():
            count = len(steps)
            counts = np.frombuffer(tokens, np.int64)
            numbers = np.frombuffer(values, np.float64)
            blocks.append(
                pa.table(
                    [
                        pa.repeat(run, count),
                        pa.array(np.frombuffer(steps, np.int64)),
                        pa.array(counts, mask=counts == _UNKNOWN),
                        pa.repeat(metric, count),
                        pa.nulls(count, pa.int16()),
                        pa.nulls(count, pa.string()),
                        pa.array(numbers, mask=~np.isfinite(numbers)),
                    ],
                    schema=STEP_SCHEMA,
                )
            )
        return pa.concat_tables(blocks) if blocks else STEP_SCHEMA.empty_table()


def whole(value: Any) -> int | None:
    """The value as a whole number from 0 on; None when it is none."""
    if type(value) is int:
        return value if 0 <= value < _LARGEST else None
    fits = isinstance(value, float) and 0 <= value < _LARGEST and value.is_integer()
    return int(value) if fits else None


class Records:
    """Adds records, {column: value}, to the rows of a run.

    A value that is None was not logged. Whether a column holds numbers is decided by its first
    value; one that does not is skipped, unless it was asked for.
    """

    def __init__(self, rows: StepRows, columns: Columns) -> None:
        assert columns.step is not None
        self._rows, self._columns = rows, columns
        self._step, self._tokens = columns.step, columns.tokens
        self.metrics: dict[str, str | None] = {}
        """Metric of every column met so far, None for one that is not taken."""

    def add(self, record: Mapping[str, Any]) -> tuple[str, str] | None:
        """None, or (column, what is wrong with it)."""
        step = whole(record.get(self._step))
        if step is None:
            return self._step, _not_whole(record.get(self._step))
        tokens = None
        if self._tokens is not None and record.get(self._tokens) is not None:
            tokens = whole(record[self._tokens])
            if tokens is None:
                return self._tokens, _not_whole(record[self._tokens])
        for column, value in record.items():
            if value is None:
                continue
            number = type(value) is float or type(value) is int
            if column not in self.metrics:
                self.metrics[column] = self._settle(column, number)
            name = self.metrics[column]
            if name is None:
                continue
            if not number:
                return column, f"is {value!r}, not a number"
            self._rows.add(name, step, value, tokens)
        return None

    def _settle(self, column: str, number: bool) -> str | None:
        name = self._columns.name_of(column)
        if name is None or number or self._columns.metrics:
            return name
        self._rows.skipped[column] = None
        return None


def _not_whole(value: Any) -> str:
    if value is None:
        return "is missing"
    return f"is {value!r}, not a whole number from 0 on"


def store_imported_runs(
    store: Store,
    runs: Mapping[str, StepRows],
    paths: Sequence[Path],
    *,
    suite: str | None = None,
    imported_as: Mapping[str, str] | None = None,
) -> Imported:
    """Replace imported runs, and what was found in them, by those that were read from ``paths``.

    ``imported_as`` names the run that a part of a split log came from; every run that was imported
    under that name before is replaced, whether split or not. Raises StoreError for a run that was
    trained here, that another import brought, or that has no value.
    """
    names = {run: run for run in runs} | dict(imported_as or {})
    sources = ", ".join(map(str, paths))
    tables = {run: rows.table(run) for run, rows in runs.items()}
    empty = [run for run, steps in tables.items() if not steps.num_rows]
    if empty or not tables:
        raise StoreError(f"{sources} holds no value of any metric; nothing was imported.")
    origin = {"suite": suite, "imported_from": sources, "log_sha256": digest(paths)}
    remarks = []
    with store.write() as connection:
        for run in tables:
            _check_name(connection, run, names[run])
        gone = _remove_former_parts(connection, set(names.values()), tables)
        for run, steps in tables.items():
            if replace_run(connection, {"run": run, **origin, "imported_as": names[run]}, steps):
                remarks.append(
                    f"The spikes found in {run} before are gone: `workbench spikes {run}` searches "
                    "again."
                )
    remarks += [f"The run {run} of an earlier import is replaced by these." for run in gone]
    skipped = {column: None for rows in runs.values() for column in rows.skipped}
    if skipped:
        remarks.append(f"Left out, no numbers: {', '.join(skipped)}.")
    not_finite = sum(steps["value"].null_count for steps in tables.values())
    if not_finite:
        remarks.append(f"{not_finite:,} values are not finite: NULL in the store.")
    return Imported(
        [
            {
                "run": run,
                "metrics": ", ".join(rows.metrics),
                "last_step": rows.last_step,
                "values": tables[run].num_rows,
            }
            for run, rows in runs.items()
        ],
        remarks,
    )


def _check_name(connection: duckdb.DuckDBPyConnection, run: str, imported_as: str) -> None:
    known = connection.execute(
        "SELECT imported_from, coalesce(imported_as, run) FROM data.training_run WHERE run = $run",
        {"run": run},
    ).fetchone()
    if known is None or (known[0] is not None and known[1] == imported_as):
        return
    what = (
        "was not imported but trained here"
        if known[0] is None
        else f"was imported from {known[0]} as {known[1]}"
    )
    raise StoreError(
        f"The store has a run {run} that {what}: give this one another name with --run; nothing "
        "was imported."
    )


def _remove_former_parts(
    connection: duckdb.DuckDBPyConnection, names: set[str], keep: Collection[str]
) -> list[str]:
    """Remove the runs that were imported under these names before, and are no longer among them."""
    rows = connection.execute(
        "SELECT run FROM data.training_run WHERE imported_from IS NOT NULL "
        "AND list_contains($names, coalesce(imported_as, run)) ORDER BY run",
        {"names": sorted(names)},
    ).fetchall()
    gone = [run for (run,) in rows if run not in keep]
    for run in gone:
        for table in _RUN_TABLES:
            connection.execute(f"DELETE FROM data.{table} WHERE run = $run", {"run": run})
    return gone


def replace_run(
    connection: duckdb.DuckDBPyConnection, run: Mapping[str, Any], steps: pa.Table
) -> bool:
    """Replace a run, its steps, and what was found in them; whether anything had been found."""
    name = {"run": run["run"]}
    searched = connection.execute(
        "SELECT EXISTS (FROM data.spike_score WHERE run = $run)", name
    ).fetchall()[0][0]
    for table in _RUN_TABLES:
        connection.execute(f"DELETE FROM data.{table} WHERE run = $run", name)
    insert(connection, "training_run", [run])
    insert(connection, "training_step", steps)
    return bool(searched)


def digest(paths: Iterable[Path]) -> str:
    """SHA-256 of the files, one after the other."""
    found = sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                found.update(block)
    return found.hexdigest()
