"""The loss by the position of a token in its window, a line for each phase."""

from collections.abc import Sequence

import pandas as pd
import plotly.graph_objects as go

from app.escape import pseudo_html
from app.figures.lines import style
from app.figures.theme import figure, number
from app.frames import rows_of


def position_lines(
    frame: pd.DataFrame, phases: Sequence[int], *, title: str, subtitle: str = ""
) -> go.Figure:
    """``frame`` has the columns phase, label, low, high, nll, tokens; ``phases`` says which.

    The buckets stand at equal distances, each named by its first and last position. Where a phase
    has no value its line ends: its windows are shorter.
    """
    fig = figure(title, subtitle, 420)
    shown = frame[frame["phase"].isin(list(phases))]
    buckets = sorted({(int(row.low), int(row.high)) for row in rows_of(shown)})
    names = [f"{low:,}-{high:,}" for low, high in buckets]
    for index, phase in enumerate(phases):
        rows = {int(row.low): row for row in rows_of(shown[shown["phase"] == phase])}
        colour, marker, dash = style(index, len(phases))
        found = [rows.get(low) for low, _ in buckets]
        fig.add_trace(
            go.Scatter(
                x=names,
                y=[None if row is None else float(row.nll) for row in found],
                name=f"phase {phase}",
                mode="lines+markers",
                connectgaps=False,
                line={"color": colour, "dash": dash, "width": 2},
                marker={"symbol": marker, "size": 6, "color": colour},
                text=[
                    ""
                    if row is None
                    else f"{pseudo_html(row.label)}<br>positions {name}: "
                    f"<b>{number(float(row.nll))}</b> nats/token"
                    f"<br>mean of {int(row.tokens):,} tokens"
                    for row, name in zip(found, names, strict=True)
                ],
                hovertemplate="%{text}<extra></extra>",
            )
        )
    fig.update_layout(showlegend=len(phases) > 1)
    fig.update_xaxes(
        title={"text": "position in the window [tokens]", "standoff": 8},
        type="category",
        categoryorder="array",
        categoryarray=names,
    )
    fig.update_yaxes(title={"text": "nll [nats/token]"})
    return fig
