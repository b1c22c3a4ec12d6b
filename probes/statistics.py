"""Statistics of one tensor's elements, from how often each value occurs: pure functions.

A 16-bit tensor has at most 65,536 different values, so one count of its bit patterns gives every
statistic exactly, in a single pass and a fixed amount of memory. Any other tensor is counted by
sorting. All arithmetic on the values is float64; float32 norms are off by percents on a large
embedding.

Legend: values_V distinct (or sorted) values, counts_V how often each occurs, n their sum.
"""

from dataclasses import dataclass

import numpy as np
import torch

from workbench.checkpoints.checkpoint import scaled

ZERO = 1e-10
"""An element of smaller magnitude counts as zero."""
HISTOGRAM_EDGES = np.round(np.arange(-12.0, 3.0001, 0.1), 10)
"""Edges of log10|w|, in tenths of a decade; the same for every tensor, so phases compare."""

_PATTERNS = 2**16


@dataclass(frozen=True)
class Counted:
    """The elements of a tensor: values_V and counts_V, both float64."""

    values: np.ndarray
    counts: np.ndarray

    @property
    def n(self) -> int:
        return int(self.counts.sum())


def distinct(tensor: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """values_V of the tensor in its dtype, and counts_V; larger 16-bit tensors alone are merged."""
    flat = tensor.detach().reshape(-1).cpu()
    if flat.element_size() == 2 and flat.numel() > _PATTERNS:
        counts = torch.zeros(_PATTERNS, dtype=torch.int64)
        for chunk in flat.view(torch.int16).split(2**22):
            counts += torch.bincount(chunk.to(torch.int32) & 0xFFFF, minlength=_PATTERNS)
        patterns = torch.arange(_PATTERNS, dtype=torch.int32).to(torch.int16).view(flat.dtype)
        kept = counts > 0
        return patterns[kept], counts[kept]
    return flat, torch.ones(flat.numel(), dtype=torch.int64)


def counted(values: torch.Tensor, counts: torch.Tensor, scale: float | None = None) -> Counted:
    """What ``distinct`` found, each value multiplied by ``scale`` in float32 (None: as stored)."""
    return Counted(scaled(values, scale).double().numpy(), counts.double().numpy())


def count_values(tensor: torch.Tensor, scale: float | None = None) -> Counted:
    """Count the values of a tensor, each multiplied by ``scale`` in float32 (None: as stored)."""
    return counted(*distinct(tensor), scale)


def elementwise(counted: Counted) -> dict[str, float | str]:
    """Every elementwise metric; a string in place of a number is the reason that it has none.

    Formulas: docs/metrics.md. ``std`` and ``kurtosis_excess`` use the population's moments about
    the mean. Where an element is not finite, no metric exists.
    """
    x, c, n = counted.values, counted.counts, counted.n
    if not np.isfinite(x).all():
        broken = int(c[~np.isfinite(x)].sum())
        return dict.fromkeys(ELEMENTWISE, f"{broken} of {n} elements are not finite")
    size = np.abs(x)
    sum_abs, sum_square = float(size @ c), float(np.square(x) @ c)
    mean = float(x @ c) / n
    low, high = float(x.min()), float(x.max())
    off = x - mean
    variance = float(np.square(off) @ c) / n if low < high else 0.0
    frobenius = sum_square**0.5
    return {
        "frobenius": frobenius,
        "rms": (sum_square / n) ** 0.5,
        "mean": mean,
        "std": variance**0.5,
        "max_abs": float(size.max()),
        "min": low,
        "max": high,
        "zero_fraction": float(c[size < ZERO].sum()) / n,
        "kurtosis_excess": (
            float((off / variance**0.5) ** 4 @ c) / n - 3.0
            if variance > 0
            else "all elements are equal"
        ),
        "gini": gini(size, c) if sum_abs > 0 else "all elements are zero",
        "hoyer": _hoyer(n, sum_abs, frobenius),
    }


ELEMENTWISE = (
    "frobenius",
    "rms",
    "mean",
    "std",
    "max_abs",
    "min",
    "max",
    "zero_fraction",
    "kurtosis_excess",
    "gini",
    "hoyer",
)


def gini(size_V: np.ndarray, counts_V: np.ndarray) -> float:
    """Gini coefficient of magnitudes: sum((2i - n - 1)|w|_(i)) / (n sum|w|), i from 1, ascending.

    The ranks r+1 .. r+c of c equal values sum to c (2r + c - n) in the numerator.
    """
    order = np.argsort(size_V, kind="stable")
    size, c = size_V[order], counts_V[order]
    n = c.sum()
    before = np.cumsum(c) - c
    return float((c * (2 * before + c - n)) @ size / (n * (c @ size)))


def _hoyer(n: int, sum_abs: float, frobenius: float) -> float | str:
    if n == 1:
        return "a single element has no sparsity"
    if frobenius == 0:
        return "all elements are zero"
    return (n**0.5 - sum_abs / frobenius) / (n**0.5 - 1)


def log10_histogram(counted: Counted) -> np.ndarray:
    """Counts of log10|w| in HISTOGRAM_EDGES; they sum to n.

    The outermost bins also take what lies beyond them: smaller magnitudes and zeros in the first,
    larger ones in the last. Elements that are not finite are left out.
    """
    finite = np.isfinite(counted.values)
    size, c = np.abs(counted.values[finite]), counted.counts[finite]
    tiny, huge = HISTOGRAM_EDGES[0], HISTOGRAM_EDGES[-1]
    log = np.clip(np.log10(np.maximum(size, 10.0**tiny)), tiny, huge)
    return np.histogram(log, bins=HISTOGRAM_EDGES, weights=c)[0].astype(np.int64)
