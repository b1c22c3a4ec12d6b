"""Activations and attention: what flows through the network on a fixed text."""

import streamlit as st

from app.components import heading
from app.data import suite
from app.explorer import choose, explore

FIRST = {"activations": ("variance_mean", "residual"), "attention": ("max_logit", "attention")}


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
    metric, module = FIRST[probe]
    choice = choose(name, probe, probe, metric=metric, module=module)
    if choice is not None:
        explore(name, choice, probe)


page()
