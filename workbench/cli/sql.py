"""`workbench sql` and `schema`: the metrics store."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from workbench.cli import app
from workbench.cli.output import Json, note, print_rows

if TYPE_CHECKING:
    from analysis_db.sandbox import Rows

TABLE_ROWS = 1_000
TABLE_BYTES = 64_000_000


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
    query: Annotated[
        str | None,
        typer.Argument(help="One query over the public views: SELECT, FROM, SUMMARIZE, SHOW ..."),
    ] = None,
    format: Annotated[
        Format | None,
        typer.Option("--format", help="How to write the rows [default: table, or as --output]."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Write to this file: .csv, .json or .parquet."),
    ] = None,
    params: Annotated[
        list[str] | None,
        typer.Option(
            "-p",
            help="A parameter name=value for $name; repeatable. Numbers, true, false, null and "
            "[lists] are what they look like, all else is text; quote text that is not: n='\"7\"'.",
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(min=1, help=f"Most rows [default: {TABLE_ROWS:,} for a table, else all]."),
    ] = None,
    timeout: Annotated[
        float, typer.Option("--timeout", min=0.1, help="Seconds after which the query is stopped.")
    ] = 60.0,
    memory: Annotated[
        int, typer.Option(min=1, max=1024, help="Gigabytes of memory that the query may use.")
    ] = 2,
    example: Annotated[
        str | None, typer.Option("--example", help="Run this example instead of a query.")
    ] = None,
    examples: Annotated[
        bool, typer.Option("--examples", help="List the examples, and the question of each.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Ask the metrics store; the query is read-only and sees no file, no network, no settings."""
    from analysis_db.sandbox import stream_sql
    from analysis_db.store import Store
    from workbench.errors import UsageError
    from workbench.settings import Home

    if (query is not None) + (example is not None) + examples != 1:
        raise UsageError("Give one query, or --example NAME, or --examples to list them.")
    if examples:
        return _list_examples(as_json=as_json)
    text = query if query is not None else _example(str(example))
    chosen = Format.json if as_json else format or _format_of(output)
    if chosen is Format.table and output is not None:
        raise UsageError("A file holds csv, json or parquet: choose one with --format.")
    if chosen is Format.parquet and output is None and sys.stdout.isatty():
        raise UsageError("Parquet is binary: name a file with --output, or send it on with >.")
    from analysis_db.formats import AS_TEXT

    if limit is None and chosen is Format.table:
        limit = TABLE_ROWS
    with stream_sql(
        Store(Home.from_env().store),
        text,
        parameters(params),
        max_rows=limit,
        timeout_s=timeout,
        memory_gb=memory,
        text=AS_TEXT[chosen],
    ) as rows:
        count = _write(rows, chosen, output)
        cut = ", cut at the row limit; there are more (--limit)" if rows.truncated else ""
        where = f" in {output}" if output is not None else ""
        if cut or where or chosen is Format.table:
            note.print(f"{count:,} {'row' if count == 1 else 'rows'}{where}{cut}", style="dim")
    return None


def _format_of(output: Path | None) -> Format:
    from analysis_db.formats import format_of

    return Format.table if output is None else Format(format_of(output))


def _write(rows: "Rows", format: Format, output: Path | None) -> int:
    from analysis_db import formats
    from analysis_db.errors import QueryError

    if output is not None:
        return formats.write_file(rows, format, output)
    if format is not Format.table:
        return formats.write(rows, format, sys.stdout.buffer)
    found: list[dict[str, Any]] = []
    size = 0
    for batch in rows.batches:
        size += batch.nbytes
        if size > TABLE_BYTES:
            raise QueryError(
                f"The answer is too wide for a terminal (over {TABLE_BYTES // 10**6} MB): write it "
                "to a file with --output."
            )
        found += formats.dicts(batch)
    print_rows(found, as_json=False, empty="No rows.")
    return len(found)


def parameters(params: list[str] | None) -> dict[str, Any]:
    """The values of -p options by name, each as JSON where it is JSON; raises UsageError."""
    from analysis_db.parameters import typed
    from workbench.errors import UsageError

    values: dict[str, Any] = {}
    for param in params or []:
        name, equals, value = param.partition("=")
        if not equals or not name.isidentifier():
            raise UsageError(f"-p {param} is not of the form name=value.")
        values[name] = typed(value)
    return values


def _list_examples(*, as_json: bool) -> None:
    from analysis_db.examples import EXAMPLES

    print_rows(
        [{"example": e.name, "question": e.question} | ({"sql": e.sql} if as_json else {})
         for e in EXAMPLES],
        as_json=as_json,
    )  # fmt: skip


def _example(name: str) -> str:
    from analysis_db.examples import EXAMPLES
    from workbench.errors import UsageError

    for example in EXAMPLES:
        if example.name == name:
            return example.sql
    raise UsageError(f"There is no example {name!r}: `workbench sql --examples` lists them.")


@app.command(epilog="Example: workbench schema phase_metrics")
def schema(
    view: Annotated[
        str | None, typer.Argument(help="A view, to see what each of its columns means.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show the public views of the metrics store, or the columns of one."""
    from analysis_db.docs import described
    from analysis_db.store import Store
    from workbench.errors import UsageError
    from workbench.settings import Home

    views = described(Store(Home.from_env().store))
    if view is None:
        rows = [
            {"view": name, "columns": ", ".join(column for column, _, _ in columns), "what": about}
            for name, about, columns in views
        ]
    else:
        rows = [
            {"column": column, "type": kind, "what": what}
            for name, _, columns in views
            if name == view
            for column, kind, what in columns
        ]
        if not rows:
            raise UsageError(f"There is no view {view!r}: `workbench schema` lists them.")
    print_rows(rows, as_json=as_json)
