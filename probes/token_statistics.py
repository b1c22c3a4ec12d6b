"""Power sums of every token of a site, and of its features by scope: what scopes are chosen from.

Of every token five numbers are kept, float32, on the CPU. So scopes that depend on the whole text,
such as ``no_massive``, are exact whatever the batches are. Sums by feature cannot be kept by token:
they are summed by scope as the batches come, see ``FeatureSums``.

Legend: N tokens of all windows, R tokens of a block, D features, M tokens beside the limit.
"""

from typing import NamedTuple

import numpy as np
import torch

from probes.base import Scope

MASSIVE_RMS = 10.0
"""A token is massive when its RMS is more than this many times the median token's."""
SURELY_BELOW, SURELY_ABOVE = 0.5, 2.0
"""Times the provisional limit: what lies between them is kept row by row and decided at the end."""
_BELOW, _BETWEEN, _ABOVE = 0, 1, 2
POWERS = (1e-8, 1e9)
"""RMS between which the fourth powers of activations of this size fit into float32."""
LEAST_SPREAD = 1e-6
"""Share of the mean square below which a variance from float32 squares is only rounding."""


class Sums(NamedTuple):
    """Over tokens: power sums 1 to 4 over the features, variance, RMS, norm; float64."""

    first: float
    second: float
    third: float
    fourth: float
    variance: float
    rms: float
    norm: float


class TokenColumns:
    """Sum, square sum, root of the fourth-power sum, maximum of squares and cube sum by token."""

    def __init__(self) -> None:
        self._batches: list[torch.Tensor] = []
        """One of shape (5, tokens) for each batch, float32."""
        self._features = 0
        self._length = 0
        self._keep: dict[Scope, torch.Tensor] = {}

    def add(self, columns_5N: torch.Tensor, *, features: int, length: int) -> None:
        """Add a batch of windows of ``length`` tokens."""
        self._batches.append(columns_5N.cpu())
        self._features, self._length = features, length
        self._keep.clear()

    def rms(self) -> torch.Tensor:
        """RMS of every token (N), float64."""
        square_N = torch.cat([columns[1] for columns in self._batches]).double()
        return (square_N / self._features).sqrt()

    def keep(self, scope: Scope) -> torch.Tensor:
        """Which tokens (N, bool) belong to a scope."""
        if scope not in self._keep:
            self._keep[scope] = self._chosen(scope)
        return self._keep[scope]

    def _chosen(self, scope: Scope) -> torch.Tensor:
        rms_N = self.rms()
        if scope == "no_massive":
            return rms_N <= MASSIVE_RMS * float(np.median(rms_N.numpy()))
        keep_N = torch.ones(len(rms_N), dtype=torch.bool)
        if scope == "no_start":
            keep_N[:: self._length] = False
        return keep_N

    def massive_positions(self) -> tuple[list[float], list[int]]:
        """Edges and counts of a histogram: how many tokens ``no_massive`` leaves out, by position.

        Positions without such a token share bins, so that the histogram is as short as its content.
        """
        at_N = (~self.keep("no_massive")).nonzero().flatten() % self._length
        positions, numbers = (column.tolist() for column in at_N.unique(return_counts=True))
        edges = sorted({0, self._length, *positions, *(p + 1 for p in positions)})
        of_position = dict(zip(positions, numbers, strict=True))
        return [float(edge) for edge in edges], [of_position.get(edge, 0) for edge in edges[:-1]]

    def sums(self, scope: Scope) -> tuple[int, Sums]:
        """The number of tokens of a scope and the sums over them."""
        keep_N = None if scope == "all" else self.keep(scope)
        total: torch.Tensor | float = 0.0
        tokens = done = 0
        for columns_5N in self._batches:
            rows_7N = self._powers(columns_5N)
            if keep_N is not None:
                rows_7N = rows_7N[:, keep_N[done : done + columns_5N.shape[1]]]
            done += columns_5N.shape[1]
            tokens += rows_7N.shape[1]
            total = total + rows_7N.sum(-1)
        return tokens, Sums(*torch.as_tensor(total).tolist())

    def _powers(self, columns_5N: torch.Tensor) -> torch.Tensor:
        """The terms of ``Sums`` by token."""
        features = self._features
        sum_N, square_N, root4_N, _, cube_N = columns_5N.double()
        spread_N = (square_N - sum_N.square() / features).clamp_(min=0)
        norm_N = square_N.sqrt()
        return torch.stack(
            (
                sum_N, square_N, cube_N, root4_N.square(), spread_N / (features - 1),
                norm_N / features**0.5, norm_N,
            )
        )  # fmt: skip

    def largest(self, scope: Scope) -> float:
        """max |x| over the tokens of a scope."""
        return float(self._largest()[self.keep(scope)].max())

    def _largest(self) -> torch.Tensor:
        # The root of a rounded square is the number itself: IEEE 754, radix 2.
        return torch.cat([columns[3] for columns in self._batches]).sqrt()

    def medians(self) -> dict[str, float]:
        """Medians over tokens of variance, RMS, max |x| and excess kurtosis.

        Tokens whose features are all equal have no kurtosis; the key is missing if all are so.
        """
        first, square, cube, fourth, variance, rms, _ = torch.cat(
            [self._powers(columns) for columns in self._batches], 1
        )
        columns = {"variance": variance, "rms": rms, "max_abs": self._largest()}
        p1, p2, p3, p4 = (column / self._features for column in (first, square, cube, fourth))
        m2 = p2 - p1**2
        spread = (m2 > LEAST_SPREAD * p2) & (p2 > POWERS[0] ** 2) & (p2 < POWERS[1] ** 2)
        if spread.any():
            m4 = p4 - 4 * p1 * p3 + 6 * p1**2 * p2 - 3 * p1**4
            columns["kurtosis"] = m4[spread] / m2[spread] ** 2 - 3
        return {name: float(np.median(column.numpy())) for name, column in columns.items()}


class FeatureSums:
    """Sums over the tokens of each scope, by feature: squares, and the values where asked for.

    Which tokens are massive is known at the end only. A token far below or far above the limit that
    the first block of tokens suggests is put where it belongs at once, the rows of the few between
    are kept. ``settle`` says whether that was right; where not, the windows are read once more.
    """

    def __init__(self, *, with_values: bool) -> None:
        self._with_values = with_values
        self._limits: tuple[float, float] | None = None
        """Of a token's sum of squares."""
        self._kinds: list[torch.Tensor] = []
        self._rows: list[torch.Tensor] = []
        """Tokens between the limits (M, D), float32."""
        self._sums: dict[Scope, list[torch.Tensor]] = {}
        """Scope -> sums of squares (D) and, where asked for, of values; float64."""
        self._keep_N: torch.Tensor | None = None
        self._done = 0

    def add(
        self,
        x_RD: torch.Tensor,
        square_RD: torch.Tensor,
        token_square_R: torch.Tensor,
        start_R: torch.Tensor,
    ) -> None:
        """Take in a block: values, their squares, those summed by token, and the start tokens."""
        if self._limits is None:
            limit = MASSIVE_RMS**2 * float(token_square_R.double().quantile(0.5))
            self._limits = (SURELY_BELOW**2 * limit, SURELY_ABOVE**2 * limit)
        below, above = self._limits
        kinds_R = (token_square_R > below).to(torch.int8) + (token_square_R > above)
        between_R = kinds_R == _BETWEEN
        if between_R.any():
            self._rows.append(x_RD[between_R].cpu())
        self._kinds.append(kinds_R.cpu())
        values = [square_RD, x_RD] if self._with_values else [square_RD]
        keep_2R = torch.stack((~start_R, kinds_R == _BELOW)).float()
        for i, value_RD in enumerate(values):
            no_start_D, no_massive_D = (keep_2R @ value_RD).double()
            self._add("no_start", i, no_start_D)
            self._add("no_massive", i, no_massive_D)

    def _add(self, scope: Scope, i: int, sum_D: torch.Tensor) -> None:
        sums = self._sums.setdefault(scope, [])
        if i == len(sums):
            sums.append(torch.zeros_like(sum_D))
        sums[i] += sum_D

    def settle(self, keep_N: torch.Tensor) -> bool:
        """Complete the sums of ``no_massive``, of these tokens; False if they must be recounted."""
        kinds_N = torch.cat(self._kinds)
        if not keep_N[kinds_N == _BELOW].all() or keep_N[kinds_N == _ABOVE].any():
            del self._sums["no_massive"]
            self._keep_N = keep_N
            return False
        if self._rows:
            x_MD = torch.cat(self._rows)[keep_N[kinds_N == _BETWEEN]]
            device = self._sums["no_massive"][0].device
            for i, value_MD in enumerate((x_MD.square(), x_MD)[: 1 + self._with_values]):
                self._add("no_massive", i, value_MD.double().sum(0).to(device))
        self._rows = []
        return True

    def recount(self, x_RD: torch.Tensor) -> None:
        """Take in the next tokens once more, for ``no_massive`` alone."""
        assert self._keep_N is not None
        keep_R = self._keep_N[self._done : self._done + len(x_RD)].to(x_RD.device)
        self._done += len(x_RD)
        x_KD = x_RD[keep_R].float()
        for i, value_KD in enumerate((x_KD.square(), x_KD)[: 1 + self._with_values]):
            self._add("no_massive", i, value_KD.sum(0).double())

    def squares(self, scope: Scope) -> torch.Tensor:
        """Sum of squares over the tokens of a scope other than all (D)."""
        return self._sums[scope][0]

    def values(self, scope: Scope) -> torch.Tensor:
        """Sum over the tokens of a scope other than all (D)."""
        assert self._with_values
        return self._sums[scope][1]
