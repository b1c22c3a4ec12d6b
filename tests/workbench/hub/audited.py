"""A small suite of repositories in the published layouts, sound in every way that is audited."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tests.fixtures.tiny_checkpoint import write_llama, write_yulan

WEIGHTS = "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
HEAD = "lm_head.weight"
STEPS = 10
TAG = "global_step20_universal"
PARTS = ("fp32", "exp_avg", "exp_avg_sq")
COLUMNS = (
    "phase", "stage", "repo_id", "model_type", "start_step", "end_step", "end_step_basis",
    "context_length", "rope_theta", "has_optimizer",
)  # fmt: skip


def repo(home: Path, phase: int) -> Path:
    return home / "suites" / "small" / "hub" / "org" / f"Phase{phase}"


def write_home(home: Path) -> None:
    """A WORKBENCH_HOME with the suite ``small``: phases 1 to 4 are YuLan-Mini, 3 and 4 in shards,
    2 with an optimizer's state; 5 was not published; 6 is a Llama, untied.
    """
    for phase in (1, 2, 3, 4):
        folder = write_yulan(repo(home, phase), seed=phase, num_hidden_layers=1)
        edit_tensors(folder, **{HEAD: load_file(folder / WEIGHTS)["model.embed_tokens.weight"]})
        edit_config(
            folder,
            torch_dtype="float32",
            num_steps_trained_before_this_epoch=STEPS * (phase - 1),
            num_epochs_trained_before_this_epoch=phase - 1,
        )
    write_optimizer(repo(home, 2))
    shard(repo(home, 3))
    shard(repo(home, 4))
    write_llama(repo(home, 6), seed=6, num_hidden_layers=1)
    facts = home / "suites" / "small"
    with (facts / "phases.csv").open("w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(COLUMNS)
        for phase in range(1, 7):
            writer.writerow(
                (
                    phase,
                    "stable",
                    "" if phase == 5 else f"org/Phase{phase}",
                    "llama" if phase == 6 else "miniyulan",
                    STEPS * (phase - 1),
                    STEPS * phase,
                    "published",
                    512,
                    10000,
                    phase == 2,
                )
            )
    (home / "suites" / "small.toml").write_text(
        'title = "Small"\nphases = "small/phases.csv"\nlocal_hub = "small/hub"\n'
        'cache_dir = "../cache"\n'
    )


def edit_json(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def edit_config(folder: Path, **fields: Any) -> None:
    edit_json(folder / "config.json", lambda config: config.update(fields))


def edit_tensors(folder: Path, name: str = WEIGHTS, **changed: torch.Tensor | None) -> None:
    state = load_file(folder / name) | changed
    kept = {n: t.clone() for n, t in state.items() if t is not None}
    save_file(kept, folder / name, {"format": "pt"})


def shard(folder: Path) -> None:
    """Two files that take the tensors in turn, with an index."""
    state = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    weight_map: dict[str, str] = {}
    for number, file in enumerate(SHARDS):
        names = sorted(state)[number::2]
        save_file({n: state[n] for n in names}, folder / file, {"format": "pt"})
        weight_map |= dict.fromkeys(names, file)
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))


def write_optimizer(folder: Path) -> None:
    """DeepSpeed's universal layout; the tied head has no state of its own."""
    for name, tensor in load_file(folder / WEIGHTS).items():
        if name == HEAD:
            continue
        part = folder / TAG / "zero" / name
        part.mkdir(parents=True)
        for key in PARTS:
            torch.save({"cat_dim": 0, "param": tensor.float()}, part / f"{key}.pt")
        torch.save(torch.tensor(20.0), part / "step.pt")
    (folder / "latest_universal").write_text(TAG)
