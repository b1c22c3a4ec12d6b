"""Weights: statistics of every weight over layers and phases, in two views, and of the optimizer's
state beside it."""

import streamlit as st

from app.components import chart, heading, pick, probe_axis
from app.data import load, suite
from app.explorer import Choice, choose, explore
from app.figures.heatmap import distribution_heatmap
from app.figures.lines import phase_lines

FIRST = {"weights": "rms", "spectra": "effective_rank", "optimizer": "update_rms"}
"""Probe -> the metric that is shown first."""
SEAM = """\
The checkpoint of a phase keeps a **learnable scale (alpha) beside each matrix**; the network
computes with their product. YuLan-Mini's authors rebalanced alpha and matrix between phases, and
the merged model at the end has all scales folded into its matrices. So the matrix alone, the
**stored** view, jumps where nothing happened to the network, most of all at the seam where the
merged model begins. The **effective** view has every scale multiplied in, and is comparable from
the first phase to the last.
"""


def seam(name: str, choice: Choice) -> None:
    """Stored against effective for the chosen module, with alpha."""
    st.subheader("Stored and effective: the seam", anchor=False)
    st.markdown(SEAM)
    if choice.module is None or choice.metric == "alpha":
        return
    frame = load("seam", name, choice.metric, choice.module)
    frame = frame[frame["value"] > 0]
    if frame.empty or frame["series"].nunique() < 2:
        st.caption("For this metric and module there is no second view to compare with.")
        return
    axis = probe_axis(name, choice.probe, choice.kind)
    fig = phase_lines(
        frame,
        axis,
        series="series",
        names=[s for s in ("effective", "stored", "alpha") if s in set(frame["series"])],
        y_title=f"mean of {choice.metric} over layers",
        title=f"{choice.metric} of {choice.module}: effective, stored, and alpha",
        subtitle="means over layers, logarithmic; alpha ends where the merged model begins",
        log=True,
        height=380,
    )
    chart(fig, frame, f"{name}-seam-{choice.metric}-{choice.module}", "Stored against effective.")


def distribution(name: str, choice: Choice) -> None:
    """The histogram of log10|w| of one tensor, phase by phase."""
    layer = None
    values = load("metric_values", name, "weights", choice.metric, choice.view, choice.module)
    layers = sorted(int(layer) for layer in values["layer"].dropna().unique())
    frame = load("distribution", name, choice.view, choice.module, layers[0] if layers else None)
    if frame.empty:
        return
    st.subheader("Distribution of the elements", anchor=False)
    if layers:
        layer = pick("Layer", layers, "w_layer")
        frame = load("distribution", name, choice.view, choice.module, layer)
    which = f"{choice.module}" + ("" if layer is None else f", layer {layer}")
    fig = distribution_heatmap(
        frame,
        probe_axis(name, "weights", "phase"),
        title=f"log10|w| of {which} · {choice.view} view",
        subtitle="each column is the histogram of one checkpoint; bins of a tenth of a decade",
    )
    chart(fig, frame, f"{name}-distribution-{which}", f"Histogram of log10|w| of {which}.")


def page() -> None:
    name = suite()
    heading("Weights", "How every weight matrix changes: one number per tensor and checkpoint.")
    probe = st.segmented_control(
        "Probe",
        list(FIRST),
        default="weights",
        required=True,
        key="weights_probe",
        bind="query-params",
    )
    probe = probe or "weights"
    key = "w" if probe == "weights" else probe
    choice = choose(name, probe, key, metric=FIRST[probe], module="q_proj")
    if choice is None:
        return
    if choice.view == "stored":
        st.warning("Stored view: jumps between phases may be bookkeeping. See the seam below.")
    explore(name, choice, key)
    if probe == "weights":
        seam(name, choice)
        distribution(name, choice)


page()
