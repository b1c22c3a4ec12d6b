"""Series of training runs, and what a log can do to them: go back, leave gaps, hold no number.

A log is kept in the order in which it was written. Where its steps go back, a run was taken up
again from an earlier checkpoint: the new attempt overrides every earlier value from that step on,
and those values stay a fact of their own, on a branch that was left. Where many steps are missing,
the line is cut, so that no window of values reaches over the gap.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from analysis_db.detectors import Floats, Ints
from analysis_db.errors import StoreError
from analysis_db.store import Store

GAP_STRIDES = 10
"""A stride is a gap when it is more than so many times the usual stride and its neighbours."""


@dataclass(frozen=True)
class SeriesKey:
    """Which series of which training run."""

    run: str
    metric: str
    module: str | None = None
    layer: int | None = None

    @property
    def name(self) -> str:
        """Such as ``demo/loss`` or ``demo/hidden_variance/residual/5``."""
        parts = (self.run, self.metric, self.module, self.layer)
        return "/".join(str(part) for part in parts if part is not None)


@dataclass(frozen=True)
class Series:
    """One logged quantity in the order of the log; NaN or Inf where it was not finite.

    Raises ValueError when it holds no value, or not one step for each.
    """

    key: SeriesKey
    steps: Ints
    values: Floats

    def __post_init__(self) -> None:
        if len(self.steps) != len(self.values) or not len(self.steps):
            raise ValueError("a series has a step for every value, and one value at least")

    @cached_property
    def attempts(self) -> Ints:
        """For every value the number, from 0, of the attempt that logged it.

        A step logged twice in a row is one step whose last value holds, not a new attempt.
        """
        return np.cumsum(np.diff(self.steps, prepend=self.steps[:1]) < 0)

    @cached_property
    def first_steps(self) -> Ints:
        """First step of every attempt."""
        return self.steps[np.searchsorted(self.attempts, np.arange(self.attempts[-1] + 1))]

    @property
    def restarts(self) -> list[tuple[int, int]]:
        """(last step logged, step taken up again) of every restart."""
        at = np.flatnonzero(np.diff(self.attempts)) + 1
        return [(int(self.steps[i - 1]), int(self.steps[i])) for i in at]

    @cached_property
    def current(self) -> "Line":
        """The history that holds: every step once, as logged by the last attempt at it."""
        return self.line(int(self.attempts[-1]))

    def line(self, attempt: int) -> "Line":
        """The history as it stood at the end of an attempt."""
        firsts = self.first_steps[: attempt + 1]
        # step from which on each attempt was overridden by a later one, up to this attempt
        later = np.append(firsts[1:], np.iinfo(np.int64).max)
        until = np.minimum.accumulate(later[::-1])[::-1]
        rows = np.flatnonzero(self.attempts <= attempt)
        rows = rows[self.steps[rows] < until[self.attempts[rows]]]
        steps = self.steps[rows]
        rows = rows[np.diff(steps, append=steps[-1:] + 1) > 0]  # logged twice: the last holds
        return Line(self.steps[rows], self.values[rows], self.attempts[rows])

    def left_branches(self) -> Iterator[tuple["Line", int]]:
        """Every history that a restart cut off, with the step from which on it was overridden."""
        for attempt in range(len(self.first_steps) - 1):
            yield self.line(attempt), int(self.first_steps[attempt + 1])


@dataclass(frozen=True)
class Line:
    """One history: steps ascending, each once."""

    steps: Ints
    values: Floats
    attempts: Ints

    @cached_property
    def stride(self) -> int:
        """The usual number of steps between two values, at least 1."""
        return max(1, int(np.median(np.diff(self.steps)))) if len(self.steps) > 1 else 1

    @cached_property
    def gaps(self) -> list[tuple[int, int]]:
        """(last step before, first step after) of every gap.

        Logging more rarely from some step on is no gap but at that step: a stride is measured
        against the smaller one of its neighbours as well.
        """
        return [(int(self.steps[i]), int(self.steps[i + 1])) for i in self._cuts]

    @cached_property
    def _cuts(self) -> Ints:
        """Places of the last value before each gap."""
        strides = np.diff(self.steps)
        if len(strides) < 2:
            return np.empty(0, np.int64)
        before = np.append(strides[1], strides[:-1])
        after = np.append(strides[1:], strides[-2])
        usual = np.maximum(np.minimum(before, after), self.stride)
        return np.flatnonzero(strides > GAP_STRIDES * usual)

    @cached_property
    def stretches(self) -> list[Ints]:
        """Places of the values between gaps."""
        return np.split(np.arange(len(self.steps)), self._cuts + 1)

    @cached_property
    def segments(self) -> list[Ints]:
        """Places of the finite values between gaps."""
        return [places[np.isfinite(self.values[places])] for places in self.stretches]


def list_series(store: Store, run: str) -> list[SeriesKey]:
    """Every series of a training run; empty for a run that the store does not know."""
    table = store.table(
        "SELECT DISTINCT metric, module, layer FROM training_steps WHERE run = $run ORDER BY ALL",
        {"run": run},
    )
    return [SeriesKey(run, **row) for row in table.to_pylist()]


def read_series(store: Store, key: SeriesKey) -> Series:
    """One series in the order of the log; NULL in the store is NaN here."""
    table = store.table(
        """
        SELECT step, coalesce(value, 'NaN'::DOUBLE) AS value FROM data.training_step
        WHERE run = $run AND metric = $metric AND module IS NOT DISTINCT FROM $module
          AND layer IS NOT DISTINCT FROM $layer
        ORDER BY rowid -- the order of arrival, which only the table knows
        """,
        {"run": key.run, "metric": key.metric, "module": key.module, "layer": key.layer},
    )
    steps, values = (table[name].to_numpy() for name in ("step", "value"))
    return Series(key, steps, values)


def resolve(store: Store, target: str) -> tuple[str, SeriesKey | None]:
    """(run, None) when the target names a run, (run, series) when it names one series of a run.

    Raises StoreError when it names neither, or series of several runs.
    """
    runs = store.table("SELECT run FROM training_runs ORDER BY run")["run"].to_pylist()
    if target in runs:
        return target, None
    keys = [
        key
        for run in runs
        if target.startswith(f"{run}/")
        for key in list_series(store, run)
        if key.name == target
    ]
    if len(keys) > 1:
        raise StoreError(
            f"{target} is a series of the runs {' and '.join(key.run for key in keys)}: search one "
            "of the runs, with --metric."
        )
    if keys:
        return keys[0].run, keys[0]
    known = ", ".join(runs) or "none yet, import or train one"
    raise StoreError(
        f"The store has no training run or series {target}: name a run ({known}), or a series as "
        "RUN/METRIC[/MODULE][/LAYER]."
    )
