"""Counts of the elements of a tensor that are NaN or infinite, and the reason that they state."""

import math
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class NotFinite:
    """How many elements are NaN and how many infinite; false where there is none."""

    nan: int = 0
    inf: int = 0

    def __add__(self, other: "NotFinite") -> "NotFinite":
        return NotFinite(self.nan + other.nan, self.inf + other.inf)

    def __bool__(self) -> bool:
        return bool(self.nan or self.inf)

    def reason(self, n: int, of: str = "elements") -> str:
        """Why a statistic of n elements does not exist, as ``NaN in 3 of 4,096 elements``."""
        kinds = (("NaN", self.nan), ("Inf", self.inf))
        counts = " and ".join(f"{kind} in {count:,}" for kind, count in kinds if count)
        return f"{counts} of {n:,} {of}"


def not_finite(tensor: torch.Tensor) -> NotFinite:
    """Count the NaN and the infinite elements."""
    return NotFinite(int(tensor.isnan().sum()), int(tensor.isinf().sum()))


def scale_reason(scale: float) -> str | None:
    """Why a tensor times ``scale`` has no statistics; None for a finite scale."""
    return None if math.isfinite(scale) else f"the scale is {scale}"
