"""Layers x phases as a heat map; a phase without values is an empty hatched column."""

import math

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from app.figures.axis import GAP_TEXT, PhaseAxis, draw_axis
from app.figures.cells import cells, colorbar, hatch, scale
from app.figures.theme import INK, MAGNITUDE, figure, log_axis, number, with_unit
from app.frames import rows_of


def layer_heatmap(
    frame: pd.DataFrame,
    axis: PhaseAxis,
    *,
    name: str,
    unit: str | None = None,
    title: str,
    subtitle: str = "",
    log: bool = False,
) -> go.Figure:
    """Colour of ``value`` for each layer (rows) and phase (columns).

    ``frame`` has the columns phase, layer, value; ``axis`` must be of the kind ``phase``. With
    ``log`` the colours follow log10 of the values, and what is not positive stays blank.
    """
    layers = sorted(int(layer) for layer in frame["layer"].unique())
    rows = [axis.spread(frame[frame["layer"] == layer]) for layer in layers]
    values = np.array([[math.nan if v is None else v for v in row] for row in rows])
    shown = np.where(values > 0, np.log10(np.where(values > 0, values, 1.0)), math.nan)
    z = shown if log else values
    fig = figure(title, subtitle, height=max(280, min(560, 170 + 22 * len(layers))))
    hover = [
        [f"{text}<br>layer {layer}: <b>{number(value)}</b>" for text, value in line]
        for layer, line in (
            (la, zip(axis.hover(), row, strict=True)) for la, row in zip(layers, rows, strict=True)
        )
    ]
    heat = cells(axis.phases, layers, z, hover)
    colours = {"colorscale": MAGNITUDE} if log else scale(z)
    heat.update(colours, colorbar=_colorbar(z, with_unit(name, unit), log))
    fig.add_trace(heat)
    _hatch_gaps(fig, axis, layers[0] - 0.5, layers[-1] + 0.5)
    fig.update_yaxes(
        title={"text": "layer"},
        range=[layers[0] - 0.5, layers[-1] + 0.5],
        tickmode="auto" if len(layers) > 14 else "array",
        tickvals=layers,
        showgrid=False,
    )
    draw_axis(fig, axis, tint=False, gaps=False)
    return fig


def _colorbar(z: np.ndarray, title: str, log: bool) -> dict[str, object]:
    bar = colorbar(title) | {"len": 1.0, "ypad": 0}
    if log:
        values = 10 ** z[np.isfinite(z)]
        inside = [t for t in log_axis(values)["tickvals"] if values.min() <= t <= values.max()]
        bar |= {"tickvals": np.log10(inside).tolist(), "ticktext": [f"{t:.4g}" for t in inside]}
    return bar


def distribution_heatmap(
    frame: pd.DataFrame, axis: PhaseAxis, *, title: str, subtitle: str = ""
) -> go.Figure:
    """The histogram of log10|w| of one tensor as a column per phase; colour: share of elements.

    ``frame`` has the columns phase, low, high, share (a row per bin, the same bins in every
    phase); bins that are empty in every phase at either end are cut off.
    """
    filled = frame[frame["share"] > 0]
    frame = frame[(frame["low"] >= filled["low"].min()) & (frame["high"] <= filled["high"].max())]
    bins = frame[["low", "high"]].drop_duplicates().sort_values("low")
    rows = [axis.spread(frame[frame["low"] == low], "share") for low in bins["low"]]
    hover = [
        [f"{text}<br>log10|w| {low:.1f} to {high:.1f}: <b>{100 * (v or 0):.3g} %</b>"
         for text, v in zip(axis.hover(), row, strict=True)]
        for low, high, row in zip(bins["low"], bins["high"], rows, strict=True)
    ]  # fmt: skip
    fig = figure(title, subtitle, height=380)
    middles = ((bins["low"] + bins["high"]) / 2).tolist()
    shares = 100 * np.array(rows, dtype=float)
    heat = cells(axis.phases, middles, shares, hover)
    heat.update(ygap=0, colorscale=MAGNITUDE, colorbar=_colorbar(shares, "share [%]", False))
    fig.add_trace(heat)
    bottom, top = float(bins["low"].min()), float(bins["high"].max())
    _hatch_gaps(fig, axis, bottom, top)
    fig.update_yaxes(title={"text": "log10 |w|"}, range=[bottom, top], showgrid=False)
    draw_axis(fig, axis, tint=False, gaps=False)
    return fig


def _hatch_gaps(fig: go.Figure, axis: PhaseAxis, bottom: float, top: float) -> None:
    """An empty hatched column with its reason for every gap of the axis."""
    for row in rows_of(axis.table):
        if not pd.isna(row.gap):
            _name_gap(fig, row.left, row.right, bottom, top, f"{row.phase}: {GAP_TEXT[row.gap]}")


def _name_gap(
    fig: go.Figure, left: float, right: float, bottom: float, top: float, text: str
) -> None:
    hatch(fig, (left, right), (bottom, top), text)
    fig.add_annotation(
        x=(left + right) / 2,
        y=(bottom + top) / 2,
        text=text,
        textangle=-90,
        showarrow=False,
        font={"size": 11, "color": INK},
        bgcolor="#F4F6F8",
    )
