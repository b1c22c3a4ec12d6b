"""The configuration of YuLan-Mini under its two published model types."""

import json
from typing import Any

from transformers import PretrainedConfig


def _or(value: float | None, default: float) -> float:
    return default if value is None else value


def _refuse(field: str, value: Any, served: Any) -> None:
    if value != served:
        raise ValueError(
            f"The config asks for {field} {value!r}, which no YuLan-Mini checkpoint uses and this "
            f"model does not serve: set it to {json.dumps(served)} or choose another checkpoint."
        )


class YuLanMiniConfig(PretrainedConfig):
    """Fields as in the published config.json files (transformers 4 layout), which load unchanged.

    Fields that the class does not know are kept as they are. ``rope_theta`` lives in
    ``rope_parameters``, where transformers 5 looks for it, and can be read and set as of old.
    ``_attn_implementation`` inside a file is dropped: it would override the caller's choice.
    A base width that is None stands for the model's own width, so that its factor is 1;
    ``hidden_states_shrink`` None is the recipe's 1.4 / sqrt(layers).

    Raises ValueError for the options of the published code that change the computation and are
    not served here: ``embedding_ln``, an ``rms_type`` other than llama, and ``rope_scaling``.
    """

    model_type = "yulanmini"
    keys_to_ignore_at_inference = ("past_key_values",)

    def __init__(
        self,
        vocab_size: int = 99000,
        hidden_size: int = 1920,
        intermediate_size: int = 4800,
        num_hidden_layers: int = 56,
        num_attention_heads: int = 30,
        num_key_value_heads: int = 6,
        hidden_act: str = "silu",
        max_position_embeddings: int = 4096,
        rms_norm_eps: float = 1e-6,
        rope_theta: float = 10000.0,
        attention_bias: bool = True,
        attention_dropout: float = 0.0,
        use_cache: bool = True,
        initializer_range: float = 5e-5,
        model_reproduce: str = "transformer",
        hidden_states_shrink: float | None = None,
        dim_model_base_attn: float | None = 64,
        dim_model_base_init: float | None = None,
        dim_model_base_logits: float | None = 1920.0,
        dim_model_base_lr: float | None = 256.0,
        scale_emb: float = 10.0,
        ln_scale: float = 1.0,
        qk_layernorm: bool = False,
        layer_norm_eps: float = 1e-6,
        embedding_rmsln: bool = False,
        shrink_alpha: float = 1.0,
        wesar_weights: bool = True,
        use_norm_alpha: bool = True,
        z_loss: float = 1e-4,
        bos_token_id: int = 1,
        eos_token_id: int = 2,
        tie_word_embeddings: bool = True,
        rope_parameters: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        kwargs.pop("_attn_implementation", None)
        _refuse("rope_scaling", kwargs.pop("rope_scaling", None), None)
        _refuse("embedding_ln", kwargs.get("embedding_ln", False), False)
        _refuse("rms_type", kwargs.get("rms_type", "llama"), "llama")
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.intermediate_size = intermediate_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.num_key_value_heads = num_key_value_heads
        self.head_dim = hidden_size // num_attention_heads
        self.hidden_act = hidden_act
        self.max_position_embeddings = max_position_embeddings
        self.rms_norm_eps = rms_norm_eps
        self.attention_bias = attention_bias
        self.attention_dropout = attention_dropout
        self.use_cache = use_cache
        self.initializer_range = initializer_range
        self.model_reproduce = model_reproduce
        self.hidden_states_shrink = _or(hidden_states_shrink, 1.4 / num_hidden_layers**0.5)
        self.dim_model_base_attn = _or(dim_model_base_attn, self.head_dim)
        self.dim_model_base_init = dim_model_base_init
        self.dim_model_base_logits = _or(dim_model_base_logits, hidden_size)
        self.dim_model_base_lr = _or(dim_model_base_lr, hidden_size)
        self.scale_emb = scale_emb
        self.ln_scale = ln_scale
        self.qk_layernorm = qk_layernorm
        self.layer_norm_eps = layer_norm_eps
        self.embedding_rmsln = embedding_rmsln
        self.shrink_alpha = shrink_alpha
        self.wesar_weights = wesar_weights
        self.use_norm_alpha = use_norm_alpha
        self.z_loss = z_loss
        self.rope_parameters = rope_parameters or {"rope_type": "default", "rope_theta": rope_theta}
        self.bos_token_id = bos_token_id
        self.eos_token_id = eos_token_id
        self.tie_word_embeddings = tie_word_embeddings
        super().__init__(**kwargs)

    @property
    def rope_theta(self) -> float:
        """Base of the rotary embedding."""
        return self.rope_parameters.get("rope_theta", self.default_theta)

    @rope_theta.setter
    def rope_theta(self, theta: float) -> None:
        self.rope_parameters = {**self.rope_parameters, "rope_theta": theta}

    @property
    def residual_shrink(self) -> float:
        """r of the equations: the published code applies it only when it lies in [0, 1)."""
        return self.hidden_states_shrink if 0 <= self.hidden_states_shrink < 1 else 1.0

    @property
    def attention_scaling(self) -> float:
        """The factor of q.k; 1 / sqrt(head size) when the base is the head size."""
        return self.dim_model_base_attn**0.5 / self.head_dim

    @property
    def logit_scaling(self) -> float:
        """The fixed factor of the head's input, beside lm_head_alpha."""
        return self.dim_model_base_logits / self.hidden_size


class MiniYuLanConfig(YuLanMiniConfig):
    """The same configuration under the type name of the phase repositories."""

    model_type = "miniyulan"

    def __init__(self, **kwargs: Any) -> None:
        # transformers gives a config class without an __init__ of its own a generated one.
        super().__init__(**kwargs)
