"""A recipe: everything that decides a training run, as one TOML file."""

import tomllib
from pathlib import Path
from typing import Any, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveInt,
    ValidationError,
    model_validator,
)

from workbench.errors import WorkbenchError
from workbench.training.schedule import Shape, WarmupStableDecay

RECIPES = Path(__file__).parent / "recipes"


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Tokenizer(_Section):
    vocab_size: int = Field(ge=259)
    """Size of the byte-level BPE vocabulary, special tokens included."""


class Batch(_Section):
    tokens: PositiveInt
    """Tokens of one optimizer step."""
    context_length: PositiveInt
    """Tokens of a sequence before annealing."""
    annealing_context_length: PositiveInt
    """Tokens of a sequence in the annealing phases."""

    @model_validator(mode="after")
    def _whole_sequences(self) -> Self:
        for length in (self.context_length, self.annealing_context_length):
            if self.tokens % length:
                raise ValueError(f"tokens {self.tokens} is no multiple of the length {length}")
        return self


class Rope(_Section):
    theta: float
    """Base of the rotary embedding before annealing."""
    annealing_theta: float
    """Base of the rotary embedding in the annealing phases."""


class Optimizer(_Section):
    """AdamW; matrices use lr / (hidden_size / dim_model_base_lr) and alone decay (muP)."""

    lr: float
    """Peak learning rate of embedding, norms and alphas."""
    betas: tuple[float, float]
    eps: float
    weight_decay: float
    """Coupled to the learning rate, as in PyTorch."""
    clip_grad_norm: float


class Schedule(_Section):
    warmup_share: float = Field(ge=0, le=1)
    """Share of all steps in which the rate rises from 0."""
    annealing_phases: PositiveInt
    """Number of last phases in which the rate falls."""
    constant_share: float = Field(ge=0, lt=1)
    """Share of the annealing steps at the end that keep the final rate."""
    final_factor: float
    """Final rate over peak rate."""
    shape: Shape = "1sqrt"


class Recipe(_Section):
    name: str
    phases: PositiveInt
    steps_per_phase: PositiveInt
    merged_checkpoints: PositiveInt
    """The final model is the average of this many last checkpoints."""
    merge_every: PositiveInt
    """Steps between the checkpoints that are averaged."""
    optimizer_phases: tuple[int, ...]
    """Phases whose optimizer state is published."""
    unpublished_phases: tuple[int, ...]
    """Phases whose checkpoint is not published."""
    tokenizer: Tokenizer
    batch: Batch
    rope: Rope
    optimizer: Optimizer
    schedule: Schedule
    model: dict[str, Any]
    """Fields of the model's config."""

    @model_validator(mode="after")
    def _fits_its_phases(self) -> Self:
        if self.schedule.annealing_phases >= self.phases:
            raise ValueError(f"{self.phases} phases leave none before annealing")
        if (self.merged_checkpoints - 1) * self.merge_every >= self.steps_per_phase:
            raise ValueError("merged_checkpoints do not fit into the steps of the last phase")
        return self

    @property
    def steps(self) -> int:
        return self.phases * self.steps_per_phase

    def annealing(self, phase: int) -> bool:
        return phase > self.phases - self.schedule.annealing_phases

    def context_length(self, phase: int) -> int:
        batch = self.batch
        return batch.annealing_context_length if self.annealing(phase) else batch.context_length

    def rope_theta(self, phase: int) -> float:
        return self.rope.annealing_theta if self.annealing(phase) else self.rope.theta

    def rate(self) -> WarmupStableDecay:
        annealing_steps = self.schedule.annealing_phases * self.steps_per_phase
        start = self.steps - annealing_steps
        return WarmupStableDecay(
            warmup_steps=max(1, round(self.schedule.warmup_share * self.steps)),
            decay_start=start,
            decay_end=start + round(annealing_steps * (1 - self.schedule.constant_share)),
            final_factor=self.schedule.final_factor,
            shape=self.schedule.shape,
        )

    def stage(self, phase: int) -> str:
        """The stage of a phase: where its first step lies in the schedule."""
        return self.rate().stage((phase - 1) * self.steps_per_phase)


def load_recipe(path: Path) -> Recipe:
    """Read one recipe; raises WorkbenchError naming the file and the field that is wrong."""
    try:
        return Recipe.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise WorkbenchError(f"{path} is not valid TOML: {error}.") from None
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise WorkbenchError(f"{path}: field {field}: {first['msg']}.") from None
