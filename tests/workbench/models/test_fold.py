"""The fold into Llama, read by a process that knows nothing of this package."""

import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import workbench.models  # noqa: F401  registers the types
from tests.workbench.models.published import relative_error, token_ids, write
from workbench.errors import CheckpointError, WorkbenchError
from workbench.models.fold import effective_scales, fold_to_llama

IDS = token_ids()
# Every scale differs from 1; so does what each variant changes.
VARIANTS: dict[str, dict[str, Any]] = {
    "tied": {},
    "alphas": {"alphas": ()},
    "untied": {"head": "own", "tie_word_embeddings": False, "scale_emb": 3.0},
    "shards": {"shards": 3, "head": "once"},
    "no-bias": {"attention_bias": False, "hidden_states_shrink": 1.0},
    "no-wesar": {"wesar_weights": False},
    "bf16": {"dtype": torch.bfloat16, "torch_dtype": "bfloat16"},
}
OVERRIDES = {"rope_theta": 490000.0, "max_position_embeddings": 64}
PLAIN_PROCESS = """
import sys, numpy, torch, transformers
ids = torch.tensor(numpy.load("ids.npy"))[None]
for folder in sys.argv[1:]:
    model, report = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True)
    assert not any(report.values()), report
    assert type(model) is transformers.LlamaForCausalLM
    with torch.no_grad():
        numpy.save(folder + ".npy", model.eval()(ids).logits[0].numpy())
assert "workbench" not in sys.modules
"""


@pytest.fixture(scope="module")
def folds(tmp_path_factory):
    """name -> (folder, float64 logits of the equations, float32 logits of the fold)."""
    root = tmp_path_factory.mktemp("folds")
    references = {}
    for name, fields in VARIANTS.items():
        references[name] = write(root / f"{name}-stored", **fields)
        fold_to_llama(
            root / f"{name}-stored",
            root / name,
            dtype=torch.float32 if name == "bf16" else None,
            shard_bytes=60_000 if name == "shards" else 2**30,
        )
    references["override"] = write(root / "override-stored")
    references["override"].c |= OVERRIDES
    fold_to_llama(root / "override-stored", root / "override", OVERRIDES)
    np.save(root / "ids.npy", IDS)
    command = [sys.executable, "-c", PLAIN_PROCESS, *references]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {
        name: (root / name, reference.logits(IDS), np.load(root / f"{name}.npy"))
        for name, reference in references.items()
    }


@pytest.mark.parametrize("name", [*VARIANTS, "override"])
def test_plain_transformers_computes_the_same_logits(folds, name):
    _, expected, found = folds[name]
    error = relative_error(found, expected)
    print(f"fold error {error:.2e} ({name})")
    assert error < 1e-4


def test_the_fold_agrees_with_the_model(folds):
    folder, _, found = folds["tied"]
    model = AutoModelForCausalLM.from_pretrained(f"{folder}-stored", dtype=torch.float32).eval()
    with torch.no_grad():
        logits = model(torch.tensor(IDS)[None]).logits[0].double().numpy()
    assert relative_error(found, logits) < 1e-4


def test_a_fold_has_llamas_names_and_the_published_config(folds):
    folder = folds["tied"][0]
    tensors = load_file(folder / "model.safetensors")
    assert not [name for name in tensors if "alpha" in name]
    assert not tensors["model.layers.0.self_attn.o_proj.bias"].any()
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert not config["tie_word_embeddings"]
    assert config["rope_theta"] == 10000.0
    assert {path.name for path in folder.iterdir()} == {
        "config.json", "model.safetensors", "tokenizer_config.json",
    }  # fmt: skip
    overridden = json.loads((folds["override"][0] / "config.json").read_text())
    assert overridden | OVERRIDES == overridden


def test_large_folds_are_written_in_shards(folds):
    folder = folds["shards"][0]
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    files = sorted(set(index["weight_map"].values()))
    assert len(files) > 2
    assert files[0] == f"model-00001-of-{len(files):05}.safetensors"
    held = {file: load_file(folder / file) for file in files}
    assert (
        sum(t.nbytes for f in held.values() for t in f.values())
        == (index["metadata"]["total_size"])
    )
    assert all(name in held[file] for name, file in index["weight_map"].items())
    assert all(len(f) == 1 or sum(t.nbytes for t in f.values()) <= 60_000 for f in held.values())


def test_the_stored_dtype_is_kept(tmp_path):
    write(tmp_path / "stored", dtype=torch.bfloat16)
    fold_to_llama(tmp_path / "stored", tmp_path / "fold")
    tensors = load_file(tmp_path / "fold/model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    assert json.loads((tmp_path / "fold/config.json").read_text())["torch_dtype"] == "bfloat16"


def test_effective_scales_by_hand():
    config = {
        "num_hidden_layers": 1, "hidden_size": 1920, "num_attention_heads": 30,
        "dim_model_base_attn": 64, "dim_model_base_logits": 480.0, "hidden_states_shrink": 0.25,
        "scale_emb": 10.0, "ln_scale": 2.0, "attention_bias": True,
    }  # fmt: skip
    layer = "model.layers.0."
    alphas = {
        f"{layer}self_attn.{p}_proj_alpha": a for p, a in zip("qkvo", (2, 3, 5, 7), strict=True)
    }
    alphas |= {f"{layer}gate_up_proj_alpha": 11, f"{layer}down_proj_alpha": 13}
    alphas |= {f"{layer}input_layernorm_alpha": 17, f"{layer}post_attention_layernorm_alpha": 19}
    alphas |= {"model.norm_alpha": 23, "lm_head_alpha": 29}
    assert effective_scales(config, alphas) == pytest.approx({
        "model.embed_tokens.weight": 10.0,
        "model.norm.weight": 46.0,
        "lm_head.weight": 29 / 4,
        f"{layer}self_attn.q_proj.weight": 2, f"{layer}self_attn.q_proj.bias": 2,
        f"{layer}self_attn.k_proj.weight": 3, f"{layer}self_attn.k_proj.bias": 3,
        f"{layer}self_attn.v_proj.weight": 5, f"{layer}self_attn.v_proj.bias": 5,
        f"{layer}self_attn.o_proj.weight": 7 / 4,
        f"{layer}mlp.gate_proj.weight": 11, f"{layer}mlp.up_proj.weight": 11,
        f"{layer}mlp.down_proj.weight": 13 / 4,
        f"{layer}input_layernorm.weight": 34, f"{layer}post_attention_layernorm.weight": 38,
    })  # fmt: skip


@pytest.mark.parametrize("field", ["qk_layernorm", "embedding_rmsln"])
def test_what_llama_cannot_express_is_refused(tmp_path, field):
    write(tmp_path / "stored", **{field: True})
    with pytest.raises(WorkbenchError, match=f"has {field}, which a plain Llama"):
        fold_to_llama(tmp_path / "stored", tmp_path / "fold")


def test_an_existing_folder_is_not_overwritten(tmp_path):
    write(tmp_path / "stored")
    (tmp_path / "fold").mkdir()
    with pytest.raises(WorkbenchError, match="exists already"):
        fold_to_llama(tmp_path / "stored", tmp_path / "fold")


def drop_an_alpha(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 4}))


def truncate(folder):
    path = folder / "model-00002-of-00002.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


BREAKAGES = {
    "no config": (lambda f: (f / "config.json").unlink(), "missing or broken .*config.json"),
    "no shard": (lambda f: (f / "model-00001-of-00002.safetensors").unlink(), "model-00001"),
    "truncated": (truncate, "missing or broken"),
    "too few layers": (drop_an_alpha, r"lack model\.layers\.3\.self_attn\.q_proj_alpha"),
}


@pytest.mark.parametrize("name", BREAKAGES)
def test_a_broken_checkpoint_is_named_and_leaves_nothing(tmp_path, name):
    write(tmp_path / "stored", shards=2)
    break_it, said = BREAKAGES[name]
    break_it(tmp_path / "stored")
    with pytest.raises(CheckpointError, match=said):
        fold_to_llama(tmp_path / "stored", tmp_path / "fold")
    assert [path.name for path in tmp_path.iterdir()] == ["stored"]
