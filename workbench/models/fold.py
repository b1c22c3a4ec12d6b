"""The fold of YuLan-Mini into a plain Llama: every scale goes into the matrix that it multiplies.

The authors' own scripts leave the q, k and v biases unscaled, in conflict with their forward pass,
which multiplies them too. This fold follows the forward pass.
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from workbench.errors import CheckpointError, WorkbenchError
from workbench.models.configuration import YuLanMiniConfig

SHARD_BYTES = 4 * 2**30
_EMBED, _HEAD, _NORM = "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"
_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"
_ALONGSIDE = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*",
              "merges.txt", "chat_template*", "generation_config.json")  # fmt: skip
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


def fold_to_llama(
    folder: Path,
    out: Path,
    overrides: Mapping[str, Any] | None = None,
    *,
    dtype: torch.dtype | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write the checkpoint in ``folder`` as a plain, untied LlamaForCausalLM folder ``out``.

    Config, safetensors and tokenizer files; the result needs nothing of this package. Tensors are
    read one at a time and at most one output file of ``shard_bytes`` is in memory. ``overrides``
    replace fields of the config; ``dtype`` is that of the result, by default the stored one (the
    product is computed in float32 and rounded once). ``out`` appears when it is complete.

    Raises WorkbenchError when ``out`` exists or Llama cannot express the model, CheckpointError
    when a file of ``folder`` is missing or broken.
    """
    if out.exists():
        raise WorkbenchError(f"{out} exists already; remove it or name another folder.")
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        config |= overrides or {}
        stored = _open_files(folder)
        _check_foldable(config, folder)
        part = out.with_name(f".{out.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        try:
            written = _write_weights(config, stored, part, dtype, shard_bytes)
            _write_json(part / "config.json", _llama_config(config, written))
            for path in (p for pattern in _ALONGSIDE for p in folder.glob(pattern)):
                shutil.copy(path, part)
            part.rename(out)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    except KeyError as error:
        raise CheckpointError(
            f"{folder}: the weights lack {error.args[0]}, which config.json asks for; pull the "
            "checkpoint again."
        ) from error
    except (SafetensorError, json.JSONDecodeError, FileNotFoundError) as error:
        raise CheckpointError(
            f"{folder}: a file is missing or broken ({error}); pull the checkpoint again."
        ) from error


def _open_files(folder: Path) -> dict[str, Any]:
    """Tensor name -> the open safetensors file that holds it."""
    if (folder / _INDEX).exists():
        weight_map = json.loads((folder / _INDEX).read_text(encoding="utf-8"))["weight_map"]
        names = sorted(set(weight_map.values()))
    else:
        names = [_WEIGHTS]
    files = [safe_open(folder / name, framework="pt") for name in names]
    return {tensor: file for file in files for tensor in file.keys()}  # noqa: SIM118 (no mapping)


def _check_foldable(config: Mapping[str, Any], folder: Path) -> None:
    for field in ("qk_layernorm", "embedding_rmsln"):
        if config.get(field):
            raise WorkbenchError(
                f"{folder} has {field}, which a plain Llama has no place for; it cannot be folded, "
                "use the checkpoint as it is."
            )


def _folded(
    config: Mapping[str, Any], stored: Mapping[str, Any], dtype: torch.dtype | None
) -> Iterator[tuple[str, torch.Tensor]]:
    alphas = {n: float(stored[n].get_tensor(n).reshape(())) for n in stored if n.endswith("_alpha")}
    for name, scale in effective_scales(config, alphas).items():
        # A tied head may be stored once or twice; a second copy that differs is the head.
        held = _EMBED if name == _HEAD and _HEAD not in stored else name
        tensor = stored[held].get_tensor(held)
        wide = tensor.to(torch.promote_types(tensor.dtype, torch.float32))
        yield name, (wide * scale).to(dtype or tensor.dtype)
        if name.endswith("q_proj.bias"):  # Llama wants one on o_proj too when q, k, v have one
            zeros = torch.zeros(config["hidden_size"], dtype=dtype or tensor.dtype)
            yield name.replace("q_proj", "o_proj"), zeros


def _write_weights(
    config: Mapping[str, Any],
    stored: Mapping[str, Any],
    part: Path,
    dtype: torch.dtype | None,
    shard_bytes: int,
) -> torch.dtype:
    """Write the shards, then name them by their number; returns the dtype of the weights."""
    shards: list[list[str]] = []
    waiting: dict[str, torch.Tensor] = {}
    total = 0

    def flush() -> None:
        shards.append(list(waiting))
        save_file(waiting, part / f"{len(shards)}", metadata={"format": "pt"})
        waiting.clear()

    for name, tensor in _folded(config, stored, dtype):
        if waiting and sum(t.nbytes for t in waiting.values()) + tensor.nbytes > shard_bytes:
            flush()
        waiting[name] = tensor
        total += tensor.nbytes
        kept = tensor.dtype
    flush()
    if len(shards) == 1:
        (part / "1").rename(part / _WEIGHTS)
        return kept
    weight_map: dict[str, str] = {}
    for number, names in enumerate(shards, start=1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        (part / f"{number}").rename(part / file)
        weight_map |= dict.fromkeys(names, file)
    _write_json(part / _INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})
    return kept


def _llama_config(config: Mapping[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """In the layout of transformers 4, as the published merged model has it; 5 reads it too."""
    c = YuLanMiniConfig.from_dict(dict(config))
    return {field: getattr(c, field) for field in _KEPT_FIELDS} | {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "mlp_bias": False,
        "rope_scaling": None,
        "tie_word_embeddings": False,
        "torch_dtype": str(dtype).removeprefix("torch."),
    }


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
