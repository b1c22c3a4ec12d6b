"""Training logs as CSV: any table with a step, and what Weights & Biases exports."""

from pathlib import Path

import numpy as np

from analysis_db.errors import StoreError
from analysis_db.imports.csv_table import CsvTable
from analysis_db.imports.runs import Columns, StepRows

_ENVELOPES = ("__MIN", "__MAX")


def read_csv_log(path: Path, columns: Columns, rows: StepRows) -> list[str]:
    """Add the values of a CSV, an empty cell was not logged; remarks on how it was read.

    A column whose first value is no number holds text and is skipped, unless it was asked for.
    Raises StoreError naming the file, line and field that is wrong.
    """
    with CsvTable(path, columns.step) as table:
        columns = columns.settle(table.header, f"{path}, line 1")
        names = {column: columns.name_of(column) for column in table.header}
        taken = {c: (rows, name) for c, name in names.items() if name is not None}
        remarks = _add(table, columns, taken) + table.remarks()
    if "" in names and not columns.metrics:
        remarks.append(f"{path}: left out a column without a name.")
    return remarks


def read_wandb(
    path: Path, columns: Columns, run: str | None
) -> tuple[dict[str, StepRows], list[str]]:
    """(values by run, remarks) of an export of a chart or of a run's history.

    A chart names its columns "RUN - METRIC", or "METRIC" alone for one run, and gives for each the
    least and largest value of what was drawn as one point; those two are no log and left out, as
    are columns that begin with an underscore. ``run`` names the run where the file holds one.
    Raises StoreError naming the file, line and field that is wrong.
    """
    hidden: list[str] = []
    with CsvTable(path, columns.step) as table:
        places = Columns(columns.step, columns.tokens).settle(table.header, f"{path}, line 1")
        columns = Columns(places.step, places.tokens, columns.metrics)
        runs: dict[str, StepRows] = {}
        taken: dict[str, tuple[StepRows, str]] = {}
        asked = dict.fromkeys(columns.metrics)
        for column in table.header:
            owner, _, metric = column.rpartition(" - ")
            if columns.metrics:
                given = column if column in columns.metrics else metric
                name = columns.metrics.get(given)
                asked.pop(given, None)
            else:
                envelope = column.endswith(_ENVELOPES) and column[:-5] in table.header
                name = None
                if column in (columns.step, columns.tokens):
                    pass
                elif envelope or metric.startswith("_"):
                    hidden.append(column)
                elif metric:
                    name = metric
            if name is not None:
                taken[column] = runs.setdefault(owner, StepRows()), name
        if asked:
            raise table.wrong(1, next(iter(asked)), "is not there")
        named = [owner for owner in runs if owner]
        if len(runs) > 1 and (run is not None or len(named) < len(runs)):
            raise StoreError(
                f"{path}, line 1: the file holds the runs {', '.join(named)}: leave out --run, or "
                "choose columns of one with --metric; nothing was imported."
            )
        if run is not None:
            runs = dict(zip([run], runs.values(), strict=False))
        elif runs and not named:
            raise StoreError(
                f"{path}, line 1: no column names a run: name it with --run; nothing was imported."
            )
        remarks = _add(table, columns, taken) + table.remarks()
    if hidden:
        remarks.append(
            f"{path}: left out {_listed(hidden)}: extremes of drawn points, and what wandb records "
            "by itself."
        )
    return runs, remarks


def _listed(names: list[str]) -> str:
    """All of a few names; the first ones and the number of the others of many."""
    if len(names) <= 6:
        return ", ".join(names)
    return f"{', '.join(names[:5])} and {len(names) - 5} more columns"


def _add(table: CsvTable, columns: Columns, taken: dict[str, tuple[StepRows, str]]) -> list[str]:
    """Add the cells of the columns ``taken``; remarks on columns that hold nothing."""
    assert columns.step is not None
    text: set[str] = set()
    known: set[str] = set(taken) if columns.metrics else set()
    filled: set[str] = set()
    for rows in {id(rows): rows for rows, _ in taken.values()}.values():
        rows.begin(table.path)
    for lines, cells in table.blocks():
        steps = table.whole(columns.step, lines, cells[columns.step], empty=False)
        tokens = None
        if columns.tokens is not None:
            tokens = table.whole(columns.tokens, lines, cells[columns.tokens], empty=True)
        for column, (rows, name) in taken.items():
            if column in text:
                continue
            if column not in known:
                first = next(filter(None, map(str.strip, cells[column])), None)
                if first is None:
                    continue
                if table.is_number(first):
                    known.add(column)
                else:
                    text.add(column)
                    rows.skipped[column] = None
                    continue
            values, present = table.numbers(column, lines, cells[column])
            at = tokens[present] if tokens is not None else None
            if present.any():
                filled.add(column)
                rows.extend(name, steps[present], values[present], np.array(lines)[present], at)
    empty = [column for column in taken if column not in filled and column not in text]
    if not empty:
        return []
    if columns.metrics:
        raise StoreError(f"{table.path} has no value of {empty[0]!r}; nothing was imported.")
    return [f"{table.path}: left out {_listed(empty)}, without any value."]
