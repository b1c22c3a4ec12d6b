"""The phases of a suite on a time line, and what is measured of them."""

from collections.abc import Iterable
from textwrap import wrap
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from app.escape import pseudo_html
from app.figures.axis import AxisKind, PhaseAxis, draw_axis, draw_stages, phase_axis
from app.figures.theme import GAP, INK, MUTED, figure, stage_ink, stage_name, stage_tint
from app.frames import rows_of

STATUSES = {
    "measured": ("✓", "#0072B2", "white", "measured: every value is in the store"),
    "measured, newer attempt failed": (
        "✓!",
        "#8A5A00",
        "white",
        "a newer attempt failed: the values are those of an older run",
    ),
    "measured, failed in part": ("✓!", "#8A5A00", "white", "measured in part: the rest failed"),
    "failed": ("✗", "#D55E00", "white", "failed: there are no values"),
    "missing": ("○", "#FFFFFF", INK, "missing: not measured yet"),
    "absent": ("–", "#DDE2E8", MUTED, "absent: not published"),
}
"""Status -> (sign, fill, ink, meaning): told apart by sign and words, not by colour alone."""


FINDINGS = {"error": ("✗", "#D55E00", 16), "warning": ("!", "#8A5A00", 14)}
"""Severity of an audit's finding -> (sign, ink, size); a note leaves no mark."""


def time_line(
    phases: pd.DataFrame,
    kind: AxisKind,
    *,
    title: str,
    subtitle: str,
    findings: pd.DataFrame | None = None,
) -> go.Figure:
    """Each phase as a bar from the end of the one before to its own end, in the stage's colour.

    ``phases`` has the columns phase, label, stage, repo_id, step, tokens_b, context_length, form.
    Phases without a repository are hatched. Phases whose end is unknown have no bar. ``findings``
    (phase, severity, message) puts the sign of the worst one under a phase that has an error or
    a warning.
    """
    axis = phase_axis(phases, kind)
    spans = _spans(axis)
    fig = figure(title, subtitle, height=210)
    about = list(rows_of(phases.sort_values("phase")))
    kinds = [(row.stage, pd.isna(row.repo_id)) for row in about]
    for stage, absent in dict.fromkeys(kinds):
        chosen = [i for i, span in enumerate(spans) if kinds[i] == (stage, absent) and span]
        ends = [spans[i] or (0.0, 0.0) for i in chosen]
        fig.add_trace(
            go.Bar(
                base=[left for left, _ in ends],
                x=[right - left for left, right in ends],
                y=[0.0] * len(chosen),
                width=0.9,
                orientation="h",
                name=pseudo_html(stage_name(stage)),
                showlegend=False,
                marker={
                    "color": stage_tint(stage),
                    "line": {"color": stage_ink(stage), "width": 1},
                    "pattern": {
                        "shape": "/" if absent else "",
                        "fgcolor": GAP,
                        "bgcolor": "white" if absent else stage_tint(stage),
                        "size": 6,
                        "solidity": 0.3,
                    },
                },
                text=[str(axis.phases[i]) for i in chosen],
                textposition="inside",
                insidetextanchor="middle",
                textangle=0,
                textfont={"color": stage_ink(stage), "size": 13},
                constraintext="none",
                hovertext=[_describe(axis.hover()[i], about[i]) for i in chosen],
                hovertemplate="%{hovertext}<extra></extra>",
            )
        )
    marked = findings is not None and _mark(fig, axis, spans, findings)
    known = [span for span in spans if span is not None]
    fig.update_layout(barmode="overlay", height=240 if marked else 210)
    fig.update_yaxes(
        showticklabels=False, showgrid=False, ticks="", range=[-1.0 if marked else -0.5, 0.5]
    )
    fig.update_xaxes(
        title={"text": "phase" if kind == "phase" else axis.title, "standoff": 8},
        range=[min(left for left, _ in known), max(right for _, right in known)],
        showgrid=False,
    )
    if kind == "phase":
        fig.update_xaxes(showticklabels=False, ticks="")
    draw_stages(fig, _stage_spans(axis, spans), tint=False)
    return fig


def _mark(
    fig: go.Figure,
    axis: PhaseAxis,
    spans: list[tuple[float, float] | None],
    findings: pd.DataFrame,
) -> bool:
    """Signs in a row under the bars, the sentences in their hover texts; whether there are any."""
    marked = findings[findings["severity"].isin(list(FINDINGS))]
    worst = {p: s for s in reversed(FINDINGS) for p in marked.loc[marked["severity"] == s, "phase"]}
    hover = dict(zip(axis.phases, axis.hover(), strict=True))
    for severity, (sign, ink, size) in FINDINGS.items():
        at = {
            phase: sum(span) / 2
            for phase, span in zip(axis.phases, spans, strict=True)
            if span is not None and worst.get(phase) == severity
        }
        if not at:
            continue
        fig.add_trace(
            go.Scatter(
                x=list(at.values()),
                y=[-0.73] * len(at),
                mode="text",
                name=f"audit: {severity}",
                text=[f"<b>{sign}</b>"] * len(at),
                textfont={"color": ink, "size": size},
                hovertext=[
                    "<br>".join(
                        [hover[phase], *_sentences(marked.loc[marked["phase"] == phase, "message"])]
                    )
                    for phase in at
                ],
                hovertemplate="%{hovertext}<extra></extra>",
                showlegend=False,
            )
        )
    return bool(worst)


def _sentences(messages: Iterable[str], shown: int = 3) -> list[str]:
    """The first few, in lines that a hover text has room for, as Plotly's pseudo-HTML."""
    every = list(messages)
    lines = [pseudo_html(line) for message in every[:shown] for line in wrap(message, 70)]
    more = len(every) - shown
    return lines + ([f"and {more} more, in the table below"] if more > 0 else [])


def _spans(axis: PhaseAxis) -> list[tuple[float, float] | None]:
    """(start, end) of each phase: from the end of the phase before; None where one is unknown."""
    if axis.kind == "phase":
        return [(phase - 0.5, phase + 0.5) for phase in axis.phases]
    spans: list[tuple[float, float] | None] = []
    before: float | None = 0.0
    for end in axis.x:
        spans.append(None if before is None or end is None else (before, end))
        before = end
    return spans


def _stage_spans(
    axis: PhaseAxis, spans: list[tuple[float, float] | None]
) -> list[tuple[str, float, float]]:
    found: list[tuple[str, float, float]] = []
    for stage, span in zip(axis.table["stage"], spans, strict=True):
        if span is None:
            continue
        if found and found[-1][0] == stage:
            found[-1] = (stage, found[-1][1], span[1])
        else:
            found.append((stage, *span))
    return found


def _describe(hover: str, phase: Any) -> str:
    parts = [hover]
    if not pd.isna(phase.context_length):
        parts.append(f"context {int(phase.context_length):,} tokens")
    if pd.isna(phase.repo_id):
        parts.append("<b>no published checkpoint</b>")
    else:
        parts.append(pseudo_html(f"{phase.repo_id} ({phase.form})"))
    return "<br>".join(parts)


def coverage_matrix(
    coverage: pd.DataFrame, axis: PhaseAxis, *, title: str, subtitle: str
) -> go.Figure:
    """Probes x phases, each cell with the sign of its status.

    ``coverage`` has the columns phase, probe, status, reason; ``axis`` must be of the kind
    ``phase``.
    """
    qualified = (coverage["status"] == "measured") & coverage["reason"].notna()
    status_of = coverage["status"].where(~qualified, "measured, " + coverage["reason"].fillna(""))
    probes = sorted(coverage["probe"].unique(), reverse=True)
    fig = figure(title, subtitle, height=150 + 40 * len(probes))
    hover = dict(zip(axis.phases, axis.hover(), strict=True))
    for status, (sign, fill, ink, meaning) in STATUSES.items():
        cells = coverage[status_of == status]
        fig.add_trace(
            go.Scatter(
                x=cells["phase"].tolist(),
                y=[pseudo_html(probe) for probe in cells["probe"]],
                mode="markers+text",
                name=f"{sign}  {status}",
                marker={
                    "symbol": "square",
                    "size": 24,
                    "color": fill,
                    "line": {"color": GAP if ink != "white" else fill, "width": 1},
                },
                text=[sign] * len(cells),
                textfont={"color": ink, "size": 14},
                hovertext=[
                    f"{hover[phase]}<br>{pseudo_html(probe)}: <b>{meaning}</b>"
                    for phase, probe in zip(cells["phase"], cells["probe"], strict=True)
                ],
                hovertemplate="%{hovertext}<extra></extra>",
                showlegend=bool(len(cells)),
            )
        )
    fig.update_yaxes(type="category", categoryorder="array", showgrid=False, ticks="")
    fig.update_yaxes(categoryarray=[pseudo_html(probe) for probe in probes])
    fig.update_yaxes(range=[-0.6, len(probes) - 0.4])
    fig.update_layout(
        legend={
            "orientation": "h",
            "x": 1,
            "xanchor": "right",
            "y": 1,
            "yref": "container",
            "yanchor": "top",
        }
    )
    draw_axis(fig, axis, gaps=False)
    return fig
