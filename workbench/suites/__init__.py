"""What is studied, as data: a suite is an ordered list of phases, one checkpoint each.

A suite is one TOML file beside a CSV of its phases. Those of the catalogue ship with the package;
the user's own, and those our trainer makes, lie in ``WORKBENCH_HOME/suites``.
"""

import csv
import json
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from workbench.errors import UsageError, WorkbenchError
from workbench.settings import Home

CATALOGUE = Path(__file__).parent / "catalogue"

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
    evidence: str = ""
    overrides: dict[str, Any] = {}
    """Config fields that are replaced when the checkpoint is loaded."""

    @property
    def label(self) -> str:
        return f"phase {self.phase}"

    @property
    def overrides_json(self) -> str:
        return json.dumps(self.overrides, sort_keys=True)

    @property
    def form(self) -> Form:
        """How the weights are parameterised, by the published model type."""
        return FORM_OF_MODEL_TYPE.get(self.model_type, "plain")

    @field_validator(
        "repo_id", "start_step", "end_step", "tokens_b", "context_length", "rope_theta",
        mode="before",
    )  # fmt: skip
    @classmethod
    def _empty_is_unknown(cls, value: Any) -> Any:
        return None if value == "" else value


class Suite(BaseModel):
    """An ordered list of phases, with the paths of its facts made absolute."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    title: str
    about: str = ""
    licence: str = ""
    phases: tuple[Phase, ...] = Field(min_length=1)
    data_mix: Path | None = None
    published_scores: Path | None = None
    training_log: Path | None = None
    """Folder with run.json and log.jsonl, for a suite that our trainer made."""
    cache_dir: Path | None = None
    """The Hub cache that holds the checkpoints; None is the user's own Hugging Face cache."""
    local_hub: Path | None = None
    """Folder of repositories that the local Hub serves for this suite; None is the real Hub."""

    def select(self, spec: str) -> list[Phase]:
        """The phases named by a list such as ``5,10-15,annealing`` (numbers, ranges, stages).

        Raises UsageError for anything that is not a phase or a stage of this suite.
        """
        known = {phase.phase: phase for phase in self.phases}
        stages = list(dict.fromkeys(phase.stage for phase in self.phases if phase.stage))
        chosen: set[int] = set()
        for part in filter(None, (p.strip() for p in spec.split(","))):
            first, dash, last = part.partition("-")
            if part == "all":
                chosen |= known.keys()
            elif part in stages:
                chosen |= {phase.phase for phase in self.phases if phase.stage == part}
            elif first.isdecimal() and (last.isdecimal() if dash else not last):
                low, high = int(first), int(last or first)
                missing = [n for n in (low, high) if n not in known]
                if missing or low > high:
                    raise UsageError(
                        f"Suite {self.name} has no phase {part}: its phases are "
                        f"{min(known)}-{max(known)}."
                    )
                chosen |= {n for n in known if low <= n <= high}
            else:
                raise UsageError(
                    f"{part!r} is no phase of suite {self.name}: give numbers "
                    f"({min(known)}-{max(known)}), ranges such as 5-10, 'all', or a stage "
                    f"({', '.join(stages)})."
                )
        if not chosen:
            raise UsageError("No phase was named: give for example --phases 1-27.")
        return [known[n] for n in sorted(chosen)]


_PATHS = ("data_mix", "published_scores", "training_log", "cache_dir", "local_hub")


def load_suite_file(path: Path) -> Suite:
    """Read and validate one suite TOML. Paths in it are relative to the file.

    Raises WorkbenchError that names the file, and the field or line that is wrong.
    """
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise WorkbenchError(f"{path} is not valid TOML: {error}.") from None
    overrides = raw.pop("overrides", {})
    for field in ("phases", *_PATHS):
        if not isinstance(raw.get(field, ""), str):
            raise WorkbenchError(f"{path}: field {field}: a path is wanted, not {raw[field]!r}.")
    raw |= {field: path.parent / raw[field] for field in _PATHS if field in raw}
    if raw.get("name", path.stem) != path.stem:
        raise WorkbenchError(f"{path}: field name: it has to be that of the file, {path.stem}.")
    try:
        raw["phases"] = _read_phases(path.parent / raw.get("phases", ""), overrides)
        unknown = overrides.keys() - {str(phase.phase) for phase in raw["phases"]}
        if unknown:
            raise WorkbenchError(f"{path}: field overrides.{min(unknown)}: there is no such phase.")
        return Suite.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise WorkbenchError(f"{path}: field {where}: {first['msg']}.") from None
    except OSError as error:
        raise WorkbenchError(f"{path}: field phases: cannot read {error.filename}.") from None


def _read_phases(path: Path, overrides: dict[str, dict[str, Any]]) -> list[Phase]:
    phases: list[Phase] = []
    seen: float | None = 0.0
    with path.open(encoding="utf-8", newline="") as lines:
        reader = csv.DictReader(lines, restkey="more columns than the header")
        for row in reader:
            changes = overrides.get(row.get("phase", ""), {})
            try:
                phase = Phase.model_validate(row | {"overrides": changes})
            except ValidationError as error:
                first = error.errors()[0]
                field = ".".join(str(part) for part in first["loc"])
                raise WorkbenchError(
                    f"{path}, line {reader.line_num}: field {field}: {first['msg']}."
                ) from None
            if phases and phase.phase <= phases[-1].phase:
                raise WorkbenchError(
                    f"{path}, line {reader.line_num}: field phase: {phase.phase} comes after "
                    f"{phases[-1].phase}; phases stand in order, each once."
                )
            seen = None if seen is None or phase.tokens_b is None else seen + phase.tokens_b
            rounded = None if seen is None else round(seen, 6)
            phases.append(phase.model_copy(update={"tokens_seen_b": rounded}))
    return phases


def suite_files(home: Home) -> dict[str, Path]:
    """Every suite's TOML by name: the catalogue's, then the user's own."""
    folders: Iterable[Path] = (CATALOGUE, home.suites)
    return {path.stem: path for folder in folders for path in sorted(folder.glob("*.toml"))}


def load_suite(name: str, home: Home) -> Suite:
    """The suite of that name; raises UsageError with the names that exist."""
    files = suite_files(home)
    if name not in files:
        raise UsageError(
            f"There is no suite named {name!r}: `workbench suites` lists "
            f"{', '.join(sorted(files))}"
            + ("" if "demo" in files else "; `workbench demo` makes demo")
            + "."
        )
    return load_suite_file(files[name])
