"""`workbench pull`: getting checkpoints onto the disk."""

from typing import TYPE_CHECKING, Annotated

import typer

from workbench.cli import app
from workbench.cli.output import Json, note, print_rows, progress_bar
from workbench.cli.suites import Phases, SuiteName

if TYPE_CHECKING:
    from rich.progress import TaskID

    from workbench.suites import Phase


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
    from workbench.downloads import pull_suite
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
