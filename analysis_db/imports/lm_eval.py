"""Results files of lm-eval that was run elsewhere, one checkpoint a file or many in one table."""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from analysis_db.errors import StoreError
from analysis_db.imports import Imported
from analysis_db.imports.documents import Document, is_number
from analysis_db.imports.evaluated import (
    ForeignModelError,
    Model,
    Place,
    Trajectory,
    find_phase,
    named_model,
    phase_of_step,
)
from analysis_db.store import Store, insert

_NOT_METRICS = {"alias", "name", "sample_len", "sample_count", " "}
_STEP_LISTS = ("checkpoints", "checkpoint_steps")
_SCHEMA = pa.schema(
    [
        ("suite", pa.string()), ("phase", pa.int32()), ("model", pa.string()),
        ("task", pa.string()), ("metric", pa.string()), ("value", pa.float64()),
        ("stderr", pa.float64()), ("n", pa.int64()), ("shots", pa.int32()),
        ("higher_is_better", pa.bool_()), ("task_version", pa.string()),
        ("task_hash", pa.string()), ("harness_version", pa.string()),
        ("imported_from", pa.string()), ("file_sha256", pa.string()), ("own", pa.bool_()),
    ]
)  # fmt: skip
_KEY = ("phase", "task", "metric", "n", "shots")


@dataclass
class _Remarks:
    """What a person should know of the files that were read, by file."""

    unplaced: list[str] = field(default_factory=list)
    limited: list[str] = field(default_factory=list)
    nameless: list[str] = field(default_factory=list)
    by_folder: list[str] = field(default_factory=list)
    unlike: list[str] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)
    foreign: list[tuple[Path, str]] = field(default_factory=list)

    def sentences(self, stated: str | None) -> list[str]:
        about = {
            "Left out, of no phase of the suite": self.unplaced,
            "Measured on a part of the documents only (limit)": self.limited,
            "No model is named, so these scores are not compared with others (state it with "
            "--model)": self.nameless,
            "The model is inferred from the name of a folder alone": self.by_folder,
            f"Imported as {stated}, although the file names another model": self.unlike,
            "The suite does not have the revision; the phase comes from the file's name or "
            "--phase": self.unchecked,
        }
        return [f"{what}: {_some(files)}." for what, files in about.items() if files]


def read_results(
    paths: Sequence[Path],
    places: Sequence[Place],
    *,
    pattern: re.Pattern[str] | None = None,
    phase: int | None = None,
    model: str | None = None,
    aliases: Sequence[str] = (),
    titles: Sequence[str] = (),
    others: Sequence[str] = (),
) -> tuple[list[dict[str, Any]], list[str]]:
    """(rows of ``data.imported_score`` without the suite, remarks) of files and folders of files.

    A file of one checkpoint belongs to ``phase`` if that is given, else to the phase of the step
    that ``pattern`` finds in its name, or else in its path, else to the phase whose repository and
    revision the file names as its model. A table of many checkpoints has their steps in it. What
    belongs to no phase is left out and named. A file has to be of the suite's model, under the name
    of a repository or one of ``aliases``; one that names no model is kept without; ``model`` states
    the model instead of the files. ``titles`` and ``others`` are as for ``Trajectory``.

    Raises StoreError naming the file, line and field that is wrong, when a file names another
    model, when its model is of another phase than its name, when nothing belongs to any phase, or
    when two files hold the same score.
    """
    suite = Trajectory(places, aliases, titles, others)
    if phase is not None and phase not in suite.places:
        raise StoreError(f"The suite has no phase {phase}; nothing was imported.")
    rows: list[dict[str, Any]] = []
    remarks = _Remarks()
    for path, name in (file for given in paths for file in _files(given)):
        document = Document.read(path)
        document.mapping()
        try:
            of = suite.model(document, model)
        except ForeignModelError as foreign:
            remarks.foreign.append((path, str(foreign)))
            continue
        lists = [key for key in _STEP_LISTS if key in document.content]
        scores: Iterator[dict[str, Any]]
        if lists:
            scores = _table(document, lists[0], suite, of, remarks.unplaced)
        else:
            number = find_phase(document, name, of, suite, pattern, phase)
            if isinstance(number, str):
                remarks.unplaced.append(number)
                continue
            scores = ({"phase": number} | score for score in _scores(document))
            if _about(document, object, "config", "limit") is not None:
                remarks.limited.append(path.name)
        _note_model(remarks, document, of, suite)
        origin = {"imported_from": str(path), "file_sha256": document.sha256}
        rows += [score | origin | _of_model(of, suite, score["phase"]) for score in scores]
    _refuse_foreign(remarks.foreign, suite)
    if not rows:
        found = "; ".join(remarks.unplaced[:3]) or "no file holds a score"
        raise StoreError(f"None of it belongs to a phase of the suite ({found}): nothing was "
                         "imported.")  # fmt: skip
    _refuse_twice(rows)
    return rows, remarks.sentences(model)


def _of_model(of: Model, suite: Trajectory, phase: int) -> dict[str, Any]:
    """The columns model and own of a score; own is None where the model is not known."""
    if of.phases:
        return {"model": suite.model_of(phase) or of.name, "own": True}
    return {"model": of.name, "own": None if of.name is None else False}


def _note_model(remarks: _Remarks, document: Document, of: Model, suite: Trajectory) -> None:
    name = document.path.name
    if of.name is None:
        remarks.nameless.append(name)
    elif of.differs:
        remarks.unlike.append(f"{name} ({', '.join(named_model(document).names)})")
    elif of.folder:
        remarks.by_folder.append(f"{name} ({of.name})")
    if of.phases and of.revision is not None and not suite.at_revision(of):
        remarks.unchecked.append(f"{name} ({of.revision})")


def _refuse_foreign(foreign: Sequence[tuple[Path, str]], suite: Trajectory) -> None:
    if not foreign:
        return
    path, model = foreign[0]
    more = f" (so are {len(foreign) - 1} more files of other models)" if len(foreign) > 1 else ""
    raise StoreError(
        f"{path} is of the model {model}, not of the suite's, {suite.models}{more}: leave it out, "
        f"keep its scores apart with --model {model}, or add the name to the suite's aliases if "
        "it is the same model; nothing was imported."
    )


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


def _scores(document: Document) -> Iterator[dict[str, Any]]:
    """Every score of a file of one checkpoint."""
    old = "n-shot" not in document.content
    # Not git_hash: that is the commit of the folder in which lm-eval was started.
    version = _about(document, str, "lm_eval_version")
    for task, metrics in document.mapping("results").items():
        shots = ("config", "num_fewshot") if old else ("n-shot", task)
        about = {
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
    document: Document, step_key: str, suite: Trajectory, of: Model, unplaced: list[str]
) -> Iterator[dict[str, Any]]:
    """Every score of a table whose lists have one value for each checkpoint."""
    steps = document.content[step_key]
    if not isinstance(steps, list) or not all(type(step) is int for step in steps):
        raise document.wrong([step_key], "is not a list of whole numbers")
    phases = [phase_of_step(document, step, of, suite) for step in steps]
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
                        "phase": number, "task": task, "metric": key,
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
        key = tuple(row.get(name) for name in (*_KEY, "model"))
        other = taken.setdefault(key, row["imported_from"])
        if other != row["imported_from"]:
            raise StoreError(
                f"{row['imported_from']} and {other} both hold {row['metric']} of {row['task']} "
                f"for phase {row['phase']}: import one of them; nothing was imported."
            )


def store_results(store: Store, suite: str, rows: Sequence[dict[str, Any]]) -> Imported:
    """Add scores; each replaces its like, and the remarks say what was replaced.

    Its like is of the same phase, task, metric, documents and shots, and of the same model or from
    the same file. Scores of unknown models are like only within one file, by path or content.
    """
    table = pa.Table.from_pylist([{"suite": suite, **row} for row in rows], schema=_SCHEMA)
    same = " AND ".join(f"s.{name} IS NOT DISTINCT FROM scores.{name}" for name in _KEY)
    with store.write() as connection:
        connection.register("scores", table)
        connection.execute(
            "CREATE TEMP TABLE replaced AS SELECT DISTINCT s.rowid AS id, s.imported_from, s.model "
            f"FROM data.imported_score s JOIN scores ON s.suite = scores.suite AND {same} "
            "WHERE s.model = scores.model OR (s.own AND scores.own) "
            "OR s.file_sha256 = scores.file_sha256 OR (s.model IS NULL AND scores.model IS NULL "
            "AND s.imported_from = scores.imported_from)"
        )
        replaced = connection.execute(
            "SELECT imported_from, model, count(*) FROM replaced GROUP BY ALL ORDER BY ALL"
        ).fetchall()
        connection.execute(
            "DELETE FROM data.imported_score WHERE rowid IN (SELECT id FROM replaced)"
        )
        connection.execute("DROP TABLE replaced")
        connection.unregister("scores")
        insert(connection, "imported_score", table)
    phases = {row["phase"] for row in rows}
    empty = sum(row["value"] is None for row in rows)
    remarks = [f"{empty} scores are not finite; they are kept without a value."] if empty else []
    if replaced:
        number = sum(count for _, _, count in replaced)
        files = [
            f"{path} ({count} of {model or 'an unknown model'})" for path, model, count in replaced
        ]
        remarks.append(f"Replaced {number} scores imported before: {_some(files)}.")
    return Imported(
        [
            {
                "suite": suite,
                "phases": len(phases),
                "tasks": len({row["task"] for row in rows}),
                "scores": len(rows) - empty,
            }
        ],
        remarks,
    )
