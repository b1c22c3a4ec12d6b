"""Write a run's checkpoints as the makers of YuLan-Mini published theirs, traps included.

One repository folder per phase. Phases before the last stable one are `miniyulan` without code;
the last stable one is `yulanmini` with code that must never run and with the annealing values of
theta and length in its config; the last phase is the average of the last annealing checkpoints,
folded into Llama. Optimizer states have DeepSpeed's universal layout.
"""

import csv
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from workbench.checkpoints.llama import fold_to_llama
from workbench.models.modeling import published_state_dict
from workbench.training.corpus import BOS_ID, EOS_ID, SPECIAL_TOKENS
from workbench.training.recipe import Recipe
from workbench.training.trainer import PhaseEnd

_REMOTE_CODE = 'raise RuntimeError("remote code of a checkpoint was run; it must never be")\n'
_AUTO_MAP = {
    "AutoConfig": "configuration_yulanmini.YuLanMiniConfig",
    "AutoModel": "modeling_yulanmini.YuLanMiniModel",
    "AutoModelForCausalLM": "modeling_yulanmini.YuLanMiniForCausalLM",
}

QUICK_BYTES = 16_000
"""Of each domain of the probe text: those documents that the demo's training held out."""


class Publisher:
    """Turns the ends of phases into repositories under ``hub``/``owner``."""

    def __init__(self, recipe: Recipe, tokenizer: Tokenizer, hub: Path, owner: str) -> None:
        self.recipe = recipe
        self.hub = hub
        self.owner = owner
        self.tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=tokenizer,
            unk_token=SPECIAL_TOKENS[0],
            bos_token=SPECIAL_TOKENS[BOS_ID],
            eos_token=SPECIAL_TOKENS[EOS_ID],
        )

    @property
    def last_stable(self) -> int:
        return self.recipe.phases - self.recipe.schedule.annealing_phases

    def repo_id(self, phase: int) -> str | None:
        """The repository of a phase, named as the published ones are; None when there is none."""
        if phase in self.recipe.unpublished_phases:
            return None
        if phase == self.recipe.phases:
            return f"{self.owner}/YuLan-Mini"
        if phase == self.last_stable:
            return f"{self.owner}/YuLan-Mini-Before-Annealing"
        return f"{self.owner}/YuLan-Mini-Phase{phase}"

    def model_type(self, phase: int) -> str:
        if phase == self.recipe.phases:
            return "llama"
        return "miniyulan" if phase < self.last_stable else "yulanmini"

    def publish(self, end: PhaseEnd) -> None:
        """Write the repository of the phase that has just ended; an unpublished one has none."""
        repo_id = self.repo_id(end.phase)
        if repo_id is None:
            return
        folder = self.hub / repo_id
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        if end.phase == self.recipe.phases:
            self._write_merged(folder, end)
        else:
            save_weights(folder, published_state_dict(end.model))
            _write_json(folder / "config.json", self._config(end))
            if end.phase == self.last_stable:
                for name in ("configuration_yulanmini.py", "modeling_yulanmini.py"):
                    (folder / name).write_text(_REMOTE_CODE, encoding="utf-8")
        self.tokenizer.save_pretrained(folder)
        if end.phase in self.recipe.optimizer_phases:
            write_universal_optimizer(folder, end)

    def _config(self, end: PhaseEnd) -> dict[str, Any]:
        """The config of a reparameterised phase; the last stable one says what comes after it."""
        recipe, phase = self.recipe, end.phase
        last_stable = phase == self.last_stable
        described = phase + 1 if last_stable else phase
        trained_before = described if last_stable else described - 1
        fields = {
            key: value
            for key, value in end.model.config.to_dict().items()
            if key not in ("rope_parameters", "transformers_version", "dtype", "architectures")
        }
        config = fields | {
            "architectures": [
                "YuLanMiniForCausalLM" if last_stable else "MiniYuLanModelForCausalLM"
            ],
            "model_type": self.model_type(phase),
            "rope_theta": recipe.rope_theta(described),
            "rope_scaling": None,
            "max_position_embeddings": recipe.context_length(described),
            "torch_dtype": "bfloat16",
            "num_epochs_trained_before_this_epoch": trained_before,
            "num_steps_trained_before_this_epoch": trained_before * recipe.steps_per_phase,
        }
        return config | ({"auto_map": _AUTO_MAP} if last_stable else {})

    def _write_merged(self, folder: Path, end: PhaseEnd) -> None:
        """Fold each of the last checkpoints, then average: an alpha and its matrix are only
        meaningful as a product."""
        scratch = folder / ".parts"
        averaged: dict[str, torch.Tensor] = {}
        for number, parameters in enumerate(end.recent):
            part, folded = scratch / f"{number}", scratch / f"{number}-llama"
            part.mkdir(parents=True)
            with torch.no_grad():
                for name, parameter in end.model.named_parameters():
                    parameter.copy_(parameters[name])
            weights = {n: t.float() for n, t in published_state_dict(end.model).items()}
            save_file({n: t.contiguous().clone() for n, t in weights.items()},
                      part / "model.safetensors")  # fmt: skip
            _write_json(part / "config.json", self._config(end))
            fold_to_llama(part, folded, {"model_type": "miniyulan"})  # not merged yet
            for name, tensor in load_file(folded / "model.safetensors").items():
                averaged[name] = averaged.get(name, torch.zeros(())) + tensor / len(end.recent)
        config = json.loads((folded / "config.json").read_text(encoding="utf-8"))
        shutil.rmtree(scratch)
        save_weights(folder, averaged)
        _write_json(folder / "config.json", config | {"torch_dtype": "bfloat16"})


def save_weights(folder: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """One bf16 ``model.safetensors``; tensors that share memory are written out twice."""
    save_file(
        {name: tensor.detach().to(torch.bfloat16).clone() for name, tensor in tensors.items()},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )


def write_universal_optimizer(folder: Path, end: PhaseEnd) -> None:
    """DeepSpeed's universal layout: one folder per parameter with fp32 weight and AdamW state."""
    tag = f"global_step{end.step}"
    root = folder / f"{tag}_universal"
    for name, parameter in end.model.named_parameters():
        state = end.optimizer.state[parameter]
        part = root / "zero" / name
        part.mkdir(parents=True)
        for key, tensor in (
            ("fp32", parameter.detach()),
            ("exp_avg", state["exp_avg"]),
            ("exp_avg_sq", state["exp_avg_sq"]),
        ):
            torch.save({"cat_dim": 0, "param": tensor.clone()}, part / f"{key}.pt")
        torch.save(torch.tensor(float(end.step)), part / "step.pt")
    torch.save({"global_steps": end.step, "dp_world_size": 1, "mp_world_size": 1},
               root / "mp_rank_00_model_states.pt")  # fmt: skip
    (folder / "latest_universal").write_text(f"{tag}_universal", encoding="utf-8")


PHASE_COLUMNS = (
    "phase", "stage", "repo_id", "model_type", "start_step", "end_step", "end_step_basis",
    "tokens_b", "context_length", "rope_theta", "has_optimizer", "evidence",
)  # fmt: skip
MIX_COLUMNS = (
    "phase", "run", "mix_id", "source", "group", "category", "bucket", "tokens_b",
)  # fmt: skip
_MIX_NAMES = {
    "web": ("english-wikipedia", "english-web", "Web"),
    "chinese": ("libreoffice-help-zh", "chinese", "Chinese"),
    "code": ("python-stdlib", "code", "Code-Pretrain"),
    "maths": ("math", "math", "Math-Pretrain"),
}


def write_suite(
    publisher: Publisher,
    domain_tokens: Mapping[int, Mapping[str, int]],
    suites: Path,
    name: str,
    *,
    training_log: str,
    local_hub: str,
    cache_dir: str,
) -> Path:
    """The suite's TOML and its CSV facts; the paths given are relative to the TOML."""
    recipe = publisher.recipe
    facts = suites / name
    facts.mkdir(parents=True, exist_ok=True)
    tokens_b = recipe.steps_per_phase * recipe.batch.tokens / 1e9
    _write_csv(
        facts / "phases.csv",
        PHASE_COLUMNS,
        [
            (
                phase, recipe.stage(phase), publisher.repo_id(phase) or "",
                publisher.model_type(phase), (phase - 1) * recipe.steps_per_phase,
                phase * recipe.steps_per_phase, "trained here", tokens_b,
                recipe.context_length(phase), recipe.rope_theta(phase),
                phase in recipe.optimizer_phases, "",
            )
            for phase in range(1, recipe.phases + 1)
        ],
    )  # fmt: skip
    _write_csv(
        facts / "data_mix.csv",
        MIX_COLUMNS,
        [
            (phase, str(phase), recipe.name, *_mix_row(domain), count / 1e9)
            for phase, mix in domain_tokens.items()
            for domain, count in mix.items()
        ],
    )
    toml = suites / f"{name}.toml"
    stable = publisher.last_stable
    toml.write_text(
        f'name = "{name}"\n'
        f'title = "Demo: YuLan-Mini at one million parameters"\n'
        f'about = "Trained here on real text of four domains; published as YuLan-Mini was."\n'
        f'licence = "see workbench/training/corpus/SOURCES.md"\n'
        f'phases = "{name}/phases.csv"\n'
        f'data_mix = "{name}/data_mix.csv"\n'
        f'training_log = "{training_log}"\n'
        f'local_hub = "{local_hub}"\n'
        f'cache_dir = "{cache_dir}"\n\n'
        f"# As published, the config of phase {stable} carries the values of phase {stable + 1}.\n"
        f"[overrides.{stable}]\n"
        f"rope_theta = {recipe.rope_theta(stable)}\n"
        f"max_position_embeddings = {recipe.context_length(stable)}\n"
        + _loss_settings(recipe)
        + _optimizer_settings(recipe),
        encoding="utf-8",
    )
    return toml


def _loss_settings(recipe: Recipe) -> str:
    """One window for all phases, though the context grows, and the text that makes it quick."""
    return (
        "\n# The same tokens for all phases, and of each domain only as much as is quick.\n"
        "[settings.loss]\n"
        f"window = {recipe.context_length(1)}\n"
        f"bytes_per_domain = {QUICK_BYTES}\n"
    )


def _optimizer_settings(recipe: Recipe) -> str:
    """What the universal layout does not keep; the rates only where all states have the same."""
    rate, options = recipe.rate(), recipe.optimizer
    factors = {rate(phase * recipe.steps_per_phase - 1) for phase in recipe.optimizer_phases}
    lines = [
        "",
        "# Of the steps at which the optimizer's states were saved.",
        "[settings.optimizer]",
    ]
    if len(factors) == 1:
        lr = options.lr * factors.pop()
        matrix_lr = lr / (recipe.model["hidden_size"] / recipe.model["dim_model_base_lr"])
        lines += [f"lr = {lr}", f"matrix_lr = {matrix_lr}"]
    lines += [f"eps = {options.eps}", f"beta1 = {options.betas[0]}", f"beta2 = {options.betas[1]}"]
    return "\n".join(lines) + "\n"


def _mix_row(domain: str) -> tuple[str, str, str, str]:
    source, category, bucket = _MIX_NAMES[domain]
    return source, source, category, bucket


def _write_csv(path: Path, columns: tuple[str, ...], rows: list[tuple[Any, ...]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(columns)
        writer.writerows(rows)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
