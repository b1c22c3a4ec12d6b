"""`workbench export`: what is in the store, as files."""

from pathlib import Path
from typing import Annotated

import typer

from workbench.cli import app
from workbench.cli.output import Json, print_rows


@app.command(epilog="Example: workbench export phase_metrics values.parquet")
def export(
    what: Annotated[
        str | None, typer.Argument(help="A view (`workbench schema` lists them) or a SELECT.")
    ] = None,
    out: Annotated[Path | None, typer.Argument(help="A file: .parquet, .csv or .json.")] = None,
    everything: Annotated[
        Path | None,
        typer.Option("--all", help="Write the whole store into this new folder instead."),
    ] = None,
    params: Annotated[
        list[str] | None, typer.Option("-p", help="A parameter name=value for $name; repeatable.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a view, a query, or with --all the whole store to files, every row of it."""
    from analysis_db.export import export_all, export_query
    from analysis_db.store import Store
    from workbench.cli.sql import parameters
    from workbench.errors import UsageError
    from workbench.settings import Home

    store = Store(Home.from_env().store)
    if everything is not None and what is None:
        rows = export_all(store, everything)
        print_rows([{"table": name, "rows": n} for name, n in rows.items()], as_json=as_json)
    elif everything is None and what is not None and out is not None:
        count = export_query(store, what, out, parameters(params))
        print_rows([{"file": str(out), "rows": count}], as_json=as_json)
    else:
        raise UsageError("Name what to export and a file, or --all and a folder.")
