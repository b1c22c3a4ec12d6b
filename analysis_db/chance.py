"""How often chance alone would do it: permutation tests for short series, on plain arrays.

Shapes: n observations, L left columns, R right columns, M permutations. Every test is two-sided;
with M drawn permutations p = (k + 1) / (M + 1), with all n! of them p = k / n! (Phipson and Smyth
2010). Seeds are given, so that results repeat.
"""

from dataclasses import dataclass
from itertools import permutations
from math import factorial

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

EXACT_UP_TO = 8
"""All orders are gone through up to so many observations: 8! = 40,320."""
PERMUTATIONS = 9_999
_SLACK = 1e-9  # equal statistics that differ in the last bits count as equal
_CHUNK = 500
WANDERS = 1.0
"""Deviations whose lag-1 autocorrelation is above this / sqrt(n), its standard error, count as a
walk. A higher bound finds more steps and takes more walks for steps: bench/derived.py."""


@dataclass(frozen=True)
class Correlations:
    """Every left column against every right one; each array is L x R."""

    n: int
    spearman: Floats
    pearson: Floats
    p_value: Floats
    """Of Spearman's coefficient, for this pair alone; NaN where a column is constant."""
    p_adjusted: Floats
    """Chance of one such coefficient or a larger one anywhere among the pairs (max statistic)."""
    persistence: Floats
    """Factor by which the coefficient was shrunk before it was tested; see ``correlate``."""
    permutations: int
    exact: bool


def correlate(
    left_NL: Floats, right_NR: Floats, *, seed: int, draws: int = PERMUTATIONS
) -> Correlations:
    """Spearman's and Pearson's coefficients with permutation p-values of Spearman's.

    The rows of one side are permuted, all its columns together, which keeps the dependence between
    columns (Westfall and Young 1993). Rows must be exchangeable, so give changes, not levels that
    drift. Where the changes of both sides follow those before them (lag-1 autocorrelations a and b
    of one sign) a coefficient varies more than permuted rows do: both the observed and the permuted
    ones are multiplied by sqrt((1 - ab) / (1 + ab)), at most 1 (Bartlett 1935), before they are
    compared. No value may be NaN; raises ValueError for fewer than 3 rows.
    """
    n = len(left_NL)
    if n < 3:
        raise ValueError("a correlation needs 3 observations")
    left, right = standardise(ranks(left_NL)), standardise(ranks(right_NR))
    raw_LR = left.T @ right
    right_persistence = _lag_one(right)
    shrink_LR = _shrinkage(_lag_one(left), right_persistence)
    observed_LR = np.abs(raw_LR) * shrink_LR - _SLACK
    orders = _orders(n, seed, draws)
    exact = len(orders) == factorial(n)
    above_LR, max_above_LR = np.zeros(raw_LR.shape), np.zeros(raw_LR.shape)
    for start in range(0, len(orders), _CHUNK):
        shuffled_MNL = left[orders[start : start + _CHUNK]]
        found_MLR = np.abs(np.einsum("mnl,nr->mlr", shuffled_MNL, right))
        found_MLR *= _shrinkage(_lag_one(shuffled_MNL), right_persistence)
        above_LR += (found_MLR >= observed_LR).sum(axis=0)
        largest_M = np.nanmax(found_MLR, axis=(1, 2), initial=0.0)
        max_above_LR += (largest_M[:, None, None] >= observed_LR).sum(axis=0)
    extra = 0 if exact else 1  # the order as observed is among all of them already
    defined = np.where(np.isnan(raw_LR), np.nan, 1.0)
    return Correlations(
        n=n,
        spearman=raw_LR,
        pearson=standardise(left_NL).T @ standardise(right_NR),
        p_value=defined * (above_LR + extra) / (len(orders) + extra),
        p_adjusted=defined * (max_above_LR + extra) / (len(orders) + extra),
        persistence=defined * shrink_LR,
        permutations=len(orders),
        exact=exact,
    )


def ranks(values_NK: Floats) -> Floats:
    """Ranks from 1 in each column, ties their mean."""
    ordered = np.sort(values_NK, axis=0)
    found = np.empty(values_NK.shape)
    for k in range(values_NK.shape[1]):
        below = np.searchsorted(ordered[:, k], values_NK[:, k], side="left")
        up_to = np.searchsorted(ordered[:, k], values_NK[:, k], side="right")
        found[:, k] = (below + up_to + 1) / 2
    return found


def standardise(values_NK: Floats) -> Floats:
    """Columns with mean 0 and sum of squares 1; NaN for a constant column."""
    centred = values_NK - values_NK.mean(axis=0)
    length_K = np.sqrt((centred**2).sum(axis=0))
    constant_K = length_K <= 1e-12 * np.abs(values_NK).max(axis=0)
    return centred / np.where(constant_K, np.nan, length_K)


def _lag_one(unit: Floats) -> Floats:
    """Lag-1 autocorrelation of standardised columns (N x K, or M x N x K), with the first-order
    correction of its bias (1 + 3a) / n, within -0.95 .. 0.95."""
    raw = (unit[..., 1:, :] * unit[..., :-1, :]).sum(axis=-2)
    return np.clip(raw + (1 + 3 * raw) / unit.shape[-2], -0.95, 0.95)


def _shrinkage(left: Floats, right_R: Floats) -> Floats:
    product = np.clip(left[..., :, None] * right_R, 0, None)
    return np.sqrt((1 - product) / (1 + product))


def _orders(n: int, seed: int, draws: int) -> Ints:
    """Every order of n things for small n, else ``draws`` random ones."""
    if n <= EXACT_UP_TO:
        return np.array(list(permutations(range(n))), np.int64)
    random = np.random.default_rng(seed)
    return random.permuted(np.tile(np.arange(n), (draws, 1)), axis=1)


@dataclass(frozen=True)
class Split:
    """The best place to cut a series in two."""

    at: int
    """Number of values before the cut."""
    size: float
    """By how much the level after the cut differs from that before it."""
    p_value: float


def best_split(
    values_N: Floats, at_N: Floats, *, trend: bool, least: int, seed: int, draws: int
) -> Split:
    """The step that explains most of a series, and how often chance makes as large a one.

    The model is a constant, or with ``trend`` a straight line over the positions ``at_N``, plus one
    step with ``least`` values on either side at least. The statistic is the greatest part of the
    squared deviations that a step explains. Without a step the deviations would be what is left
    after line and step, in a random order. Where they follow those before them a little, they are
    freed of that first and get it back after (an autoregression of order 1); where clearly, they
    count as a walk, whose increments are put in a random order, so that a wandering series is not
    taken for one with steps. Raises ValueError for fewer than ``2 least + 2`` values.
    """
    n = len(values_N)
    if n < 2 * least + 2:
        raise ValueError("the series is too short to be cut")
    base_NB = np.column_stack([np.ones(n), at_N - at_N.mean()] if trend else [np.ones(n)])
    base_NB, _ = np.linalg.qr(base_NB)
    cuts = np.arange(least, n - least + 1)
    step_NT = (np.arange(n)[:, None] >= cuts).astype(float)
    step_NT -= base_NB @ (base_NB.T @ step_NT)
    length_T = np.sqrt((step_NT**2).sum(axis=0))
    unit_NT = step_NT / length_T

    def explained(series_NM: Floats) -> tuple[Floats, Floats]:
        left_NM = series_NM - base_NB @ (base_NB.T @ series_NM)
        total_M = (left_NM**2).sum(axis=0)
        along_TM = unit_NT.T @ left_NM
        return along_TM, along_TM**2 / np.where(total_M > 0, total_M, np.nan)

    along_TM, share_TM = explained(values_N[:, None])
    deviations = values_N - base_NB @ (base_NB.T @ values_N)
    if np.abs(deviations).max() <= 1e-9 * np.abs(values_N).max():
        return Split(int(cuts[0]), 0.0, 1.0)  # the line itself, nothing is left to explain
    best = int(np.argmax(share_TM[:, 0]))
    rest_N = deviations - unit_NT[:, best] * along_TM[best, 0]
    simulated_NM = _shuffled_noise(deviations, rest_N, base_NB.shape[1] + 1, seed, draws)
    _, null_TM = explained(simulated_NM)
    largest_M = null_TM.max(axis=0)
    k = int((largest_M >= share_TM[best, 0] - _SLACK).sum())
    size = float(along_TM[best, 0] / length_T[best])
    return Split(int(cuts[best]), size, (k + 1) / (draws + 1))


def _shuffled_noise(
    deviations_N: Floats, rest_N: Floats, fitted: int, seed: int, draws: int
) -> Floats:
    """Series (N x M) as there would be without a step.

    ``deviations_N`` are those from the line, ``rest_N`` those from line and step.
    """
    n = len(rest_N)
    power = (rest_N**2).sum()
    random = np.random.default_rng(seed)
    if power <= 1e-18 * (deviations_N**2).sum():
        return random.standard_normal((n, draws))  # line and step explain all
    raw = float((rest_N[1:] * rest_N[:-1]).sum() / power)
    # What is left after a fit alternates more than the noise did, by about (1 + fitted + 3a) / n.
    a = raw + (1 + fitted + 3 * raw) / n
    if a > WANDERS / np.sqrt(n):
        steps_N = np.diff(rest_N)
        steps_NM = random.permuted(np.tile(steps_N, (draws, 1)), axis=1).T
        return np.vstack([np.zeros((1, draws)), steps_NM.cumsum(axis=0)])
    a = max(a, 0.0)
    shocks_N = np.append(rest_N[0] * np.sqrt(1 - a * a), rest_N[1:] - a * rest_N[:-1])
    found_NM = random.permuted(np.tile(shocks_N, (draws, 1)), axis=1).T
    found_NM[0] /= np.sqrt(1 - a * a)
    for i in range(1, n):
        found_NM[i] += a * found_NM[i - 1]
    return found_NM
