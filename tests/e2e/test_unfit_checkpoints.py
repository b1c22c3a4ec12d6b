"""Quantised files, foreign tokenizers and contradictory heads through the real command."""

import json
import shutil
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from analysis_db import Store
from tests.e2e.command import workbench
from tests.fixtures.tiny_checkpoint import write_llama
from workbench.settings import Home

FAST = ("--set", "loss.bytes_per_domain=500", "--set", "loss.window=32")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return write_llama(tmp_path_factory.mktemp("written") / "llama", tie_word_embeddings=True)


@pytest.fixture
def folder(written, tmp_path):
    """The checkpoint of a suite of one phase on a local Hub."""
    home = tmp_path / "home"
    folder = shutil.copytree(written, home / "suites/odd/hub/o/one")
    (home / "suites/odd/phases.csv").write_text("phase,repo_id,model_type\n1,o/one,llama\n")
    (home / "suites/odd.toml").write_text(
        'name = "odd"\ntitle = "Odd"\nphases = "odd/phases.csv"\n'
        'local_hub = "odd/hub"\ncache_dir = "../hub"\n'
    )
    return folder


def probe(folder, probes, *words, expect=0):
    home = folder.parents[4]
    workbench("pull", "odd", home=home)
    done = workbench("probe", "odd", "--probes", probes, *FAST, *words, home=home, expect=expect)
    return " ".join(done.stderr.split()), Store(Home(home).store)


def configure(folder, **fields: Any):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def rewrite(folder, change):
    state = load_file(folder / "model.safetensors")
    change(state)
    save_file(state, folder / "model.safetensors", {"format": "pt"})


UP = "model.layers.0.mlp.up_proj.weight"


def as_dtype(dtype):
    return lambda state: state.update({UP: (state[UP] * 100).to(dtype)})


def packed(state):
    state[UP.replace("weight", "qweight")] = state.pop(UP).to(torch.int32)


QUANTISED = {
    "stated": (
        lambda f: configure(f, quantization_config={"quant_method": "gptq", "bits": 4}),
        "config.json states a quantisation (gptq, 4 bits)",
    ),
    "loaded in 8 bits": (
        lambda f: configure(
            f, quantization_config={"quant_method": "bitsandbytes", "load_in_8bit": True}
        ),
        "config.json states a quantisation (bitsandbytes, 8 bits)",
    ),
    "int8": (lambda f: rewrite(f, as_dtype(torch.int8)), f"{UP} is stored as int8"),
    "uint8": (lambda f: rewrite(f, as_dtype(torch.uint8)), f"{UP} is stored as uint8"),
    "float8": (
        lambda f: rewrite(f, as_dtype(torch.float8_e4m3fn)),
        f"{UP} is stored as float8_e4m3fn",
    ),
    "packed": (lambda f: rewrite(f, packed), "up_proj.qweight is stored as int32"),
}


@pytest.mark.parametrize("case", QUANTISED)
def test_a_quantised_checkpoint_is_refused_by_every_probe(case, folder):
    quantise, problem = QUANTISED[case]
    quantise(folder)
    said, store = probe(folder, "weights,spectra,changes,loss", expect=1)
    assert said.count(problem) == 1  # all four probes in one sentence
    assert said.count("choose the checkpoint before quantisation") == 1
    assert "Traceback" not in said
    assert store.table("SELECT * FROM phase_metrics").num_rows == 0


def test_an_empty_quantisation_is_none(folder):
    configure(folder, quantization_config={})
    probe(folder, "weights,loss")


def shrink(folder, rows):
    configure(folder, vocab_size=rows)
    name = "model.embed_tokens.weight"
    rewrite(folder, lambda state: state.update({name: state[name][:rows].clone()}))


def test_a_tokenizer_larger_than_the_vocabulary_is_one_sentence(folder):
    shrink(folder, 700)
    probes = "loss,activations,attention,benchmarks"
    said, store = probe(folder, probes, "--set", "benchmarks.limit=4", expect=1)
    assert "the model's vocabulary ends at 699" in said
    assert "IndexError" not in said
    errors = store.table("SELECT error FROM runs")["error"].to_pylist()
    assert len(errors) == 5  # two of them are tasks
    assert all("the model's vocabulary ends at 699" in error for error in errors)


def test_a_padded_vocabulary_is_normal(folder):
    name = "model.embed_tokens.weight"
    padding = torch.zeros(24, 48)
    configure(folder, vocab_size=1024)
    rewrite(folder, lambda state: state.update({name: torch.cat([state[name], padding])}))
    probe(folder, "loss,benchmarks", "--set", "benchmarks.limit=4")


def test_a_tied_config_with_another_stored_head_is_a_warning(folder):
    name = "model.embed_tokens.weight"
    rewrite(folder, lambda state: state.update({"lm_head.weight": state[name] + 1}))
    said, store = probe(folder, "weights,loss")
    text = "config.json ties the head to the embedding, but the weights hold a head that differs"
    assert said.count(text) == 1
    assert "phase 1: config.json ties" in said
    for notes in store.table("SELECT notes FROM runs")["notes"].to_pylist():
        assert json.loads(notes)["checkpoint_warning"].startswith(text)
    rows = store.table("SELECT * FROM phase_metrics WHERE view = 'stored' AND module = 'lm_head'")
    assert rows.num_rows > 0


@pytest.mark.parametrize("value", [None, float("nan")])
def test_an_equal_second_copy_is_tied_with_nan_in_it_too(folder, value):
    name = "model.embed_tokens.weight"

    def copy(state):
        if value is not None:
            state[name][7, 3] = value
        state["lm_head.weight"] = state[name].clone()

    rewrite(folder, copy)
    said, store = probe(folder, "weights,loss")
    assert "ties the head" not in said
    rows = store.table(
        "SELECT DISTINCT view FROM (SELECT view, module FROM phase_metrics UNION ALL "
        "SELECT view, module FROM missing_values) WHERE module = 'lm_head'"
    )
    assert rows["view"].to_pylist() == ["effective"]
