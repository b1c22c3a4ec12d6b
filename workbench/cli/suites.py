"""`workbench suites` and `phases`: what exists and what is on disk."""

from typing import Annotated

import typer

from workbench.cli import app
from workbench.cli.output import Json, note, print_rows

SuiteName = Annotated[
    str,
    typer.Argument(help="Name of a suite (`workbench suites` lists them) or path of its TOML."),
]
Phases = Annotated[
    str,
    typer.Option("--phases", help="Phases: numbers, ranges, stages, labels, or 'all'."),
]


@app.command(epilog="Example: workbench suites pythia")
def suites(
    part: Annotated[
        str, typer.Argument(help="List every suite whose name holds this, families in full.")
    ] = "",
    as_json: Json = False,
) -> None:
    """List the suites: what can be studied, and how much of it is on disk and measured.

    A family is one row, and so is each of its suites that is on disk or measured.
    """
    from workbench.catalogue import fold_families, list_suites
    from workbench.settings import Home

    rows = list_suites(Home.from_env(), part)
    if as_json:
        print_rows(rows, as_json=True)
        return
    shown = ("suite", "title", "phases", "on_disk", "measured_jobs")
    folded = rows if part else fold_families(rows)
    print_rows(
        [{name: row[name] for name in shown} for row in folded],
        as_json=False,
        empty=f"No suite's name holds {part!r}.",
    )
    if len(folded) < len(rows):
        note.print("`workbench suites PART` lists the suites of a family.")
    if any(row["phases"] is None and not row["problem"] for row in rows):
        note.print("Where phases are not counted, the Hub is asked when they are first needed.")
    for row in rows:
        if row["problem"]:
            note.print(f"{row['suite']}: {row['problem']}")


@app.command(epilog="Example: workbench phases yulan-mini")
def phases(
    suite: SuiteName = "demo",
    refresh: Annotated[
        bool,
        typer.Option("--refresh", help="List the revisions on the Hub anew, and say what changed."),
    ] = False,
    adopt: Annotated[
        bool,
        typer.Option(
            "--adopt",
            help="This TOML defines the suite of its name from now on, for the results too: for "
            "one that was moved together with its checkpoints.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """List the phases of a suite: where each checkpoint is, on disk or not, measured or not."""
    from workbench.catalogue import list_phases, refresh_suite
    from workbench.settings import Home
    from workbench.suites import find_definition

    home = Home.from_env()
    if adopt:
        find_definition(suite, home, adopt=True)
    if refresh:
        for change in refresh_suite(suite, home):
            note.print(change)
    rows = list_phases(suite, home)
    if as_json:
        print_rows(rows, as_json=True)
        return
    # What fits a terminal; the rest is in --json and in the view `phases`.
    shown = ["phase", "stage", "repo_id", "step", "tokens_b", "on_disk", "measured"]
    if any(row["label"] != f"phase {row['phase']}" for row in rows):
        shown.insert(1, "label")
    if all(row["stage"] in row["label"] for row in rows):
        shown.remove("stage")
    title = f"Suite {suite}"
    owners = {row["repo_id"].rpartition("/")[0] for row in rows} - {""}
    if len({row["repo_id"] for row in rows}) == 1:
        shown.remove("repo_id")
        title += f": {rows[0]['repo_id']}"
    elif len(owners) == 1:
        title += f", repositories of {(owner := owners.pop())}"
        rows = [row | {"repo_id": row["repo_id"].removeprefix(f"{owner}/")} for row in rows]
    shown = [name for name in shown if any(row[name] not in ("", None) for row in rows)]
    print_rows([{name: row[name] for name in shown} for row in rows], as_json=False, title=title)
    for row in rows:
        if row["note"]:
            note.print(f"{row['label']}: {row['note']}")
