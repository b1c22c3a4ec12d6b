"""YuLan-Mini as a transformers model (arXiv 2412.17743; the equations stand in the docstrings).

Shapes: B batch, T tokens, D hidden size, H query heads, K key/value heads, N head size,
F MLP size, V vocabulary. Every alpha is a learnable scalar, kept with shape [1]: parameters
without dimensions break DeepSpeed. Checkpoints that store them as [] load as well.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import GenerationMixin, PreTrainedModel
from transformers.activations import ACT2FN
from transformers.cache_utils import Cache, DynamicCache
from transformers.masking_utils import create_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, slice_logits_to_keep
from transformers.models.llama.modeling_llama import (
    LlamaRotaryEmbedding,
    apply_rotary_pos_emb,
    eager_attention_forward,
)
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from workbench.models.configuration import MiniYuLanConfig, YuLanMiniConfig
from workbench.models.init import initialise


def _alpha(config: YuLanMiniConfig) -> nn.Parameter | None:
    return nn.Parameter(torch.ones(1)) if config.wesar_weights else None


def _rotary(config: Any) -> LlamaRotaryEmbedding:
    """Llama's rotation; of the config it reads rope_parameters, length and head size."""
    return LlamaRotaryEmbedding(config)


def _norm_alpha(config: YuLanMiniConfig) -> nn.Parameter | None:
    return _alpha(config) if config.use_norm_alpha else None


def _scaled(x: torch.Tensor, alpha: nn.Parameter | None, factor: float = 1.0) -> torch.Tensor:
    """x times both scales. They are joined first: a pass over x costs more than one number."""
    if alpha is None:
        return x if factor == 1.0 else x * factor
    return x * (alpha if factor == 1.0 else alpha * factor)


class YuLanMiniRMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps), times the weight, all in float32, then cast back."""

    def __init__(self, config: YuLanMiniConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(config.hidden_size))
        self.eps = config.rms_norm_eps

    def forward(self, x_BTD: torch.Tensor) -> torch.Tensor:
        weight = self.weight.float()
        return nn.functional.rms_norm(x_BTD.float(), weight.shape, weight, self.eps).to(x_BTD.dtype)


class YuLanMiniHeadLayerNorm(nn.Module):
    """LayerNorm over the features of each head; every head has its own weight, none a bias."""

    def __init__(self, heads: int, head_dim: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(heads, head_dim))
        self.eps = eps

    def forward(self, x_BHTN: torch.Tensor) -> torch.Tensor:
        normed_BHTN = nn.functional.layer_norm(x_BHTN, x_BHTN.shape[-1:], eps=self.eps)
        return normed_BHTN * self.weight[:, None]


class YuLanMiniAttention(nn.Module):
    """q, k, v = alpha (W u + b); the bias is scaled too. Scores are q.k sqrt(base)/head size."""

    def __init__(self, config: YuLanMiniConfig, layer_idx: int) -> None:
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.head_dim = config.head_dim
        self.num_key_value_groups = config.num_attention_heads // config.num_key_value_heads
        self.scaling = config.attention_scaling
        self.is_causal = True
        d, q = config.hidden_size, config.num_attention_heads * self.head_dim
        kv = config.num_key_value_heads * self.head_dim
        self.q_proj = nn.Linear(d, q, config.attention_bias)
        self.k_proj = nn.Linear(d, kv, config.attention_bias)
        self.v_proj = nn.Linear(d, kv, config.attention_bias)
        self.o_proj = nn.Linear(q, d, bias=False)
        self.q_proj_alpha, self.k_proj_alpha = _alpha(config), _alpha(config)
        self.v_proj_alpha, self.o_proj_alpha = _alpha(config), _alpha(config)
        if config.qk_layernorm:
            eps = config.layer_norm_eps
            self.q_layernorm = YuLanMiniHeadLayerNorm(
                config.num_attention_heads, self.head_dim, eps
            )
            self.k_layernorm = YuLanMiniHeadLayerNorm(
                config.num_key_value_heads, self.head_dim, eps
            )

    def forward(
        self,
        hidden_states: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        attention_mask: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        heads = (*hidden_states.shape[:-1], -1, self.head_dim)
        q_BHTN = _scaled(self.q_proj(hidden_states), self.q_proj_alpha).view(heads).transpose(1, 2)
        k_BKTN = _scaled(self.k_proj(hidden_states), self.k_proj_alpha).view(heads).transpose(1, 2)
        v_BKTN = _scaled(self.v_proj(hidden_states), self.v_proj_alpha).view(heads).transpose(1, 2)
        if self.config.qk_layernorm:
            q_BHTN, k_BKTN = self.q_layernorm(q_BHTN), self.k_layernorm(k_BKTN)
        q_BHTN, k_BKTN = apply_rotary_pos_emb(q_BHTN, k_BKTN, *position_embeddings)
        if past_key_values is not None:
            k_BKTN, v_BKTN = past_key_values.update(k_BKTN, v_BKTN, self.layer_idx)
        attend: Callable[..., Any] = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        mixed_BTHN, weights = attend(
            self,
            q_BHTN,
            k_BKTN,
            v_BKTN,
            attention_mask,
            dropout=self.config.attention_dropout if self.training else 0.0,
            scaling=self.scaling,
            **kwargs,
        )
        mixed_BTD = mixed_BTHN.reshape(*hidden_states.shape[:-1], -1).contiguous()
        return _scaled(self.o_proj(mixed_BTD), self.o_proj_alpha), weights


class YuLanMiniMLP(nn.Module):
    """W_d(silu(W_g x) * W_u x); the alphas around it live in the decoder layer."""

    def __init__(self, config: YuLanMiniConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)
        self.act_fn = ACT2FN[config.hidden_act]

    def forward(self, x_BTD: torch.Tensor) -> torch.Tensor:
        return self.down_proj(self.act_fn(self.gate_proj(x_BTD)) * self.up_proj(x_BTD))


class YuLanMiniDecoderLayer(GradientCheckpointingLayer):
    """Pre-norm block whose two branches are multiplied by r = hidden_states_shrink."""

    def __init__(self, config: YuLanMiniConfig, layer_idx: int) -> None:
        super().__init__()
        self.self_attn = YuLanMiniAttention(config, layer_idx)
        self.mlp = YuLanMiniMLP(config)
        self.input_layernorm = YuLanMiniRMSNorm(config)
        self.post_attention_layernorm = YuLanMiniRMSNorm(config)
        self.input_layernorm_alpha = _norm_alpha(config)
        self.post_attention_layernorm_alpha = _norm_alpha(config)
        self.gate_up_proj_alpha = _alpha(config)
        self.down_proj_alpha = _alpha(config)
        self.ln_scale = config.ln_scale
        self.shrink = config.residual_shrink

    def forward(self, hidden_states: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        x_BTD = hidden_states
        u_BTD = _scaled(self.input_layernorm(x_BTD), self.input_layernorm_alpha, self.ln_scale)
        attended_BTD, _ = self.self_attn(hidden_states=u_BTD, **kwargs)
        x_BTD = torch.add(x_BTD, attended_BTD, alpha=self.shrink)
        m_BTD = _scaled(
            self.post_attention_layernorm(x_BTD), self.post_attention_layernorm_alpha, self.ln_scale
        )
        mlp_BTD = _scaled(self.mlp(_scaled(m_BTD, self.gate_up_proj_alpha)), self.down_proj_alpha)
        return torch.add(x_BTD, mlp_BTD, alpha=self.shrink)


class YuLanMiniPreTrainedModel(PreTrainedModel):
    config: YuLanMiniConfig
    config_class: type[YuLanMiniConfig] = YuLanMiniConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["YuLanMiniDecoderLayer"]  # noqa: RUF012
    _skip_keys_device_placement = ["past_key_values"]  # noqa: RUF012
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_attention_backend = True
    _can_record_outputs = {  # noqa: RUF012 (read by transformers as a class attribute)
        "hidden_states": YuLanMiniDecoderLayer,
        "attentions": YuLanMiniAttention,
    }

    def post_init(self) -> None:
        # How a matrix starts depends on what it is, which its own class does not know.
        self._names = {module: name.split(".")[-1] for name, module in self.named_modules()}
        super().post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)  # norms, biases and the rotation
        initialise(self.config, module, self._names[module])


class YuLanMiniModel(YuLanMiniPreTrainedModel):
    """Token ids to normed hidden states: x0 = scale_emb E[t], the blocks, the final norm."""

    def __init__(self, config: YuLanMiniConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(
            YuLanMiniDecoderLayer(config, index) for index in range(config.num_hidden_layers)
        )
        self.norm = YuLanMiniRMSNorm(config)
        self.norm_alpha = _norm_alpha(config)
        self.rotary_emb = _rotary(config)
        if config.embedding_rmsln:
            self.embedding_layernorm = YuLanMiniRMSNorm(config)
        self.gradient_checkpointing = False
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Give either input_ids or inputs_embeds.")
        x_BTD = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        x_BTD = x_BTD * self.config.scale_emb
        keep = self.config.shrink_alpha
        if 0 <= keep < 1:  # the value stays, the gradient shrinks
            x_BTD = x_BTD * keep + x_BTD.detach() * (1 - keep)
        if self.config.embedding_rmsln:
            x_BTD = _scaled(self.embedding_layernorm(x_BTD), None, self.config.ln_scale)
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        if position_ids is None:
            seen = past_key_values.get_seq_length() if past_key_values is not None else 0
            position_ids = (torch.arange(x_BTD.shape[1], device=x_BTD.device) + seen)[None]
        mask = create_causal_mask(
            config=self.config,
            inputs_embeds=x_BTD,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            position_ids=position_ids,
        )
        rotation = self.rotary_emb(x_BTD, position_ids=position_ids)
        for layer in self.layers:
            x_BTD = layer(
                x_BTD,
                attention_mask=mask,
                position_embeddings=rotation,
                past_key_values=past_key_values,
                **kwargs,
            )
        x_BTD = _scaled(self.norm(x_BTD), self.norm_alpha, self.config.ln_scale)
        return BaseModelOutputWithPast(last_hidden_state=x_BTD, past_key_values=past_key_values)


class YuLanMiniForCausalLM(YuLanMiniPreTrainedModel, GenerationMixin):
    """logits = W_head(lm_head_alpha h / (d / dim_model_base_logits))."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012
    accepts_loss_kwargs = False  # the loss is a plain mean: a Trainer has to divide it by itself

    def __init__(self, config: YuLanMiniConfig) -> None:
        super().__init__(config)
        self.model = YuLanMiniModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.lm_head_alpha = _alpha(config)
        self.post_init()

    def set_rope(self, theta: float, max_position_embeddings: int) -> None:
        """Change the rotary base and the context length, as the annealing phases do."""
        self.config.rope_theta = theta
        self.config.max_position_embeddings = max_position_embeddings
        self.model.rotary_emb = _rotary(self.config).to(self.device)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """``labels`` (B, T) as token ids, -100 ignored; the model shifts them by one.

        The loss is mean cross-entropy + z_loss * mean(logsumexp(logits)^2) over the same tokens.
        """
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )
        h_BTD = slice_logits_to_keep(outputs.last_hidden_state, logits_to_keep)
        h_BTD = _scaled(h_BTD, self.lm_head_alpha, self.config.logit_scaling)
        logits_BTV = self.lm_head(h_BTD)
        loss = None
        if labels is not None:
            cross_entropy, z_loss = language_model_loss(logits_BTV, labels, self.config.z_loss)
            loss = cross_entropy + z_loss
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits_BTV,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


def language_model_loss(
    logits_BTV: torch.Tensor, labels_BT: torch.Tensor, z_loss: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean cross-entropy (nats) and z-loss of next-token prediction, labels -100 left out."""
    target_BT = labels_BT[:, 1:]
    counted_BT = target_BT != -100
    index_BT1 = nn.functional.pad(target_BT.clamp(min=0), (0, 1))[..., None]
    logits_BTV = logits_BTV.float()
    # logsumexp falls out of the softmax: one pass over the logits instead of three.
    logp_BT = nn.functional.log_softmax(logits_BTV, dim=-1).gather(2, index_BT1)[:, :-1, 0]
    logz_BT = logits_BTV.gather(2, index_BT1)[:, :-1, 0] - logp_BT
    return -logp_BT[counted_BT].mean(), z_loss * logz_BT[counted_BT].square().mean()


class MiniYuLanForCausalLM(YuLanMiniForCausalLM):
    """The same model under the type name of the phase repositories."""

    config_class = MiniYuLanConfig


def published_state_dict(model: YuLanMiniForCausalLM) -> dict[str, torch.Tensor]:
    """Tensors by name in the published shapes: alphas of the attention (1,), all others ().

    A tied head is written out beside the embedding, as the published files have it.
    """
    return {
        name: tensor.reshape(())
        if name.endswith("_alpha") and ".self_attn." not in name
        else tensor
        for name, tensor in model.state_dict().items()
    }
