"""`workbench compare`: two phases, tensor by tensor."""

from typing import Annotated

import typer

from workbench.cli import app
from workbench.cli.output import Json, note, print_rows, progress_bar
from workbench.cli.suites import SuiteName


@app.command(epilog="Example: workbench compare demo 10 20")
def compare(
    suite: SuiteName,
    phase_a: Annotated[str, typer.Argument(help="A phase: its number or label.")],
    phase_b: Annotated[str, typer.Argument(help="The other one.")],
    as_json: Json = False,
) -> None:
    """Compare all weights of two phases on disk exactly, and keep the result.

    The table shows each kind of module over its layers and the total; --json has every tensor.
    """
    from workbench.jobs.pairs import compare_two
    from workbench.settings import Home

    with progress_bar() as bar:
        task = bar.add_task("Measuring", total=None)
        rows, alarms = compare_two(
            suite, phase_a, phase_b, Home.from_env(),
            on_compare=lambda a, b: bar.update(task, description=f"Comparing phases {a} and {b}"),
        )  # fmt: skip
    if as_json:
        print_rows(rows, as_json=True)
    else:
        wide: dict[str, dict[str, object]] = {}
        for row in rows:
            module, metric = row["module"], row["metric"]
            if row["layer"] is None:
                wide.setdefault(module, {"module": module})[metric] = row["value"]
        names = ("module", "relative_change", "cosine", "change_per_btoken")
        table = [{name: row.get(name) for name in names} for row in wide.values()]
        print_rows(table, as_json=False, title=f"Effective weights of {phase_a} and {phase_b}")
    for alarm in alarms:
        note.print(f"Warning: {alarm}", style="bold red")
