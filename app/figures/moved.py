"""Changes of a metric against changes of something else, a point for each pair of phases."""

import pandas as pd
import plotly.graph_objects as go

from app.escape import pseudo_html
from app.figures.theme import GAP, MUTED, PALETTE, figure, number, text_title
from app.frames import rows_of


def moved_points(
    changes: pd.DataFrame, *, x_title: str, y_title: str, title: str, subtitle: str = ""
) -> go.Figure:
    """``changes`` has phase_a, phase_b, metric_change (y), companion_change (x); the number at a
    point is its later phase."""
    fig = figure(title, subtitle, height=460)
    fig.add_trace(
        go.Scatter(
            x=changes["companion_change"].tolist(),
            y=changes["metric_change"].tolist(),
            mode="markers+text",
            marker={"size": 9, "color": PALETTE[0], "line": {"width": 1, "color": "white"}},
            text=[str(phase) for phase in changes["phase_b"]],
            textposition="top center",
            textfont={"size": 10, "color": MUTED},
            customdata=[
                f"phase {row.phase_a} to {row.phase_b}<br>{pseudo_html(y_title)}: "
                f"<b>{number(row.metric_change)}</b><br>{pseudo_html(x_title)}: "
                f"<b>{number(row.companion_change)}</b>"
                for row in rows_of(changes)
            ],
            hovertemplate="%{customdata}<extra></extra>",
        )
    )
    zero = {"zeroline": True, "zerolinecolor": GAP, "zerolinewidth": 1}
    fig.update_xaxes(title=text_title(x_title, standoff=8), **zero)
    fig.update_yaxes(title=text_title(y_title), **zero)
    fig.update_layout(showlegend=False)
    return fig
