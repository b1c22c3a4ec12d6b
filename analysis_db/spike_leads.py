"""Which other series of a run left their band before an event did, and how often that is chance.

The band at a step T is fixed before anything can have happened: median +- 5 x 1.4826 MAD of the W
values that end ``look_back`` steps before T (W = 128, or as many as a longer look-back holds). A
series' strength at T is its farthest distance from that median within the look-back
[T - look_back, T), in units of 1.4826 MAD; it left its band when that reaches 5. A steady trend
alone does not: it widens its own band, to a strength of 4.1 at most. A series leads an event when
it left its band before the event's own series left its own, by the same rule; the lead is the steps
between the two departures.

Chance is measured on the same run: strengths at steps T from which no event is near (quiet steps)
say how often the series leaves its band when nothing follows (the false-lead rate), and how often
it is as strong as it was before the event (the p-value). Quiet steps that share a look-back are one
observation, so K quiet look-backs cannot give a p-value below 1 / (K + 1): a short run proves
nothing, and says so.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from analysis_db.detectors import MAD_TO_STD, Floats, Ints, row_medians
from analysis_db.series import Line, Series, SeriesKey
from analysis_db.spike_events import JOIN_STRIDES, Event

BAND_WINDOW = 128
BAND_WIDTH = 5.0
LOOK_BACK_STRIDES = 100
_ANCHORS_PER_LOOK_BACK = 4
_CHUNK = 4096
SUMMARY_COLUMNS = [
    "series", "detector", "leader", "events", "led", "expected", "lead_steps", "p_value",
    "q_value",
]  # fmt: skip


@dataclass(frozen=True)
class Lead:
    """What one other series did before one event. ``lead_steps`` None: it did not lead."""

    series: str
    detector: str
    start_step: int
    attempt: int
    """The event: its series, detector, first step and attempt."""
    leader: str
    """The other series."""
    lead_steps: int | None
    """From its departure to that of the event's series; at most the look-back."""
    left_at: int | None
    """Step at which it left its band, None when it did not before the event's series."""
    direction: str | None
    """up or down"""
    strength: float | None
    """Farthest from its median before the event's series departed, in 1.4826 MAD; None when it held
    a value that was not finite, which counts as farther than any."""
    look_back: int
    """Steps."""
    quiet_look_backs: float
    """Independent stretches of the run in which nothing followed."""
    false_lead_rate: float
    """Part of the quiet steps at which it had left its band."""
    p_value: float
    """(K q + 1) / (K + 1): q the part of the quiet steps with this strength, K quiet look-backs."""
    q_value: float
    """p_value corrected for the number of series tested (Benjamini-Hochberg)."""
    run: str


class LeadSearch:
    """Tests one other series after the other on the events of one series.

    Every event of ``target`` should be given: falls lead nowhere, but all events are kept out of
    the quiet steps. A series cannot be judged where it has not a whole band and look-back before
    the event since its beginning or last gap, where its band has no width, or, on steps that a
    restart overrode, when its log does not show as many restarts.
    """

    def __init__(
        self, target: Series, events: Sequence[Event], look_back: int | None = None
    ) -> None:
        stride = target.current.stride
        self.look_back = LOOK_BACK_STRIDES * stride if look_back is None else look_back
        self._key, self._attempts = target.key, len(target.first_steps)
        self._events = list(events)
        self._histories = {e.history: target.line(e.history) for e in events if e.kind != "fall"}
        self._departed = {
            event: _departure_of(self._histories[event.history], event, self.look_back)
            for event in events
            if event.kind != "fall"
        }
        self._leads: list[Lead] = []

    def wants(self, other: SeriesKey) -> bool:
        """Whether there is anything to test it on."""
        return bool(self._departed) and other != self._key

    def test(self, other: Series) -> None:
        if not self.wants(other.key) or self.look_back < other.current.stride:
            return
        same = len(other.first_steps) == self._attempts
        lines = {number: other.line(number) for number in self._histories} if same else {}
        quiet, blocks = _quiet_strengths(other.current, self._events, self.look_back)
        rate = _share(quiet, BAND_WIDTH)
        for event, departed in self._departed.items():
            if event.superseded_from is not None and not same:
                continue
            line = lines.get(event.history, other.current)
            seen = _before(line, event.start_step, self.look_back, departed)
            if seen is None:
                continue
            p = (blocks * _share(quiet, seen.strength) + 1) / (blocks + 1)
            self._leads.append(
                Lead(
                    series=event.series,
                    detector=event.detector,
                    start_step=event.start_step,
                    attempt=event.attempt,
                    leader=other.key.name,
                    lead_steps=None if seen.left is None else departed - seen.left,
                    left_at=seen.left,
                    direction=seen.direction,
                    strength=seen.strength if math.isfinite(seen.strength) else None,
                    look_back=self.look_back,
                    quiet_look_backs=blocks,
                    false_lead_rate=rate,
                    p_value=p,
                    q_value=p,
                    run=other.key.run,
                )
            )

    def leads(self) -> list[Lead]:
        """A row for every event and every series that could be judged there, corrected for their
        number; by event, then those that led, then p-value, then lead."""
        return _corrected(self._leads)


def lead_summary(leads: pd.DataFrame) -> pd.DataFrame:
    """One row per series, detector and leader over the events of the run, best evidence first.

    ``events`` tested, at least a look-back apart; ``led`` of them; ``expected`` by chance; median
    ``lead_steps`` of those led. ``p_value`` is the binomial chance of leading so many events by
    luck, ``q_value`` the same corrected for the number of series tested. The chance of one false
    lead is taken as (K rate + 1) / (K + 1) with K quiet look-backs, against luck in few of them.
    One event alone rarely proves a leader; several events that it led do.
    """
    rows = []
    for names, part in leads.groupby(["series", "detector", "leader"]):
        part = _apart(part)
        blocks, rate = part["quiet_look_backs"].iloc[0], part["false_lead_rate"].iloc[0]
        chance, tested = (blocks * rate + 1) / (blocks + 1), len(part)
        led = int(part["lead_steps"].notna().sum())
        median = part["lead_steps"].median() if led else None
        tail = _binomial_tail(tested, led, chance)
        rows.append((*names, tested, led, tested * chance, median, tail))
    frame = pd.DataFrame(rows, columns=SUMMARY_COLUMNS[:-1])
    by_event = frame.groupby(["series", "detector"])["p_value"]
    frame["q_value"] = by_event.transform(lambda p: _q_values(p.tolist()))
    return frame.sort_values(["series", "detector", "p_value", "leader"], ignore_index=True)


def _apart(part: pd.DataFrame) -> pd.DataFrame:
    """Rows of one leader whose events share no look-back with an earlier one."""
    part = part.sort_values(["attempt", "start_step"])
    kept: list[bool] = []
    last: tuple[int, int] | None = None
    for attempt, start, look_back in zip(
        part["attempt"], part["start_step"], part["look_back"], strict=True
    ):
        kept.append(last is None or last[0] != attempt or start - last[1] >= look_back)
        last = (attempt, start) if kept[-1] else last
    return part[kept]


@dataclass(frozen=True)
class _Seen:
    """What a series did in a look-back."""

    strength: float
    left: int | None
    direction: str | None


def _departure_of(line: Line, event: Event, look_back: int) -> int:
    """Step at which the event's own series left its band upwards: its start, or before it.

    A slow rise leaves the band before a detector speaks; a falling trend is no departure.
    """
    if event.kind == "nonfinite":
        return event.start_step
    step = event.start_step + 1
    seen = _before(line, step, look_back, step, upwards_only=True)
    return event.start_step if seen is None or seen.left is None else seen.left


def _before(
    line: Line, step: int, look_back: int, until: int, *, upwards_only: bool = False
) -> _Seen | None:
    """What the line did in [step - look_back, until), or None when it cannot be judged.

    It left at the beginning of the last excursion that begins there: values outside the band at
    most 10 strides apart are one excursion.
    """
    for places in line.stretches:
        steps = line.steps[places[0] : places[-1] + 1]
        if not steps[0] < step <= steps[-1] + line.stride:
            continue
        first = int(np.searchsorted(steps, step - look_back))
        end = int(np.searchsorted(steps, min(step, until)))
        window = _band_window(look_back, line.stride)
        if first < window or end <= first:
            return None
        values = _filled(line.values[places[0] + first - window : places[0] + end])
        heights = _heights(values[None], window)[0]
        if np.isnan(heights).any():
            return None
        apart = heights if upwards_only else np.abs(heights)
        outside = np.flatnonzero(apart >= BAND_WIDTH)
        if not len(outside):
            return _Seen(float(apart.max()), None, None)
        steps_outside = steps[first + outside]
        breaks = np.flatnonzero(np.diff(steps_outside) > JOIN_STRIDES * line.stride) + 1
        begin = int(breaks[-1]) if len(breaks) else 0
        direction = "up" if heights[outside[begin]] > 0 else "down"
        return _Seen(float(apart.max()), int(steps_outside[begin]), direction)
    return None


def _quiet_strengths(line: Line, events: Sequence[Event], look_back: int) -> tuple[Floats, float]:
    """(strengths at quiet steps, ascending; number of look-backs that they are worth).

    A step T is quiet unless an event starts at most a look-back after it, or its look-back holds
    values of an event, or its band holds more of one than a median shrugs off.
    """
    width, window = look_back // line.stride, _band_window(look_back, line.stride)
    busy = []
    for event in events:
        if event.superseded_from is None:
            over = event.recovered_at or event.end_step
            is_long = over - event.start_step > window // 8 * line.stride
            clean = over + look_back + (window * line.stride if is_long else 0)
            busy.append((event.start_step - look_back, clean))
    spacing = max(1, width // _ANCHORS_PER_LOOK_BACK)
    found: list[Floats] = []
    for places in line.stretches:
        values, steps = _filled(line.values[places]), line.steps[places]
        anchors: Ints = np.arange(window + width, len(places), spacing)
        quiet = np.ones(len(anchors), bool)
        for low, high in busy:
            quiet &= (steps[anchors] < low) | (steps[anchors] > high)
        starts = anchors[quiet] - window - width
        for chunk in np.split(starts, range(_CHUNK, len(starts), _CHUNK)):
            if len(chunk):
                views = np.lib.stride_tricks.sliding_window_view(values, window + width)[chunk]
                found.append(np.abs(_heights(views, window)).max(axis=1))
    strengths = np.concatenate(found) if found else np.empty(0)
    strengths = np.sort(strengths[~np.isnan(strengths)])
    return strengths, len(strengths) * spacing / width


def _band_window(look_back: int, stride: int) -> int:
    return max(BAND_WINDOW, look_back // stride)


def _heights(x_AN: Floats, window: int) -> Floats:
    """Distance from the band's median in 1.4826 MAD, [A, N - W]; NaN without any width."""
    with np.errstate(invalid="ignore", divide="ignore"):  # inf - inf in bands full of inf
        centre_A1 = row_medians(x_AN[:, :window])[:, None]
        spread_A1 = MAD_TO_STD * row_medians(np.abs(x_AN[:, :window] - centre_A1))[:, None]
        wide_A1 = np.isfinite(spread_A1) & (spread_A1 > 1e-12 * np.abs(centre_A1))
        return np.where(wide_A1, (x_AN[:, window:] - centre_A1) / spread_A1, np.nan)


def _filled(values: Floats) -> Floats:
    """What is not finite is as far away as can be."""
    return np.where(np.isfinite(values), values, np.inf)


def _share(ascending: Floats, bound: float) -> float:
    """Part of the values at or above the bound; 1 of none: nothing is known to be rare."""
    if not len(ascending):
        return 1.0
    return 1 - int(np.searchsorted(ascending, bound)) / len(ascending)


def _corrected(leads: list[Lead]) -> list[Lead]:
    """With q-values over the series tested on each event; leads first, by p-value, then lead."""
    by_event: dict[tuple[str, str, int, int], list[Lead]] = {}
    for lead in leads:
        key = (lead.series, lead.detector, lead.start_step, lead.attempt)
        by_event.setdefault(key, []).append(lead)
    done: list[Lead] = []
    for _, tested in sorted(by_event.items()):
        q_values = _q_values([lead.p_value for lead in tested])
        done += sorted(
            (replace(lead, q_value=q) for lead, q in zip(tested, q_values, strict=True)),
            key=lambda lead: (lead.lead_steps is None, lead.p_value, -(lead.lead_steps or 0)),
        )
    return done


def _q_values(p_values: list[float]) -> list[float]:
    """Benjamini-Hochberg, in the order given."""
    p = np.array(p_values)
    order = np.argsort(p)[::-1]
    ranks = np.arange(len(p), 0, -1)
    q = np.empty(len(p))
    q[order] = np.minimum.accumulate(np.minimum(p[order] * len(p) / ranks, 1.0))
    return q.tolist()


def _binomial_tail(n: int, k: int, chance: float) -> float:
    """P(X >= k) of n trials."""
    if k == 0 or chance >= 1:
        return 1.0
    log_n = math.lgamma(n + 1)
    return min(1.0, sum(
        math.exp(log_n - math.lgamma(i + 1) - math.lgamma(n - i + 1)
                 + i * math.log(chance) + (n - i) * math.log1p(-chance))
        for i in range(k, n + 1)
    ))  # fmt: skip
