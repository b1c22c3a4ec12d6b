"""What `workbench import` calls: files into the store, for a suite or as a training run."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from analysis_db.errors import StoreError
from analysis_db.imports import Imported
from analysis_db.imports.files import expand, expand_one
from analysis_db.imports.restarts import restart_remarks, split_runs
from analysis_db.imports.runs import Columns, StepRows, store_imported_runs
from analysis_db.store import Store
from workbench.errors import UsageError
from workbench.settings import Home
from workbench.suites import CATALOGUE, Suite, load_suite
from workbench.suites.files import read_definitions


def import_scores(home: Home, name: str, paths: Sequence[Path]) -> Imported:
    """Replace the published scores that were imported for a suite."""
    from analysis_db.imports.tables import read_scores, store_scores

    suite, store = load_suite(name, home), Store(home.store)
    known = {phase.phase for phase in suite.phases}
    files, remarks = expand(paths)
    rows = [
        row | {"imported_from": str(path)} for path in files for row in read_scores(path, known)
    ]
    _record_once(suite, store)
    store_scores(store, suite.name, rows)
    return Imported([{"suite": suite.name, "scores": len(rows)}], remarks)


def import_results(
    home: Home,
    name: str,
    paths: Sequence[Path],
    *,
    pattern: str | None = None,
    phase: int | None = None,
    model: str | None = None,
) -> Imported:
    """Add scores from results files of lm-eval to the phases of a suite.

    ``model`` states which model the files are of, whatever they name.
    """
    from analysis_db.imports.evaluated import Place
    from analysis_db.imports.lm_eval import read_results, store_results

    suite, store = load_suite(name, home), Store(home.store)
    if model is not None and not model.strip():
        raise UsageError("--model is empty: name the model that the files are of.")
    rows, remarks = read_results(
        paths,
        [Place(p.phase, p.end_step, p.repo_id, p.revision, p.folder) for p in suite.phases],
        pattern=None if pattern is None else _compiled(pattern, {"step"}),
        phase=phase,
        model=model and model.strip(),
        aliases=suite.aliases,
        titles=(suite.name, suite.title),
        others=_catalogue_models(),
    )
    _record_once(suite, store)
    done = store_results(store, suite.name, rows)
    return Imported(done.stored, remarks + done.remarks)


def _catalogue_models() -> list[str]:
    """The repositories of all suites of the catalogue, and their aliases."""
    models: set[str] = set()
    for path in CATALOGUE.glob("*.toml"):
        for definition in read_definitions(path):
            of_blocks = {block.repo_id for block in definition.blocks}
            of_phases = set() if of_blocks else {p.repo_id for p in definition.suite().phases}
            models.update(filter(None, of_blocks | of_phases), definition.head.aliases)
    return sorted(models)


def import_mixes(
    home: Home, name: str, paths: Sequence[Path], *, phase: int | None = None
) -> Imported:
    """Replace the data mix of phases of a suite."""
    from analysis_db.imports.data_mix import read_mixes, store_mixes

    suite, store = load_suite(name, home), Store(home.store)
    known = {phase.phase for phase in suite.phases}
    files, expanded = expand(paths)
    rows, remarks = read_mixes(files, known, phase=phase)
    _record_once(suite, store)
    done = store_mixes(store, suite.name, rows)
    return Imported(done.stored, expanded + remarks + done.remarks)


def import_log(
    home: Home,
    run: str,
    paths: Sequence[Path],
    read: Callable[[Path, StepRows], list[str]],
    *,
    suite: str | None = None,
    split: bool = False,
) -> Imported:
    """Replace an imported training run by what ``read`` finds in files that follow one another.

    Patterns among ``paths`` are expanded. ``split`` stores each run of the log by itself.
    """
    files, remarks = expand(paths)
    rows = StepRows()
    for path in files:
        remarks += read(path, rows)
    return _store_runs(home, {run: rows}, files, suite, remarks, split)


def import_tensorboard(
    home: Home,
    run: str,
    paths: Sequence[Path],
    metrics: Mapping[str, str],
    *,
    suite: str | None = None,
    split: bool = False,
) -> Imported:
    """Replace an imported training run by the scalars in the event files of one run."""
    from analysis_db.imports.tensorboard import event_files, read_event_files

    found, remarks = expand(paths)
    files = event_files(found)
    rows = StepRows()
    remarks += read_event_files(files, metrics, rows)
    return _store_runs(home, {run: rows}, files, suite, remarks, split)


def import_trainer_state(
    home: Home,
    run: str,
    path: Path,
    columns: Columns,
    *,
    suite: str | None = None,
    split: bool = False,
) -> Imported:
    """Replace an imported training run by the history in a trainer_state.json.

    ``path`` may be a folder of checkpoints, whose newest state is read.
    """
    from analysis_db.imports.text_logs import read_trainer_state, trainer_state_file

    file, remarks = trainer_state_file(expand_one(path))
    rows = StepRows()
    read_trainer_state(file, columns, rows)
    return _store_runs(home, {run: rows}, [file], suite, remarks, split)


def import_wandb(
    home: Home,
    run: str | None,
    path: Path,
    columns: Columns,
    *,
    suite: str | None = None,
    split: bool = False,
) -> Imported:
    """Replace the imported training runs that an export of Weights & Biases holds."""
    from analysis_db.imports.csv_log import read_wandb

    file = expand_one(path)
    runs, remarks = read_wandb(file, columns, run)
    return _store_runs(home, runs, [file], suite, remarks, split)


def columns_of(step: str | None, tokens: str | None, metrics: Sequence[str]) -> Columns:
    """What the options --step, --tokens and --metric (COLUMN or NAME=COLUMN) say.

    Raises UsageError when two of the metrics share a name or a column.
    """
    parts = [metric.partition("=") for metric in metrics]
    pairs = [(column or name, name) for name, _, column in parts]
    for what, values in zip(("column", "name"), zip(*pairs, strict=True), strict=False):
        twice = [value for value in values if values.count(value) > 1]
        if twice:
            raise UsageError(f"--metric has the {what} {twice[0]} twice: each is for one metric.")
    return Columns(step, tokens, dict(pairs))


def log_pattern(text: str) -> re.Pattern[str]:
    """The pattern of a well-known log by its name, or the one that is given.

    Raises UsageError when it is no regular expression, or lacks a group that is needed.
    """
    from analysis_db.imports.text_logs import PATTERNS

    pattern = _compiled(PATTERNS.get(text, text), {"step"})
    if set(pattern.groupindex) <= {"step", "tokens"}:
        raise UsageError(
            f"The pattern {text} names no metric: add a group such as (?P<loss>[0-9.]+), or take "
            f"one of {', '.join(PATTERNS)}."
        )
    return pattern


def _compiled(text: str, groups: set[str]) -> re.Pattern[str]:
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise UsageError(f"The pattern {text} is no regular expression: {error}.") from None
    if not groups <= set(pattern.groupindex):
        raise UsageError(rf"The pattern {text} has no group named step: write it as (?P<step>\d+).")
    return pattern


def _store_runs(
    home: Home,
    runs: dict[str, StepRows],
    paths: Sequence[Path],
    suite_name: str | None,
    remarks: list[str],
    split: bool,
) -> Imported:
    store = Store(home.store)
    named = {run: (run, rows) for run, rows in runs.items()}
    if split:
        named = {}
        for run, rows in runs.items():
            parts = split_runs(rows)
            names = [run] if len(parts) == 1 else [f"{run}-{i + 1}" for i in range(len(parts))]
            for name, part in zip(names, parts, strict=True):
                if name in named:
                    raise StoreError(
                        f"Two runs would be named {name} after the split: import them one at a "
                        "time, with --run; nothing was imported."
                    )
                named[name] = run, part
            counted = "only one run, there is nothing to split" if len(parts) == 1 else (
                f"{len(parts)} runs: {', '.join(names)}"
            )  # fmt: skip
            remarks.append(f"The log of {run} holds {counted}.")
    for name, (_, rows) in named.items():
        of_run = f"{name}: " if len(named) > 1 else ""
        found = restart_remarks(name, rows, None if split else "--split")
        remarks += [f"{of_run}{remark}" for remark in found]
    if suite_name is not None:
        suite = load_suite(suite_name, home)
        suite_name = suite.name
        _record_once(suite, store)
    done = store_imported_runs(
        store,
        {name: rows for name, (_, rows) in named.items()},
        paths,
        suite=suite_name,
        imported_as={name: run for name, (run, _) in named.items()},
    )
    return Imported(done.stored, remarks + done.remarks)


def _record_once(suite: Suite, store: Store) -> None:
    """The suite itself, so that what is imported for it is seen, unless the store knows it."""
    from analysis_db.suite_records import suite_records
    from workbench.catalogue import record_suite

    known = suite_records(store).get(suite.name)
    if known is None or known.definition != suite.definition:
        record_suite(suite, store)
