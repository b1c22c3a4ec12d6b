"""The store as a notebook sees it: SQL into frames, one metric as phases by layers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import pyarrow as pa

from analysis_db.companions import Moved, With, mix_levels, moved_with, score_levels
from analysis_db.derived import Of, change_point_frame
from analysis_db.errors import QueryError
from analysis_db.sandbox import run_sql
from analysis_db.store import Store

Layers = Literal["each", "mean"]
_FREE = ("suite", "probe", "view", "module", "head", "domain", "scope")
"""What a value of a metric depends on beside phase and layer."""


class Notebook:
    """Made by ``analysis_db.open``. Every call reads the store for a moment and lets go of it."""

    def __init__(self, path: Path) -> None:
        self._store = Store(path)

    def sql(self, query: str, params: Mapping[str, Any] | None = None) -> pd.DataFrame:
        """The rows of a SELECT with ``$name`` parameters; raises QueryError in one sentence."""
        return self.arrow(query, params).to_pandas()

    def arrow(self, query: str, params: Mapping[str, Any] | None = None) -> pa.Table:
        """As ``sql``, as an Arrow table."""
        return run_sql(self._store, query, params, timeout_s=3600).table

    def metric(self, metric: str, **where: Any) -> pd.DataFrame:
        """A metric over the phases: one row a phase, one column a layer.

        ``where`` picks among suite, probe, view, module, head, domain and scope; what has one value
        in the store anyway may be left out, without ``head`` it is the whole tensor, and without
        ``scope`` the statistic over all tokens (the others are no_start and no_massive). A metric
        that belongs to no layer has the one column ``value``. A phase without a value has no
        row. Raises QueryError when there is no such value, or when more has to be said; it names
        the choices.
        """
        return _by_layer(self._values(metric, where))

    def changes(self, metric: str, **where: Any) -> pd.DataFrame:
        """Change of a metric from every phase to the next one that has it, layer by layer.

        ``where`` as in ``metric``. Columns: phase_a, phase_b, phases_apart (2 or more where phases
        between have no value), layer, value_a, value_b, change, relative_change,
        change_per_btoken, same_way (whether both runs have the same probe version, settings and
        dtype). Raises QueryError as ``metric`` does.
        """
        chosen = self._values(metric, where).iloc[0]
        at = {column: None if pd.isna(chosen[column]) else chosen[column] for column in _FREE}
        same = " AND ".join(f"{column} IS NOT DISTINCT FROM ${column}" for column in _FREE)
        return self.sql(
            "SELECT phase_a, phase_b, phases_apart, layer, value_a, value_b, change, "
            "relative_change, change_per_btoken, same_way "
            f"FROM data.scoped_changes WHERE metric = $metric AND {same} ORDER BY layer, phase_a",
            {"metric": metric} | {name: _plain(value) for name, value in at.items()},
        )

    def change_points(
        self,
        metric: str,
        *,
        of: Of = "levels",
        layers: Layers = "each",
        level: float = 0.05,
        **where: Any,
    ) -> pd.DataFrame:
        """Phases at which a metric steps off its straight line, or goes on at another pace.

        ``of`` levels looks for steps, ``of`` changes for another pace of change; ``layers`` each or
        their mean. A row for each change point whose p_adjusted (corrected for all layers) is at
        most ``level``: layer, phase_a, phase_b, size, n, p_value, p_adjusted. No row: none that
        chance would not make. Raises QueryError as ``metric`` does, and for too few phases.
        """
        if of not in ("levels", "changes"):
            raise QueryError(f"There are no change points of {of}: choose levels or changes.")
        return change_point_frame(self._layers(self._values(metric, where), layers), of=of,
                                  level=level)  # fmt: skip

    def correlate(
        self,
        metric: str,
        *,
        with_: With = "mix",
        by: str = "category",
        layers: Layers = "each",
        across_gaps: bool = False,
        **where: Any,
    ) -> Moved:
        """What moved along with a metric: its changes against those of the mix or of the scores.

        ``with_`` mix takes the shares of every category (or bucket: ``by``), ``with_`` scores every
        benchmark score, each source apart; ``layers`` each or their mean. The result has ``table``
        (Spearman, Pearson, n, p_value, p_adjusted for all that was tried), ``changes`` (the
        numbers compared) and ``warning``. Changes over another number of phases than most are left
        out unless ``across_gaps``. Raises QueryError as ``metric`` does, and when the suite has no
        mix or score, or too few phases.
        """
        found = self._values(metric, where)
        suite = str(found["suite"].iloc[0])
        if with_ == "mix":
            companions = mix_levels(self._store, suite, by)
        elif with_ == "scores":
            companions = score_levels(self._store, suite)
        else:
            raise QueryError(f"There is nothing to correlate by {with_}: choose mix or scores.")
        return moved_with(self._layers(found, layers), companions, across_gaps=across_gaps)

    def published_and_measured(self, suite: str | None = None) -> pd.DataFrame:
        """The same benchmark's published and measured scores side by side, in percent.

        Columns as in the view ``published_and_measured``; a row with one of them alone where the
        other is missing. Compare trends, not digits: harness, prompts and shots differ.
        """
        return self.sql(
            "FROM published_and_measured WHERE coalesce(suite = $suite, true) "
            "ORDER BY suite, benchmark, phase, measured_task, published_model",
            {"suite": suite},
        )

    def _values(self, metric: str, where: Mapping[str, Any]) -> pd.DataFrame:
        """phase, layer, value and the columns of ``_FREE``, each of which has one value."""
        unknown = where.keys() - set(_FREE)
        if unknown:
            raise QueryError(
                f"{', '.join(sorted(unknown))} tells no values apart: choose by {', '.join(_FREE)}."
            )
        chosen = {"scope": "all", **where}
        conditions = "".join(f" AND {column} = ${column}" for column in chosen)
        found = self.sql(
            f"SELECT phase, layer, value, {', '.join(_FREE)} FROM scoped_metrics "
            f"WHERE metric = $metric{conditions} ORDER BY phase, layer",
            {"metric": metric, **chosen},
        )
        if found.empty:
            said = "".join(f", {column} {value}" for column, value in where.items())
            raise QueryError(
                f"There is no value of {metric}{said}: `workbench metrics` lists what there is."
            )
        if "head" not in where and found["head"].isna().any():
            found = found[found["head"].isna()]  # the whole tensor, beside its heads
        for column in _FREE:
            choices = found[column].drop_duplicates()
            if len(choices) > 1:
                names = ", ".join(sorted("none" if pd.isna(c) else str(c) for c in choices))
                raise QueryError(f"{metric} has values of more than one {column}: choose {names}.")
        return found

    def _layers(self, found: pd.DataFrame, layers: Layers) -> pd.DataFrame:
        """Phases by layers, or by the one column ``mean``."""
        if layers not in ("each", "mean"):
            raise QueryError(f"Layers cannot be taken as {layers}: choose each or mean.")
        table = _by_layer(found)
        # A phase that lacks a layer has no mean: another set of layers would make a change.
        return table if layers == "each" else table.mean(axis=1, skipna=False).to_frame("mean")

    def coverage(self) -> pd.DataFrame:
        """Phases by probes: measured, failed, missing or absent; the index is (suite, phase)."""
        found = self.sql("SELECT suite, phase, probe, status FROM coverage")
        return found.pivot(index=["suite", "phase"], columns="probe", values="status")

    def runs(self) -> pd.DataFrame:
        """Every run of a probe with its provenance, the newest first."""
        return self.sql("FROM runs ORDER BY started_at DESC, run_id")


def _by_layer(found: pd.DataFrame) -> pd.DataFrame:
    """Phases by layers; by the one column ``value`` for what belongs to no layer."""
    if found["layer"].isna().all():
        return found.set_index("phase")[["value"]]
    # A total stands beside the layers and belongs to none of them.
    layers = found.dropna(subset="layer").astype({"layer": int})
    return layers.pivot(index="phase", columns="layer", values="value")


def _plain(value: Any) -> Any:
    """A number of numpy as Python's own, which parameters of a query must be."""
    return value.item() if hasattr(value, "item") else value
