"""Restarts and further runs in a log: places at which its steps go back.

Each series goes back by itself, and a series that is logged more rarely shows a restart later than
others, or not at all. Series that go back between the same two places of the log report one
restart, as long as the densest series that continues after that place is among them; otherwise
those series alone went back, as results of an evaluation that arrive late do.

A log that goes back to the step at which it began, or to its first step after 0, holds a second
run there (or an attempt from the beginning: a log cannot tell). A log that goes back to a later
step was resumed from a checkpoint.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import numpy as np

from analysis_db.imports.runs import Ints, StepRows

MOST = 10
"""Restarts that are reported one by one."""


@dataclass(frozen=True)
class Restart:
    """One place at which the steps of a log go back."""

    place: int
    """Of the first value after it (see ``StepRows.where``)."""
    from_step: int
    to_step: int
    kind: Literal["restart", "run", "series"]
    """A run that was resumed, a second run, or some series alone."""
    metrics: tuple[str, ...]
    """Series that go back there."""
    superseded: int | None = None
    """Values logged before it, at the step that it goes back to and later ones; None: not counted,
    after the first ``MOST`` restarts."""


@dataclass(frozen=True)
class _Back:
    """One series goes back: its value number ``index`` has a smaller step than the one before."""

    metric: str
    index: int
    before: int
    place: int


def find_restarts(rows: StepRows) -> list[Restart]:
    """Every place at which the steps go back, in the order of the log."""
    series = rows.steps_and_places()
    ahead = {metric: _backs(metric, *arrays) for metric, arrays in series.items()}
    next_backs = {m: back for m, backs in ahead.items() if (back := next(backs, None)) is not None}
    valid = {metric: np.ones(len(steps), bool) for metric, (steps, _) in series.items()}
    began = dict.fromkeys(series, 0)
    restarts: list[Restart] = []
    while next_backs:
        place = min(back.place for back in next_backs.values())
        group = [back for back in next_backs.values() if back.before < place]
        restart = _restart(series, group, place, began)
        if len(restarts) < MOST:
            restart = replace(restart, superseded=_supersede(series, group, valid))
        restarts.append(restart)
        if restart.kind == "run":
            began = {m: int(np.searchsorted(at, place)) for m, (_, at) in series.items()}
        for back in group:
            following = next(ahead[back.metric], None)
            if following is None:
                del next_backs[back.metric]
            else:
                next_backs[back.metric] = following
    return restarts


def _backs(metric: str, steps: Ints, places: Ints) -> Iterator[_Back]:
    for i in np.flatnonzero(np.diff(steps) < 0) + 1:
        yield _Back(metric, int(i), int(places[i - 1]), int(places[i]))


def _restart(
    series: dict[str, tuple[Ints, Ints]],
    group: Sequence[_Back],
    place: int,
    began: dict[str, int],
) -> Restart:
    continuing = [m for m, (_, at) in series.items() if at[0] < place <= at[-1]]
    densest = max(continuing, key=lambda metric: len(series[metric][0]))
    named = {back.metric: back for back in group}
    back = named.get(densest, group[0])
    steps, _ = series[back.metric]
    first, step = steps[began[back.metric]], steps[back.index]
    kind: Literal["restart", "run", "series"] = "restart"
    if densest not in named:
        kind = "series"
    elif step == first or step <= _stride(steps, back.index):
        kind = "run"
    return Restart(place, int(steps[back.index - 1]), int(step), kind, tuple(named))


def _supersede(
    series: dict[str, tuple[Ints, Ints]],
    group: Sequence[_Back],
    valid: dict[str, "np.ndarray[tuple[int], np.dtype[np.bool_]]"],
) -> int:
    """Number of values that are superseded at a restart; they are no longer ``valid`` then."""
    count = 0
    for back in group:
        steps, former = series[back.metric][0], valid[back.metric][: back.index]
        again = former & (steps[: back.index] >= steps[back.index])
        count += int(again.sum())
        former &= ~again
    return count


def _stride(steps: Ints, index: int) -> int:
    """The usual number of steps between the values after ``index``, at least 1."""
    strides = np.diff(steps[index : index + 1000])
    ends = np.flatnonzero(strides < 0)
    strides = strides[: ends[0]] if len(ends) else strides
    strides = strides[strides > 0]
    return int(np.median(strides)) if len(strides) else 1


def split_runs(rows: StepRows) -> list[StepRows]:
    """The runs that a log holds, one after the other; their restarts stay in them."""
    begins = [restart.place for restart in find_restarts(rows) if restart.kind == "run"]
    bounds = [0, *begins, 2**63 - 1]
    return [rows.between(a, b) for a, b in pairwise(bounds)]


def restart_remarks(run: str, rows: StepRows, option: str | None) -> list[str]:
    """What to know of the places at which the steps of a run go back, a sentence each.

    ``option`` is the option that stores each run of a log by itself; None when it was used.
    """
    restarts = find_restarts(rows)
    remarks = [_sentence(rows, restart) for restart in restarts[:MOST]]
    if len(restarts) > MOST:
        remarks.append(
            f"{len(restarts) - MOST} more restarts in {run}, the last at "
            f"{rows.where(restarts[-1].place)}."
        )
    runs = 1 + sum(restart.kind == "run" for restart in restarts)
    if runs > 1 and option is not None:
        remarks.append(
            f"The log holds {runs} runs that are stored as one, {run}, in which the last one at a "
            f"step supersedes the others: {option} stores {run}-1 to {run}-{runs}."
        )
    again = sum(int((np.diff(steps) == 0).sum()) for steps, _ in rows.steps_and_places().values())
    if again:
        remarks.append(
            f"{again:,} value{'s' if again > 1 else ''} of {run} repeat the step before in their "
            "series: the last one at a step counts."
        )
    return remarks


def _sentence(rows: StepRows, restart: Restart) -> str:
    where, back = rows.where(restart.place), f"from {restart.from_step:,} to {restart.to_step:,}"
    named = ", ".join(restart.metrics[:3])
    if len(restart.metrics) > 3:
        named += f" and {len(restart.metrics) - 3} more"
    if restart.kind == "run":
        return (
            f"{where}: the step goes back {back}, the beginning: a second run or an attempt from "
            "the beginning."
        )
    if restart.kind == "series":
        return (
            f"{where}: {named} alone goes back {back} while other series continue: its values from "
            f"step {restart.to_step:,} on, {restart.superseded:,}, are superseded."
        )
    return (
        f"{where}: restart, the step goes back {back}; {restart.superseded:,} values logged before "
        f"are superseded ({named})."
    )
