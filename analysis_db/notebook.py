"""The store as a notebook sees it: SQL into frames, one metric as phases by layers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from analysis_db.errors import QueryError
from analysis_db.sandbox import run_sql
from analysis_db.store import Store

_FREE = ("suite", "probe", "view", "module", "head", "domain")
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

        ``where`` picks among suite, probe, view, module, head and domain; what has one value in
        the store anyway may be left out, and without ``head`` it is the whole tensor. A metric
        that belongs to no layer has the one column ``value``. A phase without a value has no
        row. Raises QueryError when there is no such value, or when more has to be said; it names
        the choices.
        """
        unknown = where.keys() - set(_FREE)
        if unknown:
            raise QueryError(
                f"{', '.join(sorted(unknown))} tells no values apart: choose by {', '.join(_FREE)}."
            )
        conditions = "".join(f" AND {column} = ${column}" for column in where)
        found = self.sql(
            f"SELECT phase, layer, value, {', '.join(_FREE)} FROM phase_metrics "
            f"WHERE metric = $metric{conditions} ORDER BY phase, layer",
            {"metric": metric} | where,
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
        if found["layer"].isna().all():
            return found.set_index("phase")[["value"]]
        # A total stands beside the layers and belongs to none of them.
        layers = found.dropna(subset="layer").astype({"layer": int})
        return layers.pivot(index="phase", columns="layer", values="value")

    def coverage(self) -> pd.DataFrame:
        """Phases by probes: measured, failed, missing or absent; the index is (suite, phase)."""
        found = self.sql("SELECT suite, phase, probe, status FROM coverage")
        return found.pivot(index=["suite", "phase"], columns="probe", values="status")

    def runs(self) -> pd.DataFrame:
        """Every run of a probe with its provenance, the newest first."""
        return self.sql("FROM runs ORDER BY started_at DESC, run_id")
