"""What the model probes report of a checkpoint whose numbers are not all finite."""

import torch

Place = tuple[str, int | None]
"""A site and its layer."""


def place_name(place: Place) -> str:
    site, layer = place
    return site if layer is None else f"{site} of layer {layer}"


def reason(problem: str, here: Place, first: Place) -> str:
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
