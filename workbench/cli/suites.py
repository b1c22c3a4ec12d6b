"""`workbench suites` and `phases`: what exists and what is on disk."""

from typing import Annotated

import typer

from workbench.cli import app
from workbench.cli.output import Json, print_rows

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
