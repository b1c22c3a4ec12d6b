"""Lines over phases, broken where a phase has no value."""

from collections.abc import Sequence

import pandas as pd
import plotly.graph_objects as go
from plotly.colors import sample_colorscale

from app.escape import pseudo_html
from app.figures.axis import PhaseAxis, draw_axis
from app.figures.theme import DASHES, MARKERS, PALETTE, figure, log_axis, number, text_title


def style(index: int, ordered: int = 0) -> tuple[str, str, str]:
    """(colour, marker, dash) of a series.

    ``ordered`` is the number of series if their order means something (layers): then the colours
    are steps of a dark-to-light scale; otherwise they are as different as can be.
    """
    if ordered > 1:
        at = 0.88 * index / (ordered - 1)  # the light end of Viridis is hard to see on white
        colour = sample_colorscale("Viridis", [at])[0]
    else:
        colour = PALETTE[index % len(PALETTE)]
    return colour, MARKERS[index % len(MARKERS)], DASHES[index // len(PALETTE) % len(DASHES)]


def phase_lines(
    frame: pd.DataFrame,
    axis: PhaseAxis,
    *,
    series: str,
    names: Sequence[object] | None = None,
    prefix: str = "",
    ordered: bool = False,
    y_title: str,
    title: str,
    subtitle: str = "",
    log: bool = False,
    height: int = 420,
) -> go.Figure:
    """One line per value of the column ``series``.

    ``frame`` has the columns phase, ``series``, value; ``names`` chooses the series and their
    order. All phases are on the axis; where one has no value, y is None and the line breaks.
    """
    fig = figure(title, subtitle, height)
    chosen = list(names) if names is not None else sorted(frame[series].dropna().unique())
    for i, key in enumerate(chosen):
        y = axis.spread(frame[frame[series] == key])
        colour, marker, dash = style(i, len(chosen) if ordered else 0)
        fig.add_trace(
            go.Scatter(
                x=axis.x,
                y=y,
                name=pseudo_html(f"{prefix}{key}"),
                mode="lines+markers",
                connectgaps=False,
                line={"color": colour, "dash": dash, "width": 2},
                marker={"symbol": marker, "size": 6, "color": colour},
                text=[
                    f"{h}<br>{pseudo_html(f'{prefix}{key}')}: <b>{number(v)}</b>"
                    for h, v in zip(axis.hover(), y, strict=True)
                ],
                hovertemplate="%{text}<extra></extra>",
            )
        )
    fig.update_layout(showlegend=len(chosen) > 1)
    if log:
        fig.update_yaxes(log_axis(frame["value"]))
    elif (frame["value"] >= 0).all():
        fig.update_yaxes(rangemode="nonnegative")
    fig.update_yaxes(title=text_title(y_title))
    draw_axis(fig, axis)
    return fig
