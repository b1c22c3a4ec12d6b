"""Benchmarks through lm-eval: its own tasks, those that ship, packaged data, the user's YAML."""

import math
from collections.abc import Collection, Iterator
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import BeforeValidator, Field, PositiveInt

from probes.base import Measurements, Measuring, Part, Probe, ProbedCheckpoint, ProbeSettings
from probes.batches import with_batch_size
from probes.benchmark_groups import NEEDS_CODE, TASKS, Wanted, resolve
from probes.benchmark_models import Backend, Cuts, Harness, check_backend, environment, quiet
from probes.benchmark_sources import Loaded, file_digest, load
from workbench.errors import UsageError, WorkbenchError


def _entries(value: Any) -> Any:
    """``a,b`` of the command line as the entries a and b."""
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


class BenchmarksSettings(ProbeSettings):
    tasks: Annotated[tuple[str, ...], BeforeValidator(_entries)] = Field(("shipped",), min_length=1)
    """Comma-separated: groups (shipped, core, yulan-mini, offline-core), task names of lm-eval, paths of YAML files; task@5 asks for 5 examples in the prompt."""  # noqa: E501
    limit: PositiveInt | None = None
    """Documents per task, the first ones; without it those of the group, else all."""
    max_length: PositiveInt | None = None
    """Tokens of a request that the model sees, the last ones; without it 128 for the shipped tasks and the checkpoint's whole context for others."""  # noqa: E501
    batch_size: PositiveInt | None = None
    """Requests per forward pass to begin with; halved while the memory runs out."""
    bootstrap_iters: int = Field(default=100, ge=10)
    """Resamples behind the standard error of a metric that has no closed form."""
    run_code: bool = False
    """Run tasks that execute code which the model writes (humaneval, mbpp): it runs on this machine, as you, without isolation. Use a container."""  # noqa: E501
    backend: Backend = "hf"
    """hf: transformers on --device; vllm: vLLM, when installed, on the GPU that it finds."""


class BenchmarksProbe(Probe):
    """No metric of its own: the rows of the table ``benchmarks`` are whatever the tasks report,
    with stderr, n, shots, task version, task hash and harness version.

    Each task is a part, so a job and a run, of its own. The task hash covers the task's definition
    and its documents. The stderr is the sampling error of the task, not the error over seeds.

    A task has no score where a request that it rests on had NaN or Inf in its logits, and neither
    has a group of tasks with such a task; the reason is the count of these requests.
    """

    id = "benchmarks"
    version = 3
    title = "Scores on benchmark tasks, through lm-eval"
    needs = "model"
    Settings = BenchmarksSettings
    data = TASKS
    metrics = ()

    def __init__(self) -> None:
        self._harness: Harness | None = None

    @classmethod
    def parts(cls, settings: BenchmarksSettings) -> list[Part]:
        """One part per task, with what its group says of it filled in."""
        check_backend(settings.backend)
        wanted = resolve(settings.tasks, run_code=settings.run_code, limit=settings.limit)
        return [cls._part(settings, task) for task in wanted]

    @classmethod
    def _part(cls, settings: BenchmarksSettings, task: Wanted) -> Part:
        if task.reason:
            return Part(task.spelled, None, task.reason)
        own = {
            "tasks": (task.spelled,),
            "limit": task.limit,
            "max_length": settings.max_length or task.max_length,
        }
        limited = f" limit {task.limit}" if task.limit else ""
        return Part(task.spelled + limited, settings.model_copy(update=own))

    @classmethod
    def inputs_digest(cls, settings: BenchmarksSettings) -> str:
        """The contents of the YAML files that ``tasks`` names, and of what they name."""
        wanted = resolve(settings.tasks, run_code=True, limit=None)
        return "".join(file_digest(Path(task.task)) for task in wanted if task.is_file)

    def measure(
        self, checkpoint: ProbedCheckpoint, settings: BenchmarksSettings, measuring: Measuring
    ) -> Measurements:
        found = Measurements()
        parts = self.parts(settings)
        for done, part in enumerate(parts, start=1):
            if part.settings is None:
                found.add(part.name, None, reason=part.reason)
            else:
                assert isinstance(part.settings, BenchmarksSettings)
                self._measure_task(checkpoint, part.settings, measuring, found)
            measuring.progress(done / len(parts))
        return found

    def _measure_task(
        self,
        checkpoint: ProbedCheckpoint,
        settings: BenchmarksSettings,
        measuring: Measuring,
        found: Measurements,
    ) -> None:
        (task,) = resolve(settings.tasks, run_code=True, limit=settings.limit)
        max_length = _max_length(checkpoint, settings)
        with ExitStack() as stack:
            cuts = stack.enter_context(quiet())
            if settings.run_code:  # what the code metric of Hugging Face asks its user to confirm
                stack.enter_context(environment(HF_ALLOW_CODE_EVAL="1"))
            loaded = load(task, metadata=_metadata(checkpoint, task, max_length))
            unsafe = [name for name, t in loaded.tasks["tasks"].items() if _runs_code(t)]
            if unsafe and not settings.run_code:
                raise WorkbenchError(f"{unsafe[0]} was not run: {NEEDS_CODE}.")
            results, unsound = self._results(
                checkpoint, settings, measuring, loaded, max_length, cuts
            )
        warnings = []
        for row in _rows(results, loaded):
            reason = next((unsound[leaf] for leaf in row.leaves if leaf in unsound), None)
            if reason is None and not math.isfinite(row.scores["value"]):
                reason = f"the result is {row.scores['value']}"
            if reason is not None:
                row.scores["value"] = row.scores["stderr"] = None
                found.add(row.scores["metric"], None, module=row.scores["task"], reason=reason)
            found.benchmarks.append(row.scores)
        if unsound:
            name, reason = next(iter(unsound.items()))
            warnings.append(f"{name} has no score ({reason})")
        if cuts.n:
            warnings.append(
                f"the model sees {max_length} tokens, and {cuts.n} requests were longer: their "
                "beginning is cut off, and the scores are not those of the whole task"
            )
        if warnings:
            found.notes["warning"] = "; ".join(warnings)

    def _results(
        self,
        checkpoint: ProbedCheckpoint,
        settings: BenchmarksSettings,
        measuring: Measuring,
        loaded: Loaded,
        max_length: int,
        cuts: Cuts,
    ) -> tuple[dict[str, Any], dict[str, str]]:
        """The harness's results, and why a task has no score, by task."""
        from lm_eval import evaluate

        held = self._harness
        if held is None or held.checkpoint is not checkpoint or held.backend != settings.backend:
            self._harness = held = Harness(checkpoint, settings.backend, measuring)

        def run(batch_size: int) -> tuple[dict[str, Any], dict[str, str]]:
            cuts.n = 0  # of a try that ran out of memory
            model = held.of(max_length, batch_size)
            try:
                results = evaluate(
                    model,
                    loaded.tasks,
                    limit=settings.limit,
                    bootstrap_iters=settings.bootstrap_iters,
                    log_samples=False,
                    confirm_run_unsafe_code=settings.run_code,
                )
            except OverflowError as error:
                raise WorkbenchError(
                    f"A score of {loaded.name} is larger than any float ({error}), because the "
                    "model's log likelihoods are: look at the checkpoint's loss before its scores."
                ) from error
            return results, _unsound(loaded, getattr(model, "unsound_texts", set()))

        documents = sum(len(task.eval_docs) for task in loaded.tasks["tasks"].values())
        return with_batch_size(run, settings.batch_size, device=measuring.device, windows=documents)


def _runs_code(task: Any) -> bool:
    return bool(getattr(task, "UNSAFE_CODE", False))


def _max_length(checkpoint: ProbedCheckpoint, settings: BenchmarksSettings) -> int:
    context: int = checkpoint.config.get("max_position_embeddings", 2048)
    if settings.max_length is not None and settings.max_length > context:
        raise UsageError(
            f"max_length {settings.max_length} is more than the checkpoint's context of "
            f"{context} tokens; set max_length to {context} or less."
        )
    return settings.max_length or context


_RULER_LENGTHS = (4096, 8192, 16384, 32768, 65536, 131072)


def _metadata(checkpoint: ProbedCheckpoint, task: Wanted, max_length: int) -> dict[str, Any]:
    """What RULER wants to know, which makes its documents to the lengths the model can read."""
    if not task.task.startswith(("ruler", "niah_")):
        return {}
    lengths = [length for length in _RULER_LENGTHS if length <= max_length]
    if not lengths:
        raise WorkbenchError(
            f"{task.task} begins at {_RULER_LENGTHS[0]} tokens, and the model sees {max_length}."
        )
    return {"tokenizer": str(getattr(checkpoint, "folder", "")), "max_seq_lengths": lengths}


def _unsound(loaded: Loaded, unsound_texts: Collection[str]) -> dict[str, str]:
    """Why a task has no score, by task; the harness keeps the answers with the requests."""
    reasons = {}
    for name, task in loaded.tasks["tasks"].items():
        answers = [answer for request in task.instances for answer in request.resps]
        broken = sum(not _is_finite(answer) for answer in answers)
        if any(request.task_name in unsound_texts for request in task.instances):
            reasons[name] = "NaN or Inf in the logits while text was generated"
        elif broken:
            reasons[name] = f"NaN or Inf in the logits of {broken:,} of {len(answers):,} requests"
    return reasons


def _is_finite(answer: Any) -> bool:
    """Of a log likelihood, alone or with whether it is the greedy one; a text always is."""
    value = answer[0] if isinstance(answer, tuple) else answer
    return isinstance(value, str) or math.isfinite(value)


class _Row(NamedTuple):
    scores: dict[str, Any]
    """A row of the table benchmarks."""
    leaves: list[str]
    """The tasks that it is computed from."""


def _rows(results: dict[str, Any], loaded: Loaded) -> Iterator[_Row]:
    """Rows of the table benchmarks: the task or group that was asked for, then its subtasks.

    A group's hash is that of all its tasks, its n the sum of theirs.
    """
    scores = results["results"] | results.get("groups", {})
    members = results.get("group_subtasks", {})
    for name in [loaded.name, *(other for other in scores if other != loaded.name)]:
        for key, value in scores.get(name, {}).items():
            metric, _, filter_name = key.partition(",")
            # RULER says -1 for a length of which there were no documents.
            if not filter_name or metric.endswith("_stderr") or value == -1:
                continue
            stderr = scores[name].get(f"{metric}_stderr,{filter_name}")
            leaves = list(_leaves(name, members))
            scored = {
                "task": name,
                "parent": None if name == loaded.name else loaded.name,
                "metric": metric if filter_name == "none" else f"{metric},{filter_name}",
                "value": float(value),
                "stderr": stderr if isinstance(stderr, float) and math.isfinite(stderr) else None,
                "n": sum(results["n-samples"][leaf]["effective"] for leaf in leaves),
                "shots": results["n-shot"].get(name, results["n-shot"][leaves[0]]),
                "higher_is_better": results["higher_is_better"].get(name, {}).get(metric),
                "task_version": str(results["versions"].get(name, "")),
                "task_hash": loaded.hashes.get(name, loaded.hashes[loaded.name]),
                "harness_version": version("lm_eval"),
            }
            yield _Row(scored, leaves)


def _leaves(name: str, members: dict[str, list[str]]) -> Iterator[str]:
    for member in members.get(name, ()):
        yield from _leaves(member, members)
    if not members.get(name):
        yield name
