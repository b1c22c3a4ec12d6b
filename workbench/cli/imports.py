"""`workbench import`: scores, logs and mixes from elsewhere, one command a format."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from workbench.cli import app
from workbench.cli.output import Json, note, print_json, print_rows

if TYPE_CHECKING:
    from collections.abc import Callable

    from analysis_db.imports import Imported
    from analysis_db.imports.runs import StepRows

import_app = typer.Typer(
    no_args_is_help=True,
    help="Bring scores, training logs and data mixes from elsewhere into the store. A file is "
    "checked to its last row before anything is stored; importing it again replaces what it "
    "brought.",
)
app.add_typer(import_app, name="import")

Files = Annotated[
    list[Path],
    typer.Argument(help="Files, or patterns of names, in the order in which they were logged."),
]
OneFile = Annotated[Path, typer.Argument(help="The file.")]
Run = Annotated[str, typer.Option("--run", help="Name of the training run in the store.")]
OfSuite = Annotated[
    str | None, typer.Option("--suite", help="Suite that the run's checkpoints form, if any.")
]
Suite = Annotated[
    str, typer.Option("--suite", help="Name of a suite (`workbench suites`) or path of its TOML.")
]
Step = Annotated[
    str | None,
    typer.Option("--step", help="Column of the step; found by its name if one column has it."),
]
Tokens = Annotated[
    str | None, typer.Option("--tokens", help="Column that counts all tokens seen so far.")
]
Metrics = Annotated[
    list[str] | None,
    typer.Option(
        "--metric",
        help="COLUMN, or NAME=COLUMN to name it loss, say, for `workbench spikes`; repeatable; "
        "default every column of numbers.",
    ),
]
Split = Annotated[
    bool,
    typer.Option(
        "--split",
        help="Store each run of the log by itself, as RUN-1, RUN-2, ...; a run begins where the "
        "step goes back to the beginning.",
    ),
]
Phase = Annotated[
    int | None, typer.Option("--phase", help="Phase of the file, if its name does not tell.")
]


@import_app.command(epilog="Example: workbench import scores scores.csv --suite yulan-mini")
def scores(
    paths: Annotated[
        list[Path],
        typer.Argument(
            help="CSV files: model, phase, benchmark, setting, score, footnote, source."
        ),
    ],
    suite: Suite,
    as_json: Json = False,
) -> None:
    """Published scores; they replace those imported before and stand beside the suite's own."""
    from workbench.imports import import_scores
    from workbench.settings import Home

    _show(import_scores(Home.from_env(), suite, paths), as_json)


@import_app.command(
    "lm-eval", epilog="Example: workbench import lm-eval evals/pythia-160m/ --suite pythia-160m"
)
def lm_eval(
    paths: Annotated[
        list[Path],
        typer.Argument(
            help="Results files, folders of them, or tables of many checkpoints (*_agg.json)."
        ),
    ],
    suite: Suite,
    pattern: Annotated[
        str | None,
        typer.Option(
            "--pattern",
            help=r"Regular expression with a group step that finds it in a file's path; default "
            r"step(?P<step>\d+), and the model that the file names where there is no step.",
        ),
    ] = None,
    phase: Phase = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            help="The model that the files are of, if they name none or another than the suite's; "
            "scores of another model are kept under this name, apart from the suite's own.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Scores that lm-eval measured elsewhere; files of another model are refused, files of no
    phase of the suite are named."""
    from workbench.imports import import_results
    from workbench.settings import Home

    done = import_results(Home.from_env(), suite, paths, pattern=pattern, phase=phase, model=model)
    _show(done, as_json)


@import_app.command(
    "data-mix", epilog="Example: workbench import data-mix 05_20241022.json --suite yulan-mini"
)
def data_mix(
    paths: Annotated[
        list[Path],
        typer.Argument(
            help="JSON files of one phase each, its number first in the name, or CSV: phase, run, "
            "mix_id, source, group, category, bucket, tokens_b."
        ),
    ],
    suite: Suite,
    phase: Phase = None,
    as_json: Json = False,
) -> None:
    """Tokens by source; they replace the mix of the phases that the files hold."""
    from workbench.imports import import_mixes
    from workbench.settings import Home

    _show(import_mixes(Home.from_env(), suite, paths, phase=phase), as_json)


@import_app.command(
    "trainer-state", epilog="Example: workbench import trainer-state trainer_state.json --run a"
)
def trainer_state(
    path: Annotated[
        Path, typer.Argument(help="The file, or a folder of checkpoint-N folders: the newest.")
    ],
    run: Run,
    suite: OfSuite = None,
    metrics: Metrics = None,
    split: Split = False,
    as_json: Json = False,
) -> None:
    """The log_history in a trainer_state.json of Hugging Face's Trainer."""
    from workbench.imports import columns_of, import_trainer_state
    from workbench.settings import Home

    columns = columns_of(None, None, metrics or [])
    done = import_trainer_state(Home.from_env(), run, path, columns, suite=suite, split=split)
    _show(done, as_json)


@import_app.command(epilog="Example: workbench import tensorboard runs/a --run a")
def tensorboard(
    paths: Annotated[
        list[Path], typer.Argument(help="The folder of a run, or event files in their order.")
    ],
    run: Run,
    suite: OfSuite = None,
    metrics: Metrics = None,
    split: Split = False,
    as_json: Json = False,
) -> None:
    """The scalars in TensorBoard's event files, every step; needs the extra `tensorboard`."""
    from workbench.imports import columns_of, import_tensorboard
    from workbench.settings import Home

    tags = columns_of(None, None, metrics or []).metrics
    done = import_tensorboard(Home.from_env(), run, paths, tags, suite=suite, split=split)
    _show(done, as_json)


@import_app.command(
    epilog="Example: workbench import wandb wandb_export.csv --metric loss=train/loss"
)
def wandb(
    path: OneFile,
    run: Annotated[
        str | None, typer.Option("--run", help="Name of the run; default those in the file.")
    ] = None,
    suite: OfSuite = None,
    step: Step = None,
    tokens: Tokens = None,
    metrics: Metrics = None,
    split: Split = False,
    as_json: Json = False,
) -> None:
    """A CSV exported from a chart of Weights & Biases, or a run's history; every run in it."""
    from workbench.imports import columns_of, import_wandb
    from workbench.settings import Home

    columns = columns_of(step, tokens, metrics or [])
    done = import_wandb(Home.from_env(), run, path, columns, suite=suite, split=split)
    _show(done, as_json)


@import_app.command(epilog="Example: workbench import csv log.csv --run a --metric loss=train_loss")
def csv(
    paths: Files,
    run: Run,
    suite: OfSuite = None,
    step: Step = None,
    tokens: Tokens = None,
    metrics: Metrics = None,
    split: Split = False,
    as_json: Json = False,
) -> None:
    """A training log as CSV: commas, semicolons or tabs; empty cells were not logged."""
    from analysis_db.imports.csv_log import read_csv_log
    from workbench.imports import columns_of

    columns = columns_of(step, tokens, metrics or [])
    _import_log(lambda p, rows: read_csv_log(p, columns, rows), run, paths, suite, split, as_json)


@import_app.command(epilog="Example: workbench import jsonl log.jsonl --run a --step iteration")
def jsonl(
    paths: Files,
    run: Run,
    suite: OfSuite = None,
    step: Step = None,
    tokens: Tokens = None,
    metrics: Metrics = None,
    split: Split = False,
    as_json: Json = False,
) -> None:
    """A training log with one JSON object a line; null was not logged."""
    from analysis_db.imports.text_logs import read_jsonl
    from workbench.imports import columns_of

    columns = columns_of(step, tokens, metrics or [])
    _import_log(lambda p, rows: read_jsonl(p, columns, rows), run, paths, suite, split, as_json)


@import_app.command(
    epilog=r"Example: workbench import log train.txt --run a "
    r"--pattern 'step:(?P<step>\d+)/\d+ train_loss:(?P<loss>[\d.]+)'"
)
def log(
    paths: Files,
    run: Run,
    pattern: Annotated[
        str,
        typer.Option(
            "--pattern",
            help="Regular expression whose named groups are step, tokens if there are any, and the "
            "metrics; or modded-nanogpt, nanogpt, megatron.",
        ),
    ],
    suite: OfSuite = None,
    split: Split = False,
    as_json: Json = False,
) -> None:
    """A training log as plain text; lines that the pattern does not match are ignored."""
    from analysis_db.imports.text_logs import read_text_log
    from workbench.imports import log_pattern

    compiled = log_pattern(pattern)
    _import_log(lambda p, rows: read_text_log(p, compiled, rows), run, paths, suite, split, as_json)


@import_app.command(epilog="Example: workbench import store exported/")
def store(
    folder: Annotated[Path, typer.Argument(help="A folder that `workbench export --all` wrote.")],
    as_json: Json = False,
) -> None:
    """Make the store of an export of one; there may be none yet."""
    from analysis_db.export import rebuild
    from analysis_db.store import Store
    from workbench.settings import Home

    rows = rebuild(Store(Home.from_env().store), folder)
    print_rows([{"table": name, "rows": n} for name, n in rows.items()], as_json=as_json)


def _import_log(
    read: "Callable[[Path, StepRows], list[str]]",
    run: str,
    paths: list[Path],
    suite: str | None,
    split: bool,
    as_json: bool,
) -> None:
    from workbench.imports import import_log
    from workbench.settings import Home

    done = import_log(Home.from_env(), run, paths, read, suite=suite, split=split)
    _show(done, as_json)


def _show(done: "Imported", as_json: bool) -> None:
    if as_json:
        print_json({"stored": done.stored, "remarks": done.remarks})
        return
    print_rows(done.stored, as_json=False)
    for remark in done.remarks:
        note.print(remark)
