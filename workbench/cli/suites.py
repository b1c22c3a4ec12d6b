"""`workbench suites`, `phases` and `pull`: what exists, what is on disk, and getting it there."""

from typing import TYPE_CHECKING, Annotated

import typer

from workbench.cli import app
from workbench.cli.output import Json, note, print_rows, progress_bar

if TYPE_CHECKING:
    from rich.progress import TaskID

    from workbench.suites import Phase

SuiteName = Annotated[str, typer.Argument(help="Name of a suite; `workbench suites` lists them.")]
Phases = Annotated[str, typer.Option("--phases", help="Phases: numbers, ranges, stages, or 'all'.")]


@app.command(epilog="Example: workbench suites")
def suites(as_json: Json = False) -> None:
    """List the suites: what can be studied, and how much of it is on disk and measured."""
    from workbench.catalogue import list_suites
    from workbench.settings import Home

    print_rows(list_suites(Home.from_env()), as_json=as_json)


@app.command(epilog="Example: workbench phases yulan-mini")
def phases(suite: SuiteName = "demo", as_json: Json = False) -> None:
    """List the phases of a suite: where each checkpoint is, on disk or not, measured or not."""
    from workbench.catalogue import list_phases
    from workbench.settings import Home

    rows = list_phases(suite, Home.from_env())
    if not as_json:  # what fits a terminal; the rest is in --json and in the view `phases`
        shown = ("phase", "stage", "repo_id", "step", "tokens_b", "on_disk", "measured", "note")
        rows = [{name: row[name] for name in shown} for row in rows]
    print_rows(rows, as_json=as_json, title=f"Suite {suite}")


@app.command(epilog="Example: workbench pull yulan-mini --phases 5,10-15,annealing")
def pull(
    suite: SuiteName = "demo",
    phases: Phases = "all",
    with_optimizer: Annotated[
        bool, typer.Option("--with-optimizer", help="Fetch optimizer states as well.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Fetch the checkpoints of a suite into the Hub cache; a phase that fails stops no other."""
    from workbench.catalogue import pull_suite
    from workbench.settings import Home

    with progress_bar(of_bytes=True) as bar:
        tasks: dict[int, TaskID] = {}

        def fetched(phase: "Phase", done: int, total: int) -> None:
            if phase.phase not in tasks:
                tasks[phase.phase] = bar.add_task(phase.label)
            bar.update(tasks[phase.phase], completed=done, total=total)

        rows = pull_suite(
            suite, phases, Home.from_env(), with_optimizer=with_optimizer, on_bytes=fetched
        )
    shown = ("phase", "repo_id", "status", "mb", "commit")  # messages of failures stand below
    print_rows(rows if as_json else [{k: row[k] for k in shown} for row in rows], as_json=as_json)
    failed = [row for row in rows if row["status"] == "failed"]
    for row in failed:
        note.print(f"[red]{row['message']}[/red]")
    if failed:
        raise typer.Exit(1)
