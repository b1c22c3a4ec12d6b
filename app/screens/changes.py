"""Changes: what lies between any two phases, in weights and in activations."""

import pandas as pd
import streamlit as st

from app.components import chart, definition, explain_gaps, heading, nothing, pick, pick_axis
from app.data import load, suite
from app.escape import md, shell
from app.figures.axis import AxisKind, PhaseAxis, phase_axis
from app.figures.pairs import change_line, neighbours, pair_matrix

ORDER = ("relative_change", "cosine", "cka", "change_per_btoken", "cka_null", "cka_null_95")


def pairs_axis(name: str, frame: pd.DataFrame, kind: AxisKind) -> PhaseAxis:
    """The axis whose gaps are the phases that were compared with no other."""
    phases = load("phases", name)
    compared = {*frame["phase_a"], *frame["phase_b"]}
    status = {
        int(phase): "absent" if pd.isna(repo) else "missing"
        for phase, repo in zip(phases["phase"], phases["repo_id"], strict=True)
        if phase not in compared
    }
    return phase_axis(phases, kind, status)


def alarms(name: str) -> None:
    for row in load("identity_alarms", name).to_dict("records"):
        st.error(
            md(
                "**{} and {} hold the same weights**: one of them is probably not the checkpoint "
                "that it is said to be.",
                row["label_a"],
                row["label_b"],
            )
        )


def page() -> None:
    name = suite()
    heading("Changes", "How far any two checkpoints of the suite are from each other.")
    alarms(name)
    choices = load("pair_choices", name)
    if choices.empty:
        nothing(
            "No two phases of this suite have been compared.",
            f"workbench probe {shell(name)} --probes changes",
        )
        return
    held = set(choices["metric"])
    left, middle, right = st.columns(3)
    with left:
        metric = pick("Metric", [m for m in ORDER if m in held], "changes_metric")
    of_metric = choices[choices["metric"] == metric]
    modules = sorted(of_metric["module"].unique(), key=lambda m: (m != "total", m))
    with middle:
        module = pick("Module", modules, "changes_module")
    of_module = of_metric[of_metric["module"] == module]["layer"]
    layers: list[int | None] = [None] if of_module.isna().any() else []
    layers += sorted(int(layer) for layer in of_module.dropna())
    with right:
        layer = pick(
            "Layer", layers, "changes_layer", names=lambda x: "all layers" if x is None else str(x)
        )
    frame = load("pair_values", name, metric, module, layer)
    where = module if layer is None else f"{module}, layer {layer}"
    about = of_metric.iloc[0]
    unit = str(about["unit"])
    st.markdown(definition(about))
    axis = pairs_axis(name, frame, "phase")
    slug = f"{name}-{metric}-{where}"
    fig = pair_matrix(
        frame, axis, name=metric, unit=unit, title=f"{metric} of {where}, any two phases",
        subtitle="relative to the earlier phase; effective weights" if "change" in metric else "",
    )  # fmt: skip
    chart(fig, frame, f"{slug}-matrix", f"{metric} of {where} between any two phases.")
    explain_gaps(axis)
    kind = pick_axis(load("phases", name), "changes_x")
    line_axis = pairs_axis(name, frame, kind)
    line = neighbours(frame)
    fig = change_line(
        line, line_axis, name=metric, unit=unit,
        title=f"{metric} of {where}, each phase and the one measured before",
        subtitle="filled: exact; open: estimated from sketches, band two standard deviations",
    )  # fmt: skip
    chart(fig, line, f"{slug}-neighbours", f"{metric} of {where} between neighbouring phases.")
    for reason in load("pair_reasons", name).to_dict("records"):
        st.caption(
            md("{} pairs of {} sketches: {}", reason["pairs"], reason["kind"], reason["reason"])
        )


page()
