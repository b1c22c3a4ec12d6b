"""Random checkpoint folders as the authors publish theirs, written without the model class."""

import json
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from tests.workbench.models.reference import Reference

Shapes = dict[str, tuple[int, ...]]

# The published config.json of a phase repository (transformers 4 layout), at toy size. The scales
# that are 1 in YuLan-Mini differ from 1 here: a test must notice one that is left out.
CONFIG: dict[str, Any] = {
    "architectures": ["MiniYuLanModelForCausalLM"],
    "attention_bias": True,
    "attention_dropout": 0.0,
    "bos_token_id": 1,
    "dim_model_base": 60,
    "dim_model_base_attn": 16,
    "dim_model_base_init": None,
    "dim_model_base_lmh": 1,
    "dim_model_base_logits": 40.0,
    "dim_model_base_lr": 256.0,
    "embed_tokens_alpha": 1,
    "embedding_ln": False,
    "embedding_rmsln": False,
    "eos_token_id": 2,
    "gradient_checkpointing_step": 11,
    "hidden_act": "silu",
    "hidden_size": 60,
    "hidden_states_shrink": 0.8,
    "init_scale_o": 1,
    "initializer_range": 5e-05,
    "intermediate_size": 88,
    "layer_norm_eps": 1e-06,
    "ln_scale": 1.25,
    "max_position_embeddings": 96,
    "model_reproduce": "transformer",
    "model_type": "miniyulan",
    "num_attention_heads": 6,
    "num_epochs_trained_before_this_epoch": 3,
    "num_hidden_layers": 3,
    "num_key_value_heads": 2,
    "q_proj_alpha": 0.3651483716701107,
    "qk_layernorm": False,
    "rms_norm_eps": 1e-06,
    "rms_type": "llama",
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "scale_emb": 10.0,
    "shrink_alpha": 1,
    "tie_word_embeddings": True,
    "torch_dtype": "float32",
    "transformers_version": "4.46.3",
    "use_cache": True,
    "use_emb_alpha": True,
    "use_norm_alpha": True,
    "vocab_size": 131,
    "wesar_weights": True,
    "z_loss": 0.01,
}


def shapes(config):
    """Every tensor of the published layout by name; alphas of the attention (1,), others ()."""
    d, f, v = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    size = d // config["num_attention_heads"]
    kv = config["num_key_value_heads"] * size
    found: Shapes = {"model.embed_tokens.weight": (v, d), "model.norm.weight": (d,)}
    found |= {"lm_head.weight": (v, d), "lm_head_alpha": (), "model.norm_alpha": ()}
    if config["embedding_rmsln"]:
        found["model.embedding_layernorm.weight"] = (d,)
    for index in range(config["num_hidden_layers"]):
        outputs = {"q": d, "k": kv, "v": kv, "o": d}
        layer: Shapes = {f"self_attn.{p}_proj.weight": (n, d) for p, n in outputs.items()}
        layer |= {f"self_attn.{p}_proj_alpha": (1,) for p in "qkvo"}
        if config["attention_bias"]:
            layer |= {f"self_attn.{p}_proj.bias": (outputs[p],) for p in "qkv"}
        if config["qk_layernorm"]:
            layer["self_attn.q_layernorm.weight"] = (d // size, size)
            layer["self_attn.k_layernorm.weight"] = (kv // size, size)
        layer |= {"mlp.gate_proj.weight": (f, d), "mlp.up_proj.weight": (f, d)}
        layer |= {"mlp.down_proj.weight": (d, f), "gate_up_proj_alpha": (), "down_proj_alpha": ()}
        for norm in ("input_layernorm", "post_attention_layernorm"):
            layer |= {f"{norm}.weight": (d,), f"{norm}_alpha": ()}
        found |= {f"model.layers.{index}.{name}": shape for name, shape in layer.items()}
    if not config["wesar_weights"]:
        found = {n: s for n, s in found.items() if not n.endswith("_alpha")}
    if not config["use_norm_alpha"]:
        found = {n: s for n, s in found.items() if not n.endswith("norm_alpha")}
    return found


def random_tensors(config, *, head="twice", alphas="published", seed=0):
    """``head``: twice (a copy of the embedding), once (left out) or own (a different matrix)."""
    draw = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in shapes(config).items():
        noise = torch.randn(shape, generator=draw)
        around_one = "norm" in name or name.endswith("_alpha")
        tensors[name] = 1 + 0.2 * noise if around_one else 0.2 * noise
        if name.endswith("_alpha") and alphas != "published":
            tensors[name] = tensors[name].reshape(alphas)
    if head == "twice":
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    elif head == "once":
        del tensors["lm_head.weight"]
    return tensors


def write(folder, *, head="twice", alphas="published", shards=1, dtype=torch.float32, **fields):
    """Write one folder; returns its Reference. ``fields`` replace fields of the config."""
    config = {**CONFIG, **fields}
    tensors = {
        name: tensor.to(dtype)
        for name, tensor in random_tensors(config, head=head, alphas=alphas).items()
    }
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer_config.json").write_text("{}")
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    else:
        weight_map: dict[str, str] = {}
        for part in range(shards):
            file = f"model-{part + 1:05}-of-{shards:05}.safetensors"
            held = dict(list(tensors.items())[part::shards])
            save_file(held, folder / file, {"format": "pt"})
            weight_map |= dict.fromkeys(held, file)
        index = {"metadata": {}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return Reference(config, {n: t.double().numpy() for n, t in tensors.items()})


def token_ids(length=48, seed=1):
    return np.random.default_rng(seed).integers(3, CONFIG["vocab_size"], length)


def relative_error(found, expected):
    """Largest difference over the largest expected value."""
    return float(np.abs(np.asarray(found, np.float64) - expected).max() / np.abs(expected).max())
