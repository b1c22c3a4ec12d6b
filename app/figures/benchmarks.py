"""Benchmark scores over phases: measured with the task's sampling error, published ones apart."""

from typing import Any

import pandas as pd
import plotly.graph_objects as go

from app.escape import pseudo_html
from app.figures.axis import PhaseAxis, draw_axis
from app.figures.lines import style
from app.figures.theme import figure, number, text_title
from app.frames import rows_of

SAMPLING = 1.96
"""Half the width of the band in standard errors: about 95 % under a normal approximation."""


def measured_scores(
    frame: pd.DataFrame, axis: PhaseAxis, *, metric: str, title: str, subtitle: str = ""
) -> go.Figure:
    """One line per series with a band of 1.96 stderr, broken where a phase has no value.

    ``frame`` has the columns phase, series, value, stderr, n. The band is the task's sampling error
    (another draw of documents), not the error over training seeds.
    """
    fig = figure(title, subtitle, height=440)
    for i, task in enumerate(sorted(frame["series"].unique())):
        rows = frame[frame["series"] == task]
        y, stderr = axis.spread(rows), axis.spread(rows, "stderr")
        count = axis.spread(rows, "n")
        colour, marker, dash = style(i)
        for band in _bands(axis.x, y, stderr):
            fig.add_trace(_band(band, colour, str(task)))
        fig.add_trace(
            go.Scatter(
                x=axis.x,
                y=y,
                name=pseudo_html(task),
                legendgroup=task,
                mode="lines+markers",
                connectgaps=False,
                line={"color": colour, "dash": dash, "width": 2},
                marker={"symbol": marker, "size": 7, "color": colour},
                error_y=_lone_errors(y, stderr, colour),
                text=[
                    f"{h}<br>{pseudo_html(f'{task} {metric}')}: <b>{number(v)}</b> "
                    f"± {number(s and SAMPLING * s)}<br>n = {number(c)}"
                    for h, v, s, c in zip(axis.hover(), y, stderr, count, strict=True)
                ],
                hovertemplate="%{text}<extra></extra>",
            )
        )
    fig.update_layout(showlegend=True)
    fig.update_yaxes(title=text_title(f"{metric} (band: task sampling error, 1.96 stderr)"))
    draw_axis(fig, axis)
    return fig


def compared_scores(
    frame: pd.DataFrame, axis: PhaseAxis, *, title: str, subtitle: str = ""
) -> go.Figure:
    """One benchmark in percent: measured and imported lines with their band, published markers.

    ``frame`` has the columns phase, source (measured, imported or published), series, value,
    stderr, n, model. Published values are hollow markers that no line joins.
    """
    fig = figure(title, subtitle, height=420)
    label = dict(zip(axis.phases, axis.hover(), strict=True))
    place = dict(zip(axis.phases, axis.x, strict=True))
    order = frame.sort_values("source", key=lambda s: s.map({"published": 1}).fillna(0))
    for i, name in enumerate(order["series"].unique()):
        rows = frame[frame["series"] == name].sort_values("phase")
        colour, marker, dash = style(i)
        published = (rows["source"] == "published").all()
        if not published:
            y, stderr = axis.spread(rows), axis.spread(rows, "stderr")
            for band in _bands(axis.x, y, stderr):
                fig.add_trace(_band(band, colour, str(name)))
            fig.add_trace(
                go.Scatter(
                    x=axis.x,
                    y=y,
                    mode="lines",
                    connectgaps=False,
                    line={"color": colour, "dash": dash, "width": 2},
                    error_y=_lone_errors(y, stderr, colour),
                    legendgroup=str(name),
                    showlegend=False,
                    hoverinfo="skip",
                )
            )
        fig.add_trace(
            go.Scatter(
                x=[place[int(phase)] for phase in rows["phase"]],
                y=rows["value"].tolist(),
                name=pseudo_html(name),
                legendgroup=str(name),
                mode="markers",
                marker={
                    "symbol": f"{marker}-open" if published else marker,
                    "size": 10 if published else 7,
                    "color": colour,
                    "line": {"width": 2 if published else 0, "color": colour},
                },
                text=[_said(label[int(row.phase)], row) for row in rows_of(rows)],
                hovertemplate="%{text}<extra></extra>",
            )
        )
    fig.update_layout(showlegend=True)
    fig.update_yaxes(title={"text": "score [%] (band: task sampling error, 1.96 stderr)"})
    draw_axis(fig, axis)
    return fig


def _said(phase: str, row: Any) -> str:
    """The hover text of a score."""
    text = f"{phase}<br>{pseudo_html(row.series)}: <b>{number(row.value)} %</b>"
    if not pd.isna(row.stderr):
        text += f" ± {number(SAMPLING * row.stderr)}"
    if row.source == "published":
        text += f"<br>{pseudo_html(row.model)}; published, not measured here"
    return text


def _band(band: tuple[list[float], list[float]], colour: str, name: str) -> go.Scatter:
    """The area of a task's sampling error."""
    return go.Scatter(
        x=band[0],
        y=band[1],
        mode="lines",
        fill="toself",
        fillcolor=colour,
        opacity=0.18,
        line={"width": 0},
        name=pseudo_html(f"{name}: task sampling error"),
        legendgroup=name,
        showlegend=False,
        hoverinfo="skip",
    )


def _lone_errors(y: list[float | None], stderr: list[float | None], colour: str) -> dict[str, Any]:
    """Error bars of the points that have no neighbour, where a band would have no width."""
    around = [None, *y, None]
    lone = [around[i] is None and around[i + 2] is None for i in range(len(y))]
    array = [
        SAMPLING * error if alone and error is not None else None
        for alone, error in zip(lone, stderr, strict=True)
    ]
    return {"type": "data", "array": array, "color": colour, "thickness": 1.5, "width": 4}


def _bands(
    x: list[float | None], y: list[float | None], stderr: list[float | None]
) -> list[tuple[list[float], list[float]]]:
    """Closed outlines (x, y) of y ± 1.96 stderr, one per stretch without a gap."""
    stretches: list[list[tuple[float, float, float]]] = [[]]
    for at, value, error in zip(x, y, stderr, strict=True):
        if at is None or value is None or error is None:
            stretches.append([])
        else:
            stretches[-1].append((at, value - SAMPLING * error, value + SAMPLING * error))
    return [
        (
            [at for at, _, _ in points] + [at for at, _, _ in reversed(points)],
            [high for _, _, high in points] + [low for _, low, _ in reversed(points)],
        )
        for points in stretches
        if points
    ]


def published_scores(
    frame: pd.DataFrame, axis: PhaseAxis, *, title: str, subtitle: str = ""
) -> go.Figure:
    """Published scores per phase, drawn as hollow markers with thin lines between neighbours only.

    ``frame`` has the columns phase, model, task, value. Two values of one phase and task are two
    markers; a line joins phases that follow each other in the table of the authors.
    """
    fig = figure(title, subtitle, height=400)
    label = dict(zip(axis.phases, axis.hover(), strict=True))
    place = dict(zip(axis.phases, axis.x, strict=True))
    for i, task in enumerate(sorted(frame["task"].unique())):
        rows = frame[frame["task"] == task].sort_values("phase")
        colour, marker, _ = style(i)
        fig.add_trace(
            go.Scatter(
                x=[place[int(phase)] for phase in rows["phase"]],
                y=rows["value"].tolist(),
                name=pseudo_html(task),
                mode="markers",
                marker={
                    "symbol": f"{marker}-open",
                    "size": 10,
                    "color": colour,
                    "line": {"width": 2, "color": colour},
                },
                text=[
                    f"{label[int(r.phase)]}<br>{pseudo_html(f'{r.model}, {task}')}: "
                    f"<b>{number(r.value)}</b><br>published, not measured here"
                    for r in rows_of(rows)
                ],
                hovertemplate="%{text}<extra></extra>",
            )
        )
    fig.update_layout(showlegend=True)
    fig.update_yaxes(title={"text": "published score [%]"})
    draw_axis(fig, axis, gaps=False)
    return fig
