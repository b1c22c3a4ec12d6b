"""Activations and attention: what flows through the network on a fixed text."""

import streamlit as st

from app.components import heading, pick, table
from app.data import load, suite
from app.explorer import Choice, choose, explore

FIRST = {
    "activations": (("variance_median", "variance_mean"), "residual"),
    "attention": (("max_logit",), "attention"),
}
"""Probe -> the metrics of which the first that was measured is shown first, and its module."""
WHY_MEDIANS = (
    "The variance is shown first as its **median over tokens**, not as the mean: a single massive "
    "element of the start token can make up nearly all of a mean (98 % of variance_mean in "
    "SmolLM2-135M, layer 15), which then describes the start token alone."
)


def page() -> None:
    name = suite()
    heading(
        "Activations",
        "What flows through the network on the same fixed text, checkpoint by checkpoint.",
    )
    probe = st.segmented_control(
        "Probe",
        list(FIRST),
        default="activations",
        required=True,
        key="probe",
        bind="query-params",
    )
    probe = probe or "activations"
    metrics, module = FIRST[probe]
    measured = set(load("metric_menu", name, probe)["metric"])
    metric = next((metric for metric in metrics if metric in measured), metrics[0])
    choice = choose(name, probe, probe, metric=metric, module=module)
    if choice is not None:
        if choice.metric == "variance_median":
            st.caption(WHY_MEDIANS)
        explore(name, choice, probe)
        if probe == "activations" and choice.module is not None:
            _places(name, choice, choice.module)


def _places(name: str, choice: Choice, module: str) -> None:
    """Where the largest activations of the chosen module sit, for one phase."""
    places = load("extreme_places", name, module)
    if places.empty:
        return
    st.subheader("Where the largest activations sit", anchor=False)
    phases = places["phase"].unique().tolist()
    labels = dict(zip(places["phase"], places["label"], strict=True))
    phase = pick("Phase", phases, "places_phase", default=phases[-1], names=lambda p: labels[p])
    shown = places[places["phase"] == phase].drop(columns=["phase", "label"])
    if shown["layer"].isna().all():
        shown = shown.drop(columns="layer")
    table(shown, f"{name}-places-{module}-{phase}")
    st.caption(
        "size: |x|; median: of |x| in the same windows; position: in the window, 0 is its start "
        "token. Massive activations are hundreds of times the median, always at the same few "
        "features and mostly at the start token. One row for each place, over all windows."
    )


page()
