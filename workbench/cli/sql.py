"""`workbench sql` and `schema`: the metrics store."""

import sys
from enum import StrEnum
from typing import Annotated, Any

import typer

from workbench.cli import app
from workbench.cli.output import Json, note, print_rows


class Format(StrEnum):
    table = "table"
    csv = "csv"
    json = "json"
    parquet = "parquet"


@app.command(
    epilog='Example: workbench sql "SELECT phase, value FROM phase_metrics '
    "WHERE metric = 'bits_per_byte' AND domain = $d\" -p d=code"
)
def sql(
    query: Annotated[str, typer.Argument(help="One SELECT over the public views.")],
    format: Annotated[Format, typer.Option("--format", help="How to print the rows.")] = (
        Format.table
    ),
    params: Annotated[
        list[str] | None, typer.Option("-p", help="A parameter name=value for $name; repeatable.")
    ] = None,
    timeout: Annotated[
        float, typer.Option("--timeout", help="Seconds after which the query is stopped.")
    ] = 60.0,
    as_json: Json = False,
) -> None:
    """Ask the metrics store; the connection is read-only and sees no other file."""
    from analysis_db.sandbox import run_sql
    from analysis_db.store import Store
    from workbench.errors import UsageError
    from workbench.settings import Home

    store = Store(Home.from_env().store)
    table = run_sql(store, query, parameters(params), timeout_s=timeout).table
    if as_json or format is Format.json:
        print_rows(table.to_pylist(), as_json=True)
    elif format is Format.csv:
        from pyarrow import csv

        csv.write_csv(table, sys.stdout.buffer)
    elif format is Format.parquet:
        from pyarrow import parquet

        if sys.stdout.isatty():
            raise UsageError("Parquet is binary: send it to a file with > out.parquet.")
        parquet.write_table(table, sys.stdout.buffer)
    else:
        rows: list[dict[str, Any]] = table.to_pylist()
        print_rows(rows, as_json=False, empty="No rows.")
        note.print(f"{len(rows)} rows", style="dim")


def parameters(params: list[str] | None) -> dict[str, str]:
    """The values of -p options by name; raises UsageError."""
    from workbench.errors import UsageError

    values: dict[str, str] = {}
    for param in params or []:
        name, equals, value = param.partition("=")
        if not equals:
            raise UsageError(f"-p {param} is not of the form name=value.")
        values[name] = value
    return values


@app.command(epilog="Example: workbench schema")
def schema(as_json: Json = False) -> None:
    """Show the public views of the metrics store with their columns."""
    from analysis_db.docs import public_views
    from analysis_db.store import Store
    from workbench.settings import Home

    print_rows(
        [
            {"view": view, "columns": ", ".join(name for name, _ in columns), "what": comment}
            for view, comment, columns in public_views(Store(Home.from_env().store))
        ],
        as_json=as_json,
    )
