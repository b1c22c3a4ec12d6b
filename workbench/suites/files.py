"""Reading suites from TOML: one suite, or a family whose members differ by a name or two."""

import csv
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from workbench.errors import WorkbenchError
from workbench.suites.blocks import Block, Candidate, Found, candidates, number
from workbench.suites.models import Phase, Suite
from workbench.suites.places import Toml, explained, wrong

_PATHS = ("data_mix", "published_scores", "training_log", "cache_dir", "local_hub")


class SuiteHead(BaseModel):
    """What the TOML says of the suite as a whole."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = ""
    """That of the file, which is the default; of a family a template such as ``mine-{size}``."""
    title: str
    about: str = ""
    licence: str = ""
    aliases: list[str] = []
    """Other names of the model, under which results files of lm-eval may know it."""
    family: dict[str, list[str | int]] = {}
    """The values of each name in braces; every combination is a suite."""
    phases: str | tuple[dict[str, Any], ...]
    """Path of a CSV with one row per phase, or the ``[[phases]]`` blocks."""
    settings: dict[str, dict[str, Any]] = {}
    """Tables ``[settings.PROBE]``: what a probe's settings are unless ``--set`` says otherwise."""
    overrides: dict[str, dict[str, Any]] = {}
    """Config fields by the number of the phase, for phases from a CSV."""
    data_mix: str | None = None
    """CSV of tokens by phase and source."""
    published_scores: str | None = None
    """CSV of benchmark scores that others measured."""
    training_log: str | None = None
    """Folder with the run.json and log.jsonl of our trainer."""
    cache_dir: str | None = None
    """Hub cache for the checkpoints; default: that of the Hub's client."""
    local_hub: str | None = None
    """Folder of repositories to be served on this machine instead of the Hub."""

    @field_validator("phases", mode="before")
    @classmethod
    def _path_or_blocks(cls, value: Any) -> Any:
        if not isinstance(value, str | list):
            raise ValueError("give the path of a CSV, or [[phases]] blocks")
        return value


@dataclass(frozen=True)
class Definition:
    """One suite as a TOML defines it; its phases may have to be listed first."""

    name: str
    toml: Toml
    family: str
    """The template of its name; empty for a suite that is no member of a family."""
    head: SuiteHead

    @property
    def folder(self) -> Path:
        """Paths in the file are relative to this."""
        return self.toml.path.parent

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """The ``[[phases]]``; none when the phases are in a CSV."""
        raws = () if isinstance(self.head.phases, str) else self.head.phases
        blocks: list[Block] = []
        for at, raw in enumerate(raws):
            try:
                block = Block.model_validate(raw)
            except ValidationError as error:
                raise self.toml.explained(error, Block, ("phases", at)) from None
            if block.after is not None and block.after not in {b.stage for b in blocks}:
                what = f"no block before this one has the stage {block.after!r}"
                raise self.toml.wrong(("phases", at, "after"), what)
            blocks.append(block)
        return tuple(blocks)

    @property
    def found(self) -> list[Block]:
        """The blocks whose checkpoints are found by a pattern: they have to be listed."""
        return [block for block in self.blocks if block.pattern is not None]

    @property
    def paths(self) -> list[str]:
        """All paths in the file, as they stand there."""
        csv = [self.head.phases] if isinstance(self.head.phases, str) else []
        facts = [path for name in _PATHS if (path := getattr(self.head, name))]
        return csv + facts + [str(block.folder) for block in self.blocks if block.folder]

    @property
    def local_hub(self) -> Path | None:
        return self.folder / self.head.local_hub if self.head.local_hub else None

    def candidates(self, found: Found) -> list[Candidate]:
        """The phases in the order of training, without their numbers yet."""
        try:
            return candidates(self.blocks, found, self.folder)
        except ValueError as error:
            raise self.toml.wrong(("phases",), str(error)) from None

    def suite(self, found: Found | None = None, numbers: Mapping[str, int] | None = None) -> Suite:
        """The suite with the phases that were ``found``; those without a number are left out.

        ``numbers`` gives the numbers by key; without it they count from 1. Raises WorkbenchError
        that names the file, the line and the field.
        """
        if isinstance(self.head.phases, str):
            phases = self._phases_of_csv(self.folder / self.head.phases)
        else:
            every = self.candidates(found or {})
            if numbers is not None:
                every = [candidate for candidate in every if candidate.key in numbers]
            phases = number(every, numbers)
        if not phases:
            sources = " and ".join(sorted({str(block.source) for block in self.found}))
            what = f"nothing in {sources} has a name that matches" if sources else "there are none"
            raise self.toml.wrong(("phases",), what)
        fields = self.head.model_dump(include={"title", "about", "licence", "aliases", "settings"})
        paths = {f: self.folder / path for f in _PATHS if (path := getattr(self.head, f))}
        return Suite(name=self.name, phases=tuple(phases), **fields, **paths)

    def _phases_of_csv(self, path: Path) -> list[Phase]:
        try:
            phases = read_phases(path, self.head.overrides)
        except (OSError, UnicodeDecodeError):
            raise self.toml.wrong(("phases",), f"cannot read {path}") from None
        unknown = self.head.overrides.keys() - {str(phase.phase) for phase in phases}
        if unknown:
            raise self.toml.wrong(("overrides", min(unknown)), "there is no such phase")
        return phases


def read_definitions(path: Path) -> list[Definition]:
    """The suites that a TOML defines: one, or the members of a family.

    Raises WorkbenchError that names the file, the line and the field that is wrong.
    """
    try:
        toml = Toml(path, path.read_text(encoding="utf-8"))
        raw = tomllib.loads(toml.text)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise WorkbenchError(f"{path} is not valid TOML: {error}.") from None
    except OSError as error:
        raise WorkbenchError(f"{path} cannot be read: {error.strerror}.") from None
    try:
        head = SuiteHead.model_validate(raw)
    except ValidationError as error:
        raise toml.explained(error, SuiteHead) from None
    if isinstance(head.phases, tuple) and head.overrides:
        raise toml.wrong(
            ("overrides",), "with [[phases]], overrides stand in the block they are of"
        )
    name = head.name or path.stem
    if not head.family:
        if name != path.stem:
            raise toml.wrong(("name",), f"it has to be that of the file, {path.stem}")
        return [Definition(name, toml, "", head)]
    if any(f"{{{key}}}" not in name for key in head.family):
        missing = ", ".join(f"{{{key}}}" for key in head.family)
        raise toml.wrong(("name",), f"that of a family has to hold {missing}")
    return [
        Definition(_replaced(name, values), toml, name, _member(head, values))
        for combination in product(*head.family.values())
        for values in [dict(zip(head.family, map(str, combination), strict=True))]
    ]


def _member(head: SuiteHead, values: Mapping[str, str]) -> SuiteHead:
    fields = {f: _replaced(getattr(head, f), values) for f in head.model_fields_set - {"family"}}
    return head.model_copy(update=fields)


def _replaced(value: Any, values: Mapping[str, str]) -> Any:
    """The value with ``{name}`` replaced in every text of it; other braces stay."""
    if isinstance(value, str):
        for name, text in values.items():
            value = value.replace(f"{{{name}}}", text)
    elif isinstance(value, Mapping):
        value = {key: _replaced(entry, values) for key, entry in value.items()}
    elif isinstance(value, list | tuple):
        value = type(value)(_replaced(entry, values) for entry in value)
    return value


def read_phases(path: Path, overrides: Mapping[str, Mapping[str, Any]]) -> list[Phase]:
    """The rows of a CSV; ``overrides`` by the number of the phase."""
    phases: list[Phase] = []
    seen: float | None = 0.0
    with path.open(encoding="utf-8", newline="") as lines:
        reader = csv.DictReader(lines, restkey="more columns than the header")
        for row in reader:
            changes = overrides.get(row.get("phase", ""), {})
            try:
                phase = Phase.model_validate(row | {"overrides": changes})
            except ValidationError as error:
                raise explained(path, reader.line_num, error, Phase) from None
            if phases and phase.phase <= phases[-1].phase:
                after = f"{phase.phase} comes after {phases[-1].phase}"
                what = f"{after}; phases stand in order, each once"
                raise wrong(path, reader.line_num, ("phase",), what)
            seen = None if seen is None or phase.tokens_b is None else seen + phase.tokens_b
            rounded = None if seen is None else round(seen, 6)
            folder = phase.folder and path.parent / phase.folder
            phases.append(phase.model_copy(update={"tokens_seen_b": rounded, "folder": folder}))
    return phases
