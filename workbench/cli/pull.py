"""`workbench pull`: getting checkpoints onto the disk."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from workbench.cli import app
from workbench.cli.output import Json, console, note, print_json, print_rows, progress_bar
from workbench.cli.suites import Phases, SuiteName

if TYPE_CHECKING:
    from rich.progress import TaskID

    from workbench.suites import Phase

MaxDisk = Annotated[
    str | None,
    typer.Option("--max-disk", help="Disk that checkpoints may take, such as 40GB or 500MiB."),
]


def size_of(text: str | None) -> int | None:
    """Bytes of a size such as 40GB; raises UsageError."""
    from pydantic import ByteSize, TypeAdapter, ValidationError

    from workbench.errors import UsageError

    if text is None:
        return None
    try:
        return int(TypeAdapter(ByteSize).validate_python(text))
    except ValidationError:
        raise UsageError(
            f"--max-disk {text} is no size: give one such as 40GB or 500MiB."
        ) from None


@app.command(epilog="Example: workbench pull yulan-mini --phases 5,10-15,annealing --dry-run")
def pull(
    suite: SuiteName = "demo",
    phases: Phases = "all",
    with_optimizer: Annotated[
        bool, typer.Option("--with-optimizer", help="Fetch optimizer states as well.")
    ] = False,
    max_disk: MaxDisk = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be fetched, and fetch nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Fetch the checkpoints of a suite into the Hub cache; a failed phase does not stop the others.

    Every file is checked by its hash, cached ones too. A damaged file is fetched again. An
    interrupted pull is resumed.
    """
    from workbench.downloads import pull_suite
    from workbench.settings import Home

    budget = size_of(max_disk)
    if dry_run:
        _show_plan(suite, phases, with_optimizer=with_optimizer, budget=budget, as_json=as_json)
        return
    with progress_bar(of_bytes=True) as bar:
        tasks: dict[int, TaskID] = {}

        def fetched(phase: "Phase", done: int, total: int) -> None:
            if phase.phase not in tasks:
                tasks[phase.phase] = bar.add_task(phase.label)
            bar.update(tasks[phase.phase], completed=done, total=total)

        rows = pull_suite(
            suite,
            phases,
            Home.from_env(),
            with_optimizer=with_optimizer,
            max_disk=budget,
            on_bytes=fetched,
        )
    # Messages of failures stand below the table.
    shown = ("phase", "label", "repo_id", "status", "mb", "commit")
    print_rows(rows if as_json else [{k: row[k] for k in shown} for row in rows], as_json=as_json)
    failed = [row for row in rows if row["status"] == "failed"]
    for row in rows:
        if row["status"] == "repaired":
            note.print(row["message"], style="yellow")
    _explain(suite, failed)
    if failed:
        raise typer.Exit(1)


def _explain(suite: str, failed: list[dict[str, Any]]) -> None:
    """A sentence for all phases that failed for the same reason."""
    from workbench.hub.failures import by_reason

    for sentence in by_reason(suite, ((r["phase"], r["label"], r["message"]) for r in failed)):
        note.print(sentence, style="red")


def _show_plan(
    suite: str, phases: str, *, with_optimizer: bool, budget: int | None, as_json: bool
) -> None:
    from rich.filesize import decimal

    from workbench.downloads import plan_suite
    from workbench.settings import Home

    with progress_bar() as bar:
        task = bar.add_task("Asking the Hub", total=None)
        plan = plan_suite(
            suite,
            phases,
            Home.from_env(),
            with_optimizer=with_optimizer,
            on_end=lambda done, total: bar.update(task, completed=done, total=total),
        )
    failed = [row for row in plan["phases"] if row["status"] == "failed"]
    if as_json:
        print_json(plan)
    else:
        shown = ("phase", "label", "repo_id", "status", "files")
        sizes = {"bytes": "size", "fetch_bytes": "to fetch"}
        print_rows(
            [
                {key: row[key] for key in shown}
                | {title: row[key] and decimal(row[key]) for key, title in sizes.items()}
                for row in plan["phases"]
            ],
            as_json=False,
        )
        console.print(
            f"{decimal(plan['fetch_bytes'])} to fetch, {decimal(plan['cached_bytes'])} here "
            f"already; {decimal(plan['peak_disk_bytes'])} on disk at most, in {plan['cache']}, "
            f"where {decimal(plan['free_bytes'])} are free.",
            highlight=False,
        )
        _explain(suite, failed)
    if budget is not None and plan["peak_disk_bytes"] > budget:
        note.print(f"That is more than --max-disk allows ({decimal(budget)}).", style="red")
        raise typer.Exit(1)
    if failed:
        raise typer.Exit(1)
