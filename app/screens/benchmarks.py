"""Benchmarks: measured scores with their sampling error, and published ones apart."""

import pandas as pd
import streamlit as st

from app.components import chart, explain_gaps, heading, nothing, pick, pick_axis, probe_axis, table
from app.data import load, suite
from app.figures.axis import AxisKind, phase_axis
from app.figures.benchmarks import measured_scores, published_scores


def measured(name: str, scores: pd.DataFrame, kind: AxisKind) -> None:
    """Our own lm-eval runs."""
    st.subheader("Measured here", anchor=False)
    if scores.empty:
        nothing("No benchmark has been measured for this suite.",
                f"workbench probe {name} --probes benchmarks")  # fmt: skip
        return
    metrics = scores["metric"].value_counts().index.tolist()
    left, right = st.columns([1, 3], vertical_alignment="bottom")
    with left:
        metric = pick("Metric", metrics, "bench_metric", default="acc")
    rows = scores[scores["metric"] == metric]
    tasks = sorted(rows["task"].unique())
    with right:
        chosen = st.multiselect("Tasks", tasks, default=tasks, key="bench_tasks")
    rows = rows[rows["task"].isin(chosen)]
    better = rows["higher_is_better"].dropna().unique().tolist()
    direction = {(True,): "higher is better", (False,): "lower is better"}.get(tuple(better), "")
    axis = probe_axis(name, "benchmarks", kind)
    fig = measured_scores(
        rows,
        axis,
        metric=metric,
        title=f"{metric} of {', '.join(chosen) or 'no task'}",
        subtitle=f"measured with lm-eval; {direction}".rstrip("; "),
    )
    chart(fig, rows, f"{name}-measured-{metric}", f"Measured {metric} over phases with band.")
    st.caption(
        "**Band: task sampling error**, ± 1.96 standard errors as lm-eval reports them: how far "
        "the score would move with another draw of documents. It is not the error over seeds."
    )
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


def imported(name: str, scores: pd.DataFrame) -> None:
    """What lm-eval measured elsewhere."""
    if scores.empty:
        return
    st.subheader("Imported: measured by lm-eval elsewhere", anchor=False)
    columns = ["model", "phase", "task", "metric", "value", "stderr", "shots", "imported_from"]
    table(scores[columns], f"{name}-imported-scores")


def page() -> None:
    name = suite()
    heading("Benchmarks", "Scores on tasks, checkpoint by checkpoint.")
    scores = load("benchmarks", name)
    kind = pick_axis(load("phases", name), "bench_x")
    measured(name, scores[scores["source"] == "measured"], kind)
    imported(name, scores[scores["source"] == "imported"])
    published(name, scores[scores["source"] == "published"], kind)


page()
