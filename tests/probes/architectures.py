"""Tiny random models of the architectures that the model probes read, and a checkpoint of each."""

from typing import Any

import torch
from transformers import (
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Olmo2Config,
    Olmo2ForCausalLM,
)

from tests.fixtures.tiny_checkpoint import SHAPE, randomise, tokenizer
from workbench.models import MiniYuLanConfig, MiniYuLanForCausalLM

_NEOX = {k: v for k, v in SHAPE.items() if k != "num_key_value_heads"} | {
    "bos_token_id": 1,
    "rope_parameters": {
        "rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25
    },
    "num_attention_heads": 3,
}  # fmt: skip
ARCHITECTURES: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "yulan": (
        MiniYuLanForCausalLM,
        MiniYuLanConfig,
        SHAPE | {"dim_model_base_attn": 12, "dim_model_base_logits": 24.0, "ln_scale": 1.25},
    ),
    "yulan-qk-norm": (MiniYuLanForCausalLM, MiniYuLanConfig, SHAPE | {"qk_layernorm": True}),
    "llama": (LlamaForCausalLM, LlamaConfig, SHAPE),
    "gpt-neox": (GPTNeoXForCausalLM, GPTNeoXConfig, _NEOX),
    "gpt-neox-sequential": (
        GPTNeoXForCausalLM,
        GPTNeoXConfig,
        _NEOX | {"use_parallel_residual": False},
    ),
    "olmo2": (Olmo2ForCausalLM, Olmo2Config, SHAPE | {"bos_token_id": 1, "eos_token_id": 2}),
}


class TinyCheckpoint:
    """As much of a checkpoint as the model probes ask for."""

    def __init__(self, architecture: str, **options: Any) -> None:
        model, config, shape = ARCHITECTURES[architecture]
        self._model = model(config(**(shape | options))).eval()
        randomise(self._model, seed=0)
        self.config = self._model.config.to_dict()

    def load_model(self, *, device: str = "cpu", dtype: str = "float32") -> Any:
        return self._model.to(device, getattr(torch, dtype))

    def load_tokenizer(self) -> Any:
        return tokenizer()
