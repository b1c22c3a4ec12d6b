"""The ``[[phases]]`` blocks of a suite's TOML: each stands for one phase or for many.

A block with ``steps`` lists them, one with a ``pattern`` finds them among the branches and tags of
its repository (or among the folders in ``folder``), one with neither is a single phase.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    field_validator,
    model_validator,
)

from workbench.suites.models import Phase

OPTIMIZER_FILES = ("optimizer.pt", "optimizer.bin", "latest_universal", ".metadata", "*/.metadata")
"""Any of them in a folder of this machine says that optimizer states are there."""

Found = Mapping[str, Sequence[str]]
"""The names that were listed: refs by repository, folders by the folder that holds them."""


class Range(BaseModel):
    """Steps from ``from`` to ``to``, both included, every ``by``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    start: int = Field(alias="from", ge=0)
    to: int
    by: int = Field(gt=0)

    @model_validator(mode="after")
    def _ends_where_it_says(self) -> "Range":
        if self.to < self.start or (self.to - self.start) % self.by:
            raise ValueError(f"no step of {self.by} leads from {self.start} to {self.to}")
        return self


def _kind(item: Any) -> str:
    return "range" if isinstance(item, dict | Range) else "number"


Steps = Annotated[
    Annotated[int, Tag("number"), Field(ge=0)] | Annotated[Range, Tag("range")],
    Discriminator(_kind),
]


@dataclass(frozen=True)
class Candidate:
    """A phase that has no number yet."""

    key: str
    """What tells it from every other of the suite, for good: repository and revision, or folder."""
    fields: dict[str, Any]
    """Of the phase to be."""


class Block(BaseModel):
    """One ``[[phases]]`` of the TOML. ``repo_id``, ``revision``, ``label``, ``stage`` and
    ``evidence`` may hold ``{step}`` or ``{name}`` of a group of the pattern."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    repo_id: str | None = None
    """Hub repository."""
    revision: str = ""
    """Branch, tag or commit; a template where there are ``steps``."""
    folder: Path | None = None
    """A checkpoint of this machine; with a ``pattern``, the folder that holds the checkpoints."""
    steps: list[Steps] | None = None
    """Optimizer steps that were saved: numbers and ranges ``{ from = , to = , by = }``."""
    pattern: re.Pattern[str] | None = None
    """Regular expression for the whole name; the groups ``step`` and ``tokens`` (billions) mean
    what they say."""
    label: str = ""
    """Default: the revision or the name of the folder."""
    stage: str = ""
    after: str | None = None
    """Stage that this one goes on from: steps and tokens are counted on from its end."""
    tokens_per_step: int | None = Field(None, gt=0)
    """Gives the tokens seen at each step."""
    tokens_seen_b: float | None = None
    """Billions of tokens since the start, for a single phase."""
    end_step_basis: str = "published"
    model_type: str = ""
    context_length: int | None = None
    rope_theta: float | None = None
    has_optimizer: bool | None = None
    """Default: whether the folder has a file of optimizer states; false on the Hub."""
    confirmed: bool = True
    evidence: str = ""
    overrides: dict[str, Any] = {}

    @field_validator("pattern", mode="before")
    @classmethod
    def _compiles(cls, value: Any) -> Any:
        try:
            return re.compile(value) if isinstance(value, str) else value
        except re.error as error:
            raise ValueError(f"no regular expression ({error})") from None

    @model_validator(mode="after")
    def _says_where(self) -> "Block":
        if (self.repo_id is None) == (self.folder is None):
            raise ValueError("give either repo_id or folder")
        if self.steps is not None and self.pattern is not None:
            raise ValueError("give either steps or pattern")
        if self.pattern is not None and self.revision:
            raise ValueError("a pattern finds the revisions: leave out revision")
        if self.folder is not None and self.revision:
            raise ValueError("a folder has no revision: leave out revision")
        for name in ("repo_id", "revision", "folder", "label", "stage", "evidence"):
            _fill(name, str(getattr(self, name) or ""), self._example())
        steps = list(self.all_steps())
        if len(set(steps)) < len(steps):
            raise ValueError("a step is listed twice")
        if len(steps) > 1 and "{step" not in f"{self.revision}{self.folder}":
            raise ValueError("with several steps, revision or folder has to hold {step}")
        return self

    def _example(self) -> dict[str, Any]:
        """Values for the templates, to find a wrong one at once."""
        if self.pattern is not None:
            groups: dict[str, Any] = dict.fromkeys(self.pattern.groupindex, "0")
            return {"name": ""} | groups | ({"step": 0} if "step" in groups else {})
        return {"step": 0} if self.steps is not None else {}

    def all_steps(self) -> Iterator[int]:
        for item in self.steps or ():
            yield from [item] if isinstance(item, int) else range(item.start, item.to + 1, item.by)

    @property
    def source(self) -> str | None:
        """Where the names are to be listed; None where nothing has to be."""
        if self.pattern is None:
            return None
        return self.repo_id or str(self.folder)

    def candidates(self, found: Found, base: Path) -> list[Candidate]:
        """The phases of this block in the order of training: by stage, then step, then name."""
        if self.pattern is not None:
            names = found.get(self.source or "", ())
            matches = [m for m in map(self.pattern.fullmatch, names) if m is not None]
            entries = sorted((self._matched(m) for m in matches), key=_in_training)
        elif self.steps is not None:
            entries = [self._entry({"step": step}, step) for step in sorted(self.all_steps())]
        else:
            entries = [self._entry({}, None)]
        keys = [_key(fields) for fields in entries]
        if self.folder is not None:
            entries = [fields | self._of_folder(base / fields["folder"]) for fields in entries]
        return [Candidate(key, fields) for key, fields in zip(keys, entries, strict=True)]

    def _matched(self, match: re.Match[str]) -> dict[str, Any]:
        """The fields of a phase whose name matches."""
        values: dict[str, Any] = {group: text or "" for group, text in match.groupdict().items()}
        try:
            step = int(values["step"]) if values.get("step") else None
            tokens = float(values["tokens"]) if values.get("tokens") else None
        except ValueError:
            raise ValueError(f"in {match[0]}, step and tokens have to be numbers") from None
        if step is not None:
            values["step"] = step
        fields = self._entry(values | {"name": match[0]}, step)
        if fields["tokens_seen_b"] is None:
            fields["tokens_seen_b"] = tokens
        if self.folder is not None:
            fields["folder"] = self.folder / match[0]
        else:
            fields["revision"] = match[0]
        return fields | {"label": (self.label and fields["label"]) or match[0]}

    def _entry(self, values: Mapping[str, Any], step: int | None) -> dict[str, Any]:
        """The fields of a phase, its templates filled."""
        fields: dict[str, Any] = {
            name: _fill(name, getattr(self, name), values)
            for name in ("revision", "label", "stage", "evidence")
        }
        tokens = self.tokens_seen_b
        if step is not None and self.tokens_per_step is not None:
            tokens = round(step * self.tokens_per_step / 1e9, 6)
        if self.folder is not None:
            fields["folder"] = Path(_fill("folder", str(self.folder), values))
            fields["label"] = fields["label"] or fields["folder"].name
        return fields | {
            "label": fields["label"] or fields["revision"],
            "repo_id": self.repo_id and _fill("repo_id", self.repo_id, values),
            "end_step": step,
            "end_step_basis": self.end_step_basis if step is not None else "",
            "tokens_seen_b": tokens,
            "model_type": self.model_type,
            "context_length": self.context_length,
            "rope_theta": self.rope_theta,
            "has_optimizer": bool(self.has_optimizer),
            "confirmed": self.confirmed,
            "overrides": self.overrides,
        }

    def _of_folder(self, folder: Path) -> dict[str, Any]:
        states = self.has_optimizer
        if states is None:
            states = any(any(folder.glob(name)) for name in OPTIMIZER_FILES)
        return {"folder": folder, "has_optimizer": states}


def candidates(blocks: Iterable[Block], found: Found, base: Path) -> list[Candidate]:
    """The phases of all blocks, block after block, steps and tokens counted from the start.

    ``base`` is what the folders in blocks are relative to. Raises ValueError where a name that
    was found does not fit the templates, and for a checkpoint that two blocks name.
    """
    ends: dict[str, tuple[int | None, float | None]] = {}
    every: list[Candidate] = []
    for block in blocks:
        own = block.candidates(found, base)
        for candidate in own:
            if block.after is not None:
                _count_on(candidate.fields, block.after, ends.get(block.after, (None, None)))
        ends |= {c.fields["stage"]: (c.fields["end_step"], c.fields["tokens_seen_b"]) for c in own}
        every += own
    key, times = (
        Counter(candidate.key for candidate in every).most_common(1)[0] if every else ("", 0)
    )
    if times > 1:
        raise ValueError(f"{key} is named {times} times")
    return every


def _count_on(fields: dict[str, Any], stage: str, end: tuple[int | None, float | None]) -> None:
    step, tokens = end
    if fields["end_step"] is not None:
        own = fields["end_step"]
        fields["end_step"] = None if step is None else step + own
        fields["end_step_basis"] = f"step {own} after {stage}"
    if fields["tokens_seen_b"] is not None:
        fields["tokens_seen_b"] = (
            None if tokens is None else round(fields["tokens_seen_b"] + tokens, 6)
        )


def number(every: Iterable[Candidate], numbers: Mapping[str, int] | None) -> list[Phase]:
    """The phases, with the numbers that were given to their keys before, or from 1 on."""
    return [
        Phase.model_validate({"phase": numbers[c.key] if numbers else place, **c.fields})
        for place, c in enumerate(every, 1)
    ]


def _key(fields: Mapping[str, Any]) -> str:
    if fields.get("folder") is not None:
        return str(fields["folder"])
    return f"{fields['repo_id']}@{fields['revision'] or 'main'}"


def _in_training(fields: Mapping[str, Any]) -> tuple[Any, ...]:
    step = fields["end_step"]
    return natural(fields["stage"]), step is None, step or 0, natural(_key(fields))


def natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts ``ckpt_9`` before ``ckpt_10``."""
    parts = re.split(r"(\d+)", name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def _fill(field: str, template: str, values: Mapping[str, Any]) -> str:
    try:
        return template.format_map(values)
    except (KeyError, IndexError, ValueError, AttributeError, TypeError):
        known = ", ".join(f"{{{name}}}" for name in values) or "nothing in braces"
        raise ValueError(f"{field} {template!r} may hold {known}") from None
