"""Statistics of activations, gathered batch by batch: pure arithmetic on tensors.

Sums are float64, so the batch size changes results only in the last digits.

Legend: x_BTD activations of B windows of T tokens with D features, h_BTF neurons, logits_BTV.
"""

import math

import torch

Values = dict[str, float | str]
"""Metric id -> value, or the reason (a string) why it has none."""

SITE_METRICS = (
    "mean",
    "variance_mean",
    "rms_mean",
    "rms_pooled",
    "max_abs",
    "kurtosis_excess",
    "neuron_kurtosis",
    "top1_abs",
    "top2_abs",
    "top3_abs",
    "median_abs",
    "top1_ratio",
    "top1_position",
    "top1_feature",
)


class SiteStatistics:
    """Everything that is stored of one site; ``update`` once per batch, then ``values``."""

    def __init__(self) -> None:
        self.tokens = 0
        self._windows = 0
        self._feature_square_D: torch.Tensor | float = 0.0
        self._feature_sum_D: torch.Tensor | float = 0.0
        self._powers = [0.0, 0.0, 0.0, 0.0]
        self._variances = 0.0
        self._rms = 0.0
        self._norms = 0.0
        self._medians = 0.0
        self._top: list[tuple[float, int, int]] = []

    def update(self, x_BTD: torch.Tensor) -> None:
        """Take in one batch."""
        windows, length, features = x_BTD.shape
        x_ND = x_BTD.reshape(-1, features).double()
        square_ND = x_ND.square()
        self.tokens += len(x_ND)
        self._windows += windows
        self._feature_sum_D = self._feature_sum_D + x_ND.sum(0)
        self._feature_square_D = self._feature_square_D + square_ND.sum(0)
        power_sums = (x_ND, square_ND, square_ND * x_ND, square_ND.square())
        for i, power_ND in enumerate(power_sums):
            self._powers[i] += float(power_ND.sum())
        self._variances += float(x_ND.var(-1, correction=1).sum())
        self._rms += float(square_ND.mean(-1).sqrt().sum())
        self._norms += float(square_ND.sum(-1).sqrt().sum())
        size_BX = x_BTD.reshape(windows, -1).abs()
        self._medians += float(size_BX.median(-1).values.double().sum())
        top = size_BX.flatten().topk(min(3, size_BX.numel()))
        for value, index in zip(top.values.tolist(), top.indices.tolist(), strict=True):
            self._top.append((value, index // features % length, index % features))
        # Stable: of equal magnitudes the first seen stays in front.
        self._top = sorted(self._top, key=lambda entry: -entry[0])[:3]

    def values(self) -> Values:
        """Every metric of SITE_METRICS."""
        assert isinstance(self._feature_square_D, torch.Tensor)
        n = self.tokens * len(self._feature_square_D)
        p1, p2, p3, p4 = (power / n for power in self._powers)
        if not math.isfinite(p2):
            return dict.fromkeys(SITE_METRICS, "activations are not finite")
        variance = p2 - p1**2
        fourth = p4 - 4 * p1 * p3 + 6 * p1**2 * p2 - 3 * p1**4
        tops = [entry[0] for entry in self._top]
        median = self._medians / self._windows
        values: Values = {
            "mean": p1,
            "variance_mean": self._variances / self.tokens,
            "rms_mean": self._rms / self.tokens,
            "rms_pooled": p2**0.5,
            "max_abs": tops[0],
            "kurtosis_excess": (
                fourth / variance**2 - 3 if variance > 0 else "all activations are equal"
            ),
            "neuron_kurtosis": self._neuron_kurtosis(),
            "median_abs": median,
            "top1_ratio": tops[0] / median if median > 0 else "the median is zero",
            "top1_position": float(self._top[0][1]),
            "top1_feature": float(self._top[0][2]),
        }
        for rank, value in enumerate(tops, start=1):
            values[f"top{rank}_abs"] = value
        return values

    def _neuron_kurtosis(self) -> float | str:
        square_D = torch.as_tensor(self._feature_square_D) / self.tokens
        mean = float(square_D.mean())
        return float(square_D.square().mean()) / mean**2 if mean > 0 else "all are zero"

    def mean_vector(self) -> torch.Tensor:
        """Mean over tokens (D), float64."""
        return torch.as_tensor(self._feature_sum_D) / self.tokens

    def mean_norm(self) -> float:
        """Mean over tokens of the Euclidean norm."""
        return self._norms / self.tokens


class NeuronMaxima:
    """The largest |h| of every MLP neuron over all tokens."""

    def __init__(self) -> None:
        self._max_F: torch.Tensor | None = None

    def update(self, h_BTF: torch.Tensor) -> None:
        max_F = h_BTF.abs().flatten(0, 1).amax(0).double()
        self._max_F = max_F if self._max_F is None else torch.maximum(self._max_F, max_F)

    def dead_fraction(self, tau: float) -> float | str:
        """Share of neurons whose maximum is below ``tau`` times the median neuron's maximum."""
        assert self._max_F is not None
        if not self._max_F.isfinite().all():
            return "activations are not finite"
        median = self._max_F.median()
        if median == 0:
            return "the median neuron never fires"
        return float((self._max_F < tau * median).double().mean())


class LogitStatistics:
    """Statistics of the output over all tokens and vocabulary entries."""

    def __init__(self) -> None:
        self._tokens = 0
        self._entries = 0
        self._logz = self._logz_square = self._sum = self._square = 0.0
        self._max = -math.inf

    def update(self, logits_BTV: torch.Tensor) -> None:
        logits_NV = logits_BTV.flatten(0, 1).float()
        logz_N = logits_NV.logsumexp(-1).double()
        self._tokens += len(logz_N)
        self._entries += logits_NV.numel()
        self._logz += float(logz_N.sum())
        self._logz_square += float(logz_N.square().sum())
        self._sum += float(logits_NV.sum(dtype=torch.float64))
        self._square += float(logits_NV.square().sum(dtype=torch.float64))
        self._max = max(self._max, float(logits_NV.max()))

    def values(self) -> Values:
        mean = self._sum / self._entries
        # Rounding may take the difference of two equal numbers below zero.
        variance = max(0.0, self._square / self._entries - mean**2)
        return {
            "logz_mean": self._logz / self._tokens,
            "logit_mean": mean,
            "logit_max": self._max,
            "logit_std": variance**0.5,
            "z_loss": self._logz_square / self._tokens,
        }


def growth_exponent(first: torch.Tensor | float, last: torch.Tensor | float, layers: int) -> float:
    """(1/L) ln(|last| / |first|) of two vectors or two norms; NaN if one of them is zero.

    OLMo 2 (arXiv 2501.00656), section 3.2.
    """
    sizes = [float(torch.as_tensor(v, dtype=torch.float64).norm()) for v in (first, last)]
    return math.log(sizes[1] / sizes[0]) / layers if min(sizes) > 0 else math.nan
