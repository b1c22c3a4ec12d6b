"""Pairs of phases."""

import pandas as pd

from analysis_db.store import Store


def pair_choices(store: Store, suite: str) -> pd.DataFrame:
    """metric, module, layer of all that was compared; and the metric's formula, unit, source."""
    return store.frame(
        """
        SELECT c.*, m.formula, coalesce(m.unit, '') AS unit, m.source
        FROM (SELECT DISTINCT metric, module, layer FROM pair_metrics WHERE suite = $suite) c
        LEFT JOIN metrics m ON m.metric = c.metric AND m.probe = 'changes'
        ORDER BY ALL
        """,
        {"suite": suite},
    )


def pair_values(
    store: Store, suite: str, metric: str, module: str, layer: int | None
) -> pd.DataFrame:
    """phase_a, phase_b, value, exact, error_bound of one metric and place, for every pair."""
    return store.frame(
        """
        SELECT phase_a, phase_b, value, exact, error_bound
        FROM pair_metrics
        WHERE suite = $suite AND metric = $metric AND module = $module
          AND layer IS NOT DISTINCT FROM $layer
        ORDER BY phase_a, phase_b
        """,
        {"suite": suite, "metric": metric, "module": module, "layer": layer},
    )


def pair_reasons(store: Store, suite: str) -> pd.DataFrame:
    """kind, reason, pairs: why phases could not be compared, or not in full."""
    return store.frame(
        "SELECT kind, reason, count(*) AS pairs FROM pair_runs "
        "WHERE suite = $suite AND reason IS NOT NULL GROUP BY ALL ORDER BY ALL",
        {"suite": suite},
    )


def identity_alarms(store: Store, suite: str) -> pd.DataFrame:
    """phase_a, phase_b, label_a, label_b of phases whose weights are all equal."""
    return store.frame(
        "SELECT phase_a, phase_b, label_a, label_b FROM identity_alarms WHERE suite = $suite "
        "ORDER BY ALL",
        {"suite": suite},
    )
