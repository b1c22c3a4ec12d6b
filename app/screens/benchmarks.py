"""Benchmarks: published beside measured, measured by group with its sampling error, imported."""

import pandas as pd
import streamlit as st

from app.benchmark_series import (
    OWN,
    beside_published,
    by_group,
    imported_rows,
    with_series,
)
from app.components import chart, explain_gaps, heading, nothing, phases, pick, pick_axis, table
from app.data import load, suite
from app.escape import md, plain, shell
from app.figures.axis import AxisKind, PhaseAxis, phase_axis
from app.figures.benchmarks import compared_scores, measured_scores, published_scores

SAMPLING_ERROR = md(
    "**Band: task sampling error**, ± 1.96 standard errors as lm-eval reports them: how far the "
    "score would move with another draw of documents. It is not the error over seeds."
)


def score_axis(name: str, rows: pd.DataFrame, kind: AxisKind) -> PhaseAxis:
    """The axis of these scores: a phase that has none of them is a gap, measured or not."""
    coverage = load("coverage", name)
    probed = coverage[coverage["probe"] == "benchmarks"]
    status = dict(zip(probed["phase"], probed["status"], strict=True))
    shown = set(rows["phase"])
    status = {
        phase: "measured" if phase in shown else "missing" if said == "measured" else said
        for phase, said in status.items()
    }
    return phase_axis(load("phases", name), kind, status)


def beside(name: str, scores: pd.DataFrame, kind: AxisKind) -> None:
    """Published and measured scores of one benchmark in one figure."""
    found = beside_published(scores, load("benchmark_tasks"))
    if not found:
        return
    st.subheader("Published beside measured", anchor=False)
    benchmark = pick("Benchmark", sorted(found), "beside_benchmark")
    rows = found[benchmark]
    axis = score_axis(name, rows[rows["source"] != "published"], kind)
    fig = compared_scores(
        rows,
        axis,
        title=f"{benchmark}: published beside measured",
        subtitle="hollow: published by the authors; filled: lm-eval, with its sampling error",
    )
    chart(fig, rows, f"{name}-beside-{benchmark}", f"Published and measured {benchmark}.")
    st.caption(
        md(
            "{}  \nThe authors' harness and prompts are not lm-eval's: compare trends, not digits.",
            SAMPLING_ERROR,
        )
    )
    explain_gaps(axis)


def measured(name: str, scores: pd.DataFrame, kind: AxisKind) -> None:
    """Our own lm-eval runs."""
    st.subheader("Measured here", anchor=False)
    if scores.empty:
        nothing("No benchmark has been measured for this suite.",
                f"workbench probe {shell(name)} --probes benchmarks")  # fmt: skip
        return
    groups = by_group(scores, load("benchmark_tasks"))
    left, middle, right = st.columns([1, 1, 2], vertical_alignment="bottom")
    with left:
        group = pick("Group", list(groups), "bench_group")
    rows = with_series(groups[group])
    metrics = rows["metric"].value_counts().index.tolist()
    with middle:
        metric = pick("Metric", metrics, "bench_metric", default="acc")
    rows = rows[rows["metric"] == metric]
    series = sorted(rows["series"].unique())
    with right:
        chosen = st.multiselect(
            "Tasks", series, default=series[:8], format_func=plain, key=f"tasks_{group}_{metric}"
        )
    rows = rows[rows["series"].isin(chosen)]
    better = rows["higher_is_better"].dropna().unique().tolist()
    direction = {(True,): "higher is better", (False,): "lower is better"}.get(tuple(better), "")
    axis = score_axis(name, rows, kind)
    named = ", ".join(chosen) if 0 < len(chosen) <= 4 else f"{len(chosen)} tasks of {group}"
    fig = measured_scores(
        rows,
        axis,
        metric=metric,
        title=f"{metric} of {named}",
        subtitle=f"measured with lm-eval; {direction}".rstrip("; "),
    )
    columns = ["phase", "series", "task", "metric", "value", "stderr", "n", "shots",
               "task_version", "task_hash", "harness_version", "run_id"]  # fmt: skip
    chart(
        fig,
        rows[columns],
        f"{name}-measured-{group}-{metric}",
        f"Measured {metric} over phases with band.",
    )
    told = rows[["run_id", "task"]].merge(load("warnings", name), on="run_id")
    for warning, of in told.groupby("warning"):
        tasks = ", ".join(sorted(of["task"].unique()))
        which = phases(sorted(of["phase"].unique()))
        st.warning(md("**{}**, phase {}: {}.", tasks, which, warning))
    st.caption(SAMPLING_ERROR)
    explain_gaps(axis)


def published(name: str, scores: pd.DataFrame, kind: AxisKind) -> None:
    """What the authors printed."""
    st.subheader("Published by the authors, not measured here", anchor=False)
    if scores.empty:
        st.caption("No published scores of this suite are in the store.")
        return
    st.markdown(
        ":gray[From the authors' own harness and prompts: compare trends with the chart above, "
        "not digits.]"
    )
    per_phase = scores.dropna(subset=["phase", "value"])
    if not per_phase.empty:
        often = per_phase.groupby("task")["phase"].nunique().sort_values(ascending=False)
        tasks = sorted(per_phase["task"].unique())
        chosen = st.multiselect(
            "Published tasks",
            tasks,
            default=sorted(often[often > 2].index) or tasks[:3],
            format_func=plain,
            key="published_tasks",
        )
        rows = per_phase[per_phase["task"].isin(chosen)]
        fig = published_scores(
            rows,
            phase_axis(load("phases", name), kind),
            title="Published scores per phase",
            subtitle="published, not measured here; most phases have no published score",
        )
        chart(fig, rows, f"{name}-published", "Published scores per phase.")
    with st.expander("All published scores, other models included"):
        table(scores[["model", "phase", "task", "value", "shots"]], f"{name}-published-scores")
    known = load("benchmark_tasks")
    known = known[known["benchmark"].isin(scores["task"].unique())]
    if not known.empty:
        with st.expander("Which task of lm-eval stands for which published benchmark"):
            table(known, f"{name}-benchmark-tasks")


def imported(name: str, scores: pd.DataFrame) -> None:
    """What lm-eval measured elsewhere."""
    rows = imported_rows(scores)
    if rows.empty:
        return
    st.subheader("Imported: measured by lm-eval elsewhere", anchor=False)
    if not (rows["of"] == OWN).all():
        st.caption(
            "Scores of another model, or of an unknown one, appear in this table alone and are not "
            "compared with the suite's scores. Their phase is the one at the same step."
        )
    table(rows, f"{name}-imported-scores")


def page() -> None:
    name = suite()
    heading("Benchmarks", "Scores on tasks, checkpoint by checkpoint.")
    scores = load("benchmarks", name)
    kind = pick_axis(load("phases", name), "bench_x")
    beside(name, scores, kind)
    measured(name, scores[scores["source"] == "measured"], kind)
    imported(name, scores)
    published(name, scores[scores["source"] == "published"], kind)


page()
