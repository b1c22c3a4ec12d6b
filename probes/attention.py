"""Statistics of the attention of every head, recomputed from captured queries and keys."""

from typing import Any

import torch
from nnsight import NNsight
from pydantic import Field, PositiveInt
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from probes.attention_statistics import AttentionStatistics, causal_scores
from probes.base import Measurements, Measuring, Metric, Probe, ProbedCheckpoint, ProbeSettings
from probes.sites import alpha, load_with_windows
from probes.text import PROBE_TEXT, token_hash


class AttentionSettings(ProbeSettings):
    window: int = Field(default=128, ge=2)
    """Tokens per window, its start token included; at most the checkpoint's context."""
    windows_per_domain: PositiveInt = 4
    """Full windows of the probe text that are read, of each domain."""
    batch_size: PositiveInt = 4
    """Windows per forward pass; a layer's attention of one batch is held at a time."""


class AttentionProbe(Probe):
    """max_logit, mean_logit, entropy, entropy_normalised, sink_mass, each per layer and head.

    The logits are q.k after RoPE times the module's own scale, YuLan-Mini's alphas and QK norm
    included. Under sdpa no module outputs them, so they are computed again from what q_proj and
    k_proj gave, in float32.
    """

    id = "attention"
    version = 1
    title = "Logits, entropy and sink of every attention head"
    needs = "model"
    Settings = AttentionSettings
    data = PROBE_TEXT
    metrics = (
        Metric(
            id="max_logit",
            formula="largest attention logit (after RoPE and scale) over visible pairs",
            source="Dehghani et al. 2023, arXiv 2302.05442",
        ),
        Metric(
            id="mean_logit",
            formula="mean attention logit over visible pairs",
            source="YuLan-Mini, arXiv 2412.17743, section on training stability",
        ),
        Metric(
            id="entropy",
            formula="mean over queries of -sum A ln A",
            unit="nats",
            source="Zhai et al. 2023, arXiv 2303.06296",
        ),
        Metric(
            id="entropy_normalised",
            formula="mean of (-sum A ln A) / ln(visible keys) over queries that see >= 2 keys",
            unit="fraction",
            source="Zhai et al. 2023, arXiv 2303.06296, over its maximum",
        ),
        Metric(
            id="sink_mass",
            formula="mean of A on position 0 over queries that see >= 2 keys",
            unit="fraction",
            source="Xiao et al. 2023, arXiv 2309.17453",
        ),
    )

    @torch.no_grad()
    def measure(
        self, checkpoint: ProbedCheckpoint, settings: AttentionSettings, measuring: Measuring
    ) -> Measurements:
        model, ids_NT = load_with_windows(
            checkpoint, measuring, settings.window, settings.windows_per_domain
        )
        statistics = [AttentionStatistics() for _ in model.model.layers]
        batches = ids_NT.split(settings.batch_size)
        for done, ids_BT in enumerate(batches, start=1):
            _read(model, ids_BT.to(measuring.device), statistics)
            measuring.progress(done / len(batches))
        found = Measurements()
        for layer, of_layer in enumerate(statistics):
            for metric, per_head in of_layer.values().items():
                for head, value in enumerate(per_head):
                    found.add(metric, value, layer=layer, module="attention", head=head)
        found.notes["token_set_sha256"] = token_hash(ids_NT)
        return found


def _read(model: Any, ids_BT: torch.Tensor, statistics: list[AttentionStatistics]) -> None:
    """One forward pass; the reads stand in the order in which the modules run."""
    traced, modules = NNsight(model), [layer.self_attn for layer in model.model.layers]
    with traced.trace(input_ids=ids_BT, use_cache=False):
        for i, layer in enumerate(traced.model.layers):
            rotation = layer.self_attn.inputs[1]["position_embeddings"]
            q_BTX, k_BTX = layer.self_attn.q_proj.output, layer.self_attn.k_proj.output
            statistics[i].update(scores(modules[i], q_BTX, k_BTX, rotation))


def scores(
    module: Any, q_BTX: torch.Tensor, k_BTX: torch.Tensor, rotation: tuple[torch.Tensor, ...]
) -> torch.Tensor:
    """Attention logits (scores_BHTT) of an attention module from its q_proj and k_proj outputs."""
    heads = (*q_BTX.shape[:2], -1, module.head_dim)
    q_BHTE = (q_BTX * alpha(module, "q_proj_alpha")).view(heads).transpose(1, 2)
    k_BGTE = (k_BTX * alpha(module, "k_proj_alpha")).view(heads).transpose(1, 2)
    if hasattr(module, "q_layernorm"):
        q_BHTE, k_BGTE = module.q_layernorm(q_BHTE), module.k_layernorm(k_BGTE)
    q_BHTE, k_BGTE = apply_rotary_pos_emb(q_BHTE, k_BGTE, *rotation)
    return causal_scores(q_BHTE, k_BGTE, module.scaling)
