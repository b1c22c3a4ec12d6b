"""Data mix: what each phase was trained on."""

import streamlit as st

from app.components import chart, heading, pick, table
from app.data import load, suite
from app.escape import joined, md
from app.figures.axis import phase_axis
from app.figures.mix import mix_bars

BY = ["category", "bucket"]


def page() -> None:
    name = suite()
    heading("Data mix", "What each phase was trained on.")
    if load("data_mix", name, "category").empty:
        st.info("The store holds no data mix of this suite.")
        return
    left, right = st.columns([1, 3], vertical_alignment="bottom")
    with left:
        by = pick(
            "Parts",
            BY,
            "mix_by",
            help="bucket: the eight parts of the YuLan-Mini paper's Figure 9.",
        )
    with right:
        unit = st.segmented_control(
            "Height of the bars", ["share", "tokens"], default="share", required=True,
            key="mix_unit", bind="query-params",
        )  # fmt: skip
    mix = load("data_mix", name, by)
    fig = mix_bars(
        mix,
        phase_axis(load("phases", name)),
        share=unit != "tokens",
        title=f"Data mix of each phase by {by}",
        subtitle="sums of the sources' tokens, as published",
    )
    chart(fig, mix, f"{name}-mix-{by}", f"Stacked bars of the data mix by {by}.")
    notes(name)
    with st.expander("Shares as a table [%]"):
        wide = mix.assign(percent=100 * mix["share"]).pivot_table(
            index=["phase", "run"], columns="part", values="percent", aggfunc="sum"
        )
        table(wide.round(3).reset_index(), f"{name}-mix-{by}-table")


def notes(name: str) -> None:
    """What is special about single phases: two runs, or a mix without a checkpoint."""
    buckets = load("data_mix", name, "bucket")
    buckets["instruction"] = buckets["share"].where(buckets["part"].str.endswith("-SFT"), 0.0)
    for phase, rows in buckets.groupby("phase"):
        shares = rows.groupby("run")["instruction"].sum()
        if len(shares) > 1:
            each = (md("**{}** {:.1f} %", run, 100 * share) for run, share in shares.items())
            st.caption(
                md(
                    "Phase {} has {} runs, side by side in its place. Their shares of instruction "
                    "data (the buckets -SFT): {}.",
                    phase,
                    len(shares),
                    joined(each, ", "),
                )
            )
    phases = load("phases", name)
    for phase in phases.loc[phases["repo_id"].isna(), "phase"]:
        st.caption(md("Phase {}: its checkpoint is not published, its data mix is.", phase))


page()
