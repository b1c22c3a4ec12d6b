"""The three spike detectors, on plain numpy arrays.

Each compares a value with the ``window`` values before it, itself excluded; the first ``window``
values cannot be judged. Values must be finite: what is not finite is no outlier but a fact of its
own (``analysis_db.spikes``). Rolling windows, N values, W wide: array names end in their shape.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

MAD_TO_STD = 1.4826
"""Standard deviation over median absolute deviation of a normal distribution."""
_CHUNK = 8192
"""Windows sorted at a time: 8192 x 128 float64 stay in a processor's cache."""
_NO_SPREAD = 1e-12
"""Of the centre: a smaller spread is rounding, and its multiples mean nothing."""


@dataclass(frozen=True)
class Detector:
    """A rule: flagged when the distance from the window's centre, in spreads, is ``threshold``."""

    name: str
    window: int
    threshold: float
    two_sided: bool
    """Values far below the window are flagged as well."""
    least_spread: float
    """Below this spread nothing is flagged."""
    strict: bool
    """The distance must exceed the threshold; else reaching it is enough."""
    centre_and_spread: Callable[[Floats, int], tuple[Floats, Floats]]


@dataclass(frozen=True)
class Scan:
    """What a detector saw, one entry per value; NaN where a value could not be judged."""

    z: Floats
    """(value - centre) / spread; NaN where the spread is too small as well."""
    centre: Floats
    spread: Floats
    direction: npt.NDArray[np.int8]
    """1 flagged above the window, -1 flagged below it, 0 not flagged."""

    @property
    def flags(self) -> int:
        return int(np.count_nonzero(self.direction))

    @property
    def eligible(self) -> int:
        """Number of values that had a whole window before them."""
        return int(np.count_nonzero(~np.isnan(self.centre)))


def rolling_moments(values_N: Floats, window: int) -> tuple[Floats, Floats]:
    """Mean and population standard deviation of every ``window`` neighbours, both [N - W + 1].

    Every window is the end of one block of W values and the beginning of the next. Sums run from
    a block's own edges, so nothing outside a window ever enters its sums: a value of 1e9 leaves no
    trace in the windows after it (a difference of running totals would lose all digits there).
    The relative error of the variance stays below about W^2 x 1e-16, whatever the series.
    """
    count = len(values_N) - window + 1
    if count < 1:
        return np.empty(0), np.empty(0)
    blocks = -(-len(values_N) // window)
    padded = np.pad(values_N, (0, blocks * window - len(values_N)), mode="edge")
    x_BW = padded.reshape(blocks, window)
    sizes_W = np.arange(1, window + 1)

    def from_the_edge(x_BW: Floats) -> tuple[Floats, Floats]:
        """Mean and sum of squared deviations of the first 1, 2, ... W values of each block."""
        edge_B1 = x_BW[:, :1]
        apart_BW = x_BW - edge_B1  # the edge is in every sum: what cancels is bounded
        sums_BW = np.cumsum(apart_BW, axis=1)
        squares_BW = np.cumsum(apart_BW * apart_BW, axis=1)
        return edge_B1 + sums_BW / sizes_W, squares_BW - sums_BW * sums_BW / sizes_W

    with np.errstate(over="ignore", invalid="ignore"):  # beyond 1e154 a spread is inf: no flag
        head_mean_BW, head_dev_BW = from_the_edge(x_BW)
        tail_mean_BW, tail_dev_BW = (a[:, ::-1] for a in from_the_edge(x_BW[:, ::-1]))
        start = np.arange(count)
        block, offset = start // window, start % window
        mean_a, dev_a = tail_mean_BW[block, offset], tail_dev_BW[block, offset]
        has_b = offset > 0
        after = np.minimum(block + 1, blocks - 1), np.maximum(offset - 1, 0)
        mean_b = np.where(has_b, head_mean_BW[after], mean_a)
        dev_b = np.where(has_b, head_dev_BW[after], 0.0)
        share_b = offset / window
        step = mean_b - mean_a
        mean = mean_a + step * share_b
        variance = (dev_a + dev_b) / window + step * step * share_b * (1 - share_b)
        return mean, np.sqrt(np.maximum(variance, 0.0))


def row_medians(x_AN: Floats) -> Floats:
    """Median of each row; sorting is many times faster than np.median on short rows."""
    sorted_AN = np.sort(x_AN, axis=1)
    n = x_AN.shape[1]
    return (sorted_AN[:, (n - 1) // 2] + sorted_AN[:, n // 2]) / 2


def rolling_median_mad(values_N: Floats, window: int) -> tuple[Floats, Floats]:
    """Median and 1.4826 x median absolute deviation of every W neighbours, both [N - W + 1]."""
    if len(values_N) < window:
        return np.empty(0), np.empty(0)
    windows = np.lib.stride_tricks.sliding_window_view(values_N, window)
    median, mad = np.empty(len(windows)), np.empty(len(windows))
    for first in range(0, len(windows), _CHUNK):
        x_CW = windows[first : first + _CHUNK]
        median[first : first + _CHUNK] = m_C = row_medians(x_CW)
        mad[first : first + _CHUNK] = row_medians(np.abs(x_CW - m_C[:, None]))
    return median, MAD_TO_STD * mad


# At least 7 population standard deviations from the mean: the spike score of the OLMo 2 report.
OLMO2 = Detector(
    "olmo2", window=1000, threshold=7.0, two_sided=True, least_spread=0.0, strict=False,
    centre_and_spread=rolling_moments,
)  # fmt: skip
# Above mean + 6 standard deviations, as OLMo-core decides to skip a step; its own, of a sample, are
# 0.4 % wider than these of a population.
OLMO_CORE = Detector(
    "olmo_core", window=128, threshold=6.0, two_sided=False, least_spread=1e-10, strict=True,
    centre_and_spread=rolling_moments,
)  # fmt: skip
# At least 7 x 1.4826 MAD above the median: not moved by the spikes in its own window.
MAD = Detector(
    "mad", window=128, threshold=7.0, two_sided=False, least_spread=0.0, strict=False,
    centre_and_spread=rolling_median_mad,
)  # fmt: skip
DETECTORS = {detector.name: detector for detector in (OLMO2, OLMO_CORE, MAD)}


def configured(
    windows: Mapping[str, int] | None = None, thresholds: Mapping[str, float] | None = None
) -> dict[str, Detector]:
    """The detectors by name, with other windows (in values) and thresholds where they are given.

    Raises ValueError for a window of less than 2 values and a threshold that is not positive.
    """
    windows, thresholds = windows or {}, thresholds or {}
    for window in windows.values():
        if window < 2:
            raise ValueError(f"a window has at least 2 values, not {window}")
    for threshold in thresholds.values():
        if not 0 < threshold < math.inf:
            raise ValueError(f"a threshold is a finite number above 0, not {threshold}")
    return {
        name: replace(
            detector,
            window=windows.get(name, detector.window),
            threshold=thresholds.get(name, detector.threshold),
        )
        for name, detector in DETECTORS.items()
    }


def scan(values_N: Floats, detector: Detector) -> Scan:
    """Judge every value of one unbroken stretch. Raises ValueError for a value not finite."""
    values_N = np.ascontiguousarray(values_N, dtype=np.float64)
    if not np.isfinite(values_N).all():
        raise ValueError("a detector judges finite values only: take NaN and Inf out before")
    centre, spread, z = (np.full(len(values_N), np.nan) for _ in range(3))
    direction = np.zeros(len(values_N), np.int8)
    if len(values_N) > detector.window:
        rest = slice(detector.window, None)
        # the last window has no value after it
        centre[rest], spread[rest] = detector.centre_and_spread(values_N[:-1], detector.window)
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            usable = (spread >= detector.least_spread) & (spread > _NO_SPREAD * np.abs(centre))
            np.divide(values_N - centre, spread, out=z, where=usable)
            reached = np.greater if detector.strict else np.greater_equal
            direction[reached(z, detector.threshold)] = 1
            if detector.two_sided:
                direction[reached(-z, detector.threshold)] = -1
    return Scan(z, centre, spread, direction)


def spike_score(flags: int, count: int) -> float | None:
    """Percent of ``count`` values that are flagged; None of none."""
    return 100 * flags / count if count else None
