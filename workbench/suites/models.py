"""What a suite is once it is read: an ordered list of phases, one checkpoint each."""

import json
from collections import Counter
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from workbench.errors import UsageError

Form = Literal["reparameterised", "merged", "plain"]
FORM_OF_MODEL_TYPE: dict[str, Form] = {
    "miniyulan": "reparameterised",
    "yulanmini": "reparameterised",
    "llama": "merged",
}


class Phase(BaseModel):
    """One phase of a trajectory and where its checkpoint is; what is unknown is None."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    phase: int
    """Its number: from 1 in the order of training, where the suite does not say otherwise."""
    label: str = Field(default_factory=lambda known: f"phase {known['phase']}")
    """What people call it: the revision, the folder, or "phase N"."""
    stage: str = ""
    repo_id: str | None = None
    """The Hub repository of the checkpoint; None when none was published."""
    revision: str = "main"
    folder: Path | None = None
    """The checkpoint itself, where it is a folder of this machine; repo_id is then None."""
    model_type: str = ""
    start_step: int | None = None
    end_step: int | None = None
    """The optimizer step at which the checkpoint was saved."""
    end_step_basis: str = ""
    tokens_b: float | None = None
    """Tokens of this phase alone, in billions."""
    tokens_seen_b: float | None = None
    """Tokens since the start of training, in billions; None once a phase before is unknown."""
    context_length: int | None = None
    rope_theta: float | None = None
    has_optimizer: bool = False
    confirmed: bool = True
    """False where nobody of us has seen that the checkpoint is there; ``evidence`` says why."""
    evidence: str = ""
    overrides: dict[str, Any] = {}
    """Config fields that are replaced when the checkpoint is loaded."""

    @property
    def overrides_json(self) -> str:
        return json.dumps(self.overrides, sort_keys=True)

    @property
    def is_published(self) -> bool:
        """Is there a checkpoint, on the Hub or as a folder?"""
        return self.repo_id is not None or self.folder is not None

    @property
    def place(self) -> str | None:
        """The repository or the folder of the checkpoint; None when none was published."""
        return self.repo_id if self.folder is None else str(self.folder)

    @property
    def form(self) -> Form:
        """How the weights are parameterised, by the published model type."""
        return FORM_OF_MODEL_TYPE.get(self.model_type, "plain")

    @model_validator(mode="before")
    @classmethod
    def _empty_is_unknown(cls, values: dict[str, Any]) -> dict[str, Any]:
        known = cls.model_fields
        return {n: value for n, value in values.items() if value != "" or n not in known}


class Suite(BaseModel):
    """An ordered list of phases, with the paths of its facts made absolute."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    definition: str = ""
    """The ``identity`` of its definition; empty for a suite that no command has looked up."""
    title: str
    about: str = ""
    licence: str = ""
    aliases: tuple[str, ...] = ()
    """Other names of the model, under which results files of lm-eval may know it."""
    phases: tuple[Phase, ...] = Field(min_length=1)
    """In the order of training, which is that of their numbers but for revisions that came late."""
    settings: dict[str, dict[str, Any]] = {}
    """Default settings by probe id, checked when the probe is run."""
    data_mix: Path | None = None
    published_scores: Path | None = None
    training_log: Path | None = None
    """Folder with run.json and log.jsonl, for a suite that our trainer made."""
    cache_dir: Path | None = None
    """The Hub cache that holds the checkpoints; None is the user's own Hugging Face cache."""
    local_hub: Path | None = None
    """Folder of repositories that the local Hub serves for this suite; None is the real Hub."""

    def select(self, spec: str) -> list[Phase]:
        """The phases named by a list such as ``5,10-15,annealing,step1000``, in their order.

        A part is ``all``, a number, a range of numbers, a stage, a label, or a revision that one
        phase alone has. Raises UsageError for anything else.
        """
        numbers = [phase.phase for phase in self.phases]
        revisions = Counter(phase.revision for phase in self.phases)
        low, high = min(numbers), max(numbers)
        chosen: set[int] = set()
        for part in filter(None, (p.strip() for p in spec.split(","))):
            named = [
                p.phase
                for p in self.phases
                if part in (p.stage, p.label) or (part == p.revision and revisions[part] == 1)
            ]
            first, dash, last = part.partition("-")
            if part == "all":
                chosen.update(numbers)
            elif named:
                chosen.update(named)
            elif first.isdecimal() and (last.isdecimal() if dash else not last):
                start, stop = int(first), int(last or first)
                if start > stop or not {start, stop} <= set(numbers):
                    raise UsageError(
                        f"Suite {self.name} has no phase {part}: its phases are {low}-{high}."
                    )
                chosen.update(n for n in numbers if start <= n <= stop)
            else:
                raise UsageError(self._unknown(part, low, high))
        if not chosen:
            raise UsageError(f"No phase was named: give for example --phases {low}-{high}.")
        return [phase for phase in self.phases if phase.phase in chosen]

    def _unknown(self, part: str, low: int, high: int) -> str:
        stages = list(dict.fromkeys(phase.stage for phase in self.phases if phase.stage))
        labels = list(dict.fromkeys(phase.label for phase in self.phases))
        ways = [f"numbers ({low}-{high}), ranges such as {low}-{high}, 'all'"]
        if stages:
            more = f" and {len(stages) - 6} more" if len(stages) > 6 else ""
            ways.append(f"a stage ({', '.join(stages[:6])}{more})")
        if labels[0] != f"phase {self.phases[0].phase}":
            near = get_close_matches(part, labels, n=3, cutoff=0.5)
            ways.append(f"a label such as {' or '.join(near or labels[:1])}")
        return f"{part!r} is no phase of suite {self.name}: give {', or '.join(ways)}."
