"""The fold of YuLan-Mini into a plain Llama: every scale goes into the matrix that it multiplies.

The authors' own scripts leave the q, k and v biases unscaled, in conflict with their forward pass,
which multiplies them too. This fold follows the forward pass. ``checkpoints.llama`` carries it out
on files.
"""

from collections.abc import Mapping
from typing import Any

from workbench.models.configuration import YuLanMiniConfig

_EMBED, _HEAD, _NORM = "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"
_KEPT_FIELDS = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "hidden_act", "max_position_embeddings", "rms_norm_eps",
    "rope_theta", "attention_bias", "attention_dropout", "initializer_range", "use_cache",
    "bos_token_id", "eos_token_id",
)  # fmt: skip


def effective_scales(config: Mapping[str, Any], alphas: Mapping[str, float]) -> dict[str, float]:
    """The one factor by which each stored weight is multiplied to give the folded Llama's.

    ``config`` is a config.json as a dict, ``alphas`` the scales by tensor name (none for a model
    without WeSaR). The keys are the names of all weights, biases and norms that such a checkpoint
    can hold; ``lm_head.weight`` is among them when the head is tied as well, because embedding and
    head have different factors. Raises KeyError for an alpha that the config asks for and
    ``alphas`` lacks.
    """
    c = YuLanMiniConfig.from_dict(dict(config))

    def alpha(name: str, used: bool = c.wesar_weights) -> float:
        return alphas[name] if used else 1.0

    def norm(name: str) -> float:
        return c.ln_scale * alpha(name, c.wesar_weights and c.use_norm_alpha)

    # Llama divides scores by sqrt(head size); what this model does beyond it goes into q.
    to_llama = c.attention_scaling * c.head_dim**0.5
    scales = {
        _EMBED: c.scale_emb,
        _NORM: norm("model.norm_alpha"),
        _HEAD: c.logit_scaling * alpha("lm_head_alpha"),
    }
    if c.embedding_rmsln:
        scales["model.embedding_layernorm.weight"] = c.ln_scale
    for index in range(c.num_hidden_layers):
        layer = f"model.layers.{index}."
        for p in "qkv":
            factor = alpha(f"{layer}self_attn.{p}_proj_alpha") * (to_llama if p == "q" else 1.0)
            scales[f"{layer}self_attn.{p}_proj.weight"] = factor
            if c.attention_bias:
                scales[f"{layer}self_attn.{p}_proj.bias"] = factor
        if c.qk_layernorm:
            scales |= {f"{layer}self_attn.{p}_layernorm.weight": 1.0 for p in "qk"}
        scales |= {
            f"{layer}self_attn.o_proj.weight": (
                c.residual_shrink * alpha(f"{layer}self_attn.o_proj_alpha")
            ),
            f"{layer}mlp.gate_proj.weight": alpha(f"{layer}gate_up_proj_alpha"),
            f"{layer}mlp.up_proj.weight": alpha(f"{layer}gate_up_proj_alpha"),
            f"{layer}mlp.down_proj.weight": c.residual_shrink * alpha(f"{layer}down_proj_alpha"),
            f"{layer}input_layernorm.weight": norm(f"{layer}input_layernorm_alpha"),
            f"{layer}post_attention_layernorm.weight": norm(
                f"{layer}post_attention_layernorm_alpha"
            ),
        }
    return scales


def llama_config(config: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """The config.json of the fold, untied, with weights of ``dtype`` (as in ``bfloat16``).

    In the layout of transformers 4, as the published merged model has it: transformers 5, vLLM and
    SGLang read ``rope_theta`` from there too. Raises ValueError for what Llama cannot express.
    """
    for field in ("qk_layernorm", "embedding_rmsln"):
        if config.get(field):
            raise ValueError(f"{field}, which a plain Llama has no place for")
    c = YuLanMiniConfig.from_dict(dict(config))
    return {field: getattr(c, field) for field in _KEPT_FIELDS} | {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "mlp_bias": False,
        "rope_scaling": None,
        "tie_word_embeddings": False,
        "torch_dtype": dtype,
    }
