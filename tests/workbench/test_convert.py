"""`workbench convert`, the real command: a phase of a local Hub, pulled, then folded into Llama."""

import os
import subprocess
import sys

import pytest
import torch

from tests.e2e.command import error_of, workbench
from tests.fixtures.tiny_checkpoint import write_llama, write_yulan
from workbench.checkpoints import Checkpoint
from workbench.conversion import convert_phase
from workbench.errors import UsageError
from workbench.settings import Home

IDS = [1, 7, 200, 999, 3, 3, 41, 512]
THETA = 5000.0
PLAIN_PROCESS = f"""
import sys, torch, transformers
folder, logits = sys.argv[1:]
model, report = transformers.AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
assert type(model) is transformers.LlamaForCausalLM
assert not any(report.values()), report
tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
assert tokenizer.decode(tokenizer("a phase")["input_ids"], skip_special_tokens=True) == "a phase"
with torch.no_grad():
    torch.save(model(torch.tensor([{IDS}])).logits[0], logits)
assert "workbench" not in sys.modules
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A suite of four phases on a local Hub, pulled but for the last; 2 has a wrong theta."""
    home = tmp_path_factory.mktemp("convert") / "home"
    hub = home / "suites/tiny/hub/tiny"
    write_yulan(hub / "one")
    write_yulan(hub / "two", seed=1, dtype=torch.bfloat16)
    write_llama(hub / "three")
    (home / "suites/tiny/phases.csv").write_text(
        "phase,stage,repo_id,model_type\n"
        "1,stable,tiny/one,miniyulan\n2,annealing,tiny/two,miniyulan\n"
        "3,annealing,tiny/three,llama\n4,last,tiny/four,miniyulan\n5,last,,miniyulan\n"
    )
    (home / "suites/tiny.toml").write_text(
        'name = "tiny"\ntitle = "Tiny"\nphases = "tiny/phases.csv"\n'
        'local_hub = "tiny/hub"\ncache_dir = "../hub"\n'
        f"[overrides.2]\nrope_theta = {THETA}\n"
    )
    workbench("pull", "tiny", "--phases", "1-3", home=home)
    return home


def test_plain_transformers_serves_the_result_offline(home, tmp_path):
    """Stored in bfloat16, so that float32 alone shows every product; with a corrected theta."""
    out = tmp_path / "new/llama"
    words = ("2", str(out), "--to", "llama", "--suite", "tiny", "--dtype", "float32")
    done = workbench("convert", *words, home=home)
    assert "Phase 2 of suite tiny is a plain Llama of 0.00 GB" in done.stdout
    assert f"rope_theta is {THETA}" in done.stderr
    logits = tmp_path / "logits.pt"
    subprocess.run(
        [sys.executable, "-c", PLAIN_PROCESS, str(out), str(logits)],
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        cwd=tmp_path,
        check=True,
    )
    (snapshot,) = (home / "hub/models--tiny--two/snapshots").iterdir()
    model = Checkpoint.open(snapshot, overrides={"rope_theta": THETA}).load_model()
    with torch.no_grad():
        expected = model(torch.tensor([IDS])).logits[0]
    error = (torch.load(logits, weights_only=True) - expected).abs().max() / expected.abs().max()
    assert error < 1e-5
    assert {path.name for path in out.parent.iterdir()} == {"llama"}


@pytest.mark.parametrize(
    ("phases", "said"),
    [
        ("4", "Phase 4 .* is not on disk: fetch it with `workbench pull tiny --phases 4` first"),
        ("5", "Phase 5 of suite tiny has no published checkpoint"),
        ("annealing", "'annealing' names 2 phases of suite tiny: convert one at a time"),
        ("6", "Suite tiny has no phase 6"),
        ("3", r"Phase 3 of suite tiny \(.*models--tiny--three.*\) is a plain Llama already"),
    ],
)
def test_a_phase_that_cannot_be_converted_is_wrong_usage(home, tmp_path, phases, said):
    with pytest.raises(UsageError, match=said):
        convert_phase("tiny", phases, tmp_path / "out", Home(home))
    assert not list(tmp_path.iterdir())


def test_a_folder_that_exists_is_left_alone(home, tmp_path):
    (tmp_path / "mine").write_text("kept")
    with pytest.raises(UsageError, match="mine exists already; remove it or name another"):
        convert_phase("tiny", "1", tmp_path / "mine", Home(home))
    assert (tmp_path / "mine").read_text() == "kept"


@pytest.mark.parametrize("option", [("--to", "gguf"), ("--dtype", "int8")])
def test_unknown_choices_are_wrong_usage(home, tmp_path, option):
    words = ("convert", "1", str(tmp_path / "out"), "--to", "llama", "--suite", "tiny", *option)
    assert option[1] in workbench(*words, home=home, expect=2).stderr


def test_the_suite_is_yulan_mini_unless_named(home, tmp_path):
    words = ("convert", "26", str(tmp_path / "out"), "--to", "llama")
    assert "Phase 26 of suite yulan-mini" in error_of(*words, home=home, expect=2)
