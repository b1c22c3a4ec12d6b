"""A tiny recipe trained for real: bit-identical, resumable, logged step by step."""

import hashlib
import json
import math
from pathlib import Path

import pytest
import torch

from tests.workbench.training.tiny_run import Stopped
from workbench.errors import WorkbenchError
from workbench.training.trainer import build_model, build_optimizer


def digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def log(folder: Path) -> list[dict]:
    """The log without the one value that depends on the hour."""
    records = [json.loads(line) for line in (folder / "run" / "log.jsonl").open()]
    for record in records:
        assert record["values"].pop("tokens_per_s") > 0
    return records


def test_the_same_seed_gives_the_same_repositories_bit_for_bit(published, run_recipe, tmp_path):
    run_recipe(tmp_path)
    assert digests(tmp_path / "hub") == digests(published / "hub")
    assert log(tmp_path) == log(published)
    run_recipe(tmp_path / "other", seed=1)
    assert digests(tmp_path / "other" / "hub") != digests(published / "hub")


@pytest.mark.parametrize("stop_after_step", [2, 3, 8, 10])
def test_a_stopped_run_goes_on_bit_for_bit(published, run_recipe, tmp_path, stop_after_step):
    with pytest.raises(Stopped):
        run_recipe(tmp_path, stop_after_step=stop_after_step)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "running"
    with (tmp_path / "run" / "log.jsonl").open("a") as lines:
        lines.write('{"step": 99, "tok')  # what a process killed while it logged leaves
    run_recipe(tmp_path)
    assert digests(tmp_path / "hub") == digests(published / "hub")
    assert log(tmp_path) == log(published)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "complete"


def test_a_run_goes_on_only_as_what_it_began_as(run_recipe, tmp_path):
    with pytest.raises(Stopped):
        run_recipe(tmp_path, stop_after_step=4)
    before = digests(tmp_path)
    with pytest.raises(WorkbenchError, match="another recipe or seed"):
        run_recipe(tmp_path, seed=1)
    assert digests(tmp_path) == before


def test_a_finished_run_is_not_trained_again(published, run_recipe, tmp_path, recipe):
    run_recipe(tmp_path)
    before = digests(tmp_path / "hub")
    run_recipe(tmp_path, stop_after_step=1)  # no step is made, so it does not stop
    assert digests(tmp_path / "hub") == before
    assert len(log(tmp_path)) == recipe.steps


def test_the_log_has_every_step(published, recipe):
    records = log(published)
    assert [r["step"] for r in records] == list(range(1, 13))
    assert [r["tokens"] for r in records] == [128 * step for step in range(1, 13)]
    assert [r["phase"] for r in records] == [1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4]
    rate = recipe.rate()
    assert [r["values"]["lr"] for r in records] == [0.01 * rate(step) for step in range(12)]
    assert all(len(r["layers"]["hidden_variance"]["residual"]) == 2 for r in records)
    # Random weights know nothing of the text; after a few steps they know a little.
    assert records[0]["values"]["loss"] == pytest.approx(math.log(600), rel=0.1)
    assert records[-1]["values"]["loss"] < records[0]["values"]["loss"] - 0.1
    for record in records:
        values = record["values"]
        assert values["clipped"] == float(values["grad_norm"] > 1.0)


def test_training_leaves_the_process_as_it_was(published):
    assert not torch.are_deterministic_algorithms_enabled()


def test_matrices_alone_decay_and_have_the_mup_rate(recipe):
    model = build_model(recipe, 600)
    optimizer = build_optimizer(model, recipe)
    matrices, rest = optimizer.param_groups
    assert (matrices["lr"], rest["lr"]) == (0.01 / 2, 0.01)  # width 32, base width 16
    assert (matrices["weight_decay"], rest["weight_decay"]) == (0.1, 0.0)
    assert len(matrices["params"]) == 7 * 2
    assert all(p.ndim == 2 for p in matrices["params"])
    assert len(matrices["params"]) + len(rest["params"]) == len(list(model.parameters()))
