"""What heat maps share: the cells with their colours, and hatched places where nothing is."""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from app.figures.theme import GAP, MAGNITUDE, SIGNED, text_title

_BACKGROUND = "#F4F6F8"


def cells(
    x: Sequence[int], y: Sequence[float], z: np.ndarray, hover: list[list[str]]
) -> go.Heatmap:
    """The cells of ``z`` (y by x, NaN where nothing is), each with its text."""
    return go.Heatmap(
        x=x,
        y=y,
        z=[[None if np.isnan(value) else float(value) for value in row] for row in z],
        text=hover,
        hovertemplate="%{text}<extra></extra>",
        hoverongaps=False,
        xgap=1,
        ygap=1,
    )


def scale(z: np.ndarray) -> dict[str, object]:
    """A sequential scale; a diverging one around zero where the values have both signs."""
    finite = z[np.isfinite(z)]
    if not finite.size or finite.min() >= 0 or finite.max() <= 0:
        return {"colorscale": MAGNITUDE}
    limit = float(np.abs(finite).max())
    return {"colorscale": SIGNED, "zmin": -limit, "zmax": limit, "zmid": 0}


def colorbar(title: str) -> dict[str, object]:
    """A thin bar with its title along it."""
    return {
        "title": text_title(title, side="right", font={"size": 13}),
        "thickness": 14,
        "outlinewidth": 0,
    }


def hatch(fig: go.Figure, x: tuple[float, float], y: tuple[float, float], text: str) -> None:
    """An empty hatched rectangle that says ``text`` under the mouse."""
    (left, right), (bottom, top) = x, y
    fig.add_trace(
        go.Scatter(
            x=[left, right, right, left, left],
            y=[bottom, bottom, top, top, bottom],
            mode="lines",
            line={"width": 0},
            fill="toself",
            fillpattern={"shape": "/", "fgcolor": GAP, "bgcolor": _BACKGROUND, "size": 7},
            name=text,
            hoveron="fills",
            hoverinfo="name",
            showlegend=False,
        )
    )
