"""The fold into Llama, read by a process that knows nothing of this package."""

import json
import os
import resource
import signal
import subprocess
import sys
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import workbench.models  # noqa: F401  registers the types
from tests.workbench.models.published import relative_error, token_ids, write
from workbench.checkpoints.llama import fold_to_llama
from workbench.errors import CheckpointError, UsageError, WorkbenchError
from workbench.models.fold import effective_scales

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
    assert config["attention_bias"]
    assert config["torch_dtype"] == "float32"
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


def in_memory(folder, dtype=None):
    """The fold as it follows from the equations, with everything in memory."""
    config = json.loads((folder / "config.json").read_text())
    tensors: dict[str, torch.Tensor] = {}
    for file in folder.glob("*.safetensors"):
        tensors |= load_file(file)
    tensors.setdefault("lm_head.weight", tensors["model.embed_tokens.weight"])
    alphas = {n: float(t.reshape(())) for n, t in tensors.items() if n.endswith("_alpha")}
    folded = {}
    for name, scale in effective_scales(config, alphas).items():
        folded[name] = (tensors[name].float() * scale).to(dtype or tensors[name].dtype)
        if name.endswith("q_proj.bias"):
            folded[name.replace("q_proj", "o_proj")] = torch.zeros_like(folded[name])
    return folded


def held(folder):
    """Every tensor of the folder's safetensors files."""
    tensors: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        tensors |= load_file(file)
    return tensors


def equal(these, those):
    return these.keys() == those.keys() and all(torch.equal(these[n], those[n]) for n in these)


@pytest.mark.parametrize("name", VARIANTS)
def test_the_stream_writes_what_the_fold_in_memory_is_bit_for_bit(folds, name):
    folder = folds[name][0]
    stored = folder.with_name(f"{name}-stored")
    assert equal(held(folder), in_memory(stored, torch.float32 if name == "bf16" else None))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_products_are_rounded_once_to_the_dtype_that_is_asked_for(tmp_path, dtype):
    write(tmp_path / "stored", dtype=torch.bfloat16, shards=2)
    written = fold_to_llama(tmp_path / "stored", tmp_path / "fold", dtype=dtype)
    tensors = held(tmp_path / "fold")
    assert equal(tensors, in_memory(tmp_path / "stored", dtype))
    assert written == sum(tensor.nbytes for tensor in tensors.values())
    config = json.loads((tmp_path / "fold/config.json").read_text())
    assert config["torch_dtype"] == str(dtype).removeprefix("torch.")


def test_a_tied_head_stored_once_gives_the_same_as_one_stored_twice(tmp_path):
    for head in ("once", "twice"):
        write(tmp_path / head, head=head)
        fold_to_llama(tmp_path / head, tmp_path / f"{head}-fold")
    assert equal(held(tmp_path / "once-fold"), held(tmp_path / "twice-fold"))


def test_what_float16_cannot_hold_is_refused_by_name(tmp_path):
    write(tmp_path / "stored", scale_emb=1e6)
    with pytest.raises(
        WorkbenchError, match=r"model\.embed_tokens\.weight reaches .* than float16"
    ):
        fold_to_llama(tmp_path / "stored", tmp_path / "fold", dtype=torch.float16)
    assert [path.name for path in tmp_path.iterdir()] == ["stored"]


def test_a_model_with_infinite_weights_can_be_folded(tmp_path):
    """A run that has diverged is worth looking at."""
    write(tmp_path / "stored", dtype=torch.bfloat16, scale_emb=float("inf"))
    fold_to_llama(tmp_path / "stored", tmp_path / "fold")
    assert held(tmp_path / "fold")["model.embed_tokens.weight"].isinf().all()


def test_progress_is_in_bytes_of_the_result(tmp_path):
    write(tmp_path / "stored")
    told: list[tuple[int, int]] = []
    total = fold_to_llama(
        tmp_path / "stored", tmp_path / "fold", progress=lambda *now: told.append(now)
    )
    assert {of for _, of in told} == {total}
    assert told[-1] == (total, total)
    assert told == sorted(told)


def test_memory_does_not_grow_with_the_model(tmp_path):
    """300 MB of weights (zeros) in a process that may hold a third of it beside its libraries."""
    fields = {"vocab_size": 5000, "hidden_size": 1200, "intermediate_size": 3200}
    write(tmp_path / "small", num_hidden_layers=1, **fields)
    write_zeros(tmp_path / "stored", tmp_path / "small/model.safetensors", layers=9)
    code = """
import sys
from pathlib import Path
import torch
from workbench.checkpoints.llama import fold_to_llama
torch.set_num_threads(1)
def peak():
    line = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    return int(line.split()[1]) // 1024
fold_to_llama(Path("small"), Path("small-fold"))
before = peak()
total = fold_to_llama(Path("stored"), Path("fold"))
print(total // 2**20, peak() - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    total, more = map(int, done.stdout.split())
    assert total > 300
    assert more < 100


def write_zeros(folder, like, layers):
    """The checkpoint with its one layer repeated and every number zero: a file without blocks."""
    with like.open("rb") as file:
        listed = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    shapes = {name: told["shape"] for name, told in listed.items() if name != "__metadata__"}
    first = [name for name in shapes if name.startswith("model.layers.0.")]
    for layer in range(1, layers):
        shapes |= {name.replace(".0.", f".{layer}.", 1): shapes[name] for name in first}
    header, end = {}, 0
    for name, shape in shapes.items():
        start, end = end, end + 4 * prod(shape)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    folder.mkdir()
    config = json.loads((like.parent / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": layers}))
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)


AT_HALF = """
import os, signal, sys
from pathlib import Path
from workbench.checkpoints.llama import fold_to_llama
def progress(done, total):
    if done > total / 2:
        {action}
fold_to_llama(Path("stored"), Path("fold"), progress=progress, shard_bytes=60_000)
"""


def test_a_fold_that_was_killed_looks_like_none_and_does_not_disturb_the_next(tmp_path):
    write(tmp_path / "stored")
    code = AT_HALF.format(action="os.kill(os.getpid(), signal.SIGKILL)")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=False)
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "fold").exists()
    assert list(tmp_path.glob(".fold.part/*.safetensors"))
    assert not list(tmp_path.glob(".fold.part/config.json"))
    fold_to_llama(tmp_path / "stored", tmp_path / "fold")
    assert equal(held(tmp_path / "fold"), in_memory(tmp_path / "stored"))
    assert {path.name for path in tmp_path.iterdir()} == {"stored", "fold"}


def test_a_fold_that_was_interrupted_leaves_nothing(tmp_path):
    def interrupt(done, total):
        if done > total / 2:
            signal.raise_signal(signal.SIGINT)

    write(tmp_path / "stored")
    with pytest.raises(KeyboardInterrupt):
        fold_to_llama(tmp_path / "stored", tmp_path / "fold", progress=interrupt)
    assert [path.name for path in tmp_path.iterdir()] == ["stored"]


def test_a_file_that_cannot_be_written_on_is_one_sentence_and_leaves_nothing(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(done, total):
        resource.setrlimit(resource.RLIMIT_FSIZE, (total // 2, before[1]))

    write(tmp_path / "stored")
    try:
        with pytest.raises(
            WorkbenchError, match=r"fold cannot be written \(File too large\): free"
        ):
            fold_to_llama(tmp_path / "stored", tmp_path / "fold", progress=limit)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.name for path in tmp_path.iterdir()] == ["stored"]


def test_no_room_on_the_disk_is_found_before_anything_is_written(tmp_path):
    write(tmp_path / "stored")
    with pytest.raises(WorkbenchError, match=r"needs 0.0 GB and its disk has 0.0 GB free"):
        fold_to_llama(tmp_path / "stored", Path("/proc/fold"))  # a file system without room


def test_two_processes_do_not_write_one_fold(tmp_path):
    write(tmp_path / "stored")
    code = AT_HALF.format(action="print(flush=True); sys.stdin.readline()")
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as first:
        first.stdout.readline()
        with pytest.raises(WorkbenchError, match=r"Another process is writing .*fold"):
            fold_to_llama(tmp_path / "stored", tmp_path / "fold")
        first.communicate(os.linesep.encode() * 1000)
    assert first.returncode == 0
    assert equal(held(tmp_path / "fold"), in_memory(tmp_path / "stored"))
    assert {path.name for path in tmp_path.iterdir()} == {"stored", "fold"}


def test_code_in_a_checkpoint_is_not_copied(tmp_path):
    write(tmp_path / "stored")
    (tmp_path / "stored/tokenizer_code.py").write_text("raise RuntimeError")
    fold_to_llama(tmp_path / "stored", tmp_path / "fold")
    assert not list((tmp_path / "fold").glob("*.py"))


def test_an_override_of_theta_wins_over_the_layout_of_transformers_5(tmp_path):
    write(tmp_path / "stored", rope_parameters={"rope_type": "default", "rope_theta": 5.0})
    fold_to_llama(tmp_path / "stored", tmp_path / "fold", OVERRIDES)
    assert json.loads((tmp_path / "fold/config.json").read_text())["rope_theta"] == 490000.0


def test_a_llama_is_not_folded_again(tmp_path):
    write(tmp_path / "stored")
    fold_to_llama(tmp_path / "stored", tmp_path / "fold")
    with pytest.raises(UsageError, match=r"fold is a plain Llama already"):
        fold_to_llama(tmp_path / "fold", tmp_path / "again")


@pytest.mark.parametrize("field", ["qk_layernorm", "embedding_rmsln"])
def test_what_llama_cannot_express_is_refused(tmp_path, field):
    write(tmp_path / "stored", **{field: True})
    with pytest.raises(WorkbenchError, match=f"{field}, which a plain Llama"):
        fold_to_llama(tmp_path / "stored", tmp_path / "fold")


def test_an_existing_folder_is_not_overwritten(tmp_path):
    write(tmp_path / "stored")
    (tmp_path / "fold").mkdir()
    with pytest.raises(WorkbenchError, match="exists already"):
        fold_to_llama(tmp_path / "stored", tmp_path / "fold")


def ask(**fields):
    """Let the config ask for what the weights are not."""

    def change(folder):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | fields))

    return change


def truncate(folder):
    path = folder / "model-00002-of-00002.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


BREAKAGES = {
    "no config": (lambda f: (f / "config.json").unlink(), "has no config.json"),
    "no shard": (lambda f: (f / "model-00001-of-00002.safetensors").unlink(), "model-00001"),
    "truncated": (truncate, "model-00002-of-00002.safetensors is broken or truncated"),
    "too few layers": (ask(num_hidden_layers=4), r"lack the tensor model\.layers\.3\."),
    "no bias": (ask(attention_bias=True), r"lack .*model\.layers\.0\.self_attn\.q_proj\.bias"),
    "no scale": (ask(wesar_weights=True), r"lack the tensor lm_head_alpha"),
    "vocabulary": (ask(vocab_size=140), r"embed_tokens\.weight in the shape \[140, 60\], .* \[131"),
}


@pytest.mark.parametrize("name", BREAKAGES)
def test_a_broken_checkpoint_is_named_and_leaves_nothing(tmp_path, name):
    write(tmp_path / "stored", shards=2, attention_bias=False, wesar_weights=False)
    break_it, said = BREAKAGES[name]
    break_it(tmp_path / "stored")
    with pytest.raises(CheckpointError, match=said):
        fold_to_llama(tmp_path / "stored", tmp_path / "fold")
    assert [path.name for path in tmp_path.iterdir()] == ["stored"]
