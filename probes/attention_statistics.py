"""Statistics of causal attention from queries and keys: pure arithmetic on tensors.

Legend: q_BHTE queries and k_BGTE keys after RoPE, H heads in groups that share one of G key
heads, E features per head; scores_BHTT.
"""

import torch

ATTENTION_METRICS = ("max_logit", "mean_logit", "entropy", "entropy_normalised", "sink_mass")


def causal_scores(q_BHTE: torch.Tensor, k_BGTE: torch.Tensor, scale: float) -> torch.Tensor:
    """scale * q.k in float32 (scores_BHTT); -inf where the key lies after the query."""
    heads, groups, length = q_BHTE.shape[1], k_BGTE.shape[1], q_BHTE.shape[2]
    k_BHTE = k_BGTE.repeat_interleave(heads // groups, dim=1)
    scores_BHTT = q_BHTE.float() @ k_BHTE.float().transpose(-1, -2) * scale
    hidden_TT = torch.ones(length, length, dtype=torch.bool, device=q_BHTE.device).triu(1)
    return scores_BHTT.masked_fill(hidden_TT, -torch.inf)


class AttentionStatistics:
    """Everything that is stored of one layer, per head; ``update`` per batch, then ``values``.

    Sums are float64. Query 0 sees only itself, so ``entropy_normalised`` and ``sink_mass`` are
    means over the queries that see at least two keys; the others take in every query.
    """

    def __init__(self) -> None:
        self._windows = 0
        self._length = 0
        self._max_H: torch.Tensor | None = None
        self._sums_4H: torch.Tensor | float = 0.0

    def update(self, scores_BHTT: torch.Tensor) -> None:
        """Take in one batch; every window of every batch is of the same length T >= 2."""
        self._windows += len(scores_BHTT)
        self._length = length = scores_BHTT.shape[-1]
        max_H = scores_BHTT.amax((0, 2, 3)).double()
        self._max_H = max_H if self._max_H is None else torch.maximum(self._max_H, max_H)
        a_BHTT = scores_BHTT.softmax(-1)
        entropy_BHT = torch.special.entr(a_BHTT).sum(-1)
        visible_T = torch.arange(1, length + 1, device=scores_BHTT.device)
        normalised_BHT = entropy_BHT[..., 1:] / visible_T[1:].log()
        logits_BHTT = scores_BHTT.tril()  # what is not visible counts as 0 in the sum
        sums = (
            logits_BHTT.sum((2, 3), dtype=torch.float64),
            entropy_BHT.sum(2, dtype=torch.float64),
            normalised_BHT.sum(2, dtype=torch.float64),
            a_BHTT[..., 1:, 0].sum(2, dtype=torch.float64),
        )
        self._sums_4H = self._sums_4H + torch.stack([s_BH.sum(0) for s_BH in sums])

    def values(self) -> dict[str, list[float]]:
        """Metric id -> one value per head."""
        assert self._max_H is not None
        queries, pairs = self._length, self._length * (self._length + 1) // 2
        seen_4 = torch.tensor([pairs, queries, queries - 1, queries - 1], dtype=torch.float64)
        means_4H = torch.as_tensor(self._sums_4H).cpu() / (self._windows * seen_4[:, None])
        rows = [self._max_H.tolist(), *means_4H.tolist()]
        return dict(zip(ATTENTION_METRICS, rows, strict=True))
