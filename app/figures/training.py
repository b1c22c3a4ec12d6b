"""Logged series of a training run, with the phases' boundaries."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from app.escape import pseudo_html
from app.figures.axis import draw_gap, draw_stages
from app.figures.lines import style
from app.figures.theme import MUTED, PALETTE, Y_AXIS, figure, log_axis, text_title
from app.frames import rows_of

DRAWN_POINTS = 4000


def thin(frame: pd.DataFrame, points: int = DRAWN_POINTS) -> pd.DataFrame:
    """At most ``points`` rows of a series (step, tokens, value) that still show every peak.

    The steps are cut into equal buckets; each keeps its lowest and its highest value.
    """
    if len(frame) <= points:
        return frame
    bucket = np.arange(len(frame)) * (points // 2) // len(frame)
    groups = frame["value"].reset_index(drop=True).groupby(bucket)
    kept = np.unique(np.concatenate([groups.idxmin().dropna(), groups.idxmax().dropna()]))
    return frame.iloc[kept.astype(int)]


def training_curves(
    series: Mapping[str, pd.DataFrame],
    phases: pd.DataFrame,
    *,
    x: str = "step",
    title: str,
    subtitle: str = "",
    log: tuple[str, ...] = (),
    panel_height: int = 200,
) -> go.Figure:
    """One panel per series, all on the same x (``step`` or ``tokens``).

    ``series`` maps an axis title to a frame with the columns step, tokens, value; ``log`` names
    those on a logarithmic axis. ``phases`` (phase, stage, step, repo_id) gives boundaries, stage
    bands and the phases without a published checkpoint.
    """
    panels = len(series)
    fig = figure(title, subtitle, height=140 + panel_height * panels)
    gap = 0.06 if panels > 1 else 0.0
    room = (1 - gap * (panels - 1)) / panels
    for i, (name, frame) in enumerate(series.items()):
        drawn = thin(frame)
        axis = "y" if i == 0 else f"y{i + 1}"
        top = 1 - i * (room + gap)
        fig.add_trace(
            go.Scatter(
                x=drawn[x].tolist(),
                y=[None if pd.isna(v) else float(v) for v in drawn["value"]],
                yaxis=axis,
                name=pseudo_html(name),
                mode="lines",
                connectgaps=False,
                line={"color": PALETTE[i % len(PALETTE)], "width": 1.4},
                hovertemplate=x + " %{x:,}<br>%{fullData.name}: <b>%{y:.4g}</b><extra></extra>",
            )
        )
        panel = {
            **Y_AXIS,
            "domain": [max(0.0, top - room), top],
            "title": text_title(name, font={"size": 13}),
            **(log_axis(drawn["value"]) if name in log else {}),
        }
        fig.update_layout({axis.replace("y", "yaxis"): panel})
    last = f"y{panels}" if panels > 1 else "y"
    fig.update_layout(showlegend=False, xaxis={"anchor": last})
    _mark_phases(fig, phases, next(iter(series.values())), x)
    return fig


def layer_curves(
    frame: pd.DataFrame,
    phases: pd.DataFrame,
    *,
    x: str = "step",
    y_title: str,
    title: str,
    subtitle: str = "",
    log: bool = True,
) -> go.Figure:
    """One line per layer of a logged series (columns step, tokens, layer, value)."""
    fig = figure(title, subtitle, height=420)
    layers = sorted(int(layer) for layer in frame["layer"].dropna().unique())
    for i, layer in enumerate(layers):
        drawn = thin(frame[frame["layer"] == layer], max(400, DRAWN_POINTS // len(layers)))
        colour, _, _ = style(i, len(layers))
        fig.add_trace(
            go.Scatter(
                x=drawn[x].tolist(),
                y=[None if pd.isna(v) else float(v) for v in drawn["value"]],
                name=f"layer {layer}",
                mode="lines",
                connectgaps=False,
                line={"color": colour, "width": 1.4},
                hovertemplate=f"layer {layer}, {x} %{{x:,}}: <b>%{{y:.4g}}</b><extra></extra>",
            )
        )
    fig.update_yaxes(title=text_title(y_title), **(log_axis(frame["value"]) if log else {}))
    _mark_phases(fig, phases, frame, x)
    return fig


def _mark_phases(fig: go.Figure, phases: pd.DataFrame, frame: pd.DataFrame, x: str) -> None:
    """Boundaries, stages and gaps, where a phase's last step lies within the series.

    The tokens of a boundary are those that the log itself has at that step.
    """
    first, last = float(frame[x].min()), float(frame[x].max())
    title = "training step" if x == "step" else "tokens seen"
    fig.update_xaxes(title={"text": title, "standoff": 8}, range=[first, last], exponentformat="SI")
    ends = phases.dropna(subset=["step"]).sort_values("phase")
    ends = ends[ends["step"] <= frame["step"].max()]
    at_step = dict(zip(frame["step"], frame[x], strict=True))
    stages: list[tuple[str, float, float]] = []
    before, number = first, 0
    for row in rows_of(ends):
        if row.step not in at_step:
            continue
        end = float(at_step[row.step])
        # A phase whose predecessor's end is unknown has no known start: no band for it.
        if row.phase == number + 1:
            if stages and stages[-1][0] == row.stage:
                stages[-1] = (row.stage, stages[-1][1], end)
            else:
                stages.append((row.stage, before, end))
            if pd.isna(row.repo_id):
                draw_gap(fig, f"{row.phase}: checkpoint not published", before, end)
        fig.add_shape(
            type="line",
            x0=end,
            x1=end,
            y0=0,
            y1=1,
            xref="x",
            yref="paper",
            layer="below",
            line={"color": "#C5CDD6", "width": 1, "dash": "dot"},
        )
        if row.phase == 1 or row.phase % 5 == 0 or row.phase == ends["phase"].max():
            fig.add_annotation(
                x=end,
                y=0,
                xref="x",
                yref="paper",
                text=str(row.phase),
                showarrow=False,
                xanchor="right",
                yanchor="bottom",
                font={"size": 10, "color": MUTED},
            )
        before, number = end, row.phase
    draw_stages(fig, stages, tint=True)
