"""Statistics of the attention of every head, recomputed from captured queries and keys."""

import sys
from typing import Any

import torch

from probes.attention_statistics import AttentionStatistics
from probes.base import Measurements, Measuring, Metric, Probe, ProbedCheckpoint
from probes.batches import with_batch_size
from probes.finite import Place, site_reason, warning
from probes.sites import (
    FUSED,
    KEYS,
    QUERIES,
    ROTATION,
    Anatomy,
    Handler,
    WindowSettings,
    alpha,
    anatomy,
    load_with_windows,
)
from probes.text import PROBE_TEXT, token_hash


class AttentionSettings(WindowSettings):
    """Those of every probe that reads windows."""


class AttentionProbe(Probe):
    """max_logit, mean_logit, entropy, entropy_normalised, sink_mass, each per layer and head.

    The logits are q.k after RoPE times the module's own scale, YuLan-Mini's alphas and any norm of
    queries and keys included. Under sdpa no module outputs them, so they are computed again from
    the captured queries and keys, in float32, for a block of queries at a time: a window may be as
    long as the checkpoint's context.
    """

    id = "attention"
    version = 3
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
        model, ids_NT = load_with_windows(checkpoint, settings, measuring)
        parts = anatomy(model)

        def read(batch_size: int) -> AttentionReading:
            reading = AttentionReading(parts)
            done = 0
            for ids_BT in ids_NT.split(batch_size):
                parts.trace(ids_BT.to(measuring.device), reading.handlers())
                done += len(ids_BT)
                measuring.progress(done / len(ids_NT))
            return reading

        reading = with_batch_size(
            read, settings.batch_size, device=measuring.device, windows=len(ids_NT)
        )
        found, first = measurements(reading.statistics)
        if first is not None:
            found.notes["warning"] = warning(model, "attention logits", first)
        found.notes["token_set_sha256"] = token_hash(ids_NT)
        if settings.text_sha256 is not None:
            found.notes["text_sha256"] = settings.text_sha256
        return found


def measurements(statistics: list[AttentionStatistics]) -> tuple[Measurements, Place | None]:
    """The rows of all layers and heads, and the first layer in which a head is not finite."""
    found = Measurements()
    first: Place | None = None
    for layer, of_layer in enumerate(statistics):
        here = ("attention", layer)
        if first is None and not all(of_layer.sound_heads()):
            first = here
        for metric, per_head in of_layer.values().items():
            for head, value in enumerate(per_head):
                if isinstance(value, str):
                    assert first is not None
                    number, told = None, site_reason(value, here, first)
                else:
                    number, told = value, None
                found.add(metric, number, layer=layer, module="attention", head=head, reason=told)
    return found, first


class AttentionReading:
    """The statistics of every layer's heads, filled batch by batch inside the trace."""

    def __init__(self, parts: Anatomy) -> None:
        self.parts = parts
        self.statistics = [AttentionStatistics() for _ in parts.layers]

    def handlers(self) -> dict[str, Handler]:
        """What takes in the pieces of a layer's logits, in the order in which they come."""
        held: dict[str, Any] = {}

        def see_rotation(rotation: tuple[torch.Tensor, ...], layer: int | None) -> None:
            held[ROTATION] = rotation

        def see_queries(q: torch.Tensor, layer: int | None) -> None:
            held[QUERIES] = q

        def see_keys(k: torch.Tensor, layer: int | None) -> None:
            assert layer is not None
            module = self.parts.attentions[layer]
            q_BHTE, k_BGTE = rotated(module, held.pop(QUERIES), k, held.pop(ROTATION))
            self.statistics[layer].update(q_BHTE, k_BGTE, module.scaling)

        def see_fused(qkv_BTX: torch.Tensor, layer: int | None) -> None:
            assert layer is not None
            heads = self.parts.model.config.num_attention_heads
            q_BTHE, k_BTHE, _ = qkv_BTX.unflatten(-1, (heads, -1)).chunk(3, dim=-1)
            see_queries(q_BTHE.flatten(2), layer)
            see_keys(k_BTHE.flatten(2), layer)

        return {ROTATION: see_rotation, QUERIES: see_queries, KEYS: see_keys, FUSED: see_fused}


def rotated(
    module: Any, q: torch.Tensor, k: torch.Tensor, rotation: tuple[torch.Tensor, ...]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Queries (q_BHTE) and keys (k_BGTE) as the module multiplies them.

    ``q`` and ``k`` are what its matrices gave, heads side by side, or what norms of single heads
    gave, heads apart. The rotation is done by the function that the module itself calls, which
    rotates a part of the features where the architecture does.
    """
    rotate = sys.modules[type(module).__module__].apply_rotary_pos_emb
    q_BHTE, k_BGTE = (
        _by_head(x * alpha(module, f"{name}_proj_alpha") if x.ndim == 3 else x, module)
        for name, x in (("q", q), ("k", k))
    )
    return rotate(q_BHTE, k_BGTE, *rotation)


def _by_head(x: torch.Tensor, module: Any) -> torch.Tensor:
    if x.ndim == 4:
        return x
    config = module.config
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return x.unflatten(-1, (-1, size)).transpose(1, 2)
