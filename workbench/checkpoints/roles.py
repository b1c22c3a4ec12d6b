"""Tensor names to canonical modules: what a tensor is, and in which layer it sits."""

import re
from collections.abc import Iterator
from typing import NamedTuple

_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)")
_ALPHA = "_alpha"

# Everything below a layer, and everything outside, by the name that Llama and YuLan-Mini share.
_IN_LAYER = {
    **{f"self_attn.{p}_proj.weight": f"{p}_proj" for p in "qkvo"},
    **{f"self_attn.{p}_proj.bias": f"{p}_bias" for p in "qkvo"},
    "self_attn.q_layernorm.weight": "q_norm",
    "self_attn.k_layernorm.weight": "k_norm",
    **{f"mlp.{p}_proj.weight": f"{p}_proj" for p in ("gate", "up", "down")},
    "input_layernorm.weight": "input_norm",
    "post_attention_layernorm.weight": "post_attention_norm",
}
_OUTSIDE = {
    "model.embed_tokens.weight": "embed",
    "model.embedding_layernorm.weight": "embed_norm",
    "model.norm.weight": "final_norm",
    "lm_head.weight": "lm_head",
}
_OPTIONAL = {"q_bias", "k_bias", "v_bias", "o_bias", "q_norm", "k_norm"}
# A learnable scale belongs to every module whose matrix it multiplies.
_ALPHAS_IN_LAYER = {
    **{f"self_attn.{p}_proj_alpha": (f"{p}_proj",) for p in "qkvo"},
    "gate_up_proj_alpha": ("gate_proj", "up_proj"),
    "down_proj_alpha": ("down_proj",),
    "input_layernorm_alpha": ("input_norm",),
    "post_attention_layernorm_alpha": ("post_attention_norm",),
}
_ALPHAS_OUTSIDE = {"model.norm_alpha": ("final_norm",), "lm_head_alpha": ("lm_head",)}

_ORDER = {module: i for i, module in enumerate([*_IN_LAYER.values(), *_OUTSIDE.values()])}


class Role(NamedTuple):
    """What a tensor is: canonical module, and layer (None outside the layers)."""

    module: str
    layer: int | None


def role(name: str) -> Role | None:
    """The role of a weight tensor; None for a name that no supported architecture has."""
    in_layer = _LAYER.fullmatch(name)
    if in_layer:
        module = _IN_LAYER.get(in_layer[2])
        return Role(module, int(in_layer[1])) if module else None
    module = _OUTSIDE.get(name)
    return Role(module, None) if module else None


def is_alpha(name: str) -> bool:
    """Is the tensor one of YuLan-Mini's learnable scales?"""
    return name.endswith(_ALPHA)


def alpha_roles(name: str) -> list[Role]:
    """The modules that a learnable scale multiplies: two for the one that gate and up share."""
    in_layer = _LAYER.fullmatch(name)
    if in_layer:
        return [Role(m, int(in_layer[1])) for m in _ALPHAS_IN_LAYER.get(in_layer[2], ())]
    return [Role(m, None) for m in _ALPHAS_OUTSIDE.get(name, ())]


def reading_order(name: str) -> tuple[int, int]:
    """A sort key: layers from the first to the last, what is outside of them at the end."""
    found = role(name)
    assert found is not None, name
    return (10**6 if found.layer is None else found.layer, _ORDER[found.module])


def required_tensors(layers: int) -> Iterator[str]:
    """Names that every checkpoint of so many layers must hold, whatever its options are."""
    below = [name for name, module in _IN_LAYER.items() if module not in _OPTIONAL]
    yield "model.embed_tokens.weight"
    yield "model.norm.weight"
    for layer in range(layers):
        yield from (f"model.layers.{layer}.{name}" for name in below)
