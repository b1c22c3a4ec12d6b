"""The training loop: a recipe and a seed in, checkpoints at phase ends and a log of every step out.

Everything that the numbers depend on is seeded, so the same seed on the same machine gives the
same weights bit for bit. A run that was stopped goes on from the end of its last whole phase.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import nn

import workbench
from workbench.errors import WorkbenchError
from workbench.models import YuLanMiniConfig, YuLanMiniForCausalLM
from workbench.models.modeling import language_model_loss
from workbench.training.corpus import Mix
from workbench.training.recipe import Recipe

RUN_FILE, LOG_FILE, STATE_FILE = "run.json", "log.jsonl", "state.pt"
MATRICES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class PhaseEnd:
    """What the trainer hands over at the end of each phase (tensors are live: copy to keep)."""

    phase: int
    step: int
    model: YuLanMiniForCausalLM
    optimizer: torch.optim.AdamW
    recent: list[dict[str, torch.Tensor]]
    """Parameters by name at the merge points of this phase, oldest first."""


def build_model(recipe: Recipe, vocab_size: int) -> YuLanMiniForCausalLM:
    config = YuLanMiniConfig(
        vocab_size=vocab_size,
        rope_theta=recipe.rope.theta,
        max_position_embeddings=recipe.batch.context_length,
        **recipe.model,
    )
    return YuLanMiniForCausalLM(config)


def build_optimizer(model: YuLanMiniForCausalLM, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW with muP groups: matrices use lr / (d / dim_model_base_lr) and decay, the rest not."""
    config, options = model.config, recipe.optimizer
    mup = config.hidden_size / config.dim_model_base_lr
    named = dict(model.named_parameters())
    matrices = {n for n in named if n.endswith(".weight") and n.split(".")[-2] in MATRICES}
    groups: list[dict[str, Any]] = [
        {
            "params": [named[n] for n in named if n in matrices],
            "lr": options.lr / mup,
            "weight_decay": options.weight_decay,
        },
        {"params": [named[n] for n in named if n not in matrices], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        groups, lr=options.lr, betas=options.betas, eps=options.eps, fused=True
    )


class _VarianceTap:
    """Mean over tokens of the variance over features at the output of every block."""

    def __init__(self, model: YuLanMiniForCausalLM) -> None:
        self.values: list[torch.Tensor] = []
        for layer in model.model.layers:
            layer.register_forward_hook(self._record)

    def _record(self, module: nn.Module, args: Any, output: Any) -> None:
        x_BTD = output[0] if isinstance(output, tuple) else output
        self.values.append(x_BTD.detach().var(dim=-1).mean())

    def drain(self) -> list[float]:
        values, self.values = self.values, []
        return torch.stack(values).tolist()


@contextmanager
def _deterministic() -> Iterator[None]:
    """The switch is the process's: left on, operations of whoever comes next may refuse to run."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


@_deterministic()
def train(
    recipe: Recipe,
    tokenizer: Tokenizer,
    documents: Mapping[str, list[str]],
    shares: Mapping[int, Mapping[str, float]],
    folder: Path,
    *,
    seed: int,
    suite: str,
    on_phase_end: Callable[[PhaseEnd], None],
    on_step: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Train all phases; ``folder`` keeps run.json, log.jsonl and the state to resume from.

    ``documents`` are the texts of each domain, ``shares`` the domains' shares of each phase;
    ``on_step`` is told steps done and in all.
    """
    _check_same_run(folder, recipe, seed)
    torch.manual_seed(seed)
    folder.mkdir(parents=True, exist_ok=True)
    model = build_model(recipe, tokenizer.get_vocab_size())
    optimizer = build_optimizer(model, recipe)
    peaks = [group["lr"] for group in optimizer.param_groups]
    run = _start_run_file(folder, recipe, model, seed=seed, suite=suite)
    done_phases = _resume(folder, model, optimizer, recipe.steps_per_phase)
    tap = _VarianceTap(model)
    rate = recipe.rate()
    mix = Mix(documents, tokenizer, shares, seed)

    for phase in range(1, recipe.phases + 1):
        length = recipe.context_length(phase)
        batches = mix.phase(phase, recipe.steps_per_phase, recipe.batch.tokens // length, length)
        if phase <= done_phases:  # the streams have to move on all the same
            continue
        model.set_rope(recipe.rope_theta(phase), length)
        recent: list[dict[str, torch.Tensor]] = []
        lines: list[str] = []
        model.train()
        for index, batch in enumerate(batches):
            step = (phase - 1) * recipe.steps_per_phase + index
            factor = rate(step)
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * factor
            values = _step(model, optimizer, torch.from_numpy(batch), recipe)
            values["lr"] = recipe.optimizer.lr * factor
            record = {
                "step": step + 1,
                "tokens": (step + 1) * recipe.batch.tokens,
                "phase": phase,
                "values": values,
                "layers": {"hidden_variance": {"residual": tap.drain()}},
            }
            lines.append(json.dumps(record) + "\n")
            on_step(step + 1, recipe.steps)
            left = recipe.steps_per_phase - 1 - index
            if left % recipe.merge_every == 0 and left // recipe.merge_every < (
                recipe.merged_checkpoints
            ):
                recent.append({n: p.detach().clone() for n, p in model.named_parameters()})
        model.eval()
        on_phase_end(PhaseEnd(phase, phase * recipe.steps_per_phase, model, optimizer, recent))
        _save_state(folder, phase, model, optimizer, lines)
    run |= {"status": "complete", "finished_at": datetime.now(UTC).isoformat()}
    _write_json(folder / RUN_FILE, run)


def _step(
    model: YuLanMiniForCausalLM,
    optimizer: torch.optim.AdamW,
    ids_BT: torch.Tensor,
    recipe: Recipe,
) -> dict[str, float]:
    started = time.perf_counter()
    logits_BTV = model(input_ids=ids_BT, use_cache=False).logits
    loss, z_loss = language_model_loss(logits_BTV, ids_BT, model.config.z_loss)
    (loss + z_loss).backward()
    clip = recipe.optimizer.clip_grad_norm
    grad_norm = nn.utils.clip_grad_norm_(model.parameters(), clip)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return {
        "loss": loss.item(),
        "z_loss": z_loss.item(),
        "grad_norm": grad_norm.item(),
        "clipped": float(grad_norm.item() > clip),
        "tokens_per_s": ids_BT.numel() / (time.perf_counter() - started),
    }


def _check_same_run(folder: Path, recipe: Recipe, seed: int) -> None:
    """A run goes on only as what it began as."""
    path = folder / RUN_FILE
    if not path.exists():
        return
    begun = json.loads(path.read_text(encoding="utf-8"))
    if (begun["recipe_json"], begun["seed"]) != (recipe.model_dump(mode="json"), seed):
        raise WorkbenchError(
            f"{folder} holds a run of another recipe or seed: remove it, or train elsewhere."
        )


def _start_run_file(
    folder: Path, recipe: Recipe, model: YuLanMiniForCausalLM, *, seed: int, suite: str
) -> dict[str, Any]:
    run = {
        "run": suite,
        "suite": suite,
        "recipe": recipe.name,
        "recipe_json": recipe.model_dump(mode="json"),
        "seed": seed,
        "status": "running",
        "started_at": datetime.now(UTC).isoformat(),
        "finished_at": None,
        "parameters": sum(p.numel() for p in model.parameters()),
        "code_version": workbench.__version__,
    }
    _write_json(folder / RUN_FILE, run)
    return run


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _save_state(
    folder: Path,
    phase: int,
    model: YuLanMiniForCausalLM,
    optimizer: torch.optim.AdamW,
    lines: list[str],
) -> None:
    """Log first, state second: a run killed in between drops the extra lines when it resumes."""
    with (folder / LOG_FILE).open("a", encoding="utf-8") as log:
        log.writelines(lines)
    state = {"phase": phase, "model": model.state_dict(), "optimizer": optimizer.state_dict()}
    fresh = folder / (STATE_FILE + ".new")
    torch.save(state, fresh)
    fresh.replace(folder / STATE_FILE)


def _resume(
    folder: Path, model: nn.Module, optimizer: torch.optim.AdamW, steps_per_phase: int
) -> int:
    """Load the state of the last whole phase, if there is one; returns the phases done.

    Lines of the log past it are dropped, and with them one that a killed process left torn.
    """
    phase = 0
    if (folder / STATE_FILE).exists():
        state = torch.load(folder / STATE_FILE, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        phase = state["phase"]
    if (folder / LOG_FILE).exists():
        lines = (folder / LOG_FILE).read_text(encoding="utf-8").splitlines(keepends=True)
        fresh = folder / (LOG_FILE + ".new")
        fresh.write_text("".join(lines[: phase * steps_per_phase]), encoding="utf-8")
        fresh.replace(folder / LOG_FILE)
    return phase
