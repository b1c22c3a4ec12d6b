"""The largest activations of a site, where they are, and the medians that they are compared with.

Legend: x_BTD activations of B windows of T tokens with D features, P positions.
"""

from typing import NamedTuple

import numpy as np
import torch

MASSIVE_ABS, MASSIVE_RATIO = 100.0, 1000.0
"""An element is massive above both: this size, and this many times its window's median."""
RANKS = 3


class Place(NamedTuple):
    """An extreme element: its size, position in its window, feature, and the token there."""

    size: float
    position: int
    feature: int
    token: int


class Extremes:
    """The three largest places; ``update`` once per batch.

    A place is a position and a feature, its size the largest |x| there over all windows: the start
    token is alike in all windows and would otherwise take all ranks. Two places of one size are two
    ranks, the one with the lower position first, then the one with the lower feature; the token is
    that of the first window with this size.
    """

    def __init__(self) -> None:
        self.top: list[Place] = []

    def update(self, x_BTD: torch.Tensor, max_BT: torch.Tensor, ids_BT: torch.Tensor) -> None:
        """Take in a batch; ``max_BT`` is the largest |x| of each token."""
        # The three first places are at the three positions with the largest maxima, of equal ones
        # the first: each of these has a place that comes before those of any other position.
        max_T = max_BT.amax(0).cpu().numpy()
        positions = np.argsort(-max_T, kind="stable")[:RANKS]
        # numpy from here on: of arrays this small, torch costs more to call than to compute.
        size_BPD = x_BTD[:, torch.from_numpy(positions)].float().abs().cpu().numpy()
        tokens_BT = ids_BT.cpu().numpy()
        places = list(self.top)
        for i, position in enumerate(positions.tolist()):
            size_D = size_BPD[:, i].max(0)
            for feature in _largest(size_D).tolist():
                token = tokens_BT[size_BPD[:, i, feature].argmax(), position]
                size = float(size_D[feature])
                places.append(Place(size, position, int(feature), int(token)))
        # Of one place in several batches the largest counts; sorting is stable, the first one wins.
        best: dict[tuple[int, int], Place] = {}
        for place in sorted(places, key=lambda place: -place.size):
            best.setdefault((place.position, place.feature), place)
        self.top = sorted(best.values(), key=lambda p: (-p.size, p.position, p.feature))[:RANKS]


def _largest(size_D: np.ndarray) -> np.ndarray:
    """The features of the three largest sizes, of equal ones the first."""
    if len(size_D) <= RANKS:
        return np.arange(len(size_D))
    third = np.partition(size_D, -RANKS)[-RANKS]
    candidates = np.flatnonzero(size_D >= third)
    return candidates[np.argsort(-size_D[candidates], kind="stable")[:RANKS]]


class MassiveElements:
    """How many elements of each token are massive; only tokens that have some are kept."""

    def __init__(self) -> None:
        self._tokens: list[torch.Tensor] = []
        self._counts: list[torch.Tensor] = []

    def update(
        self,
        x_BTD: torch.Tensor,
        max_BT: torch.Tensor,
        medians_B: torch.Tensor,
        *,
        scale: float,
        first: int,
    ) -> None:
        """Take in a batch; ``scale`` multiplies x, ``first`` is the number of its first token."""
        bound_B = (medians_B * scale * MASSIVE_RATIO).clamp(min=MASSIVE_ABS)
        # Few tokens have a massive element, mostly none: only those are counted through.
        window, position = (max_BT * scale > bound_B[:, None]).nonzero(as_tuple=True)
        if len(window):
            size_MD = x_BTD[window, position].float().abs() * scale
            counts_M = (size_MD > bound_B[window, None]).sum(-1)
            self._tokens.append((first + window * x_BTD.shape[1] + position).cpu())
            self._counts.append(counts_M.cpu())

    def count(self, keep_N: torch.Tensor) -> int:
        """The number over these tokens."""
        pairs = zip(self._tokens, self._counts, strict=True)
        return sum(int(counts[keep_N[tokens]].sum()) for tokens, counts in pairs)


def window_medians(x_BTD: torch.Tensor) -> torch.Tensor:
    """The (lower) median of |x| over all elements of each window (B).

    On the CPU numpy's selection takes a third of the time of torch's.
    """
    elements = x_BTD[0].numel()
    middle = (elements - 1) // 2
    if x_BTD.device.type != "cpu":
        return x_BTD.float().abs().flatten(1).kthvalue(middle + 1, -1).values
    medians = []
    for x_TD in x_BTD:
        size_E = x_TD.float().abs().numpy().reshape(-1)
        size_E.partition(middle)
        medians.append(size_E[middle])
    return torch.from_numpy(np.array(medians))
