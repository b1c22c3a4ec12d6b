"""NaN and infinite numbers of a checkpoint: counts, and the reasons and warnings they cause."""

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


Place = tuple[str, int | None]
"""A site and its layer."""


def place_name(place: Place) -> str:
    site, layer = place
    return site if layer is None else f"{site} of layer {layer}"


def site_reason(problem: str, here: Place, first: Place) -> str:
    """Why a site has no value: what is not finite there, and where that began."""
    if here == first:
        return f"not finite: {problem}"
    return f"not finite: {problem}; the first site that is not finite is {place_name(first)}"


def warning(model: torch.nn.Module, what: str, first: Place) -> str:
    """The warning of a run: ``what`` is not finite from ``first`` on, and which weights are not."""
    wrong = [name for name, weight in model.named_parameters() if not weight.isfinite().all()]
    cause = "every weight is finite"
    if wrong:
        others = f" and {len(wrong) - 1} other weights" if len(wrong) > 1 else ""
        cause = f"NaN or Inf in {wrong[0]}{others}"
    return (
        f"{what} are not finite from {place_name(first)} on, and the values there are missing with "
        f"a reason: {cause}"
    )
