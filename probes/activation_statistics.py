"""Statistics of activations, gathered batch by batch: pure arithmetic on tensors of any device.

Precision: activations are read as float32; what is summed within a token (or, for sums by feature,
within a block of tokens) is summed in float32, everything beyond that in float64. So values are
right to about 1e-6 relative, and the batch size moves them by no more. The kurtosis and the
variance come from power sums: they lose digits where a mean is far larger than the spread.

Legend: x_BTD activations of B windows of T tokens with D features, N tokens of all windows,
h_BTF neurons, logits_NV.
"""

import math
from typing import NamedTuple

import numpy as np
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
    "top1_token",
    "top2_position",
    "top2_feature",
    "top2_token",
    "top3_position",
    "top3_feature",
    "top3_token",
    "massive_count",
)
MEDIAN_POSITIONS = 16
"""Positions of a window, evenly spaced, whose elements give its median: a selection over all of
them costs more than every other statistic together."""
MASSIVE_ABS, MASSIVE_RATIO = 100.0, 1000.0
"""An element is massive above both: this size, and this many times its window's median."""
BLOCK = 2**20
"""Elements that are worked on at a time: few enough to stay in a cache."""


class Place(NamedTuple):
    """An extreme element: its size, position in its window, feature, and the token there."""

    size: float
    position: int
    feature: int
    token: int


class SiteStatistics:
    """Everything that is stored of one site; ``update`` once per batch, then ``values``.

    ``scale`` multiplies the activations; it is applied to the sums, not to every element. The mean
    over tokens of every feature is kept only where ``mean_vector`` asks for it.
    """

    def __init__(self, scale: float = 1.0, *, mean_vector: bool = False) -> None:
        self._scale = abs(scale)
        self._sign = math.copysign(1.0, scale)
        self.tokens = 0
        self._windows = 0
        self._with_mean_vector = mean_vector
        self._sum_D: torch.Tensor | float = 0.0
        self._square_D: torch.Tensor | float = 0.0
        self._sums: torch.Tensor | float = 0.0
        """Over tokens: power sums 1 to 4, variance, RMS, norm; float64."""
        self._medians: torch.Tensor | float = 0.0
        """Sum over windows."""
        self._massive = 0
        self._top: list[Place] = []

    def update(self, x_BTD: torch.Tensor, ids_BT: torch.Tensor) -> None:
        """Take in one batch; ``ids_BT`` are the tokens that the activations belong to."""
        windows, length, features = x_BTD.shape
        x_ND = x_BTD.reshape(-1, features)
        columns_5N = torch.empty(5, len(x_ND), dtype=torch.float32, device=x_ND.device)
        # Blocks have the tokens' boundaries and not the windows': B windows of T or one of B x T.
        rows = max(1, BLOCK // features)
        for x_RD, columns_5R in zip(x_ND.split(rows), columns_5N.split(rows, 1), strict=True):
            x_RD = x_RD.float()
            if self._with_mean_vector:
                self._sum_D = self._sum_D + x_RD.sum(0).double()
            torch.sum(x_RD, -1, out=columns_5R[0])
            square_RD = x_RD.square()
            self._square_D = self._square_D + square_RD.sum(0).double()
            torch.sum(square_RD, -1, out=columns_5R[1])
            torch.linalg.vector_norm(square_RD, dim=-1, out=columns_5R[2])
            torch.amax(square_RD, -1, out=columns_5R[3])
            torch.sum(torch.pow(x_RD, 3, out=square_RD), -1, out=columns_5R[4])
        sum_N, square_N, root4_N, _, cube_N = columns_5N.double()
        spread_N = (square_N - sum_N.square() / features).clamp_(min=0)
        norm_N = square_N.sqrt()
        sums = (
            sum_N, square_N, cube_N, root4_N.square(), spread_N / (features - 1),
            norm_N / features**0.5, norm_N,
        )  # fmt: skip
        self._sums = self._sums + torch.stack(sums).sum(-1)
        count = min(MEDIAN_POSITIONS, length)
        middle = (2 * torch.arange(count, device=x_BTD.device) + 1) * length // (2 * count)
        medians_B = _lower_medians(x_BTD[:, middle].float().abs().flatten(1))
        self._medians = self._medians + medians_B.double().sum()
        self.tokens += len(x_ND)
        self._windows += windows
        max_BT = columns_5N[3].view(windows, length).sqrt() * self._scale
        self._see_top(x_BTD, max_BT, ids_BT)
        self._see_massive(x_BTD, max_BT, medians_B * self._scale)

    def _see_top(self, x_BTD: torch.Tensor, max_BT: torch.Tensor, ids_BT: torch.Tensor) -> None:
        # The three largest places lie in the three positions with the largest maxima. Tokens that
        # are repeated give the same sizes up to rounding: the last bits are dropped, and of equals
        # the first position comes first, whatever the batches are.
        bits_T = max_BT.amax(0).cpu().numpy().view(np.int32) >> 5
        positions = np.argsort(-bits_T, kind="stable")[:3]
        # numpy from here on: of arrays this small, torch costs more to call than to compute.
        size_BPD = x_BTD[:, torch.from_numpy(positions)].float().abs().cpu().numpy() * self._scale
        size_PD, tokens_BT = size_BPD.max(0), ids_BT.cpu().numpy()
        largest_PK = np.argpartition(-size_PD, min(2, size_PD.shape[1] - 1))[:, :3]
        for i, position in enumerate(positions.tolist()):
            for feature in largest_PK[i].tolist():
                token = tokens_BT[size_BPD[:, i, feature].argmax(), position]
                self._top.append(Place(float(size_PD[i, feature]), position, feature, int(token)))
        # Of one place in several windows the largest counts.
        best: dict[tuple[int, int], Place] = {}
        for entry in sorted(self._top, key=lambda entry: -entry.size):
            best.setdefault((entry.position, entry.feature), entry)
        ranked = sorted(best.values(), key=lambda e: (-float(f"{e.size:.5g}"), e[1:]))
        self._top = ranked[:3]

    def _see_massive(
        self, x_BTD: torch.Tensor, max_BT: torch.Tensor, medians_B: torch.Tensor
    ) -> None:
        bound_B = (medians_B * MASSIVE_RATIO).clamp(min=MASSIVE_ABS)
        # Few tokens hold a massive element, mostly none: only those are counted through.
        window, position = (max_BT > bound_B[:, None]).nonzero(as_tuple=True)
        if len(window):
            size_MD = x_BTD[window, position].float().abs() * self._scale
            self._massive += int((size_MD > bound_B[window, None]).sum())

    def values(self) -> Values:
        """Every metric of SITE_METRICS."""
        assert isinstance(self._square_D, torch.Tensor)
        assert isinstance(self._sums, torch.Tensor)
        n, scale = self.tokens * len(self._square_D), self._scale
        s1, s2, s3, s4, spread, rms, _ = self._sums.tolist()
        p1, p2 = s1 / n * scale * self._sign, s2 / n * scale**2
        p3, p4 = s3 / n * scale**3 * self._sign, s4 / n * scale**4
        if not math.isfinite(p2):
            return dict.fromkeys(SITE_METRICS, "activations are not finite")
        variance = p2 - p1**2
        fourth = p4 - 4 * p1 * p3 + 6 * p1**2 * p2 - 3 * p1**4
        # Below this the squares, float32, hold nothing but rounding of a variance.
        spread_out = variance > 1e-6 * p2
        median = float(self._medians) / self._windows * scale
        largest = self._top[0].size
        values: Values = {
            "mean": p1,
            "variance_mean": spread / self.tokens * scale**2,
            "rms_mean": rms / self.tokens * scale,
            "rms_pooled": p2**0.5,
            "max_abs": largest,
            "kurtosis_excess": (
                fourth / variance**2 - 3 if spread_out else "the activations are equal"
            ),
            "neuron_kurtosis": self._neuron_kurtosis(),
            "median_abs": median,
            "top1_ratio": largest / median if median > 0 else "the median is zero",
            "massive_count": float(self._massive),
        }
        for rank, place in enumerate(self._top, start=1):
            values[f"top{rank}_abs"] = place.size
            values[f"top{rank}_position"] = float(place.position)
            values[f"top{rank}_feature"] = float(place.feature)
            values[f"top{rank}_token"] = float(place.token)
        return values

    def _neuron_kurtosis(self) -> float | str:
        square_D = torch.as_tensor(self._square_D) / self.tokens
        mean = float(square_D.mean()) * self._scale
        if mean == 0:
            return "all are zero"
        return float(square_D.square().mean() / square_D.mean() ** 2)

    def mean_vector(self) -> torch.Tensor:
        """Mean over tokens (D), float64."""
        assert self._with_mean_vector
        return torch.as_tensor(self._sum_D) / self.tokens * (self._scale * self._sign)

    def mean_norm(self) -> float:
        """Mean over tokens of the Euclidean norm."""
        return float(torch.as_tensor(self._sums)[6]) / self.tokens * self._scale


def _lower_medians(x_BX: torch.Tensor) -> torch.Tensor:
    """Of every row, as torch.median gives them; on the CPU numpy takes half of kthvalue's time."""
    middle = (x_BX.shape[1] - 1) // 2
    if x_BX.device.type == "cpu":
        return torch.from_numpy(np.partition(x_BX.numpy(), middle)[:, middle])
    return x_BX.kthvalue(middle + 1, -1).values


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

    def values(self) -> Values:
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

    def values(self) -> Values:
        kl, same = (torch.as_tensor(self._sums) / self._tokens).tolist()
        # Rounding may take the divergence of two equal distributions below zero.
        return {"logit_lens_kl": max(0.0, kl), "logit_lens_top1": same}


def gram_triangle(x_ND: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Upper triangle (row after row, with the diagonal) of the Gram matrix of n tokens, its norm.

    The features are centred over the tokens first, in float64; the triangle is float32, the
    Frobenius norm is that of the whole matrix.
    """
    x_ND = x_ND.double()
    x_ND = x_ND - x_ND.mean(0)
    gram_NN = x_ND @ x_ND.T
    rows, columns = torch.triu_indices(*gram_NN.shape, device=gram_NN.device)
    return gram_NN[rows, columns].float().cpu(), float(gram_NN.norm())


def growth_exponent(first: torch.Tensor | float, last: torch.Tensor | float, layers: int) -> float:
    """(1/L) ln(|last| / |first|) of two vectors or two norms; NaN if one of them is zero.

    OLMo 2 (arXiv 2501.00656), section 3.2.
    """
    sizes = [float(torch.as_tensor(v, dtype=torch.float64).norm()) for v in (first, last)]
    return math.log(sizes[1] / sizes[0]) / layers if min(sizes) > 0 else math.nan
