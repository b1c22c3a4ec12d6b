"""The data mix of each phase as stacked bars."""

import pandas as pd
import plotly.graph_objects as go

from app.escape import pseudo_html
from app.figures.axis import PhaseAxis, draw_stages
from app.figures.theme import GAP, PALETTE, PATTERNS, figure
from app.frames import rows_of


def mix_bars(
    frame: pd.DataFrame, axis: PhaseAxis, *, share: bool, title: str, subtitle: str = ""
) -> go.Figure:
    """One bar per phase and run, stacked by part; colour and pattern tell the parts apart.

    ``frame`` has the columns phase, run, part, tokens_b, share. A phase with two runs gets two
    bars side by side in its place; a phase without a mix stays empty and says so.
    """
    fig = figure(title, subtitle, height=480)
    value = "share" if share else "tokens_b"
    order = frame.groupby("part")["tokens_b"].sum().sort_values(ascending=False).index.tolist()
    runs: dict[int, list[str]] = {}
    for row in rows_of(frame[["phase", "run"]].drop_duplicates().sort_values(["phase", "run"])):
        runs.setdefault(int(row.phase), []).append(str(row.run))
    for i, part in enumerate(order):
        rows = frame[frame["part"] == part]
        places = [_place(int(r.phase), runs[int(r.phase)], r.run) for r in rows_of(rows)]
        scale = 100 if share else 1
        fig.add_trace(
            go.Bar(
                x=[at for at, _ in places],
                width=[width for _, width in places],
                y=[float(v) * scale for v in rows[value]],
                name=pseudo_html(part),
                marker={
                    "color": PALETTE[i % len(PALETTE)],
                    "line": {"width": 0.5, "color": "white"},
                    "pattern": {
                        "shape": PATTERNS[i % len(PATTERNS)],
                        "fgcolor": "white",
                        "fgopacity": 0.6,
                        "bgcolor": PALETTE[i % len(PALETTE)],
                        "size": 6,
                        "solidity": 0.2,
                    },
                },
                text=[
                    f"phase {r.phase}, run {pseudo_html(r.run)}<br>{pseudo_html(part)}: "
                    f"<b>{100 * r.share:.1f} %</b>, {r.tokens_b:.4g} B tokens"
                    for r in rows_of(rows)
                ],
                textposition="none",
                hovertemplate="%{text}<extra></extra>",
            )
        )
    fig.update_layout(barmode="stack", legend={"traceorder": "reversed"})
    fig.update_yaxes(
        title={"text": "share of the phase's tokens [%]" if share else "tokens of the phase [B]"}
    )
    fig.update_xaxes(
        title={"text": "curriculum phase", "standoff": 8},
        range=list(axis.range),
        tickvals=axis.phases,
        ticktext=[str(phase) for phase in axis.phases],
        showgrid=False,
    )
    for phase in axis.phases:
        if phase not in runs:
            fig.add_annotation(
                x=phase, y=0.5, xref="x", yref="paper", text="mix unknown", textangle=-90,
                showarrow=False, font={"color": GAP, "size": 11},
            )  # fmt: skip
        elif len(runs[phase]) > 1:
            _name_runs(fig, phase, runs[phase])
    draw_stages(fig, axis.bands(), tint=False)
    return fig


def _place(phase: int, runs: list[str], run: str) -> tuple[float, float]:
    """(centre, width) of a run's bar: the runs of a phase share its cell."""
    width = 0.84 / len(runs)
    return phase - 0.42 + width * (runs.index(run) + 0.5), width * 0.94


def _name_runs(fig: go.Figure, phase: int, runs: list[str]) -> None:
    for run in runs:
        at, _ = _place(phase, runs, run)
        fig.add_annotation(
            x=at, y=0.02, xref="x", yref="paper", text=pseudo_html(run), textangle=-90,
            showarrow=False, yanchor="bottom", font={"size": 10, "color": "black"},
            bgcolor="rgba(255,255,255,0.8)",
        )  # fmt: skip
