"""What the commands print: tables for people, JSON for programs, bars for long work."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from rich.progress import Progress

# No markup: names, errors and results of queries may hold brackets of their own.
console = Console(soft_wrap=False, markup=False)
note = Console(stderr=True, soft_wrap=True, markup=False, highlight=False)

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def print_rows(
    rows: Sequence[dict[str, Any]], *, as_json: bool, title: str = "", empty: str = "Nothing."
) -> None:
    """A table with the keys of the rows as columns; ``as_json`` prints a list of objects."""
    if as_json:
        print_json(list(rows))
        return
    if not rows:
        console.print(empty)
        return
    table = Table(
        title=title or None,
        title_justify="left",
        header_style="bold",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    for name in rows[0]:
        numbers = all(isinstance(row[name], int | float | None) for row in rows)
        table.add_column(name, justify="right" if numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*("" if value is None else _cell(value) for value in row.values()))
    if _width(table) > console.width:
        table.padding = (0, 0, 0, 0)  # sooner than words are folded
        if _width(table) > console.width:  # prose, which is folded anyway
            table.padding = (0, 1, 0, 0)
    console.print(table)


def _width(table: Table) -> int:
    """Columns of the terminal that the table takes when nothing is folded."""
    return console.measure(table, options=console.options.update(width=10_000)).maximum


def print_json(content: Any) -> None:
    typer.echo(json.dumps(content, default=str, indent=2, ensure_ascii=False))


def _cell(value: Any) -> str | Text:
    if isinstance(value, Text):
        return value
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,.6g}" if isinstance(value, float) else str(value)


def progress_bar(*, of_bytes: bool = False) -> "Progress":
    """A bar with count (or bytes), rate and time left, on stderr; only on a terminal."""
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            return Text(f"{speed:.1f}/s" if speed else "", style="dim")

    amount = (DownloadColumn(), TransferSpeedColumn()) if of_bytes else (
        MofNCompleteColumn(), Rate()
    )  # fmt: skip
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        *amount,
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=note,
        disable=not note.is_terminal,
    )
