"""The x axis that all figures over phases share: every phase has its place, gaps are shown.

A phase without a value leaves a gap that says why: lines break there, heat maps keep an empty
hatched column. Where a phase has no known step or token count it has no place on that axis; the
figure breaks its lines there as well, and ``PhaseAxis.unplaced`` names the phase.
"""

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd
import plotly.graph_objects as go

from app.escape import pseudo_html
from app.figures.theme import GAP, MUTED, stage_ink, stage_name, stage_tint
from app.frames import rows_of

AxisKind = Literal["phase", "step", "tokens"]

_COLUMN: dict[AxisKind, str] = {"phase": "phase", "step": "step", "tokens": "tokens_b"}
_TITLE: dict[AxisKind, str] = {
    "phase": "curriculum phase (checkpoint at its end)",
    "step": "training step of the checkpoint",
    "tokens": "tokens seen at the checkpoint",
}
GAP_TEXT = {
    "absent": "not published",
    "stateless": "no optimizer state",
    "missing": "not measured",
    "failed": "measurement failed",
}
_STRIP_PIXELS = 20


@dataclass(frozen=True)
class PhaseAxis:
    """Where each phase lies; built by ``phase_axis``."""

    kind: AxisKind
    title: str
    table: pd.DataFrame
    """One row per phase, in order: phase, label, stage, step, tokens_b, x (None: no place), left,
    right (the cell's edges), gap (None: a checkpoint that may have values)."""

    @property
    def phases(self) -> list[int]:
        return [int(phase) for phase in self.table["phase"]]

    @property
    def x(self) -> list[float | None]:
        return [None if pd.isna(x) else float(x) for x in self.table["x"]]

    @property
    def unplaced(self) -> list[int]:
        return [int(phase) for phase in self.table.loc[self.table["x"].isna(), "phase"]]

    @property
    def range(self) -> tuple[float, float]:
        return float(self.table["left"].min()), float(self.table["right"].max())

    def bands(self) -> list[tuple[str, float, float]]:
        """(stage, left, right) of each run of neighbouring phases of one stage."""
        found: list[tuple[str, float, float]] = []
        for row in rows_of(self.table.dropna(subset=["x"])):
            if found and found[-1][0] == row.stage:
                found[-1] = (row.stage, found[-1][1], row.right)
            else:
                found.append((row.stage, row.left, row.right))
        return found

    def gaps(self) -> list[tuple[str, float, float]]:
        """(text, left, right) of each phase with a gap that has a place on the axis."""
        rows = rows_of(self.table.dropna(subset=["x", "gap"]))
        return [(f"{row.phase}: {GAP_TEXT[row.gap]}", row.left, row.right) for row in rows]

    def spread(self, frame: pd.DataFrame, column: str = "value") -> list[float | None]:
        """The values of ``frame`` (columns phase, ``column``) for every phase; None: no value."""
        values = dict(zip(frame["phase"], frame[column], strict=True))
        found = (values.get(phase) for phase in self.phases)
        return [None if value is None or pd.isna(value) else float(value) for value in found]

    def hover(self) -> list[str]:
        """What a hover text says of each phase, as Plotly's pseudo-HTML."""
        return [_describe(row) for row in rows_of(self.table)]


def _describe(row: Any) -> str:
    own_name = "" if row.label.lower() == f"phase {row.phase}" else f" · {pseudo_html(row.label)}"
    lines = [f"<b>Phase {row.phase}</b>{own_name} ({pseudo_html(stage_name(row.stage))})"]
    known = [] if pd.isna(row.step) else [f"step {int(row.step):,}"]
    known += [] if pd.isna(row.tokens_b) else [f"{_tokens(row.tokens_b)} tokens"]
    return "<br>".join(lines + ([" · ".join(known)] if known else []))


def _tokens(billions: float) -> str:
    return f"{billions:,.4g} B" if billions >= 0.1 else f"{billions * 1e3:,.4g} M"


def axis_kinds(phases: pd.DataFrame) -> list[AxisKind]:
    """The x axes that this suite allows: step and tokens need two known values."""
    kinds: list[AxisKind] = ["phase"]
    kinds += [k for k in ("step", "tokens") if phases[_COLUMN[k]].notna().sum() > 1]
    return kinds


def phase_axis(
    phases: pd.DataFrame, kind: AxisKind = "phase", status: Mapping[int, str] | None = None
) -> PhaseAxis:
    """The axis of a suite.

    ``phases`` has the columns phase, label, stage, step, tokens_b. ``status`` maps phases to the
    coverage status of the probe shown; every status but ``measured`` is a gap.
    """
    table = phases[["phase", "label", "stage", "step", "tokens_b"]].copy()
    table = table.sort_values("phase").reset_index(drop=True)
    table["x"] = pd.to_numeric(table[_COLUMN[kind]], errors="coerce").astype(float)
    title = _TITLE[kind]
    if kind == "tokens":
        factor, unit = token_unit(table["tokens_b"])
        table["x"] *= factor
        title = f"{title} [{unit}]"
    placed = table["x"].dropna()
    left, right = _edges(placed.tolist(), 0.5 if kind == "phase" else None)
    table["left"] = pd.Series(left, index=placed.index)
    table["right"] = pd.Series(right, index=placed.index)
    found = {phase: text for phase, text in (status or {}).items() if text in GAP_TEXT}
    table["gap"] = table["phase"].map(found).astype(object)
    return PhaseAxis(kind, title, table)


def token_unit(billions: pd.Series) -> tuple[float, str]:
    """(factor, unit) in which these token counts read best: billions, or millions for small."""
    return (1.0, "B") if billions.max() >= 0.5 else (1e3, "M")


def _edges(x: list[float], half: float | None) -> tuple[list[float], list[float]]:
    """Cells around ascending points; half-way to the neighbours unless ``half`` is given."""
    if half is not None:
        return [value - half for value in x], [value + half for value in x]
    middles = [(a + b) / 2 for a, b in itertools.pairwise(x)]
    if not middles:
        return x, x
    first, last = 2 * x[0] - middles[0], 2 * x[-1] - middles[-1]
    return [max(first, 0.0), *middles], [*middles, last]


def draw_axis(fig: go.Figure, axis: PhaseAxis, *, tint: bool = True, gaps: bool = True) -> None:
    """Set up x, with a strip that names the stages above the plot, tints and gaps within it.

    Call it last: the strip's height is measured against the figure's height and margins.
    """
    x_range = axis.range
    fig.update_xaxes(title={"text": axis.title, "standoff": 8}, range=list(x_range))
    if axis.kind == "phase":
        fig.update_xaxes(
            tickvals=axis.phases,
            ticktext=[str(p) for p in axis.phases],
            tickangle=0,
            showgrid=False,
        )
    draw_stages(fig, axis.bands(), tint=tint)
    if gaps:
        for text, left, right in axis.gaps():
            draw_gap(fig, text, left, right)


def draw_stages(fig: go.Figure, bands: Iterable[tuple[str, float, float]], *, tint: bool) -> None:
    """A strip above the plot that names each stage, and its tint behind the plot."""
    margin = fig.layout.margin
    strip = _STRIP_PIXELS / max(1.0, fig.layout.height - margin.t - margin.b)
    everywhere = {"xref": "x", "yref": "paper", "layer": "below", "line": {"width": 0}}
    for stage, left, right in bands:
        colour = stage_tint(stage)
        fig.add_shape(
            type="rect", x0=left, x1=right, y0=1, y1=1 + strip, fillcolor=colour, **everywhere
        )
        if tint:
            fig.add_shape(
                type="rect",
                x0=left,
                x1=right,
                y0=0,
                y1=1,
                fillcolor=colour,
                opacity=0.4,
                **everywhere,
            )
        fig.add_annotation(
            x=(left + right) / 2,
            y=1 + strip / 2,
            xref="x",
            yref="paper",
            text=f"<b>{pseudo_html(stage_name(stage))}</b>",
            showarrow=False,
            font={"size": 11, "color": stage_ink(stage)},
            yanchor="middle",
        )


def draw_gap(fig: go.Figure, text: str, left: float, right: float) -> None:
    """A grey column with dotted edges and an upright note: no value here, and why."""
    fig.add_shape(
        type="rect",
        x0=left,
        x1=right,
        y0=0,
        y1=1,
        xref="x",
        yref="paper",
        layer="below",
        fillcolor="#DDE2E8",
        opacity=0.75,
        line={"width": 1, "color": GAP, "dash": "dot"},
    )
    fig.add_annotation(
        x=(left + right) / 2,
        y=0.5,
        xref="x",
        yref="paper",
        text=text,
        textangle=-90,
        showarrow=False,
        font={"size": 11, "color": MUTED},
    )
