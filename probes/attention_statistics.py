"""Statistics of causal attention from queries and keys: pure arithmetic on tensors of any device.

The logits are made for a block of queries at a time, so that memory does not grow with the square
of the context. They are float32, and so are the sums over the keys of one query; sums over queries
are float64. The size of a block and the batch size move values by less than 1e-5 relative.

Legend: q_BHTE queries and k_BGTE keys after RoPE of B windows of T tokens, H heads in groups of R
that share one of G key heads, E features per head; Q queries of a block, K the keys up to the last
of them.
"""

import torch

ATTENTION_METRICS = ("max_logit", "mean_logit", "entropy", "entropy_normalised", "sink_mass")
NOT_FINITE = "attention logits of this head are NaN or Inf"
BLOCK_LOGITS = 2**24
"""Logits of a block at most, over all windows and heads: 64 MiB, of which two are alive."""
BLOCK_QUERIES = 128
"""Queries of a block at most: shorter blocks skip more of the keys that no query sees."""


class AttentionStatistics:
    """Everything that is stored of one layer, per head; ``update`` per batch, then ``values``.

    Query 0 sees only itself, so ``entropy_normalised`` and ``sink_mass`` are means over the
    queries that see at least two keys; the others take in every query.
    """

    def __init__(self) -> None:
        self._windows = 0
        self._length = 0
        self._max_H: torch.Tensor | None = None
        self._sums_4H: torch.Tensor | float = 0.0
        """Logits, entropy, normalised entropy, sink; float64."""

    def update(self, q_BHTE: torch.Tensor, k_BGTE: torch.Tensor, scale: float) -> None:
        """Take in one batch, logits ``scale`` x q.k; all batches are of one length T >= 2."""
        windows, heads, length, _ = q_BHTE.shape
        groups = k_BGTE.shape[1]
        self._windows += windows
        self._length = length
        q_BGRTE = (q_BHTE.float() * scale).unflatten(1, (groups, -1))
        q_BGTRE = q_BGRTE.transpose(2, 3).contiguous()
        k_BGTE = k_BGTE.float()
        seen_BGT1E = k_BGTE.double().cumsum(2).unsqueeze(3)
        rows = max(1, min(BLOCK_QUERIES, BLOCK_LOGITS // (windows * heads * length)))
        for start in range(0, length, rows):
            block = slice(start, start + rows)
            self._see_block(q_BGTRE[:, :, block], k_BGTE, seen_BGT1E[:, :, block], start)

    def _see_block(
        self,
        q_BGQRE: torch.Tensor,
        k_BGTE: torch.Tensor,
        seen_BGQ1E: torch.Tensor,
        start: int,
    ) -> None:
        """Queries from ``start`` on; ``seen_BGQ1E`` are the sums of the keys that each one sees."""
        queries = q_BGQRE.shape[2]
        # Queries and the heads of a group are the rows of one product: no key is copied.
        rows_BGXE = q_BGQRE.flatten(2, 3)
        logits_BGXK = rows_BGXE @ k_BGTE[:, :, : start + queries].transpose(-1, -2)
        logits_BGQRK = logits_BGXK.unflatten(2, (queries, -1))
        hidden_QQ = torch.ones(queries, queries, dtype=torch.bool, device=k_BGTE.device).triu(1)
        own_BGQRQ = logits_BGQRK[..., start:]
        own_BGQRQ.masked_fill_(hidden_QQ[:, None], -torch.inf)
        max_BGQR = logits_BGQRK.amax(-1)
        below_BGQRK = logits_BGQRK.sub_(max_BGQR[..., None])
        e_BGQRK = below_BGQRK.exp()
        own_BGQRQ.masked_fill_(hidden_QQ[:, None], 0.0)  # times exp(-inf) = 0 it would be NaN
        z_BGQR = e_BGQRK.sum(-1)
        sink_BGQR = e_BGQRK[..., 0] / z_BGQR
        # -sum A ln A = ln Z - sum e^(s - max) (s - max) / Z
        entropy_BGQR = z_BGQR.log() - below_BGQRK.mul_(e_BGQRK).sum(-1) / z_BGQR
        visible_Q1 = torch.arange(start + 1, start + queries + 1, device=z_BGQR.device)[:, None]
        several = slice(1 if start == 0 else 0, None)
        sums = (
            # The visible logits of a query add up to its product with the sum of those keys.
            (q_BGQRE * seen_BGQ1E).sum(-1),
            entropy_BGQR,
            (entropy_BGQR / visible_Q1.log())[:, :, several],
            sink_BGQR[:, :, several],
        )
        max_H = max_BGQR.amax((0, 2)).flatten().double()
        self._max_H = max_H if self._max_H is None else torch.maximum(self._max_H, max_H)
        self._sums_4H = self._sums_4H + torch.stack(
            [sum_BGQR.sum((0, 2), dtype=torch.float64).flatten() for sum_BGQR in sums]
        )

    def values(self) -> dict[str, list[float | str]]:
        """Metric id -> one value per head, or the reason why a head has none.

        A head of which a logit is NaN or Inf has no value at all; the others keep theirs.
        """
        assert self._max_H is not None
        queries, pairs = self._length, self._length * (self._length + 1) // 2
        seen_4 = torch.tensor([pairs, queries, queries - 1, queries - 1], dtype=torch.float64)
        means_4H = torch.as_tensor(self._sums_4H).cpu() / (self._windows * seen_4[:, None])
        rows_5H = torch.cat((self._max_H.cpu()[None], means_4H))
        sound_H = rows_5H.isfinite().all(0)
        return {
            metric: [v if sound else NOT_FINITE for v, sound in zip(row, sound_H, strict=True)]
            for metric, row in zip(ATTENTION_METRICS, rows_5H.tolist(), strict=True)
        }

    def sound_heads(self) -> list[bool]:
        """Which heads have values."""
        return [not isinstance(value, str) for value in self.values()[ATTENTION_METRICS[0]]]
