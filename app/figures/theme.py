"""Colours, fonts and the modebar: one look for every figure.

Categories use the Okabe-Ito palette, magnitudes Viridis, signed values RdBu around zero: readers
with the common colour-vision deficiencies can tell them apart. Nothing is said by colour alone:
series differ in marker and dash too, statuses in their sign.
"""

import math
from collections.abc import Iterable
from typing import Any

import plotly.graph_objects as go

from app.escape import pseudo_html

INK = "#1F2933"
MUTED = "#6B7785"
RULE = "#E4E8ED"
GAP = "#9AA5B1"
PAPER = "#FFFFFF"

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D31")
MARKERS = ("circle", "square", "diamond", "triangle-up", "x", "cross", "star", "hexagon")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
PATTERNS = ("", "/", ".", "x", "\\", "-", "+", "|")
MAGNITUDE = "Viridis"
SIGNED = "RdBu_r"

STAGE_TINT = {"warmup": "#FFF1D6", "stable": "#E8F1F8", "annealing": "#FBE5DA"}
STAGE_INK = {"warmup": "#8A5A00", "stable": "#00517F", "annealing": "#9A4300"}
STAGE_NAME = {"warmup": "warm-up"}

Y_AXIS: dict[str, Any] = {
    "gridcolor": RULE,
    "linecolor": GAP,
    "tickcolor": GAP,
    "ticks": "outside",
    "ticklen": 4,
    "zeroline": False,
    "automargin": True,
    "title": {"font": {"size": 13}},
}
X_AXIS = {**Y_AXIS, "showline": True}

FONT = '"Source Sans", "Source Sans Pro", "Noto Sans", sans-serif'
EXPORT_SIZE = (1200, 480)


def stage_tint(stage: str) -> str:
    return STAGE_TINT.get(stage, "#EEF0F3")


def stage_ink(stage: str) -> str:
    return STAGE_INK.get(stage, MUTED)


def stage_name(stage: str) -> str:
    return STAGE_NAME.get(stage, stage)


def modebar(name: str) -> dict[str, Any]:
    """The plotly config of a figure: its camera button saves an SVG called ``name``."""
    width, height = EXPORT_SIZE
    return {
        "displaylogo": False,
        "modeBarButtonsToRemove": ["select2d", "lasso2d", "autoScale2d"],
        "toImageButtonOptions": {
            "format": "svg",
            "filename": name,
            "width": width,
            "height": height,
            "scale": 1,
        },
    }


def figure(title: str, subtitle: str = "", height: int = 400, top: int = 80) -> go.Figure:
    """An empty figure with our look; ``top`` is the room for title, subtitle and stage strip.

    Title and subtitle are shown as they are written.
    """
    fig = go.Figure()
    fig.update_layout(
        template="none",
        height=height,
        margin={"l": 72, "r": 24, "t": top, "b": 48},
        paper_bgcolor=PAPER,
        plot_bgcolor=PAPER,
        font={"family": FONT, "size": 13, "color": INK},
        colorway=list(PALETTE),
        title={
            "text": f"<b>{pseudo_html(title)}</b><br>"
            f'<span style="font-size:13px;color:{MUTED}">{pseudo_html(subtitle)}</span>',
            "font": {"size": 17, "color": INK},
            "x": 0,
            "xref": "container",
            "xanchor": "left",
            "y": 1,
            "yref": "container",
            "yanchor": "top",
            "pad": {"l": 8, "t": 22},
        },
        hoverlabel={"bgcolor": "white", "bordercolor": GAP, "font": {"family": FONT, "size": 12}},
        legend={"bgcolor": "rgba(255,255,255,0)", "font": {"size": 12}},
        hovermode="closest",
    )
    fig.update_xaxes(X_AXIS)
    fig.update_yaxes(Y_AXIS)
    return fig


def text_title(text: str, **options: Any) -> dict[str, Any]:
    """The title of an axis or a colour bar, shown as it is written."""
    return {"text": pseudo_html(text), **options}


def log_axis(values: Iterable[float | None]) -> dict[str, Any]:
    """A logarithmic axis for these values, with ticks at 1, 2, 5 of each decade, or fewer."""
    known = [v for v in values if v is not None and v > 0]
    if not known:
        return {}
    low, high = math.log10(min(known)), math.log10(max(known))
    steps = (1, 2, 3, 5, 7) if high - low < 1 else (1, 2, 5) if high - low < 3 else (1,)
    decades = range(math.floor(low), math.ceil(high) + 1)
    ticks = [step * 10.0**decade for decade in decades for step in steps]
    return {"type": "log", "tickvals": ticks, "ticktext": [f"{tick:.4g}" for tick in ticks]}


def with_unit(name: str, unit: str | None) -> str:
    """An axis title: the name, and the unit in brackets if there is one."""
    return f"{name} [{unit}]" if unit else name


def number(value: float | None) -> str:
    """Four significant digits for a hover text; a dash where there is no value."""
    return "–" if value is None or value != value else f"{value:.4g}"
