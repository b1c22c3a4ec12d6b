"""Benchmark scores as series: by group, by setting, and published ones beside what we measure."""

import pandas as pd

OTHER = "other tasks"
OWN, FOREIGN, UNKNOWN = "the suite", "another model", "an unknown model"


def with_series(rows: pd.DataFrame) -> pd.DataFrame:
    """``rows`` with the column series: the task, and what tells its settings apart.

    Shots are named where a task has several, the number of documents where it was measured on
    several parts of them, so that no line joins values that are not comparable.
    """
    shots = rows.groupby("task")["shots"].nunique()
    sizes = rows.groupby(["task", "shots"], dropna=False)["n"].nunique()
    names = []
    for task, k, n in zip(rows["task"], rows["shots"], rows["n"], strict=True):
        name = str(task)
        if shots[task] > 1 and not pd.isna(k):
            name += f", {int(k)}-shot"
        if not pd.isna(k) and sizes[task, k] > 1 and not pd.isna(n):
            name += f", {int(n)} documents"
        names.append(name)
    return rows.assign(series=names)


def by_group(rows: pd.DataFrame, tasks: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Measured rows under the groups that they belong to, then subtasks, then the rest.

    ``tasks`` is the view ``benchmark_tasks``. A task of two groups stands under both.
    """
    found: dict[str, pd.DataFrame] = {}
    top = rows[rows["parent"].isna()]
    rest = pd.Series(True, index=top.index)
    for group in tasks["task_group"].unique():
        members = tasks[(tasks["task_group"] == group) & tasks["task"].notna()]
        within = pd.Series(False, index=top.index)
        for task, shots in zip(members["task"], members["shots"], strict=True):
            within |= (top["task"] == task) & (pd.isna(shots) or top["shots"] == shots)
        rest &= ~within
        if within.any():
            found[str(group)] = top[within]
    for parent, inner in rows[rows["parent"].notna()].groupby("parent"):
        found[f"within {parent}"] = inner
    if rest.any():
        found[OTHER] = top[rest]
    return found


def beside_published(scores: pd.DataFrame, tasks: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Benchmark -> its published rows per phase and the measured and imported ones of its task.

    Only benchmarks that have both, and only scores of the suite's own checkpoints. All values are
    in percent; the columns are phase, source, series, value, stderr, n, model.
    """
    own = scores[scores["own"].eq(True)]
    published = own[own["source"] == "published"]
    ours = own[own["source"] != "published"]
    found: dict[str, pd.DataFrame] = {}
    for benchmark, told in published.groupby("task"):
        stands = tasks[(tasks["benchmark"] == benchmark) & tasks["task"].notna()]
        wanted = pd.Series(False, index=ours.index)
        for task, metric in zip(stands["task"], stands["metric"], strict=True):
            wanted |= (ours["task"] == task) & (ours["metric"] == metric)
        if not wanted.any():
            continue
        found[str(benchmark)] = pd.concat(
            [_labelled(ours[wanted]), _labelled(told)], ignore_index=True
        )
    return found


def _labelled(rows: pd.DataFrame) -> pd.DataFrame:
    """One source's rows in percent, each under the series that it is part of."""
    names = []
    for source, task, shots, metric, n in zip(
        rows["source"], rows["task"], rows["shots"], rows["metric"], rows["n"], strict=True
    ):
        told = [] if pd.isna(shots) else [f"{int(shots)}-shot"]
        if source != "published":
            told += [str(metric)] + ([] if pd.isna(n) else [f"n = {int(n)}"])
        names.append(f"{source}: {task}" + (f" ({', '.join(told)})" if told else ""))
    scale = rows["source"].map({"published": 1.0}).fillna(100.0).astype(float)
    return rows.assign(
        series=names, value=rows["value"] * scale, stderr=rows["stderr"].astype(float) * scale
    )[["phase", "source", "series", "value", "stderr", "n", "model"]]


def imported_rows(scores: pd.DataFrame) -> pd.DataFrame:
    """The imported rows for a table; the column "of" tells whose scores they are."""
    rows = scores[scores["source"] == "imported"]
    of = [UNKNOWN if pd.isna(own) else OWN if own else FOREIGN for own in rows["own"]]
    columns = ["model", "phase", "task", "metric", "value", "stderr", "n", "shots",
               "imported_from"]  # fmt: skip
    found = rows[columns].copy()
    found.insert(1, "of", of)
    return found
