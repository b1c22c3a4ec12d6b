"""Logged series of training runs: what holds, what a restart overrode, gaps, spikes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import pandas as pd
import plotly.graph_objects as go

from app.escape import pseudo_html
from app.figures.lines import style
from app.figures.theme import GAP, INK, Y_AXIS, figure, log_axis, text_title
from app.figures.training import DRAWN_POINTS, thin
from app.frames import rows_of

PANEL_HEIGHT = 230


@dataclass(frozen=True)
class RunSeries:
    """One series of one run."""

    run: str
    history: pd.DataFrame
    """step, value, attempt, holds, after_gap, in the order of the log."""
    spikes: pd.DataFrame
    """start_step, peak_step, peak_value, severity, detector."""


def run_panels(
    panels: Mapping[str, Sequence[RunSeries]], *, title: str, subtitle: str = "", log: bool = False
) -> go.Figure:
    """A panel for each metric, a colour for each run, all over the training step.

    The line breaks at gaps and at values that are not finite. What a restart overrode is a thin
    dotted line; the step that it went back to is a vertical one. Spikes are triangles.
    """
    fig = figure(title, subtitle, height=140 + PANEL_HEIGHT * len(panels))
    room = 1 / len(panels)
    runs = list(dict.fromkeys(series.run for found in panels.values() for series in found))
    named: set[str] = set()
    for i, (name, found) in enumerate(panels.items()):
        axis = "y" if i == 0 else f"y{i + 1}"
        for series in found:
            colour, _, dash = style(runs.index(series.run), 0)
            _draw(fig, series, axis, colour, dash, first=series.run not in named)
            named.add(series.run)
        values = pd.concat([series.history["value"] for series in found])
        panel = {
            **Y_AXIS,
            "domain": [max(0.0, 1 - (i + 1) * room + 0.03), 1 - i * room - 0.03],
            "title": text_title(name, font={"size": 13}),
            **(log_axis(values.dropna()) if log else {}),
        }
        fig.update_layout({axis.replace("y", "yaxis"): panel})
    last = f"y{len(panels)}" if len(panels) > 1 else "y"
    fig.update_layout(xaxis={"anchor": last}, showlegend=True)
    fig.update_xaxes(title={"text": "training step", "standoff": 8}, exponentformat="SI")
    return fig


def _draw(
    fig: go.Figure, series: RunSeries, axis: str, colour: str, dash: str, *, first: bool
) -> None:
    history = series.history
    holds = history[history["holds"]].sort_values("step")
    x, y = broken(holds)
    fig.add_trace(
        go.Scatter(
            x=x, y=y, yaxis=axis, name=pseudo_html(series.run), legendgroup=series.run,
            showlegend=first, mode="lines", connectgaps=False,
            line={"color": colour, "dash": dash, "width": 1.4},
            hovertemplate="%{fullData.name}, step %{x:,}: <b>%{y:.5g}</b><extra></extra>",
        )
    )  # fmt: skip
    for attempt, left in history[~history["holds"]].groupby("attempt"):
        drawn = thin(left)
        fig.add_trace(
            go.Scatter(
                x=drawn["step"].tolist(), y=_numbers(drawn["value"]), yaxis=axis, name="overridden",
                text=[pseudo_html(series.run)] * len(drawn),
                legendgroup=series.run, showlegend=False, mode="lines", connectgaps=False,
                opacity=0.6, line={"color": colour, "dash": "dot", "width": 1},
                hovertemplate=f"%{{text}}, attempt {attempt}, overridden by a restart, "
                "step %{x:,}: <b>%{y:.5g}</b><extra></extra>",
            )
        )  # fmt: skip
    for step in restart_steps(history):
        fig.add_shape(
            type="line", x0=step, x1=step, y0=0, y1=1, xref="x", yref=f"{axis} domain",
            layer="below", line={"color": GAP, "width": 1, "dash": "dash"},
        )  # fmt: skip
    spikes = series.spikes.dropna(subset=["peak_value"])
    if not spikes.empty:
        fig.add_trace(
            go.Scatter(
                x=spikes["peak_step"].tolist(), y=spikes["peak_value"].tolist(), yaxis=axis,
                name="spike", legendgroup=series.run, showlegend=False, mode="markers",
                marker={"symbol": "triangle-down", "size": 10, "color": colour,
                        "line": {"color": INK, "width": 1}},
                text=[
                    pseudo_html(
                        f"{row.severity} spike from step {row.start_step:,}, found by "
                        f"{row.detector}"
                    )
                    for row in rows_of(spikes)
                ],
                hovertemplate="%{text}<br>peak <b>%{y:.5g}</b> at step %{x:,}<extra></extra>",
            )
        )  # fmt: skip


def broken(holds: pd.DataFrame) -> tuple[list[float], list[float | None]]:
    """x and y of the history that holds, thinned for display, with a break before each gap."""
    x: list[float] = []
    y: list[float | None] = []
    stretch = holds["after_gap"].cumsum()
    share = DRAWN_POINTS / max(len(holds), 1)
    for _, rows in holds.groupby(stretch):
        drawn = thin(rows, max(2, int(share * len(rows)))) if share < 1 else rows
        if x:
            x.append(float(drawn["step"].iloc[0]))
            y.append(None)
        x += drawn["step"].tolist()
        y += _numbers(drawn["value"])
    return x, y


def restart_steps(history: pd.DataFrame) -> list[int]:
    """First step of every attempt but the first."""
    firsts = history.groupby("attempt", sort=True)["step"].first()
    return [int(step) for step in firsts.iloc[1:]]


def gap_spans(history: pd.DataFrame) -> list[tuple[int, int]]:
    """(last step before, first step after) of every gap in the history that holds."""
    holds = history[history["holds"]].sort_values("step")
    pairs = pairwise(zip(holds["step"], holds["after_gap"], strict=True))
    return [(int(a), int(b)) for (a, _), (b, gap) in pairs if gap]


def _numbers(values: pd.Series) -> list[float | None]:
    finite = values.abs() < float("inf")
    return [float(v) if ok else None for v, ok in zip(values, finite, strict=True)]
