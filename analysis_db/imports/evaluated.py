"""Which model, and which phase of a suite, a results file of lm-eval is of.

A file names its model in the arguments that lm-eval ran with, or as ``model_name``; a file that
names none may lie in a folder that does. Names are compared whole: ``pythia-1b`` is another model
than ``pythia-1.4b``, and ``pythia-160m-deduped`` another than ``pythia-160m``.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis_db.errors import StoreError
from analysis_db.imports.documents import Document

STEP_PATTERN = r"step[_=-]?(?P<step>\d+)"
"""Finds the step in the name of a file, unless another pattern is given."""

# The arguments that name the model, in lm-eval's order: an adapter is another model than its base.
# "load" is the folder of the checkpoint where GPT-NeoX ran lm-eval.
_NAMING = ("peft", "delta", "pretrained", "model", "path", "engine", "load")
# What lm-eval makes up as model_name where it was given the model as an object.
_RANDOM_NAME = re.compile(r"[a-z0-9]{8}")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_CHECKPOINT_FOLDER = re.compile(
    r"(?:global_?|stage\d+-)?step[_=-]?\d+(?:-tokens\d+[BT])?|checkpoint[_-]\d+|main|[0-9a-f]{40}"
)
_PATH = re.compile(r"[./~\\]|[A-Za-z]:[/\\]")


@dataclass(frozen=True)
class Place:
    """Where a checkpoint stands in its suite, and what it is called."""

    phase: int
    step: int | None
    repo_id: str | None
    revision: str
    folder: Path | None = None


@dataclass(frozen=True)
class Named:
    """The model that a file names."""

    names: tuple[str, ...] = ()
    """Empty where it names none."""
    revision: str | None = None
    """None where it cannot be known."""


@dataclass(frozen=True)
class Model:
    """The model that the scores of a file are kept under."""

    name: str | None
    """As stated or as the file names it; None where neither does."""
    phases: frozenset[int]
    """The phases of the suite that it may be; empty for another model, or an unknown one."""
    revision: str | None
    folder: bool = False
    """Whether only the name of a folder, or one without an organisation, tells it."""
    differs: bool = False
    """Whether the file names another model than was stated."""


class ForeignModelError(Exception):
    """A file names a model that is none of the suite's."""


def named_model(document: Document) -> Named:
    """What a results file says of its model, whatever version of lm-eval wrote it."""
    content = document.content
    config = content.get("config")
    config = config if isinstance(config, dict) else {}
    args = _arguments(config.get("model_args"))
    given = next((text for key in _NAMING if (text := _text(args.get(key)))), None)
    names = [given] if given else []
    about = _text(config.get("model"))
    if given is None and about and re.search(r"[/\\]", about):
        names.append(about)  # the object's own name; "hf" and the like are kinds of model
    names += filter(None, [_text(config.get("model_name"))])
    name = _text(content.get("model_name")) or (
        _text(content.get("model_name_sanitized")) or ""
    ).replace("__", "/")
    made_up = given is None and "model_args" in config and _RANDOM_NAME.fullmatch(name)
    if name and not made_up:
        names.append(name)
    revision = args.get("revision")
    revision = _text(str(revision) if isinstance(revision, int) else revision)
    recorded = _text(config.get("model_revision"))
    if revision is None and recorded != "main":
        revision = recorded
    if names:
        split = _split(names[0])
        revision = split.revision or revision
        if revision is None and given and not split.path:
            revision = "main"  # which is what lm-eval evaluates then
    return Named(tuple(dict.fromkeys(names)), revision)


def _arguments(given: Any) -> dict[str, Any]:
    if isinstance(given, str):
        pairs = (part.split("=", 1) for part in given.split(",") if "=" in part)
        return {key.strip(): value for key, value in pairs}
    return given if isinstance(given, dict) else {}


def _text(value: Any) -> str | None:
    return (value.strip().strip("\"'").strip() or None) if isinstance(value, str) else None


@dataclass(frozen=True)
class _Parts:
    parts: tuple[str, ...]
    """Of the name in lower case, without a checkpoint's own folder at its end."""
    revision: str | None
    path: bool
    """Whether it is a folder of some machine rather than a repository of the Hub."""


def _split(name: str) -> _Parts:
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
    for at in reversed(range(len(parts))):
        if parts[at].startswith("models--"):  # in a cache of the Hub's client
            model = tuple(parts[at].casefold().split("--")[1:])
            in_snapshot = parts[at + 1 : at + 2] == ["snapshots"] and len(parts) > at + 2
            return _Parts(model, parts[at + 2] if in_snapshot else None, False)
    whole = len(parts)
    revision = None
    while len(parts) > 1 and _CHECKPOINT_FOLDER.fullmatch(parts[-1]):
        revision = parts.pop()
    path = len(parts) != 2 or whole > len(parts) or _PATH.match(name) is not None
    return _Parts(tuple(part.casefold() for part in parts), revision, path)


class Trajectory:
    """The checkpoints of a suite, by step and by the names of their models."""

    def __init__(
        self,
        places: Sequence[Place],
        aliases: Iterable[str] = (),
        titles: Sequence[str] = (),
        others: Iterable[str] = (),
    ) -> None:
        """``aliases`` are other names of the model, in the organisations of the suite's
        repositories where they have none; ``titles`` are names of the suite, the first its own, by
        which a user may state its model; ``others`` are models of other suites."""
        self.places = {place.phase: place for place in places}
        self._models: dict[tuple[str, ...], set[int]] = {}
        for place in places:
            if place.repo_id is not None:
                self._models.setdefault(_whole(place.repo_id), set()).add(place.phase)
        organisations = {model[:-1] for model in self._models}
        for alias in aliases:
            whole = _whole(alias)
            for organisation in {(), *organisations} if len(whole) == 1 else {()}:
                self._models.setdefault((*organisation, *whole), set()).update(self.places)
        self._titles = titles
        self._others = {_whole(other) for other in others} - self._models.keys()

    @property
    def models(self) -> str:
        """The suite's repositories and folders, for an error."""
        names = dict.fromkeys(filter(None, map(self.model_of, self.places)))
        first, *more = names or ["which has no repository"]
        return f"{first} and {len(more)} more" if more else first

    def model_of(self, phase: int) -> str | None:
        """The repository or the folder of a phase."""
        place = self.places[phase]
        return place.repo_id or (str(place.folder) if place.folder else None)

    def of_step(self, step: int) -> frozenset[int]:
        return frozenset(p.phase for p in self.places.values() if p.step == step)

    def model(self, document: Document, stated: str | None) -> Model:
        """The model of a file; ``stated`` is what the user says it is, whatever the file names.

        Raises ForeignModelError with its name when the file names another than the suite's.
        """
        named = named_model(document)
        if stated is not None:
            phases, _ = self._phases_of(stated)
            name = stated
            if stated.casefold() in {title.casefold() for title in self._titles}:
                name, phases = self._titles[0], frozenset(self.places)
            differs = stated not in named.names and bool(named.names)
            if phases:
                of_names = [phases & self._phases_of(name)[0] for name in named.names]
                differs = not all(of_names)
                phases = frozenset.intersection(phases, *filter(None, of_names)) or phases
            return Model(name, phases, named.revision, differs=differs)
        if not named.names:
            return self._by_folder(document.path)
        phases, folder = frozenset(self.places), False
        for name in named.names:
            of_name, loosely = self._phases_of(name)
            if not of_name:
                raise ForeignModelError(name)
            phases, folder = phases & of_name, folder or loosely
        return Model(named.names[0], phases, named.revision, folder)

    def _phases_of(self, name: str) -> tuple[frozenset[int], bool]:
        """(phases whose model has this name, whether only the name of a folder tells it)."""
        split = _split(name)
        if found := self._models.get(_whole(name)) or self._models.get(split.parts):
            return frozenset(found), False
        if folders := {p for p, place in self.places.items() if _is_folder(name, place.folder)}:
            return frozenset(folders), False
        if not split.path or not split.parts:
            return frozenset(), False
        return self._by_last(split.parts[-1]), True

    def _by_last(self, name: str) -> frozenset[int]:
        same = [phases for model, phases in self._models.items() if model[-1] == name]
        return frozenset().union(*same)

    def _by_folder(self, path: Path) -> Model:
        """The model whose name the innermost folder around the file has, if any has one's."""
        for part in reversed(path.absolute().parts[:-1]):
            name = part.casefold()
            whole = tuple(name.split("__"))
            if phases := frozenset(self._models.get(whole, ())) or self._by_last(name):
                return Model(part, phases, None, folder=True)
            if whole in self._others or any(other[-1] == name for other in self._others):
                raise ForeignModelError(part)
        return Model(None, frozenset(), None)

    def at_revision(self, model: Model) -> frozenset[int]:
        """The phases of a model that have its revision; a folder has none, and is one alone."""
        places = [self.places[phase] for phase in model.phases]
        found = {p.phase for p in places if p.folder or p.revision == model.revision}
        any_of_it = model.revision is None or _COMMIT.fullmatch(model.revision)
        return model.phases if not found and any_of_it and len(places) == 1 else frozenset(found)


def _whole(name: str) -> tuple[str, ...]:
    parts = name.replace("\\", "/").split("/")
    return tuple(part.casefold() for part in parts if part not in ("", "."))


def _is_folder(name: str, folder: Path | None) -> bool:
    """Whether a path is that of a suite's folder, or the end of it."""
    if folder is None or "\0" in name:
        return False
    path = Path.home() / name[2:] if name.startswith("~/") else Path(name)
    if path.is_absolute() or ".." in path.parts:
        return path.resolve() == folder.resolve()
    return bool(path.parts) and folder.absolute().parts[-len(path.parts) :] == path.parts


def find_phase(
    document: Document,
    name: str,
    model: Model,
    suite: Trajectory,
    pattern: re.Pattern[str] | None,
    phase: int | None,
) -> int | str:
    """The phase of a file of one checkpoint, or what it is of that the suite does not have.

    It is the one that ``phase`` says, else that of the step in the file's name, else that of the
    model and revision in the file. Raises StoreError when these disagree.
    """
    if phase is not None:
        of_model = suite.at_revision(model) or model.phases
        if of_model and phase not in of_model:
            raise _disagree(document, model, of_model, f"--phase says {phase}")
        return phase
    step = _step(document, name, pattern)
    if step is None:
        return _by_model(document, model, suite)
    return _by_step(document, model, suite, step)


def _by_step(document: Document, model: Model, suite: Trajectory, step: int) -> int | str:
    """The phase of the step in a file's name, which the model in the file has to be of."""
    of_step, by_name = suite.of_step(step), f"its name says step {step}"
    numbers = {int(found["step"]) for found in re.finditer(STEP_PATTERN, model.revision or "")}
    of_revision = suite.at_revision(model)
    if of_revision:  # the number in a revision may count from the start of a stage alone
        steps = {phase: suite.places[phase].step for phase in of_revision}
        found = frozenset(
            phase
            for phase in of_revision
            if step in numbers | {steps[phase]} or (steps[phase] is None and not of_step)
        )
        if not found:
            raise _disagree(document, model, of_revision, by_name)
    elif numbers and step not in numbers:
        raise _disagree(document, model, frozenset(), by_name)
    elif not of_step:
        return f"step {step} ({document.path.name})"
    else:
        found = of_step & model.phases if model.phases else of_step
        if not found:
            raise _disagree(document, model, model.phases, by_name)
    return _only(document, found, step)


def phase_of_step(document: Document, step: int, model: Model, suite: Trajectory) -> int | None:
    """The phase of a step in a table of many checkpoints; None where the suite has none."""
    found = suite.of_step(step)
    if not found:
        return None
    if model.phases and not found & model.phases:
        raise _disagree(document, model, model.phases, f"it holds step {step}")
    return _only(document, found & model.phases if model.phases else found, step)


def _only(document: Document, phases: frozenset[int], step: int) -> int:
    if len(phases) > 1:
        raise StoreError(
            f"{document.path} is of step {step}, which the phases {sorted(phases)} of the suite "
            "share: import it with --phase; nothing was imported."
        )
    return next(iter(phases))


def _disagree(document: Document, model: Model, phases: frozenset[int], other: str) -> StoreError:
    at = f" at {model.revision}" if model.revision else ""
    numbers = ", ".join(map(str, sorted(phases)[:3]))
    which = f" (phase {numbers} of the suite)" if phases else ""
    return StoreError(
        f"{document.path} is of {model.name}{at}{which}, but {other}: correct the one that is "
        "wrong; nothing was imported."
    )


def _step(document: Document, name: str, pattern: re.Pattern[str] | None) -> int | None:
    """The step that the name of a file has, or else its path."""
    pattern = pattern or re.compile(STEP_PATTERN)
    found = list(pattern.finditer(document.path.name)) or list(pattern.finditer(name))
    texts = [match["step"] for match in found]
    bad = [text for text in texts if text is None or not text.isdecimal()]
    if bad:
        raise StoreError(
            f"The pattern finds {bad[0]!r} as the step in the name of {document.path}, not a "
            "number; nothing was imported."
        )
    steps = set(map(int, texts))
    if len(steps) > 1:
        raise StoreError(
            f"The name of {document.path} holds the steps {sorted(steps)}: say with --pattern "
            "which counts; nothing was imported."
        )
    return steps.pop() if steps else None


def _by_model(document: Document, model: Model, suite: Trajectory) -> int | str:
    """The phase that the model and the revision in the file are of."""
    at_main = Model(model.name, model.phases, model.revision or "main")
    of_model = suite.at_revision(model) or suite.at_revision(at_main)
    if len(of_model) == 1:
        return next(iter(of_model))
    name = f"{model.name} at {at_main.revision}" if model.name else "a model without a name"
    return f"{name} ({document.path.name})"
