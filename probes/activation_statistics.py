"""Statistics of activations, gathered batch by batch: pure arithmetic on tensors of any device.

Precision: activations are read as float32; what is summed within a token (or, for sums by feature,
within a block of tokens) is summed in float32, everything beyond that in float64. So values are
right to about 1e-6 relative, and the batch size moves them by no more. The kurtosis and the
variance come from power sums: they lose digits where a mean is far larger than the spread.

Legend: x_BTD activations of B windows of T tokens with D features, N tokens of all windows,
h_BTF neurons, logits_NV.
"""

import math

import numpy as np
import torch

from probes.activation_extremes import Extremes, MassiveElements, window_medians
from probes.base import Scope
from probes.token_statistics import LEAST_SPREAD, POWERS, FeatureSums, TokenColumns

Values = dict[str, float | str]
"""Metric id -> value, or the reason (a string) why it has none."""

SCOPED_METRICS = (
    "mean",
    "variance_mean",
    "rms_mean",
    "rms_pooled",
    "max_abs",
    "kurtosis_excess",
    "neuron_kurtosis",
    "massive_count",
)
"""What is computed over the tokens of every scope."""
TOKEN_MEDIANS = ("variance_median", "rms_median", "max_abs_median", "kurtosis_median")
SITE_METRICS = (
    *SCOPED_METRICS,
    *TOKEN_MEDIANS,
    "massive_tokens",
    "top1_abs",
    "top2_abs",
    "top3_abs",
    "median_abs",
    "top1_ratio",
    "top1_position",
    "top1_feature",
    "top1_token",
    "top2_position",
    "top2_feature",
    "top2_token",
    "top3_position",
    "top3_feature",
    "top3_token",
)
"""What is computed over all tokens."""
BLOCK = 2**20
"""Elements that are worked on at a time: few enough to stay in a cache."""


class SiteStatistics:
    """Everything that is stored of one site; ``update`` once per batch, then ``values``.

    ``scale`` multiplies the activations; it is applied to the sums, not to every element. The mean
    over tokens of every feature is kept only where ``mean_vector`` asks for it. Values of the scope
    ``no_massive`` exist after ``settle``; where that returns False, after all batches have gone
    through ``recount`` too.
    """

    def __init__(self, scale: float = 1.0, *, mean_vector: bool = False) -> None:
        self._scale = abs(scale)
        self._sign = math.copysign(1.0, scale)
        self.tokens = 0
        self._windows = 0
        self._with_mean_vector = mean_vector
        self._sum_D: torch.Tensor | float = 0.0
        self._square_D: torch.Tensor | float = 0.0
        self._columns = TokenColumns()
        self._scopes = FeatureSums(with_values=mean_vector)
        self._medians: torch.Tensor | float = 0.0
        """Sum over windows."""
        self._massive = MassiveElements()
        self._extremes = Extremes()
        self._elements = self._nan = self._infinite = 0
        self._overflow = False

    def update(self, x_BTD: torch.Tensor, ids_BT: torch.Tensor) -> None:
        """Take in one batch; ``ids_BT`` are the tokens that the activations belong to."""
        windows, length, features = x_BTD.shape
        x_ND = x_BTD.reshape(-1, features)
        columns_5N = torch.empty(5, len(x_ND), dtype=torch.float32, device=x_ND.device)
        start_N = torch.zeros(windows, length, dtype=torch.bool, device=x_ND.device)
        start_N[:, 0] = True
        # Blocks have the tokens' boundaries and not the windows': B windows of T or one of B x T.
        rows = max(1, BLOCK // features)
        for x_RD, columns_5R, start_R in zip(
            x_ND.split(rows), columns_5N.split(rows, 1), start_N.flatten().split(rows), strict=True
        ):
            x_RD = x_RD.float()
            if self._with_mean_vector:
                self._sum_D = self._sum_D + x_RD.sum(0).double()
            torch.sum(x_RD, -1, out=columns_5R[0])
            square_RD = x_RD.square()
            self._square_D = self._square_D + square_RD.sum(0).double()
            torch.sum(square_RD, -1, out=columns_5R[1])
            self._scopes.add(x_RD, square_RD, columns_5R[1], start_R)
            torch.linalg.vector_norm(square_RD, dim=-1, out=columns_5R[2])
            torch.amax(square_RD, -1, out=columns_5R[3])
            torch.sum(torch.pow(x_RD, 3, out=square_RD), -1, out=columns_5R[4])
        self._columns.add(columns_5N, features=features, length=length)
        first = self.tokens
        self.tokens += len(x_ND)
        self._windows += windows
        self._elements += x_ND.numel()
        if not columns_5N[1].isfinite().all():
            self._see_not_finite(x_ND)
        if self.problem() is None:
            max_BT = columns_5N[3].view(windows, length).sqrt()
            medians_B = window_medians(x_BTD)
            self._medians = self._medians + medians_B.double().sum()
            self._extremes.update(x_BTD, max_BT, ids_BT)
            self._massive.update(x_BTD, max_BT, medians_B, scale=self._scale, first=first)

    def _see_not_finite(self, x_ND: torch.Tensor) -> None:
        nan, infinite = int(x_ND.isnan().sum()), int(x_ND.isinf().sum())
        self._nan += nan
        self._infinite += infinite
        self._overflow = self._overflow or nan + infinite == 0

    def problem(self) -> str | None:
        """What is not finite, if anything is: then no statistic exists."""
        if not math.isfinite(self._scale):
            return f"the learnable factor of the site is {self._scale}"
        if self._nan or self._infinite:
            return f"{self._nan:,} NaN and {self._infinite:,} Inf in {self._elements:,} activations"
        if self._overflow:
            return "squares of the activations overflow float32"
        return None

    def settle(self) -> bool:
        """Decide which tokens are massive; False if all batches must go through ``recount``."""
        return self.problem() is not None or self._scopes.settle(self._columns.keep("no_massive"))

    def recount(self, x_BTD: torch.Tensor) -> None:
        """Take in a batch once more, in the order of ``update``."""
        x_ND = x_BTD.reshape(-1, x_BTD.shape[-1])
        for x_RD in x_ND.split(max(1, BLOCK // x_ND.shape[1])):
            self._scopes.recount(x_RD)

    def values(self, scope: Scope = "all") -> Values:
        """Every metric of SITE_METRICS, or of SCOPED_METRICS for another scope than all."""
        problem = self.problem()
        if problem is not None:
            return dict.fromkeys(SITE_METRICS if scope == "all" else SCOPED_METRICS, problem)
        values = self._moments(scope)
        return values | self._of_all_tokens() if scope == "all" else values

    def _moments(self, scope: Scope) -> Values:
        square_D = self._squares(scope)
        scale = self._scale
        tokens, sums = self._columns.sums(scope)
        n = tokens * len(square_D)
        p1, p2 = sums.first / n * scale * self._sign, sums.second / n * scale**2
        p3, p4 = sums.third / n * scale**3 * self._sign, sums.fourth / n * scale**4
        variance = p2 - p1**2
        fourth = p4 - 4 * p1 * p3 + 6 * p1**2 * p2 - 3 * p1**4
        kurtosis: float | str = "the activations are equal"
        # Below this the squares, float32, hold nothing but rounding of a variance.
        if variance > LEAST_SPREAD * p2:
            kurtosis = fourth / variance**2 - 3
            if not POWERS[0] < (sums.second / n) ** 0.5 < POWERS[1]:
                kurtosis = "fourth powers of the activations leave the range of float32"
        largest = self._extremes.top[0].size if scope == "all" else self._columns.largest(scope)
        return {
            "mean": p1,
            "variance_mean": sums.variance / tokens * scale**2,
            "rms_mean": sums.rms / tokens * scale,
            "rms_pooled": p2**0.5,
            "max_abs": self._scaled(largest),
            "kurtosis_excess": kurtosis,
            "neuron_kurtosis": self._neuron_kurtosis(square_D / tokens),
            "massive_count": float(self._massive.count(self._columns.keep(scope))),
        }

    def _squares(self, scope: Scope) -> torch.Tensor:
        return torch.as_tensor(self._square_D) if scope == "all" else self._scopes.squares(scope)

    def _scaled(self, size: float) -> float:
        """In float32, as the activations are."""
        return float(np.float32(size) * np.float32(self._scale))

    def _neuron_kurtosis(self, square_D: torch.Tensor) -> float | str:
        mean = float(square_D.mean()) * self._scale
        if mean == 0:
            return "all are zero"
        return float(square_D.square().mean() / square_D.mean() ** 2)

    def _of_all_tokens(self) -> Values:
        scale = self._scale
        medians = self._columns.medians()
        median = float(self._medians) / self._windows * scale
        top = self._extremes.top
        values: Values = {
            "variance_median": medians["variance"] * scale**2,
            "rms_median": medians["rms"] * scale,
            "max_abs_median": medians["max_abs"] * scale,
            "kurtosis_median": medians.get("kurtosis", "no token has a kurtosis"),
            "massive_tokens": float((~self._columns.keep("no_massive")).sum()),
            "median_abs": median,
            "top1_ratio": (
                self._scaled(top[0].size) / median if median > 0 else "the median is zero"
            ),
        }
        for rank, place in enumerate(top, start=1):
            values[f"top{rank}_abs"] = self._scaled(place.size)
            values[f"top{rank}_position"] = float(place.position)
            values[f"top{rank}_feature"] = float(place.feature)
            values[f"top{rank}_token"] = float(place.token)
        return values

    def massive_positions(self) -> tuple[list[float], list[int]]:
        """Edges and counts of a histogram of the massive tokens' positions."""
        return self._columns.massive_positions()

    def mean_vector(self, scope: Scope = "all") -> torch.Tensor:
        """Mean over tokens (D), float64."""
        assert self._with_mean_vector
        tokens, _ = self._columns.sums(scope)
        sum_D = torch.as_tensor(self._sum_D) if scope == "all" else self._scopes.values(scope)
        return sum_D / tokens * (self._scale * self._sign)

    def mean_norm(self, scope: Scope = "all") -> float:
        """Mean over tokens of the Euclidean norm."""
        tokens, sums = self._columns.sums(scope)
        return sums.norm / tokens * self._scale


class NeuronMaxima:
    """The largest |h| of every MLP neuron, over the start tokens and over all others."""

    def __init__(self) -> None:
        self._max_2F: torch.Tensor | None = None

    def update(self, h_BTF: torch.Tensor) -> None:
        size_TF = h_BTF.abs().amax(0)
        rest_F = size_TF[1:].amax(0) if len(size_TF) > 1 else torch.zeros_like(size_TF[0])
        max_2F = torch.stack((size_TF[0], rest_F)).double()
        self._max_2F = max_2F if self._max_2F is None else torch.maximum(self._max_2F, max_2F)

    def problem(self) -> str | None:
        """What is not finite, if anything is."""
        assert self._max_2F is not None
        wrong = int((~self._max_2F.isfinite().all(0)).sum())
        return f"{wrong:,} of {self._max_2F.shape[1]:,} neurons are NaN or Inf" if wrong else None

    def dead_fraction(self, tau: float, scope: Scope = "all") -> float | str:
        """Share of neurons whose maximum is below ``tau`` times the median neuron's maximum.

        ``scope`` is all or no_start.
        """
        assert self._max_2F is not None
        problem = self.problem()
        if problem is not None:
            return problem
        max_F = self._max_2F.amax(0) if scope == "all" else self._max_2F[1]
        median = max_F.median()
        if median == 0:
            return "the median neuron never fires"
        return float((max_F < tau * median).double().mean())


LOGIT_METRICS = ("logz_mean", "logit_mean", "logit_max", "logit_std", "z_loss")


class LogitStatistics:
    """Statistics of the output over all tokens and vocabulary entries."""

    def __init__(self) -> None:
        self._tokens = 0
        self._entries = 0
        self._sums: torch.Tensor | float = 0.0
        """log Z, its square, logits, their squares; float64 over tokens."""
        self._max = torch.tensor(-math.inf)

    def update(self, logits_NV: torch.Tensor) -> None:
        """Take in some tokens; the softmax of a block of them is held beside them."""
        self._entries += logits_NV.numel()
        self._tokens += len(logits_NV)
        for logits_RV in logits_NV.split(max(1, BLOCK // logits_NV.shape[1])):
            logits_RV = logits_RV.float()
            # This kernel reads a row once where logsumexp passes over it three times.
            logz_R = (logits_RV[:, 0] - logits_RV.log_softmax(-1)[:, 0]).double()
            sum_R = logits_RV.sum(-1).double()
            square_R = torch.linalg.vector_norm(logits_RV, dim=-1).double().square()
            sums = (logz_R, logz_R.square(), sum_R, square_R)
            self._sums = self._sums + torch.stack([column.sum() for column in sums])
            self._max = torch.maximum(self._max, logits_RV.amax().cpu())

    def problem(self) -> str | None:
        """What is not finite, if anything is."""
        logz, _, total, square = torch.as_tensor(self._sums).tolist()
        if not all(map(math.isfinite, (logz, total, float(self._max)))):
            return "the logits, or their sum, are NaN or Inf"
        return None if math.isfinite(square) else "the squares of the logits overflow float32"

    def values(self) -> Values:
        problem = self.problem()
        if problem is not None:
            return dict.fromkeys(LOGIT_METRICS, problem)
        logz, logz_square, total, square = torch.as_tensor(self._sums).tolist()
        mean = total / self._entries
        # Rounding may take the difference of two equal numbers below zero.
        variance = max(0.0, square / self._entries - mean**2)
        return {
            "logz_mean": logz / self._tokens,
            "logit_mean": mean,
            "logit_max": float(self._max),
            "logit_std": variance**0.5,
            "z_loss": logz_square / self._tokens,
        }


LENS_METRICS = ("logit_lens_kl", "logit_lens_top1")


class LensStatistics:
    """How far one layer's own prediction is from the final one, token by token."""

    def __init__(self) -> None:
        self._tokens = 0
        self._sums: torch.Tensor | float = 0.0

    def update(self, final_NV: torch.Tensor, lens_NV: torch.Tensor) -> None:
        """Take in log-probabilities of the model's output and of the layer's residual."""
        self._tokens += len(final_NV)
        kl_N = (final_NV.exp() * (final_NV - lens_NV)).sum(-1)
        same_N = final_NV.argmax(-1) == lens_NV.argmax(-1)
        self._sums = self._sums + torch.stack([kl_N.double().sum(), same_N.double().sum()])

    def is_finite(self) -> bool:
        return bool(torch.as_tensor(self._sums).isfinite().all())

    def values(self) -> Values:
        if not self.is_finite():
            # An argmax over NaN is some token, and would be counted as one.
            return dict.fromkeys(LENS_METRICS, "the logits of this layer or of the model are NaN "
                                 "or Inf")  # fmt: skip
        kl, same = (torch.as_tensor(self._sums) / self._tokens).tolist()
        # Rounding may take the divergence of two equal distributions below zero.
        return {"logit_lens_kl": max(0.0, kl), "logit_lens_top1": same}


def gram_triangle(x_ND: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Upper triangle (row after row, with the diagonal) of the Gram matrix of n tokens, its norm.

    The features are centred over the tokens first, in float64; the triangle is float32, the
    Frobenius norm is that of the whole matrix. Empty, with norm 0, if it is not finite.
    """
    x_ND = x_ND.double()
    x_ND = x_ND - x_ND.mean(0)
    gram_NN = x_ND @ x_ND.T
    rows, columns = torch.triu_indices(*gram_NN.shape, device=gram_NN.device)
    triangle = gram_NN[rows, columns].float().cpu()
    if not triangle.isfinite().all():
        return torch.empty(0), 0.0
    return triangle, float(gram_NN.norm())


def growth_exponent(first: torch.Tensor | float, last: torch.Tensor | float, layers: int) -> float:
    """(1/L) ln(|last| / |first|) of two vectors or two norms; NaN if one of them is zero.

    OLMo 2 (arXiv 2501.00656), section 3.2.
    """
    sizes = [float(torch.as_tensor(v, dtype=torch.float64).norm()) for v in (first, last)]
    return math.log(sizes[1] / sizes[0]) / layers if min(sizes) > 0 else math.nan
