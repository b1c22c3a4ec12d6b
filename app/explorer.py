"""Pickers, heat map and lines for the metrics of one probe: Weights and Activations share it."""

import re
from dataclasses import dataclass

import pandas as pd
import streamlit as st

from app.components import (
    chart,
    definition,
    explain_gaps,
    nothing,
    phases,
    pick,
    pick_axis,
    probe_axis,
)
from app.data import load
from app.escape import md, shell
from app.figures.axis import AxisKind
from app.figures.heatmap import layer_heatmap
from app.figures.lines import phase_lines
from app.figures.theme import with_unit

MODULES = (
    "total", "embed", "embed_norm", "input_norm", "q_proj", "k_proj", "v_proj", "o_proj", "q_bias",
    "k_bias", "v_bias", "o_bias", "q_norm", "k_norm", "qk", "ov", "attention",
    "attention_output_norm", "residual_mid", "post_attention_norm", "gate_proj", "up_proj",
    "down_proj", "mlp", "mlp_output_norm", "residual", "final_norm", "lm_head",
)  # fmt: skip
"""The order in which a token meets the modules; others come after, by name."""
FEW_LAYERS = 8
WHOLE = "as a whole"
SCOPES = {
    "all": "all tokens",
    "no_start": "without start tokens",
    "no_massive": "without massive tokens",
}
ROBUST = "no_massive"
"""The scope that is drawn unless the reader chooses another."""
WHY_SCOPES = (
    "The start token can be so large that a statistic over all tokens describes it alone: in "
    "SmolLM2-135M it makes up 98 % of variance_mean at layer 15. So the statistic without massive "
    "tokens (RMS more than 10 times the median token's at the site) is drawn unless you choose "
    "other tokens."
)
_COORDINATES = ("phase", "label", "step", "tokens_b", "layer")


@dataclass(frozen=True)
class Choice:
    """What the pickers of a page say."""

    probe: str
    metric: str
    view: str | None
    module: str | None
    row: pd.Series
    """The metric's definition: metric, formula, unit, source, by_layer, by_head, by_domain."""
    kind: AxisKind
    log: bool
    scope: str = "all"
    """The tokens that the values are over."""
    scoped: bool = False
    """Whether the metric has more than one scope."""


def choose(suite: str, probe: str, key: str, *, metric: str, module: str) -> Choice | None:
    """Show the pickers for a probe; None if it has measured nothing of the suite.

    ``metric`` and ``module`` are the first choices where they exist; ``key`` starts the names in
    the page's address.
    """
    menu = load("metric_menu", suite, probe)
    if menu.empty:
        nothing(f"Nothing of the probe {probe!r} is in the store for the suite {suite!r} yet.",
                f"workbench probe {shell(suite)} --probes {shell(probe)}")  # fmt: skip
        return None
    viewed = bool(menu["view"].notna().any())
    columns = iter(
        st.columns(
            [3, 2, 2.4, 2.8, 1.2] if viewed else [3, 2.4, 2.8, 1.2, 2], vertical_alignment="bottom"
        )
    )
    with next(columns):
        metrics = sorted(menu["metric"].unique())
        chosen = pick("Metric", metrics, f"{key}_metric", default=metric)
    menu = menu[menu["metric"] == chosen]
    view = None
    if viewed:
        with next(columns):
            view = _pick_view(menu, key)
    menu = menu[menu["view"].isna() if view is None else menu["view"] == view]
    with next(columns):
        modules = sorted(menu["module"].dropna().unique(), key=_order)
        # A metric may have a value of the whole beside those of its parts, such as positions.
        whole = [WHOLE] if modules and menu["module"].isna().any() else []
        options = whole + modules
        picked = pick("Module", options, f"{key}_module", default=module) if options else None
        picked = None if picked == WHOLE else picked
    row = menu[menu["module"].isna() if picked is None else menu["module"] == picked].iloc[0]
    with next(columns):
        kind = pick_axis(load("phases", suite), f"{key}_x")
    with next(columns):
        log = st.toggle("log", key=f"{key}_log", bind="query-params")
    scopes = load("metric_scopes", suite, probe, chosen, view, picked)["scope"].tolist()
    scope, scoped = "all", len(scopes) > 1
    if scoped:
        with next(columns, None) or st.container():
            scope = pick(
                "Tokens", scopes, f"{key}_scope", default=ROBUST, help=WHY_SCOPES,
                names=lambda name: SCOPES.get(name, name),
            )  # fmt: skip
        st.caption(WHY_SCOPES)
    return Choice(probe, chosen, view, picked, row, kind, log, scope, scoped)


def _order(module: str) -> tuple[int, list[str | int]]:
    # Numbers in a name count as numbers: position 128-255 comes before position 1024-2047.
    parts = [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", module)]
    return (MODULES.index(module) if module in MODULES else len(MODULES), parts)


def _pick_view(menu: pd.DataFrame, key: str) -> str | None:
    views = sorted(menu["view"].dropna().unique())
    if not views:
        return None
    return pick(
        "View",
        views,
        f"{key}_view",
        default="effective",
        help="effective: what the network computes with, all scales folded in. "
        "stored: as in the file.",
    )


def explore(suite: str, choice: Choice, key: str) -> None:
    """The definition, the heat map (if the metric has layers) and the lines of a choice."""
    st.markdown(definition(choice.row))
    values = load("metric_values", suite, *_which(choice))
    values, part = _reduce(values, choice, key)
    tokens = None
    if choice.scoped:
        values = values.assign(scope=choice.scope)
        tokens = SCOPES.get(choice.scope, choice.scope)
    of_view = choice.view and f"{choice.view} view"
    where = " · ".join(filter(None, [choice.module, of_view, part, tokens]))
    name = f"{suite}-{choice.probe}-{choice.metric}-{where}"
    unit = choice.row["unit"] if not pd.isna(choice.row["unit"]) else None
    title = f"{choice.metric} of {where}" if where else choice.metric
    log = choice.log and bool((values["value"] > 0).any())
    if choice.log and not log:
        st.caption("No value is positive: the scale stays linear.")
    layered = bool(choice.row["by_layer"]) and bool(values["layer"].notna().any())
    if layered:
        fig = layer_heatmap(
            values.dropna(subset=["layer"]),
            probe_axis(suite, choice.probe, "phase"),
            name=choice.metric,
            unit=unit,
            title=f"{title}: layers × phases",
            subtitle="one cell per layer and checkpoint",
            log=log,
        )
        chart(fig, values, f"{name}-layers", f"Heat map of {title} over layers and phases.")
    axis = probe_axis(suite, choice.probe, choice.kind)
    if layered:
        layers = sorted(int(layer) for layer in values["layer"].dropna().unique())
        chosen = st.multiselect(
            "Layers in the lines",
            layers,
            default=spread(layers),
            key=f"{key}_layers",
            format_func=str,
        )
        shown = values[values["layer"].isin(chosen)]
        series, prefix, names = "layer", "layer ", sorted(chosen)
    else:
        shown = values.assign(series=choice.module or choice.metric)
        series, prefix, names = "series", "", None
    fig = phase_lines(
        shown,
        axis,
        series=series,
        names=names,
        prefix=prefix,
        ordered=layered,
        y_title=with_unit(choice.metric, unit),
        title=f"{title} over the training",
        subtitle="lines break where a phase has no value",
        log=log,
    )
    chart(fig, shown, f"{name}-lines", f"Lines of {title} over phases.")
    explain_gaps(axis)
    _explain_missing(suite, choice)


def _which(choice: Choice) -> tuple[str | None, ...]:
    """What tells the values of a choice from others of the suite."""
    return (choice.probe, choice.metric, choice.view, choice.module, choice.scope)


def spread(layers: list[int]) -> list[int]:
    """All layers if they are few, else some from first to last at even distances."""
    if len(layers) <= FEW_LAYERS:
        return layers
    return [layers[round(i * (len(layers) - 1) / (FEW_LAYERS - 1))] for i in range(FEW_LAYERS)]


def _reduce(values: pd.DataFrame, choice: Choice, key: str) -> tuple[pd.DataFrame, str]:
    """Bring values per head or domain to one per phase and layer, as the reader chooses."""
    notes: list[str] = []
    for column, has in (("domain", choice.row["by_domain"]), ("head", choice.row["by_head"])):
        # A module may have no value by head though others of the metric have.
        if not has or values[column].isna().all():
            continue
        found = sorted(values[column].dropna().unique())
        over = [f"{statistic} over {column}s" for statistic in ("mean", "max", "min")]
        one = {f"{column} {_plain(item)}": item for item in found}
        # A matrix may be measured as a whole beside its heads, and is none of them.
        whole = ["as a whole"] if values[column].isna().any() else []
        usual = whole[0] if whole else over[choice.metric.startswith("max")]
        how = pick(
            f"{column.capitalize()}s", [*whole, *over, *one], f"{key}_{column}", default=usual
        )
        notes.append(how)
        if how in whole:
            values = values[values[column].isna()]
        elif how in over:
            kept = [c for c in (*_COORDINATES, "head", "domain") if c in values and c != column]
            parts = values[values[column].notna()].groupby(kept, dropna=False)["value"]
            values = parts.agg(how.split()[0]).reset_index()
        else:
            values = values[values[column] == one[how]]
    return values, ", ".join(notes)


def _plain(item: object) -> str:
    return str(int(item)) if isinstance(item, float) else str(item)


def _explain_missing(suite: str, choice: Choice) -> None:
    missing = load("missing_values", suite, *_which(choice))
    for reason, rows in missing.groupby("reason"):
        which = phases([int(p) for p in rows["phase"].unique()])
        st.caption(md("No value in {} places (phase {}): {}.", len(rows), which, reason))
