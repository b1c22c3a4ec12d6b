"""Metrics of a matrix's singular values: pure functions on float64 arrays.

Legend: s the singular values, descending, r of them; x = s^2 ascending, what power laws are fitted
to, as WeightWatcher does; n the number of elements in a tail of x.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from probes.finite import scale_reason
from probes.singular_values import TOLERANCE, Spectrum

POWER_LAW_LIMIT = 8.0
"""A fitted exponent above it is no power law."""

_FITTED = ("powerlaw_alpha", "powerlaw_ks", "powerlaw_xmin", "powerlaw_tail_n", "is_powerlaw")
_BULK = ("mp_edge", "mp_edge_outliers")
_RANKS = ("stable_rank", "effective_rank", "per", "participation_ratio")
SPECTRAL = (
    "spectral_norm", "nuclear_norm", "condition_number", *_RANKS, "per_denominator", *_FITTED,
    *_BULK, "singular_value_error",
)  # fmt: skip
# By which power of a factor c the metrics of c W differ from those of W; all others are equal.
_SCALES = {"spectral_norm": 1, "nuclear_norm": 1, "mp_edge": 1, "powerlaw_xmin": 2}
# What a matrix of zeros has.
_OF_ZERO = ("spectral_norm", "nuclear_norm", "per_denominator", "singular_value_error")

Values = dict[str, float | str]


class PowerLaw(NamedTuple):
    """A fitted tail: density proportional to x^-alpha from xmin on."""

    alpha: float
    ks: float
    """Kolmogorov-Smirnov distance between the tail's n values and the fit."""
    xmin: float
    tail_n: int


def spectral_metrics(spectrum: Spectrum) -> Values:
    """Every metric of SPECTRAL; a string in place of a number is the reason that it has none.

    Formulas: docs/metrics.md.
    """
    s, r = spectrum.values, len(spectrum.values)
    found: Values = {
        "spectral_norm": float(s[0]),
        "nuclear_norm": float(s.sum()),
        "per_denominator": float(r),
        "singular_value_error": spectrum.error,
    }
    if s[0] == 0:
        return dict.fromkeys(SPECTRAL, "all elements are zero") | found
    p = s / s[0]  # against overflow of powers
    trusted = s[: spectrum.trusted]
    effective_rank = _effective_rank(p / p.sum())
    found |= {
        "condition_number": (
            float(s[0] / s[-1])
            if spectrum.trusted == r
            else f"float64 cannot tell the smallest {r - spectrum.trusted} of {r} singular values "
            "from zero"
        ),
        "stable_rank": float(np.square(p).sum()),
        "effective_rank": effective_rank,
        "per": effective_rank / r,
        "participation_ratio": float(np.square(p).sum() ** 2 / (p**4).sum()),
    }
    fit = fit_power_law(np.square(trusted[::-1]))
    found |= (
        dict.fromkeys(_FITTED, fit)
        if isinstance(fit, str)
        else dict(zip(_FITTED, (*fit, float(fit.alpha <= POWER_LAW_LIMIT)), strict=True))
    )
    edge = marchenko_pastur_edge(s, max(spectrum.shape)) if len(trusted) > r / 2 else 0.0
    if r == 1 or edge == 0:
        reason = "a single singular value has no bulk" if r == 1 else "the median value is zero"
        return found | dict.fromkeys(_BULK, reason)
    return found | {"mp_edge": edge, "mp_edge_outliers": float((s > edge).sum())}


def rescaled(metrics: Mapping[str, float | str], factor: float) -> Values:
    """The metrics of a matrix times ``factor`` from those of the matrix."""
    if (broken := scale_reason(factor)) is not None:
        return {
            metric: value if isinstance(value, str) else broken for metric, value in metrics.items()
        }
    return {
        metric: value
        if isinstance(value, str)
        else "the scale is zero"
        if factor == 0 and metric not in _OF_ZERO
        else value * abs(factor) ** _SCALES.get(metric, 0)
        for metric, value in metrics.items()
    }


def _effective_rank(p: np.ndarray) -> float:
    p = p[p > 0]
    return float(np.exp(-(p * np.log(p)).sum()))


def fit_power_law(x: np.ndarray, rows: int = 64) -> PowerLaw | str:
    """The tail of x (ascending, positive) that a power law fits with the least KS distance.

    For every candidate xmin = x_i, i < r, the maximum likelihood alpha = 1 + n / sum ln(x/xmin)
    over the n values from x_i on, and KS = max |1 - (x/xmin)^(1 - alpha) - k/n|, k = 0 .. n-1 the
    number of smaller values in the tail; the first least one is taken (Clauset, Shalizi & Newman
    2009, as in WeightWatcher). A string is the reason that there is no fit.

    ``rows`` candidates are compared at a time, so that r^2/2 exponentials need rows x r memory.
    """
    r = len(x)
    if r < 2:
        return "a power law needs two singular values that are not zero"
    log, index = np.log(x), np.arange(r)
    n = (r - index).astype(np.float64)
    spread = np.cumsum(log[::-1])[::-1] - n * log  # sum ln(x/xmin) over the tail
    # Values that agree within their error have no slope.
    candidates = int((log[-1] - log > 4 * TOLERANCE).sum())
    if candidates == 0:
        return "all singular values are equal"
    slope = n[:candidates] / spread[:candidates]  # alpha - 1
    ks = np.empty(candidates)
    for first in range(0, candidates, rows):
        some = slice(first, min(first + rows, candidates))
        i, j = index[some, None], index[None, first:]
        lag = np.minimum(log[i] - log[j], 0.0)  # of what lies before the tail: nothing
        off = np.abs(1.0 - np.exp(slope[i] * lag) - (j - i) / n[i])
        ks[some] = off.max(axis=1, where=j >= i, initial=0.0)
    best = int(np.argmin(ks))
    return PowerLaw(
        alpha=float(1 + slope[best]),
        ks=float(ks[best]),
        xmin=float(x[best]),
        tail_n=int((x >= x[best]).sum()),
    )


def marchenko_pastur_edge(s: np.ndarray, longer: int) -> float:
    """The largest singular value that noise alone would have: sigma (sqrt(r) + sqrt(longer)).

    The noise's sigma comes from the median singular value, which outliers do not move:
    median(s) / sqrt(longer * mu), mu the median of the Marchenko-Pastur law of ratio r/longer
    (Gavish & Donoho 2014).
    """
    r = len(s)
    sigma = float(np.median(s)) / (longer * marchenko_pastur_median(r / longer)) ** 0.5
    return sigma * (r**0.5 + longer**0.5)


@lru_cache(maxsize=64)
def marchenko_pastur_median(ratio: float, steps: int = 200_000) -> float:
    """Median of the Marchenko-Pastur law of unit variance, 0 < ratio <= 1.

    With x = 1 + ratio + 2 sqrt(ratio) cos t the law has the smooth density
    2 sin(t)^2 / (pi x) in t, 0 < t < pi; midpoints keep clear of x = 0.
    """
    t = (np.arange(steps) + 0.5) * np.pi / steps
    mass = np.cumsum(np.sin(t) ** 2 / (1 + ratio + 2 * ratio**0.5 * np.cos(t)))
    half = np.interp(0.5, mass * 2 / steps, t + 0.5 * np.pi / steps)
    return float(1 + ratio + 2 * ratio**0.5 * np.cos(half))
