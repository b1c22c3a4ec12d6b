"""A repository in the published layout, served by the local Hub, and a suite that names it."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from workbench.hub.server import LocalHub
from workbench.suites import Phase, Suite

REPO_ID = "owner/Model-Phase1"
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 16,
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Weights of two megabytes beside files that must never be fetched, code and pickles."""
    folder = tmp_path / "hub" / REPO_ID
    universal = folder / "global_step7_universal" / "zero" / "norm"
    universal.mkdir(parents=True)
    weights = np.random.default_rng(0).standard_normal((512, 1024), dtype=np.float32)
    save_file({"weight": weights}, folder / "model.safetensors")
    (folder / "onnx").mkdir()
    (folder / "onnx" / "model.safetensors").write_bytes(b"of another format")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "tokenizer.json").write_text('{"version": "1.0"}')
    (folder / "tokenizer_code.py").write_text("raise RuntimeError('remote code was run')")
    (folder / "pytorch_model.bin").write_bytes(b"a pickle")
    (folder / "README.md").write_text("about")
    (folder / "latest_universal").write_text("global_step7_universal")
    (universal / "fp32.pt").write_bytes(b"optimizer state")
    return folder


@pytest.fixture
def hub(repository: Path, tmp_path: Path) -> Iterator[LocalHub]:
    with LocalHub(tmp_path / "hub") as hub:
        yield hub


@pytest.fixture
def phase() -> Phase:
    return Phase(phase=1, repo_id=REPO_ID)


@pytest.fixture
def suite(phase: Phase, tmp_path: Path) -> Suite:
    return Suite(name="tiny", title="Tiny", phases=(phase,), cache_dir=tmp_path / "cache")


def shard(folder: Path) -> None:
    """Turn the one weight file of a repository into two with an index."""
    (folder / "model.safetensors").unlink()
    for number, name in enumerate(SHARDS):
        save_file({f"weight{number}": np.full(4, number, np.float32)}, folder / name)
    weight_map = {f"weight{number}": name for number, name in enumerate(SHARDS)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
