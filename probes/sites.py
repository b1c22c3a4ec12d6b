"""Where a model of Llama's structure is read, and by what its scales multiply what is read.

YuLan-Mini multiplies norm outputs and branches outside of the modules that compute them. Every
site is defined as what the equivalent plain Llama computes there, so that a phase and its fold
give the same numbers: module output times the factors below, which are 1 for a Llama.
"""

from typing import Any, NamedTuple

import torch

from probes.base import Measuring, ProbedCheckpoint
from probes.text import cut, full_windows, probe_text


class Factors(NamedTuple):
    """What multiplies the outputs of a layer's modules on their way into the residual stream."""

    input_norm: float
    attention: float
    post_attention_norm: float
    mlp: float


def layer_factors(layer: torch.nn.Module) -> Factors:
    """The factors of one decoder layer."""
    shrink, ln_scale = getattr(layer, "shrink", 1.0), getattr(layer, "ln_scale", 1.0)
    return Factors(
        input_norm=ln_scale * alpha(layer, "input_layernorm_alpha"),
        attention=shrink,  # o_proj's alpha is applied inside of the attention module
        post_attention_norm=ln_scale * alpha(layer, "post_attention_layernorm_alpha"),
        mlp=shrink * alpha(layer, "down_proj_alpha"),
    )


def final_norm_factor(model: Any) -> float:
    """What multiplies the output of the final norm."""
    return getattr(model.config, "ln_scale", 1.0) * alpha(model.model, "norm_alpha")


def alpha(module: torch.nn.Module, name: str) -> float:
    """A learnable scale of the module, 1 where it has none."""
    found = getattr(module, name, None)
    return 1.0 if found is None else float(found)


def load_with_windows(
    checkpoint: ProbedCheckpoint, measuring: Measuring, window: int, per_domain: int
) -> tuple[Any, torch.Tensor]:
    """The model, and ``per_domain`` full windows of every domain of the probe text (ids_NT)."""
    domains = cut(probe_text(), checkpoint.load_tokenizer(), checkpoint.config, window)
    model = checkpoint.load_model(device=measuring.device, dtype=measuring.dtype)
    return model, full_windows(domains, per_domain)
