"""Phases against phases: a matrix of what lies between any two, and lines between neighbours."""

import math
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from app.escape import pseudo_html
from app.figures.axis import GAP_TEXT, PhaseAxis, draw_axis
from app.figures.cells import cells, colorbar, hatch, scale
from app.figures.theme import PALETTE, figure, number, text_title, with_unit
from app.frames import rows_of


def pair_matrix(
    frame: pd.DataFrame, axis: PhaseAxis, *, name: str, unit: str, title: str, subtitle: str = ""
) -> go.Figure:
    """Colour of ``value`` for each two phases, the same on both sides of the diagonal.

    ``frame`` has the columns phase_a, phase_b, value, exact, error_bound; ``axis`` must be of the
    kind ``phase``. A phase without values is a hatched row and column.
    """
    phases = axis.phases
    at = {phase: i for i, phase in enumerate(phases)}
    z = np.full((len(phases), len(phases)), math.nan)
    hover = [["" for _ in phases] for _ in phases]
    for row in rows_of(frame):
        i, j = at[row.phase_a], at[row.phase_b]
        text = (
            f"<b>Phases {row.phase_a} and {row.phase_b}</b><br>{pseudo_html(name)}: {_value(row)}"
        )
        z[i, j] = z[j, i] = row.value
        hover[i][j] = hover[j][i] = text
    fig = figure(title, subtitle, height=640)
    heat = cells(phases, phases, z, hover)
    heat.update(scale(z), colorbar=colorbar(with_unit(name, unit)))
    fig.add_trace(heat)
    _hatch_gaps(fig, axis)
    draw_axis(fig, axis, tint=False, gaps=False)
    fig.update_yaxes(
        title={"text": "phase"},
        tickvals=phases,
        range=[phases[-1] + 0.5, phases[0] - 0.5],
        showgrid=False,
    )
    return fig


def _value(row: Any) -> str:
    value, bound = number(row.value), row.error_bound
    if row.exact:
        return f"<b>{value}</b> (exact)"
    return f"<b>{value}</b> ± {number(bound)} (estimated, about 95 %)"


def _hatch_gaps(fig: go.Figure, axis: PhaseAxis) -> None:
    low, high = axis.range
    for row in rows_of(axis.table):
        if pd.isna(row.gap):
            continue
        across, text = (row.left, row.right), f"{row.phase}: {GAP_TEXT[row.gap]}"
        hatch(fig, across, (low, high), text)
        hatch(fig, (low, high), across, text)


def neighbours(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of each phase and the measured one before it; a column ``phase`` is the later."""
    measured = sorted({*frame["phase_a"], *frame["phase_b"]})
    before = dict(zip(measured[1:], measured, strict=False))
    kept = frame[frame["phase_b"].map(before) == frame["phase_a"]]
    return kept.assign(phase=kept["phase_b"])


def change_line(
    frame: pd.DataFrame, axis: PhaseAxis, *, name: str, unit: str, title: str, subtitle: str = ""
) -> go.Figure:
    """``value`` between each phase and the one measured before it, with the band of its error.

    ``frame`` as :func:`neighbours` gives it.
    """
    fig = figure(title, subtitle, height=400)
    value = axis.spread(frame)
    bound = axis.spread(frame, "error_bound")
    rows = {row.phase: row for row in rows_of(frame)}
    for part in _unbroken(axis.x, value):
        # A polygon a stretch: a band between two lines would be filled across the gaps.
        edges = [(axis.x[i], value[i], bound[i] or 0.0) for i in part]
        there = [(x, v + e) for x, v, e in edges if v is not None]
        back = [(x, v - e) for x, v, e in reversed(edges) if v is not None]
        fig.add_trace(
            go.Scatter(
                x=[x for x, _ in there + back],
                y=[y for _, y in there + back],
                mode="lines",
                line={"width": 0},
                fill="toself",
                fillcolor="rgba(0,114,178,0.2)",
                hoverinfo="skip",
                showlegend=False,
            )
        )
    shown = [rows.get(phase) for phase in axis.phases]
    fig.add_trace(
        go.Scatter(
            x=axis.x,
            y=value,
            mode="lines+markers",
            connectgaps=False,
            line={"color": PALETTE[0], "width": 2},
            marker={
                "size": 8,
                "color": PALETTE[0],
                "symbol": ["circle" if r is None or r.exact else "circle-open" for r in shown],
            },
            text=[
                text if row is None else f"{text}<br>since phase {row.phase_a}: {_value(row)}"
                for text, row in zip(axis.hover(), shown, strict=True)
            ],
            hovertemplate="%{text}<extra></extra>",
            showlegend=False,
        )
    )
    fig.update_yaxes(title=text_title(with_unit(name, unit)))
    draw_axis(fig, axis)
    return fig


def _unbroken(x: list[float | None], y: list[float | None]) -> list[list[int]]:
    """The stretches of neighbouring places that have a value."""
    found: list[list[int]] = []
    for i, point in enumerate(zip(x, y, strict=True)):
        if None in point:
            continue
        if found and found[-1][-1] == i - 1:
            found[-1].append(i)
        else:
            found.append([i])
    return found
