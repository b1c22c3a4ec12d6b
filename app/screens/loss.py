"""Loss: fixed text per domain over the phases, and the log of the training itself."""

import pandas as pd
import streamlit as st

from app.components import (
    chart,
    definition,
    explain_gaps,
    heading,
    nothing,
    phases,
    pick,
    pick_axis,
    probe_axis,
)
from app.data import load, suite
from app.escape import md, shell
from app.explorer import spread
from app.figures.lines import phase_lines
from app.figures.positions import position_lines
from app.figures.training import layer_curves, training_curves
from app.frames import rows_of

CURVES = {"loss": "loss [nats/token]", "lr": "learning rate", "grad_norm": "gradient norm"}


def domains(name: str) -> None:
    """nll or bits per byte of each domain."""
    st.subheader("Fixed text, by domain", anchor=False)
    menu = load("metric_menu", name, "loss")
    metrics = [m for m in ("bits_per_byte", "nll") if m in set(menu["metric"])]
    if not metrics:
        nothing("The loss of the fixed text has not been measured for this suite.",
                f"workbench probe {shell(name)} --probes loss")  # fmt: skip
        return
    left, right = st.columns([1, 3], vertical_alignment="bottom")
    with left:
        metric = pick("Metric", metrics, "loss_metric")
    with right:
        kind = pick_axis(load("phases", name), "loss_x")
    row = menu[(menu["metric"] == metric) & menu["module"].isna()].iloc[0]
    st.markdown(definition(row))
    values = load("metric_values", name, "loss", metric, None, None)
    axis = probe_axis(name, "loss", kind)
    fig = phase_lines(
        values,
        axis,
        series="domain",
        y_title=f"{metric} [{row['unit']}]",
        title=f"{metric} of each domain",
        subtitle="the same tokens for every checkpoint; lower is better",
    )
    chart(fig, values, f"{name}-{metric}-by-domain", f"{metric} per domain over phases.")
    explain_gaps(axis)
    explain_token_sets(name)
    positions(name)


def explain_token_sets(name: str) -> None:
    """Say which phases were measured with other tokens, or in other windows, than the rest."""
    sets = load("token_sets", name, "loss")
    groups = [[int(p) for p in rows["phase"]] for _, rows in sets.groupby("token_set", sort=False)]
    if len(groups) > 1:
        which = " · ".join(f"phase {phases(group)}" for group in groups)
        st.caption(
            md(
                "Not measured with the same tokens in the same windows: {}. Compare within these "
                "groups only, or measure all phases with one `window` (workbench probe --set).",
                which,
            )
        )


def positions(name: str) -> None:
    """nll by position in the window: does a checkpoint use what stands before a token?"""
    values = load("position_values", name)
    if values.empty:
        return
    left, right = st.columns([1, 3], vertical_alignment="bottom")
    with left:
        domain = pick("Domain", sorted(values["domain"].unique()), "loss_domain", default="web")
    shown = values[values["domain"] == domain]
    measured = sorted(int(phase) for phase in shown["phase"].unique())
    with right:
        chosen = st.multiselect(
            "Phases in the lines",
            measured,
            default=spread(measured),
            format_func=str,
            key="loss_phases",
        )
    if not chosen:
        st.info("Choose at least one phase.")
        return
    fig = position_lines(
        shown,
        sorted(chosen),
        title=f"nll of {domain} by position in the window",
        subtitle="a line that falls further along says that more context is put to use",
    )
    chart(fig, shown, f"{name}-nll-{domain}-by-position", f"nll of {domain} by position, by phase.")


def training(name: str) -> None:
    """The log: loss, learning rate, gradient norm, and hidden variance of each layer."""
    st.subheader("The training run", anchor=False)
    runs = load("training_runs", name)
    if runs.empty:
        st.info("The store holds no training log of this suite: nothing was imported, or its "
                "authors published none.")  # fmt: skip
        return
    names = [str(run) for run in runs["run"]]
    left, right = st.columns([1, 3], vertical_alignment="bottom")
    with left:
        run = pick("Run", names, "run")
    with right:
        x = st.segmented_control(
            "x axis of the log",
            ["step", "tokens"],
            default="step",
            required=True,
            key="log_x",
            bind="query-params",
        )
    x = x or "step"
    logged = load("training_menu", run)
    table_of_phases = load("phases", name)
    series = {
        title: load("training_series", run, metric, None)
        for metric, title in CURVES.items()
        if metric in set(logged["metric"])
    }
    if series:
        fig = training_curves(
            series,
            table_of_phases,
            x=x,
            title="Loss, learning rate, gradient norm",
            subtitle=f"run {run}, every step; dotted lines: ends of phases",
            log=(CURVES["grad_norm"],),
        )
        rows = [frame.drop(columns="layer").assign(series=t) for t, frame in series.items()]
        chart(fig, pd.concat(rows), f"{name}-{run}-curves", "Training loss, lr, gradient norm.")
    layered = logged[logged["by_layer"].astype(bool)]
    if layered.empty:
        return
    options = [
        (str(r.metric), None if pd.isna(r.module) else str(r.module)) for r in rows_of(layered)
    ]
    names_of = {f"{metric} of {module}": (metric, module) for metric, module in options}
    chosen = pick(
        "Logged for each layer", list(names_of), "layers", default="hidden_variance of residual"
    )
    metric, module = names_of[chosen]
    frame = load("training_series", run, metric, module)
    fig = layer_curves(
        frame,
        table_of_phases,
        x=x,
        y_title=metric.replace("_", " "),
        title=f"{chosen}, layer by layer",
        subtitle="logarithmic; the report's early sign of divergence is a rise here while the loss "
        "still looks calm",
        log=bool((frame["value"].dropna() > 0).all()),
    )
    chart(fig, frame, f"{name}-{run}-{chosen}", f"{chosen} for each layer over the training.")


def page() -> None:
    name = suite()
    heading("Loss", "How well the checkpoints predict fixed text, and how the training went.")
    domains(name)
    training(name)


page()
