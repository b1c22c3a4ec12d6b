"""The parts that pages are put together from: headings, charts with downloads, notes, pickers."""

import re
from collections.abc import Callable, Sequence
from typing import TypeVar

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from app.data import load
from app.escape import Markdown, joined, md, plain
from app.figures.axis import GAP_TEXT, AxisKind, PhaseAxis, axis_kinds, phase_axis
from app.figures.theme import modebar

T = TypeVar("T")

FILE_NAME = 120
"""Characters of a download's name at most; file systems allow 255 bytes."""

_AXIS_NAMES: dict[str, str] = {"phase": "phase", "step": "step", "tokens": "tokens"}


def heading(title: str, about: str) -> None:
    """The title of a page and one sentence on what it shows."""
    st.header(md("{}", title), anchor=False)
    st.markdown(md(":gray[{}]", about))


def chart(fig: go.Figure, shown: pd.DataFrame, name: str, alt: str) -> None:
    """A figure, and under it its data as CSV (all rows behind the figure) and itself as HTML."""
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    with st.container(border=True):
        st.plotly_chart(
            fig,
            width="stretch",
            theme=None,
            key=f"chart-{slug}",
            config=modebar(slug[-FILE_NAME:]),
            alt=alt,
        )
        with st.container(horizontal=True, horizontal_alignment="right", gap="small"):
            download_csv(shown, slug)
            st.download_button(
                "Figure (HTML)",
                lambda: fig.to_html(include_plotlyjs=True, config=modebar(slug[-FILE_NAME:])),
                f"{slug[-FILE_NAME:]}.html",
                "text/html",
                key=f"html-{slug}",
                on_click="ignore",
                type="tertiary",
                help="The figure in one file that opens without a network. The camera above the "
                "figure saves an SVG.",
            )


def table(frame: pd.DataFrame, name: str) -> None:
    """A table with its CSV."""
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    st.dataframe(frame, width="stretch", hide_index=True, key=f"table-{slug}")
    with st.container(horizontal=True, horizontal_alignment="right"):
        download_csv(frame, slug)


def download_csv(frame: pd.DataFrame, slug: str) -> None:
    """A button that saves ``frame`` as CSV at full precision."""
    st.download_button(
        f"Data (CSV, {len(frame):,} rows)",
        lambda: frame.to_csv(index=False).encode(),
        f"{slug[-FILE_NAME:]}.csv",
        "text/csv",
        key=f"csv-{slug}",
        on_click="ignore",
        type="tertiary",
    )


def pick(
    label: str,
    options: Sequence[T],
    key: str,
    *,
    default: T | None = None,
    names: Callable[[T], str] = str,
    help: str | None = None,
) -> T:
    """A select box whose choice is part of the page's address."""
    index = options.index(default) if default is not None and default in options else 0
    chosen = st.selectbox(
        label,
        options,
        index,
        lambda option: plain(names(option)),
        key=key,
        help=help,
        bind="query-params",
    )
    return options[index] if chosen is None else chosen


def pick_axis(phases: pd.DataFrame, key: str) -> AxisKind:
    """The choice of the x axis, among those that the suite knows."""
    kinds = axis_kinds(phases)
    chosen = st.segmented_control(
        "x axis",
        kinds,
        default=kinds[0],
        required=True,
        format_func=lambda kind: _AXIS_NAMES[kind],
        key=key,
        bind="query-params",
        help=None if len(kinds) == 3 else "Only axes whose values are known for this suite.",
    )
    return chosen or kinds[0]


def probe_axis(suite: str, probe: str, kind: AxisKind) -> PhaseAxis:
    """The axis of a figure that shows one probe: its gaps are those of the probe's coverage."""
    coverage = load("coverage", suite)
    rows = coverage[coverage["probe"] == probe]
    stateless = rows["reason"] == "no optimizer state was published"
    shown = rows["status"].mask(stateless, "stateless")
    status = dict(zip(rows["phase"], shown, strict=True))
    return phase_axis(load("phases", suite), kind, status)


def explain_gaps(axis: PhaseAxis) -> None:
    """Say in words which phases the figures above leave out, and why."""
    notes = [
        md("**Phase {}**: {}. {}", phases(rows), GAP_TEXT[status], _WHY[status])
        for status in ("absent", "stateless", "missing", "failed")
        if (rows := [int(p) for p in axis.table.loc[axis.table["gap"] == status, "phase"]])
    ]
    if axis.unplaced:
        unit = "step" if axis.kind == "step" else "token count"
        notes.append(
            md(
                "**Phase {}**: the {} of the checkpoint is not known, so it has no place on this "
                "axis.",
                phases(axis.unplaced),
                unit,
            )
        )
    if notes:
        st.caption(joined(notes))


_WHY = {
    "absent": "The training went through this phase, but its checkpoint was never published, so "
    "nothing can be measured: the gap is left open and not interpolated.",
    "stateless": "The checkpoint is there, but its optimizer's state was never published.",
    "missing": "The Overview page says which command measures it.",
    "failed": "The Overview page shows the error.",
}


def phases(numbers: Sequence[int]) -> str:
    """1, 2, 3, 7 as ``1-3,7``: the form that the command line takes."""
    spans: list[list[int]] = []
    for number in sorted(numbers):
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in spans)


def definition(row: pd.Series) -> Markdown:
    """The formula of a metric and where it comes from, as one line of Markdown."""
    if pd.isna(row["formula"]):
        return md("**{}**: the store holds no definition of this metric.", row["metric"])
    unit = md(" [{}]", row["unit"]) if row["unit"] else ""
    source = md(" · *{}*", row["source"]) if row["source"] else ""
    return md("**{}**{} = {:code}{}", row["metric"], unit, row["formula"], source)


def nothing(what: str, command: str) -> None:
    """A page that has nothing to show says so, and names the command that changes it."""
    st.info(md("{} Run this, then reload the page:", what))
    st.code(command, language="bash")
