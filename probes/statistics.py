"""Statistics of a tensor's elements, and of those of each attention head: pure functions.

A 16-bit tensor has at most 65,536 different values, so one count of its bit patterns gives every
statistic exactly, in a single pass and a fixed amount of memory; a tensor's count is the sum of its
heads'. Any other tensor, and a small one, is summed in float64, moments about the mean, and sorted
for what needs an order. Sums are pairwise and of a fixed order, so that the values do not depend on
the number of threads. Counting runs on the CPU, whatever the device of the probes is: a tensor is
read once, which takes longer than counting it.

All arithmetic on the values is float64; float32 norms are off by percents on a large embedding.
Multiplied by a scale, a tensor's statistics follow from its own: they are those of the exact
product, not of one rounded to some dtype.

Legend: S slices of a tensor (the whole, then its heads), V distinct values by ascending magnitude,
T thresholds, H heads.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import fsum, inf
from typing import Literal

import numpy as np
import torch

from probes.finite import NotFinite, scale_reason

ZERO = 1e-10
"""An element of smaller magnitude counts as zero."""
HISTOGRAM_EDGES = np.round(np.arange(-12.0, 3.0001, 0.1), 10)
"""Edges of log10|w|, in tenths of a decade; the same for every tensor, so phases compare."""
ELEMENTWISE = (
    "frobenius", "rms", "mean", "std", "max_abs", "min", "max", "zero_fraction", "kurtosis_excess",
    "gini", "hoyer",
)  # fmt: skip

_PATTERNS = 2**16
_AT_ONCE = 2**20
"""Elements that are worked on at once; they stay near the processor."""
_LINEAR = ("frobenius", "rms", "std", "max_abs")
_NO_SPREAD, _NO_SIZE = "all elements are equal", "all elements are zero"

Values = dict[str, float | str]
"""Metrics by id; a string is the reason that there is no number."""
Side = Literal["rows", "columns"]


@dataclass(frozen=True)
class Profile:
    """A tensor as stored, and what is needed to tell its statistics under a scale."""

    stored: list[Values]
    """Of the whole tensor, then of each head."""
    sizes: list[int]
    """Elements of each slice."""
    below: Callable[[np.ndarray], np.ndarray]
    """thresholds_T -> counts_ST of finite elements whose magnitude is less."""

    def metrics(self, scale: float | None = None) -> list[Values]:
        """Every elementwise metric of each slice, the tensor multiplied by ``scale``.

        Under a scale that is not finite no metric exists.
        """
        broken = None if scale is None else scale_reason(scale)
        if broken is not None:
            return [
                dict.fromkeys(metrics, broken) if isinstance(metrics["rms"], float) else metrics
                for metrics in self.stored
            ]
        zeros = self.below(_over(np.array([ZERO]), scale))[:, 0]
        return [
            _scaled(metrics, scale) | {"zero_fraction": float(zero) / size}
            if isinstance(metrics["rms"], float)
            else metrics
            for metrics, zero, size in zip(self.stored, zeros, self.sizes, strict=True)
        ]

    def histogram(self, scale: float | None = None) -> np.ndarray:
        """Counts of log10|w| of the whole tensor in HISTOGRAM_EDGES.

        They sum to the number of finite elements: NaN and Inf are in no bin, and under a scale that
        is not finite all bins are empty. The outermost bins also count what lies beyond them:
        smaller magnitudes and zeros in the first, larger ones in the last.
        """
        if scale is not None and scale_reason(scale) is not None:
            return np.zeros(len(HISTOGRAM_EDGES) - 1, np.int64)
        inner = self.below(_over(10 ** HISTOGRAM_EDGES[1:-1], scale))[0]
        everything = self.below(np.array([inf]))[0]
        return np.diff(inner, prepend=0, append=everything).astype(np.int64)


def profile(tensor: torch.Tensor, heads: int | None = None, side: Side = "rows") -> Profile:
    """The statistics of a tensor in any floating dtype, and of the heads that its side falls into.

    ``std`` and ``kurtosis_excess`` use the population's moments about the mean. Where an element of
    a slice is not finite, no metric of the slice exists.
    """
    tensor = tensor.detach().cpu()
    slices = _slices(tensor, heads, side)
    if tensor.element_size() == 2 and tensor.numel() > _PATTERNS:
        return _counted(tensor.dtype, slices, whole=heads is None)
    wide = torch.promote_types(tensor.dtype, torch.float32)
    pieces = [tensor] if heads is None else [tensor, *slices]
    return _sorted([piece.to(wide).numpy().ravel() for piece in pieces])


def _slices(tensor: torch.Tensor, heads: int | None, side: Side) -> list[torch.Tensor]:
    if heads is None:
        return [tensor]
    dim = 0 if side == "rows" else 1
    return list(tensor.unflatten(dim, (heads, -1)).unbind(dim))


def _over(thresholds_T: np.ndarray, scale: float | None) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return thresholds_T if scale is None else thresholds_T / abs(scale)


def _scaled(metrics: Values, scale: float | None) -> Values:
    if scale is None:
        return dict(metrics)
    if scale == 0:
        none = {"kurtosis_excess": _NO_SPREAD, "gini": _NO_SIZE, "hoyer": _NO_SIZE}
        return dict.fromkeys(ELEMENTWISE, 0.0) | none

    def times(metric: str, factor: float) -> float:
        value = metrics[metric]
        assert not isinstance(value, str)
        return value * factor

    ends = ("min", "max") if scale > 0 else ("max", "min")
    return (
        metrics
        | {metric: times(metric, abs(scale)) for metric in _LINEAR}
        | {"mean": times("mean", scale)}
        | {end: times(of, scale) for end, of in zip(("min", "max"), ends, strict=True)}
    )


def _values(
    n: int, sum_abs: float, sum_square: float, mean: float, low: float, high: float,
    square_off: float, fourth_off: float, ranked: float,
) -> Values:  # fmt: skip
    """The metrics from sums; ``_off`` those of powers of w - mean, ``ranked`` the gini's."""
    frobenius, largest = sum_square**0.5, max(-low, high)
    variance = square_off / n if low < high else 0.0
    no_size = _NO_SIZE if largest == 0 else None
    return {
        "frobenius": frobenius,
        "rms": (sum_square / n) ** 0.5,
        "mean": mean,
        "std": variance**0.5,
        "max_abs": largest,
        "min": low,
        "max": high,
        "zero_fraction": 0.0,  # told under each scale
        "kurtosis_excess": fourth_off / n / variance / variance - 3.0
        if variance > 0
        else _NO_SPREAD,
        "gini": no_size or ranked / (n * sum_abs),
        "hoyer": (
            "a single element has no sparsity"
            if n == 1
            else no_size or (n**0.5 - sum_abs / frobenius) / (n**0.5 - 1)
        ),
    }


def _broken(found: NotFinite, n: int) -> Values:
    return dict.fromkeys(ELEMENTWISE, found.reason(n))


# By counting


def _counted(dtype: torch.dtype, slices: list[torch.Tensor], whole: bool) -> Profile:
    counts_SP = np.stack([_pattern_counts(part) for part in slices])
    if not whole:
        counts_SP = np.concatenate([counts_SP.sum(0, keepdims=True), counts_SP])
    patterns_V = np.flatnonzero(counts_SP[0])
    held = torch.from_numpy(patterns_V.astype(np.uint16).view(np.int16)).view(dtype)
    values_V = held.double().numpy()
    order = np.argsort(np.abs(values_V), kind="stable")  # what is not finite comes last
    values_V, patterns_V = values_V[order], patterns_V[order]
    finite = int(np.isfinite(values_V).sum())
    counts_SV = counts_SP[:, patterns_V].astype(np.float64)
    sizes_S = counts_SP.sum(1)
    nan_S = counts_SV[:, finite:] @ np.isnan(values_V[finite:])
    inf_S = counts_SV[:, finite:] @ np.isinf(values_V[finite:])
    values_V, counts_SV = values_V[:finite], counts_SV[:, :finite]
    upto_SV = np.cumsum(counts_SV, 1)
    magnitude_V = np.abs(values_V)

    def below(thresholds_T: np.ndarray) -> np.ndarray:
        upto = np.pad(upto_SV, ((0, 0), (1, 0)))
        return upto[:, np.searchsorted(magnitude_V, thresholds_T)]

    sums = [counts_SV * magnitude_V, counts_SV * np.square(values_V), counts_SV * values_V]
    sum_abs_S, sum_square_S, sum_S = (x.sum(1) for x in sums)
    mean_S = sum_S / sizes_S
    square_SV = np.square(values_V - mean_S[:, None])
    square_off_S = (counts_SV * square_SV).sum(1)
    fourth_off_S = (counts_SV * np.square(square_SV)).sum(1)
    # The ranks r+1 .. r+c of c equal values sum to c (2r + c - n) in the numerator.
    rank_SV = 2 * upto_SV - counts_SV - sizes_S[:, None]
    ranked_S = (counts_SV * rank_SV * magnitude_V).sum(1)
    stored = []
    for s, n in enumerate(sizes_S.tolist()):
        if found := NotFinite(int(nan_S[s]), int(inf_S[s])):
            stored.append(_broken(found, n))
            continue
        present_V = values_V[counts_SV[s] > 0]
        stored.append(
            _values(
                n,
                float(sum_abs_S[s]),
                float(sum_square_S[s]),
                float(mean_S[s]),
                float(present_V.min()),
                float(present_V.max()),
                float(square_off_S[s]),
                float(fourth_off_S[s]),
                float(ranked_S[s]),
            )
        )
    return Profile(stored, sizes_S.tolist(), below)


def _pattern_counts(part: torch.Tensor) -> np.ndarray:
    """How often each bit pattern occurs in a tensor of 16-bit elements."""
    counts_P = np.zeros(_PATTERNS, np.int64)
    rows = part.view(torch.int16).numpy().view(np.uint16)
    rows = rows.reshape(1, -1) if part.is_contiguous() else rows.reshape(-1, rows.shape[-1])
    width = min(rows.shape[1], _AT_ONCE)
    high = max(1, _AT_ONCE // width)
    room = torch.empty(high * width, dtype=torch.int32, device="cpu")
    for top in range(0, rows.shape[0], high):
        for left in range(0, rows.shape[1], width):
            block = rows[top : top + high, left : left + width]
            patterns = room[: block.size]
            np.copyto(patterns.numpy().reshape(block.shape), block)
            counts_P += torch.bincount(patterns, minlength=_PATTERNS).numpy()
    return counts_P


# By sorting


def _sorted(slices: list[np.ndarray]) -> Profile:
    """Of slices in float32 or float64."""
    magnitudes = [np.abs(x) for x in slices]
    for magnitude in magnitudes:
        magnitude.sort()  # what is not finite comes last
    found = [_of_elements(x, magnitude) for x, magnitude in zip(slices, magnitudes, strict=True)]

    def below(thresholds_T: np.ndarray) -> np.ndarray:
        # A threshold rounded up to the elements' dtype cuts between the same two of them.
        dtype = magnitudes[0].dtype
        with np.errstate(over="ignore"):
            near_T = thresholds_T.astype(dtype)
        cut_T = np.where(near_T < thresholds_T, np.nextafter(near_T, dtype.type(inf)), near_T)
        return np.stack([np.searchsorted(magnitude, cut_T) for magnitude in magnitudes])

    return Profile(found, [x.size for x in slices], below)


def _of_elements(x: np.ndarray, magnitude: np.ndarray) -> Values:
    n = x.size
    finite = int(np.searchsorted(magnitude, inf))
    if finite < n:
        nan = int(np.isnan(magnitude[finite:]).sum())
        return _broken(NotFinite(nan, n - finite - nan), n)
    starts = range(0, n, _AT_ONCE)

    def total(summed: Callable[[np.ndarray, int], np.ndarray], of: np.ndarray) -> float:
        chunks = (of[i : i + _AT_ONCE].astype(np.float64) for i in starts)
        return fsum(float(summed(c, i).sum()) for c, i in zip(chunks, starts, strict=True))

    mean = total(lambda w, i: w, x) / n
    return _values(
        n,
        total(lambda w, i: w, magnitude),
        total(lambda w, i: np.square(w), magnitude),
        mean,
        float(x.min()),
        float(x.max()),
        total(lambda w, i: np.square(w - mean), x),
        total(lambda w, i: np.square(np.square(w - mean)), x),
        total(lambda w, i: (2.0 * np.arange(i + 1, i + 1 + w.size) - n - 1) * w, magnitude),
    )
