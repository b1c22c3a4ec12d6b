"""Results files of lm-eval that was run elsewhere, one checkpoint a file or many in one table."""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from analysis_db.errors import StoreError
from analysis_db.imports import Imported
from analysis_db.imports.documents import Document, is_number
from analysis_db.store import Store, insert

STEP_PATTERN = r"step[_=-]?(?P<step>\d+)"
"""Finds the step in the name of a file, unless another pattern is given."""

_NOT_METRICS = {"alias", "name", "sample_len", "sample_count", " "}
_STEP_LISTS = ("checkpoints", "checkpoint_steps")
_SCHEMA = pa.schema(
    [
        ("suite", pa.string()), ("phase", pa.int32()), ("model", pa.string()),
        ("task", pa.string()), ("metric", pa.string()), ("value", pa.float64()),
        ("stderr", pa.float64()), ("n", pa.int64()), ("shots", pa.int32()),
        ("higher_is_better", pa.bool_()), ("task_version", pa.string()),
        ("task_hash", pa.string()), ("harness_version", pa.string()),
        ("imported_from", pa.string()), ("file_sha256", pa.string()),
    ]
)  # fmt: skip
_KEY = ("phase", "model", "task", "metric", "shots")


@dataclass(frozen=True)
class Place:
    """Where a checkpoint stands in its suite, and what it is called."""

    phase: int
    step: int | None
    repo_id: str | None
    revision: str


class _Suite:
    def __init__(self, places: Sequence[Place]) -> None:
        self.phases = {place.phase for place in places}
        self._steps: dict[int, list[int]] = {}
        self._names: dict[tuple[str, str], int] = {}
        for place in places:
            if place.step is not None:
                self._steps.setdefault(place.step, []).append(place.phase)
            if place.repo_id is not None:
                self._names[place.repo_id, place.revision] = place.phase

    def of_step(self, step: int, path: Path) -> int | None:
        found = self._steps.get(step, [])
        if len(found) > 1:
            raise StoreError(
                f"{path} is of step {step}, which the phases {found} of the suite share: import "
                "it with --phase; nothing was imported."
            )
        return found[0] if found else None

    def of_checkpoint(self, repo_id: str | None, revision: str) -> int | None:
        return self._names.get((repo_id or "", revision))


def read_results(
    paths: Sequence[Path],
    places: Sequence[Place],
    *,
    pattern: re.Pattern[str] | None = None,
    phase: int | None = None,
) -> tuple[list[dict[str, Any]], list[str]]:
    """(rows of ``data.imported_score`` without the suite, remarks) of files and folders of files.

    A file of one checkpoint belongs to ``phase`` if that is given, else to the phase of the step
    that ``pattern`` finds in its name, or else in its path, else to the phase whose repository and
    revision the file names as its model. A table of many checkpoints has their steps in it. What
    belongs to no phase is left out and named. Raises StoreError naming the file, line and field
    that is wrong, when nothing belongs to any phase, or when two files hold the same score.
    """
    suite = _Suite(places)
    if phase is not None and phase not in suite.phases:
        raise StoreError(f"The suite has no phase {phase}; nothing was imported.")
    rows: list[dict[str, Any]] = []
    unplaced: list[str] = []
    limited: list[str] = []
    for path, name in (file for given in paths for file in _files(given)):
        document = Document.read(path)
        lists = [key for key in _STEP_LISTS if key in document.mapping()]
        scores: Iterator[dict[str, Any]]
        if lists:
            scores = _table(document, lists[0], suite, unplaced)
        else:
            number = phase if phase is not None else _place(document, name, suite, pattern)
            if isinstance(number, str):
                unplaced.append(number)
                continue
            scores = ({"phase": number} | score for score in _scores(document))
            if _about(document, object, "config", "limit") is not None:
                limited.append(path.name)
        origin = {"imported_from": str(path), "file_sha256": document.sha256}
        rows += [score | origin for score in scores]
    if not rows:
        found = "; ".join(unplaced[:3]) or "no file holds a score"
        raise StoreError(f"None of it belongs to a phase of the suite ({found}): nothing was "
                         "imported.")  # fmt: skip
    _refuse_twice(rows)
    remarks = []
    if unplaced:
        remarks.append(f"Left out, of no phase of the suite: {_some(unplaced)}.")
    if limited:
        remarks.append(f"Measured on a part of the documents only (limit): {_some(limited)}.")
    return rows, remarks


def _some(names: list[str]) -> str:
    more = f"; and {len(names) - 10} more" if len(names) > 10 else ""
    return "; ".join(names[:10]) + more


def _files(path: Path) -> list[tuple[Path, str]]:
    """(file, its path as it was given, or in the folder that was) of a file or of a folder's."""
    if not path.is_dir():
        return [(path, path.as_posix())]
    files = sorted(path.rglob("*.json"))
    if not files:
        raise StoreError(f"{path} holds no .json file; nothing was imported.")
    return [(file, file.relative_to(path).as_posix()) for file in files]


def _place(
    document: Document, name: str, suite: _Suite, pattern: re.Pattern[str] | None
) -> int | str:
    """The phase of a file of one checkpoint, or what it is of that the suite does not have."""
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
    if steps:
        step = steps.pop()
        number = suite.of_step(step, document.path)
        return f"step {step} ({document.path.name})" if number is None else number
    repo_id, revision = _model(document)
    number = suite.of_checkpoint(repo_id, revision)
    if number is None:
        model = f"{repo_id} at {revision}" if repo_id else "a model without a name"
        return f"{model} ({document.path.name})"
    return number


def _model(document: Document) -> tuple[str | None, str]:
    """(repository or folder, revision) of the model that was evaluated, as the file has it."""
    config = document.content.get("config") or {}
    given = config.get("model_args") or {} if isinstance(config, dict) else {}
    if isinstance(given, str):
        given = dict(part.split("=", 1) for part in given.split(",") if "=" in part)
    if not isinstance(given, dict):
        given = {}
    name = given.get("pretrained") or document.content.get("model_name")
    return (str(name) if name else None), str(given.get("revision") or "main")


def _scores(document: Document) -> Iterator[dict[str, Any]]:
    """Every score of a file of one checkpoint."""
    old = "n-shot" not in document.content
    # Not git_hash: that is the commit of the folder in which lm-eval was started.
    version = _about(document, str, "lm_eval_version")
    for task, metrics in document.mapping("results").items():
        shots = ("config", "num_fewshot") if old else ("n-shot", task)
        about = {
            "model": _model(document)[0],
            "task": task,
            "n": _about(document, int, "n-samples", task, "effective"),
            "shots": _about(document, int, *shots),
            "task_version": _version(document, task),
            "task_hash": _about(document, str, "task_hashes", task) or None,
            "harness_version": version,
        }
        if not isinstance(metrics, dict):
            raise document.wrong(["results", task], "is not an object")
        current = any("," in key for key in metrics)
        for key, value in metrics.items():
            metric, comma, of = key.partition(",")
            if key in _NOT_METRICS or metric.endswith("_stderr") or (current and not comma):
                continue
            stderr = f"{metric}_stderr{comma}{of}"
            keys: list[str | int] = ["results", task]
            yield about | {
                "metric": metric if of in ("", "none") else key,
                "value": _finite(document, value, [*keys, key]),
                "stderr": _finite(document, metrics.get(stderr), [*keys, stderr]),
                "higher_is_better": _about(document, bool, "higher_is_better", task, metric),
            }


def _table(
    document: Document, step_key: str, suite: _Suite, unplaced: list[str]
) -> Iterator[dict[str, Any]]:
    """Every score of a table whose lists have one value for each checkpoint."""
    steps = document.content[step_key]
    if not isinstance(steps, list) or not all(type(step) is int for step in steps):
        raise document.wrong([step_key], "is not a list of whole numbers")
    phases = [suite.of_step(step, document.path) for step in steps]
    unplaced += [
        f"step {step} ({document.path.name})"
        for step, number in zip(steps, phases, strict=True)
        if number is None
    ]
    for task, metrics in document.mapping("results").items():
        if not isinstance(metrics, dict):
            raise document.wrong(["results", task], "is not an object")
        for key, values in metrics.items():
            if not isinstance(values, list) or len(values) != len(steps):
                raise document.wrong(
                    ["results", task, key],
                    f"is not a list of {len(steps)} values, one for each of {step_key}",
                )
        for key, values in metrics.items():
            if key.endswith("_stderr"):
                continue
            stderrs = metrics.get(f"{key}_stderr", [None] * len(steps))
            for index, number in enumerate(phases):
                value = _finite(document, values[index], ["results", task, key, index])
                at: list[str | int] = ["results", task, f"{key}_stderr", index]
                stderr = _finite(document, stderrs[index], at)
                if number is not None:
                    yield {
                        "phase": number, "model": None, "task": task, "metric": key,
                        "value": value, "stderr": stderr, "shots": None,
                        "task_version": _version(document, task),
                    }  # fmt: skip


def _version(document: Document, task: str) -> str | None:
    version = _about(document, object, "versions", task)
    return None if version is None else str(version)


def _about(document: Document, kind: type, *keys: str) -> Any:
    """What the file says under these keys if it is of that kind, else None: it need not say it."""
    value = document.content
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    if kind is int and isinstance(value, bool):
        return None
    return value if isinstance(value, kind) else None


def _finite(document: Document, value: Any, keys: Sequence[str | int]) -> float | None:
    """None for what lm-eval writes where there is no number, and for one that is not finite."""
    if value is None or value in ("N/A", ""):
        return None
    if not is_number(value):
        raise document.wrong(keys, f"is {value!r}, not a number")
    return float(value) if math.isfinite(value) else None


def _refuse_twice(rows: Sequence[dict[str, Any]]) -> None:
    taken: dict[tuple[Any, ...], str] = {}
    for row in rows:
        key = tuple(row.get(name) for name in _KEY)
        other = taken.setdefault(key, row["imported_from"])
        if other != row["imported_from"]:
            raise StoreError(
                f"{row['imported_from']} and {other} both hold {row['metric']} of {row['task']} "
                f"for phase {row['phase']}: import one of them; nothing was imported."
            )


def store_results(store: Store, suite: str, rows: Sequence[dict[str, Any]]) -> Imported:
    """Add scores; each replaces what was imported before for its phase, model, task and shots."""
    table = pa.Table.from_pylist([{"suite": suite, **row} for row in rows], schema=_SCHEMA)
    same = " AND ".join(f"s.{name} IS NOT DISTINCT FROM scores.{name}" for name in _KEY)
    with store.write() as connection:
        connection.register("scores", table)
        connection.execute(
            "DELETE FROM data.imported_score s USING scores "
            f"WHERE s.suite = scores.suite AND {same}"
        )
        connection.unregister("scores")
        insert(connection, "imported_score", table)
    phases = {row["phase"] for row in rows}
    empty = sum(row["value"] is None for row in rows)
    return Imported(
        [
            {
                "suite": suite,
                "phases": len(phases),
                "tasks": len({row["task"] for row in rows}),
                "scores": len(rows) - empty,
            }
        ],
        [f"{empty} scores are not finite; they are kept without a value."] if empty else [],
    )
