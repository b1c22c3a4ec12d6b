"""Events in one series: what the detectors flag, joined, with peak, recovery and severity.

A spike rises above the values before it. What only the two-sided detector can flag, a value far
below them, is kept as a ``fall``: schedules make those (annealing, a step of the learning rate),
and a fall is no spike. Values that are not finite are events of their own, found by no detector.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from analysis_db.detectors import DETECTORS, Detector, Floats, Ints, scan, spike_score
from analysis_db.series import Line, Series
from analysis_db.spike_severity import SLOW_STRIDES, WORST, relative_rise, severity

JOIN_STRIDES = 10
"""Flags at most so many usual strides apart form one event, unless told how many steps."""
NONFINITE = "nonfinite"
FALL_NOTE = "below the values before it, as a schedule makes it: no spike"


@dataclass(frozen=True)
class Event:
    """One event; steps are the log's own. Fields up to ``recovered_at`` are the public contract."""

    series: str
    detector: str
    """olmo2, olmo_core or mad; nonfinite for values that are not finite."""
    start_step: int
    end_step: int
    """First and last flagged step."""
    peak_step: int
    """Farthest from the window between the start and the recovery, at most a window after the end:
    a long spike hides from its detector once the window is full of it."""
    peak_value: float | None
    score: float | None
    """(peak - centre) / spread of the values before the start; negative for a fall."""
    recovered_at: int | None
    """First step after the end below centre + 1 spread of the values before the start (above
    centre - 1 spread for a fall; finite for nonfinite); None if never in its attempt."""
    run: str
    kind: str
    """spike, fall or nonfinite."""
    severity: str | None
    """minor, major, severe: see ``spike_severity``. None for a fall."""
    recovery_steps: int | None
    """recovered_at - start_step."""
    agreement: int
    """Detectors that flagged the same direction at most a join away, itself included."""
    judges: int
    """Detectors that could judge the start: had a whole window before it."""
    attempt: int
    """Attempt, from 1, that logged the start; a restart begins the next one."""
    superseded_from: int | None
    """Step from which a restart overrode this history, start included; None for what holds."""
    note: str | None
    severity_score: float | None
    """From 0 to 10, to rank events by: see ``spike_severity``. None for a fall."""
    window_values: int | None
    """Window of the detector, in values; None for nonfinite."""
    threshold: float | None
    """Threshold of the detector, in spreads; None for nonfinite."""
    join_steps: int
    """Flags at most so many steps apart form one event."""
    history: int
    """Attempt, from 0, at whose end the history was read (see ``Series.line``)."""


@dataclass(frozen=True)
class Score:
    """How much of one series, as it holds now, one detector flags."""

    series: str
    detector: str
    run: str
    metric: str
    module: str | None
    layer: int | None
    n: int
    """Finite values."""
    eligible: int
    """Values with a whole window before them since the beginning or the last gap."""
    flags: int
    falls: int
    """Flags below the window, among flags."""
    spike_score_all: float | None
    """100 flags / n."""
    spike_score_eligible: float | None
    """100 flags / eligible; None when nothing could be judged."""
    nonfinite: int
    restarts: list[dict[str, int]]
    """Of {from_step, to_step}: last step logged, step taken up again."""
    gaps: list[dict[str, int]]
    """Of {from_step, to_step}: last step before, first step after."""
    window_values: int
    """Window of the detector, in values."""
    threshold: float
    """Threshold of the detector, in spreads."""
    join_steps: int
    """Flags at most so many steps apart form one event."""


@dataclass(frozen=True)
class _Judged:
    """What one detector says of a line, one entry per value of the line."""

    detector: Detector
    direction: npt.NDArray[np.int8]
    centre: Floats
    spread: Floats
    window_start: Ints
    """Place of the first value of the window; -1 where the window is not whole."""


def find_events(
    series: Series,
    detectors: Sequence[Detector] = tuple(DETECTORS.values()),
    join_steps: int | None = None,
) -> tuple[list[Event], list[Score]]:
    """Events of these detectors in order of their start, and a score for each detector.

    Superseded attempts are searched as they were before the restart, the current history as it is
    now. An event ends where its attempt does. A window may contain values from before a restart
    (the run continued from those very values), which the event's note then states; it never
    contains values from before a gap. Agreement is that of these detectors, and of the others with
    their default settings.
    """
    line = series.current
    join = JOIN_STRIDES * line.stride if join_steps is None else join_steps
    judges = DETECTORS | {detector.name: detector for detector in detectors}
    now = _History(series, line, len(series.first_steps) - 1, None, join, judges)
    events = list(now.events(detectors))
    for number, (branch, cut) in enumerate(series.left_branches()):
        tail = _tail(branch, cut, max(detector.window for detector in judges.values()))
        events += _History(series, tail, number, cut, join, judges).events(detectors)
    events.sort(key=lambda e: (e.start_step, e.attempt, e.detector))
    return events, [_score(series, now.judged[detector.name], join) for detector in detectors]


@dataclass(frozen=True)
class _History:
    """One line of a series, as it stood at the end of the attempt ``number``."""

    series: Series
    line: Line
    number: int
    cut: int | None
    """Step from which on it was overridden; only what starts there is reported."""
    join: int
    detectors: Mapping[str, Detector]
    """All of them by name, for their agreement."""

    @cached_property
    def judged(self) -> dict[str, _Judged]:
        """By name of the detector."""
        return {name: _judge(self.line, detector) for name, detector in self.detectors.items()}

    def events(self, detectors: Sequence[Detector]) -> Iterator[Event]:
        steps = self.line.steps
        for detector in detectors:
            found = self.judged[detector.name]
            groups = self._groups(found.direction)
            limits = [*(int(places[0]) for places in groups[1:]), len(steps)][: len(groups)]
            for places, limit in zip(groups, limits, strict=True):
                if self.cut is None or steps[places[0]] >= self.cut:
                    yield self._event(found, int(places[0]), int(places[-1]), limit)
        for places in self._groups((~np.isfinite(self.line.values)).astype(np.int8)):
            if self.cut is None or steps[places[0]] >= self.cut:
                yield self._nonfinite(int(places[0]), int(places[-1]))

    def _groups(self, direction: npt.NDArray[np.int8]) -> list[Ints]:
        """Places of flags, in groups: one direction, one attempt, at most ``join`` steps apart.

        Where a restart overrode the history, flags before and after that step are apart as well.
        """
        places = np.flatnonzero(direction)
        if not len(places):
            return []
        apart = np.diff(self.line.steps[places]) > self.join
        apart |= np.diff(direction[places]) != 0
        apart |= np.diff(self.line.attempts[places]) != 0
        if self.cut is not None:
            apart |= np.diff(self.line.steps[places] >= self.cut)
        return np.split(places, np.flatnonzero(apart) + 1)

    def _event(self, found: _Judged, start: int, end: int, limit: int) -> Event:
        """``limit`` is the place where the detector's next event begins."""
        line, detector = self.line, found.detector
        centre, spread = float(found.centre[start]), float(found.spread[start])
        up = int(found.direction[start])
        begin, bound = self._attempt_of(start)
        recovered = _first_below(up * (centre + up * spread), up, line.values[:bound], end + 1)
        last = min(limit, end + 1 + detector.window, bound if recovered is None else recovered)
        heights = up * (line.values[start:last] - centre)
        peak = start + int(np.nanargmax(np.where(np.isfinite(heights), heights, np.nan)))
        score = float(line.values[peak] - centre) / spread
        near = slice(*np.clip(np.searchsorted(
            line.steps, (line.steps[start] - self.join, line.steps[end] + self.join + 1)
        ), begin, bound))  # fmt: skip
        judges = list(self.judged.values())
        until = bound - 1 if recovered is None else recovered
        strides = float(line.steps[until] - line.steps[start]) / line.stride
        never_back = recovered is None and strides > SLOW_STRIDES
        word, severity_score = (None, None) if up < 0 else severity(
            score / detector.threshold,
            relative_rise(self.series.key.metric, centre, float(line.values[peak])),
            strides,
            never_back=never_back,
            finite=bool(np.isfinite(line.values[start:last]).all()),
        )  # fmt: skip
        return self._built(
            start, end, peak, recovered,
            detector=detector.name,
            kind="spike" if up > 0 else "fall",
            score=score,
            severity=word,
            severity_score=severity_score,
            agreement=sum(bool((j.direction[near] == up).any()) for j in judges),
            judges=sum(bool(j.window_start[start] >= 0) for j in judges),
            notes=self._notes(found, start, end, last, bound, never_back or recovered is not None),
            window_values=detector.window,
            threshold=detector.threshold,
        )  # fmt: skip

    def _notes(
        self, found: _Judged, start: int, end: int, last: int, bound: int, is_over: bool
    ) -> list[str]:
        """What to know of an event; ``is_over``: whether it recovered, or clearly never does."""
        line = self.line
        notes = [FALL_NOTE] if found.direction[start] < 0 else []
        if line.attempts[found.window_start[start]] != line.attempts[start]:
            back_to = self.series.first_steps[line.attempts[start]]
            notes.append(f"its window reaches back over the restart at step {back_to}")
        if not np.isfinite(line.values[start:last]).all():
            notes.append("it contains values that are not finite")
        if bound < len(line.steps):
            if not is_over:
                notes.append(f"the restart at step {line.steps[bound]} cuts it off")
        elif not is_over:
            notes.append(f"the history ends {line.steps[-1] - line.steps[end]} steps after it")
        return notes

    def _attempt_of(self, place: int) -> tuple[int, int]:
        """(first place, first place after) of the attempt that logged the value at ``place``."""
        attempts = self.line.attempts
        begin, bound = np.searchsorted(attempts, [attempts[place], attempts[place] + 1])
        return int(begin), int(bound)

    def _nonfinite(self, start: int, end: int) -> Event:
        _, bound = self._attempt_of(end)
        return self._built(
            start, end, start, end + 1 if end + 1 < bound else None,
            detector=NONFINITE, kind=NONFINITE, score=None, severity="severe",
            severity_score=WORST, agreement=0, judges=0, notes=[], window_values=None,
            threshold=None,
        )  # fmt: skip

    def _built(
        self, start: int, end: int, peak: int, recovered: int | None, *, detector: str, kind: str,
        score: float | None, severity: str | None, severity_score: float | None, agreement: int,
        judges: int, notes: list[str], window_values: int | None, threshold: float | None,
    ) -> Event:  # fmt: skip
        steps, value = self.line.steps, float(self.line.values[peak])
        if self.cut is not None:
            notes = [*notes, f"on steps that the restart at step {self.cut} overrode"]
        return Event(
            series=self.series.key.name,
            detector=detector,
            start_step=int(steps[start]),
            end_step=int(steps[end]),
            peak_step=int(steps[peak]),
            peak_value=value if np.isfinite(value) else None,
            score=score,
            recovered_at=None if recovered is None else int(steps[recovered]),
            run=self.series.key.run,
            kind=kind,
            severity=severity,
            recovery_steps=None if recovered is None else int(steps[recovered] - steps[start]),
            agreement=agreement,
            judges=judges,
            attempt=int(self.line.attempts[start]) + 1,
            superseded_from=self.cut,
            note="; ".join(notes) or None,
            severity_score=severity_score,
            window_values=window_values,
            threshold=threshold,
            join_steps=self.join,
            history=self.number,
        )


def _judge(line: Line, detector: Detector) -> _Judged:
    n = len(line.steps)
    direction, window_start = np.zeros(n, np.int8), np.full(n, -1)
    centre, spread = np.full(n, np.nan), np.full(n, np.nan)
    for places in line.segments:
        seen = scan(line.values[places], detector)
        direction[places] = seen.direction
        centre[places], spread[places] = seen.centre, seen.spread
        window_start[places[detector.window :]] = places[: -detector.window]
    return _Judged(detector, direction, centre, spread, window_start)


def _tail(line: Line, cut: int, widest: int) -> Line:
    """The line from the step ``cut`` on, and the ``widest`` values before it that windows need."""
    before = np.flatnonzero(np.isfinite(line.values[: np.searchsorted(line.steps, cut)]))
    first = before[-widest] if len(before) > widest else 0
    return Line(line.steps[first:], line.values[first:], line.attempts[first:])


def _first_below(bound: float, up: int, values: Floats, begin: int) -> int | None:
    """First place from ``begin`` on with up * value < bound; what is not finite is not."""
    width = 1024
    while begin < len(values):  # near by as a rule: do not look through a million values
        part = values[begin : begin + width]
        below = np.flatnonzero(np.isfinite(part) & (up * part < bound))
        if len(below):
            return begin + int(below[0])
        begin, width = begin + width, 4 * width
    return None


def _score(series: Series, judged: _Judged, join: int) -> Score:
    key, line = series.key, series.current
    n = int(np.isfinite(line.values).sum())
    eligible = int((judged.window_start >= 0).sum())
    flags = int(np.count_nonzero(judged.direction))
    return Score(
        series=key.name,
        detector=judged.detector.name,
        run=key.run,
        metric=key.metric,
        module=key.module,
        layer=key.layer,
        n=n,
        eligible=eligible,
        flags=flags,
        falls=int(np.count_nonzero(judged.direction < 0)),
        spike_score_all=spike_score(flags, n),
        spike_score_eligible=spike_score(flags, eligible),
        nonfinite=len(line.values) - n,
        restarts=[{"from_step": a, "to_step": b} for a, b in series.restarts],
        gaps=[{"from_step": a, "to_step": b} for a, b in line.gaps],
        window_values=judged.detector.window,
        threshold=judged.detector.threshold,
        join_steps=join,
    )
