"""Benchmarks through lm-eval on tasks that ship with the workbench: no network, no cache."""

import contextlib
import hashlib
import io
import json
import logging
import math
import os
from collections.abc import Iterator
from importlib.metadata import version
from importlib.resources import files
from typing import Any

import yaml  # type: ignore[import-untyped]
from pydantic import Field, PositiveInt

from probes.base import Measurements, Measuring, Probe, ProbedCheckpoint, ProbeSettings
from workbench.errors import UsageError

_FOLDER = files("probes").joinpath("benchmark_tasks")


def shipped_tasks() -> list[str]:
    """Names of the lm-eval tasks that ship, sorted."""
    names = (file.name for file in _FOLDER.iterdir())
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))


class BenchmarksSettings(ProbeSettings):
    tasks: tuple[str, ...] = tuple(shipped_tasks())
    """Names of the tasks to run."""
    limit: PositiveInt | None = None
    """Documents per task; none runs them all."""
    max_length: PositiveInt = 128
    """Tokens of a request that the model sees, the last ones; the same for every checkpoint."""
    batch_size: PositiveInt = 16
    """Requests per forward pass."""
    bootstrap_iters: int = Field(default=100, ge=10)
    """Resamples behind the standard error of a metric that has no closed form."""


class BenchmarksProbe(Probe):
    """No metric of its own: the rows of the table ``benchmarks`` are whatever the tasks report,
    with stderr, n, shots, task version, task hash and harness version.

    The task hash covers the task's definition and its documents. The stderr is the sampling error
    of the task, not the error over seeds.
    """

    id = "benchmarks"
    version = 1
    title = "Accuracy and perplexity on the shipped lm-eval tasks"
    needs = "model"
    Settings = BenchmarksSettings
    data = _FOLDER
    metrics = ()

    def measure(
        self, checkpoint: ProbedCheckpoint, settings: BenchmarksSettings, measuring: Measuring
    ) -> Measurements:
        unknown = sorted(set(settings.tasks) - set(shipped_tasks()))
        if unknown:
            raise UsageError(
                f"There is no benchmark task {unknown[0]!r}; choose from "
                f"{', '.join(shipped_tasks())}."
            )
        context = checkpoint.config.get("max_position_embeddings")
        if context is not None and settings.max_length > context:
            raise UsageError(
                f"max_length {settings.max_length} is more than the checkpoint's context of "
                f"{context} tokens; set max_length to {context} or less."
            )
        from lm_eval import evaluate
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager

        found = Measurements()
        model = checkpoint.load_model(device=measuring.device, dtype=measuring.dtype)
        tokenizer = checkpoint.load_tokenizer()
        with _quiet():
            harness = HFLM(
                pretrained=model,
                tokenizer=tokenizer,
                batch_size=settings.batch_size,
                max_length=settings.max_length,
            )
            manager = TaskManager(include_defaults=False)
            for done, name in enumerate(settings.tasks, start=1):
                definition, task_hash = _definition(name)
                loaded = manager.load([definition])
                task = loaded["tasks"][name]
                if task.get_config("num_fewshot") is None:
                    task.set_config(key="num_fewshot", value=0)
                results = evaluate(
                    harness,
                    loaded,
                    limit=settings.limit,
                    bootstrap_iters=settings.bootstrap_iters,
                    log_samples=False,
                )
                found.benchmarks += _rows(results, name, task_hash)
                measuring.progress(done / len(settings.tasks))
        return found


def _definition(name: str) -> tuple[dict[str, Any], str]:
    """The task as lm-eval takes it, documents in memory, and the hash of both."""
    import datasets

    definition = yaml.safe_load(_FOLDER.joinpath(f"{name}.yaml").read_text(encoding="utf-8"))
    digest = hashlib.sha256(json.dumps(definition, sort_keys=True).encode())
    splits = {}
    for split, file in sorted(definition.pop("dataset_kwargs")["data_files"].items()):
        text = _FOLDER.joinpath(file).read_text(encoding="utf-8")
        digest.update(text.encode())
        rows = [json.loads(line) for line in text.splitlines()]
        splits[split] = datasets.Dataset.from_list(rows)
    # Handed over this way nothing is written to the user's datasets cache.
    definition["custom_dataset"] = lambda **metadata: splits
    return definition, digest.hexdigest()


def _rows(results: dict[str, Any], name: str, task_hash: str) -> Iterator[dict[str, Any]]:
    """Rows of the table benchmarks from lm-eval's results of one task."""
    for key, value in results["results"][name].items():
        metric, _, filter_name = key.partition(",")
        if not filter_name or metric.endswith("_stderr"):
            continue
        stderr = results["results"][name].get(f"{metric}_stderr,{filter_name}")
        yield {
            "task": name,
            "metric": metric if filter_name == "none" else f"{metric},{filter_name}",
            "value": float(value) if math.isfinite(value) else None,
            "stderr": stderr if isinstance(stderr, float) and math.isfinite(stderr) else None,
            "n": results["n-samples"][name]["effective"],
            "shots": results["n-shot"][name],
            "higher_is_better": results["higher_is_better"][name].get(metric),
            "task_version": str(results["versions"][name]),
            "task_hash": task_hash,
            "harness_version": version("lm_eval"),
        }


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep lm-eval's bars and prints off the terminal, and its bootstrap in this process."""
    logger = logging.getLogger("lm_eval")
    level, single = logger.level, os.environ.get("DISABLE_MULTIPROC")
    logger.setLevel(logging.ERROR)
    os.environ["DISABLE_MULTIPROC"] = "1"
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
        if single is None:
            del os.environ["DISABLE_MULTIPROC"]
        else:
            os.environ["DISABLE_MULTIPROC"] = single
