"""Attention statistics against plain loops over queries and keys."""

import math

import pytest
import torch

from probes import attention_statistics
from probes.attention_statistics import AttentionStatistics


@pytest.mark.parametrize(("batch_size", "queries"), [(1, 128), (3, 128), (2, 4), (3, 1)])
def test_batches_and_blocks_equal_plain_loops(batch_size, queries, monkeypatch):
    monkeypatch.setattr(attention_statistics, "BLOCK_QUERIES", queries)
    generator = torch.Generator().manual_seed(0)
    q_BHTE = torch.randn(3, 4, 6, 5, generator=generator)
    k_BGTE = torch.randn(3, 2, 6, 5, generator=generator)
    found = AttentionStatistics()
    for q, k in zip(q_BHTE.split(batch_size), k_BGTE.split(batch_size), strict=True):
        found.update(q, k, scale=0.3)
    values = found.values()
    for head in range(4):
        logits, entropies, normalised, sinks = [], [], [], []
        for window in range(3):
            for query in range(6):
                q = q_BHTE[window, head, query].double()
                keys = k_BGTE[window, head // 2, : query + 1].double()
                row = (keys @ q * 0.3).tolist()
                logits += row
                weights = [math.exp(s) / sum(map(math.exp, row)) for s in row]
                entropy = -sum(a * math.log(a) for a in weights)
                entropies.append(entropy)
                if query > 0:
                    normalised.append(entropy / math.log(query + 1))
                    sinks.append(weights[0])
        expected = {
            "max_logit": max(logits),
            "mean_logit": sum(logits) / len(logits),
            "entropy": sum(entropies) / len(entropies),
            "entropy_normalised": sum(normalised) / len(normalised),
            "sink_mass": sum(sinks) / len(sinks),
        }
        assert {m: v[head] for m, v in values.items()} == pytest.approx(expected, rel=1e-5)


def test_uniform_attention_has_normalised_entropy_one():
    found = AttentionStatistics()
    found.update(torch.zeros(1, 1, 8, 4), torch.ones(1, 1, 8, 4), scale=1.0)
    assert found.values()["entropy_normalised"] == [pytest.approx(1.0, rel=1e-6)]
    assert found.values()["max_logit"] == [0.0]


def test_saturated_attention_has_entropy_zero_and_no_nan():
    k_BGTE = torch.zeros(1, 1, 4, 1)
    k_BGTE[0, 0, 0] = 1e4
    found = AttentionStatistics()
    found.update(torch.ones(1, 1, 4, 1), k_BGTE, scale=1.0)
    values = found.values()
    assert values["entropy"] == [0.0]
    assert values["sink_mass"] == [1.0]
    assert values["max_logit"] == [1e4]
