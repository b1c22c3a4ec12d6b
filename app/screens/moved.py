"""What moved along: changes of a metric against those of the data mix or of benchmark scores."""

import pandas as pd
import streamlit as st

from analysis_db.errors import QueryError
from app.components import chart, definition, heading, nothing, pick, table
from app.data import load, moved, suite
from app.escape import md, shell
from app.figures.moved import moved_points

WITH = {
    "data mix, by category": "category",
    "data mix, by bucket": "bucket",
    "benchmark scores": "scores",
}
COLUMNS = {
    "layer": "of",
    "companion": "companion",
    "spearman": "Spearman",
    "n": "n",
    "p_value": "p (permutation)",
    "p_adjusted": "p adjusted",
    "pearson": "Pearson",
    "phases_apart": "phases apart",
}


def choose(name: str, probes: list[str]) -> tuple[str, str, str | None, str | None, pd.Series]:
    """probe, metric, view, module, and the metric's definition."""
    columns = st.columns(4, vertical_alignment="bottom")
    with columns[0]:
        probe = pick("Probe", probes, "moved_probe", default="weights")
    menu = load("metric_menu", name, probe)
    with columns[1]:
        metric = pick("Metric", sorted(menu["metric"].unique()), "moved_metric", default="rms")
    menu = menu[menu["metric"] == metric]
    with columns[2]:
        view = pick("View", _choices(menu["view"]), "moved_view", default="effective")
    menu = menu[menu["view"].isna() if view is None else menu["view"] == view]
    with columns[3]:
        module = pick("Module", _choices(menu["module"]), "moved_module", default="down_proj",
                      names=lambda module: module or "whole model")  # fmt: skip
    return probe, metric, view, module, menu.iloc[0]


def _choices(column: pd.Series) -> list[str | None]:
    """The values once, in order, and None where some are missing."""
    found: list[str | None] = [*sorted(column.dropna().unique())]
    return [*found, None] if column.isna().any() else found


def page() -> None:
    name = suite()
    heading(
        "What moved along",
        "Does a metric change when the data mix changes, or when a score does? Changes from phase "
        "to phase, rank against rank.",
    )
    coverage = load("coverage", name)
    measured = coverage.loc[coverage["status"] == "measured", "probe"]
    probes = [probe for probe in sorted(measured.unique()) if len(load("metric_menu", name, probe))]
    if not probes:
        nothing("Nothing has been measured for this suite.", f"workbench probe {shell(name)}")
        return
    probe, metric, view, module, row = choose(name, probes)
    left, middle, right = st.columns([1, 1, 2], vertical_alignment="bottom")
    with left:
        companions = pick("Compared with", list(WITH), "moved_with")
    with middle:
        how = st.segmented_control(
            "Layers", ["mean", "each"], default="mean", required=True, key="moved_layers",
            bind="query-params", help="each: every layer (or domain) is tried, and paid for.",
        )  # fmt: skip
    with right:
        across_gaps = st.toggle(
            "Changes over another number of phases too",
            key="moved_gaps",
            bind="query-params",
            help="Such as those over an unpublished checkpoint, or between published scores of "
            "phases 20, 25 and 26: more points, but not of one kind.",
        )
    st.markdown(definition(row))
    chosen = (name, probe, metric, view, module, WITH[companions], how != "each", across_gaps)
    try:
        found = moved(*chosen)
    except QueryError as error:
        st.info(md("{}", error))
        return
    st.warning(md("{}", found.warning))
    shown = found.table[list(COLUMNS)].rename(columns=COLUMNS)
    what = " · ".join(part for part in (metric, module, view) if part)
    table(shown, f"{name}-moved-{what}-{companions}")
    tested = found.table.dropna(subset=["p_value"])
    if tested.empty:
        return
    pairs = [(str(r["layer"]), str(r["companion"])) for _, r in tested.iterrows()]
    names = {f"{layer} · {companion}": (layer, companion) for layer, companion in pairs}
    layer, companion = names[pick("Show the changes of", list(names), "moved_pair")]
    best = tested[(tested["layer"] == layer) & (tested["companion"] == companion)].iloc[0]
    same = (found.changes["layer"] == layer) & (found.changes["companion"] == companion)
    share = "" if companions == "benchmark scores" else "share of "
    fig = moved_points(
        found.changes[same],
        x_title=f"change of {share}{companion}",
        y_title=f"change of {metric}",
        title=f"{what}, {layer}, against {companion}",
        subtitle=f"Spearman {best['spearman']:.2f}, n = {best['n']}, p adjusted "
        f"{best['p_adjusted']:.3f}; the number is the later phase",
    )
    chart(fig, found.changes[same], f"{name}-moved-{what}-{layer}-{companion}",
          f"Changes of {metric} against changes of {companion}.")  # fmt: skip


page()
