"""Sums over the optimizer's state of a parameter, from which every metric of it follows.

Sums of several parameters add up, so a metric of a kind of module is one over all its elements and
no mean of means. Everything is computed in float64, a chunk at a time.

m is ``exp_avg``, v is ``exp_avg_sq``, t the step, r = sqrt(v). The update is Adam's before the
rate: u = m^ / (sqrt(v^) + eps) with m^ = m / (1 - beta1^t) and v^ = v / (1 - beta2^t), or the same
of m and v themselves where the step is not known.
"""

import math
import operator
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import torch

from probes.finite import NotFinite, not_finite

CHUNK = 1 << 16
"""Elements at a time: what is computed of them stays in the processor's cache."""
_NONE = NotFinite()


@dataclass(frozen=True)
class Update:
    """What the size of an update hangs on; betas are needed only where there is a step."""

    eps: float
    step: float | None
    beta1: float | None
    beta2: float | None

    @property
    def corrections(self) -> tuple[float, float]:
        """What m and v are divided by: 1 - beta1^t and 1 - beta2^t; 1 without a step."""
        if self.step is None:
            return 1.0, 1.0
        assert self.beta1 is not None
        assert self.beta2 is not None
        return 1 - self.beta1**self.step, 1 - self.beta2**self.step


def _smallest() -> Any:
    return field(default=math.inf, metadata={"join": np.minimum})


def _largest() -> Any:
    return field(default=-math.inf, metadata={"join": np.maximum})


@dataclass
class Sums:
    """Of one parameter or, added, of several.

    The sums over a tensor with elements that are not finite mean nothing: its counts say so.
    """

    n: int = 0
    m: float = 0.0
    m_square: float = 0.0
    m_min: float = _smallest()
    m_max: float = _largest()
    r: float = 0.0
    r_square: float = 0.0
    r_min: float = _smallest()
    r_max: float = _largest()
    snr: float = 0.0
    snr_n: int = 0
    """Elements with v > 0; the others have no ratio."""
    below_eps: int = 0
    below_10eps: int = 0
    u_square: float = 0.0
    u_max: float = _largest()
    rate_u_square: float = 0.0
    """Sum of (lr u)^2; rates may differ between parameters."""
    weight_square: float = 0.0
    drift_square: float = 0.0
    fp32_square: float = 0.0
    m_broken: NotFinite = _NONE
    r_broken: NotFinite = _NONE
    """Of sqrt(v), which is NaN for a negative v as well."""
    weight_broken: NotFinite = _NONE
    """Of the weight whose squares are summed, the float32 copy where there is one."""
    stored_broken: NotFinite = _NONE
    """Of the checkpoint's weight beside a float32 copy."""

    def __add__(self, other: "Sums") -> "Sums":
        return Sums(
            *(
                part.metadata.get("join", operator.add)(
                    getattr(self, part.name), getattr(other, part.name)
                )
                for part in fields(self)
            )
        )


def sums_of(
    exp_avg: torch.Tensor,
    exp_avg_sq: torch.Tensor,
    update: Update | None,
    *,
    eps: float | None,
    lr: float | None,
) -> Sums:
    """The sums over m and v, without those over weights (see ``add_weights``)."""
    total = Sums()
    for m, v in zip(_chunks(exp_avg), _chunks(exp_avg_sq), strict=True):
        total += _of_chunk(m, v, update, eps)
    total.rate_u_square = (lr or 0.0) ** 2 * total.u_square
    return total


def _of_chunk(m: torch.Tensor, v: torch.Tensor, update: Update | None, eps: float | None) -> Sums:
    m, r = m.double(), v.double().sqrt_()
    low, high = (float(x) for x in torch.aminmax(m))
    found = Sums(n=m.numel(), m=float(m.sum()), m_square=float(m @ m), m_min=low, m_max=high)
    found.r, found.r_square = float(r.sum()), float(r @ r)
    found.r_min, found.r_max = (float(x) for x in torch.aminmax(r))
    found.m_broken, found.r_broken = _broken(m, found.m_square), _broken(r, found.r_square)
    if eps is not None:
        found.below_eps = _below(r, found.r_min, eps)
        found.below_10eps = _below(r, found.r_min, 10 * eps)
    m = m.abs_()
    some = (m, r) if found.r_min > 0 else (m[r > 0], r[r > 0])
    found.snr, found.snr_n = float((some[0] / some[1]).sum()), some[1].numel()
    if update is not None:
        of_m, of_v = update.corrections
        u = m.div_(r.div_(math.sqrt(of_v)).add_(update.eps)).div_(of_m)
        found.u_square, found.u_max = float(u @ u), float(u.max())
    return found


def _broken(values: torch.Tensor, sum_square: float) -> NotFinite:
    """The elements that are not finite; the sum of squares in float64 is finite without them."""
    return NotFinite() if math.isfinite(sum_square) else not_finite(values)


def _below(values: torch.Tensor, smallest: float, bound: float) -> int:
    return 0 if smallest >= bound else int((values < bound).count_nonzero())


def add_weights(total: Sums, weight: torch.Tensor, fp32: torch.Tensor | None) -> None:
    """Add the sums over the checkpoint's weight and, where the state has it, its float32 copy.

    The weight's own size is that of the copy where there is one: what the update is added to.
    """
    for w, p in zip(_chunks(weight), _chunks(weight if fp32 is None else fp32), strict=True):
        p = p.double()
        square = float(p @ p)
        total.weight_square += square
        total.weight_broken += _broken(p, square)
        if fp32 is not None:
            total.fp32_square += square
            w = w.double()
            drift = p - w
            total.drift_square += float(drift @ drift)
            total.stored_broken += _broken(w, float(w @ w))


def _chunks(tensor: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return tensor.reshape(-1).split(CHUNK)
