"""`workbench demo`: the whole path on a tiny suite."""

import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from workbench.cli import app
from workbench.cli.output import Json, console, note, print_rows, progress_bar

if TYPE_CHECKING:
    from rich.progress import TaskID


@app.command(epilog="Example: workbench demo --seed 1")
def demo(
    seed: Annotated[
        int, typer.Option("--seed", min=0, help="Same seed, same suite, bit for bit.")
    ] = 0,
    as_json: Json = False,
) -> None:
    """Train, publish, pull, measure and store a tiny suite, offline; then say how to look at it."""
    from workbench.demo import Progress, run_demo
    from workbench.settings import Home

    home = Home.from_env()
    started = time.perf_counter()
    with progress_bar() as bar:
        tasks: list[TaskID] = []

        def step(name: str) -> None:
            tasks.append(bar.add_task(name, total=None))
            if bar.disable:  # no terminal, no bar: a log gets a line
                note.print(f"{name} ...")

        counts = run_demo(
            home,
            seed=seed,
            progress=Progress(
                step=step,
                advance=lambda done, total: bar.update(tasks[-1], completed=done, total=total),
            ),
        )
    counts["seconds"] = round(time.perf_counter() - started)
    if as_json:
        print_rows([counts], as_json=True)
        return
    console.print(
        f"{counts['checkpoints']} checkpoints, {counts['jobs']} measurement runs, "
        f"{counts['values']:,} values in {home.store} ({counts['seconds']} s).",
        highlight=False,
        soft_wrap=True,
    )
    command = shlex.join([str(Path(sys.argv[0]).with_name("workbench")), "app"])
    console.print(
        f"Open the dashboard with  {command}  and go to http://127.0.0.1:8501",
        highlight=False,
        soft_wrap=True,
    )
