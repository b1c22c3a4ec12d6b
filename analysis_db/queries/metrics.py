"""Values of probes, over the phases of a suite."""

import pandas as pd

from analysis_db.companions import Moved, mix_levels, moved_with, score_levels
from analysis_db.store import Store


def probes_with_values(store: Store, suite: str) -> pd.DataFrame:
    """probe: those that have values of a suite in ``phase_metrics``, by id."""
    return store.frame(
        """
        SELECT DISTINCT r.probe
        FROM runs r
        WHERE r.suite = $suite AND r.status = 'complete'
          AND EXISTS (SELECT 1 FROM phase_metrics m WHERE m.run_id = r.run_id AND m.suite = $suite)
        ORDER BY r.probe
        """,
        {"suite": suite},
    )


def metric_menu(store: Store, suite: str, probe: str) -> pd.DataFrame:
    """What a probe has measured of a suite, with its definition.

    One row per metric, view and module; by_layer, by_head, by_domain say which coordinates its
    values have; formula, unit and source are those registered with the metric.
    """
    return store.frame(
        """
        WITH found AS (
            SELECT metric, view, module, bool_or(by_layer) AS by_layer,
                   bool_or(by_head) AS by_head, bool_or(by_domain) AS by_domain
            FROM data.measured JOIN data.newest_run USING (run_id)
            WHERE suite = $suite AND probe = $probe
            GROUP BY metric, view, module
        )
        SELECT f.*, m.formula, m.unit, m.source
        FROM found f
        LEFT JOIN metrics m ON m.metric = f.metric AND m.probe = $probe
        ORDER BY metric, view, module
        """,
        {"suite": suite, "probe": probe},
    )


def metric_values(
    store: Store,
    suite: str,
    probe: str,
    metric: str,
    view: str | None,
    module: str | None,
    scope: str = "all",
) -> pd.DataFrame:
    """phase, label, step, tokens_b, layer, head, domain, value of one metric of one module."""
    return store.frame(
        """
        SELECT phase, label, step, tokens_b, layer, head, domain, value
        FROM scoped_metrics
        WHERE suite = $suite AND probe = $probe AND metric = $metric AND scope = $scope
          AND view IS NOT DISTINCT FROM $view AND module IS NOT DISTINCT FROM $module
        ORDER BY phase, layer, head, domain
        """,
        {"suite": suite, "probe": probe, "metric": metric, "scope": scope, "view": view,
         "module": module},
    )  # fmt: skip


def metric_scopes(
    store: Store, suite: str, probe: str, metric: str, view: str | None, module: str | None
) -> pd.DataFrame:
    """scope: those that one metric of one module has, with values or with reasons; all first."""
    return store.frame(
        """
        WITH places AS (
            SELECT suite, probe, metric, view, module, scope FROM scoped_metrics
            UNION ALL
            SELECT suite, probe, metric, view, module, scope FROM scoped_missing_values
        )
        SELECT scope FROM places
        WHERE suite = $suite AND probe = $probe AND metric = $metric
          AND view IS NOT DISTINCT FROM $view AND module IS NOT DISTINCT FROM $module
        GROUP BY scope ORDER BY scope <> 'all', scope DESC
        """,
        {"suite": suite, "probe": probe, "metric": metric, "view": view, "module": module},
    )


def position_values(store: Store, suite: str) -> pd.DataFrame:
    """phase, label, domain, low, high, nll, tokens: the loss by position in the window.

    A row for each bucket of positions, ``low`` to ``high`` inclusive.
    """
    return store.frame(
        """
        SELECT phase, label, domain,
               CAST(regexp_extract(module, '(\\d+)-', 1) AS INTEGER) AS low,
               CAST(regexp_extract(module, '-(\\d+)', 1) AS INTEGER) AS high,
               max(value) FILTER (WHERE metric = 'nll') AS nll,
               CAST(max(value) FILTER (WHERE metric = 'tokens') AS BIGINT) AS tokens
        FROM phase_metrics
        WHERE suite = $suite AND probe = 'loss' AND module LIKE 'position %'
        GROUP BY phase, label, domain, module
        ORDER BY phase, domain, low
        """,
        {"suite": suite},
    )


def extreme_places(store: Store, suite: str, module: str) -> pd.DataFrame:
    """phase, label, layer, rank, size, median, position, feature, token, text.

    Where a module's three largest activations sit: size |x|, the median |x| of its windows, the
    position and feature, and the token there as an id and as what it spells.
    """
    return store.frame(
        """
        WITH places AS (
            SELECT run_id, phase, label, layer,
                   TRY_CAST(substr(metric, 4, 1) AS INTEGER) AS rank,
                   max(value) FILTER (WHERE metric LIKE '%_abs') AS size,
                   CAST(max(value) FILTER (WHERE metric LIKE '%_position') AS INTEGER) AS position,
                   CAST(max(value) FILTER (WHERE metric LIKE '%_feature') AS INTEGER) AS feature,
                   CAST(max(value) FILTER (WHERE metric LIKE '%_token') AS INTEGER) AS token
            FROM phase_metrics
            WHERE suite = $suite AND probe = 'activations' AND module = $module
              AND regexp_full_match(metric, 'top[123]_(abs|position|feature|token)')
            GROUP BY ALL
        ), medians AS (
            SELECT run_id, layer, value AS median FROM phase_metrics
            WHERE suite = $suite AND probe = 'activations' AND module = $module
              AND metric = 'median_abs'
        )
        SELECT p.phase, p.label, p.layer, p.rank, p.size, m.median, p.position, p.feature, p.token,
               json_extract_string(
                   json_extract_string(r.notes, '$.token_text'), '$."' || p.token || '"'
               ) AS text
        FROM places p
        JOIN runs r USING (run_id)
        LEFT JOIN medians m ON m.run_id = p.run_id AND m.layer IS NOT DISTINCT FROM p.layer
        WHERE p.size IS NOT NULL
        ORDER BY p.phase, p.layer, p.rank
        """,
        {"suite": suite, "module": module},
    )


def token_sets(store: Store, suite: str, probe: str) -> pd.DataFrame:
    """phase, token_set: the hash of the tokens that a probe's newest run of each phase read."""
    return store.frame(
        """
        SELECT DISTINCT r.phase, json_extract_string(r.notes, '$.token_set_sha256') AS token_set
        FROM runs r
        JOIN phase_metrics m ON m.run_id = r.run_id AND m.suite = r.suite AND m.probe = r.probe
        WHERE r.suite = $suite AND r.probe = $probe
        ORDER BY r.phase
        """,
        {"suite": suite, "probe": probe},
    )


def seam(store: Store, suite: str, metric: str, module: str) -> pd.DataFrame:
    """Mean over layers of a weight metric in both views, and of the alphas.

    Columns: phase, series (stored, effective, alpha), value. Alphas exist where a checkpoint has
    them; a merged checkpoint has none.
    """
    return store.frame(
        """
        SELECT phase, CASE WHEN metric = 'alpha' THEN 'alpha' ELSE view END AS series,
               avg(value) AS value
        FROM phase_metrics
        WHERE suite = $suite AND probe = 'weights' AND module = $module
          AND metric IN ($metric, 'alpha') AND head IS NULL
        GROUP BY ALL
        ORDER BY series, phase
        """,
        {"suite": suite, "metric": metric, "module": module},
    )


def distribution(
    store: Store, suite: str, view: str | None, module: str | None, layer: int | None
) -> pd.DataFrame:
    """phase, low, high, count, share: each bin of the histogram of log10|w| of one tensor."""
    return store.frame(
        """
        WITH bins AS (
            SELECT phase, unnest(edges[:len(counts)]) AS low, unnest(edges[2:]) AS high,
                   unnest(counts) AS "count", list_sum(counts) AS total
            FROM histograms
            WHERE suite = $suite AND metric = 'log10_abs' AND view IS NOT DISTINCT FROM $view
              AND module IS NOT DISTINCT FROM $module AND layer IS NOT DISTINCT FROM $layer
        )
        SELECT phase, low, high, "count", "count" / total AS share FROM bins ORDER BY phase, low
        """,
        {"suite": suite, "view": view, "module": module, "layer": layer},
    )


def missing_values(
    store: Store,
    suite: str,
    probe: str,
    metric: str,
    view: str | None,
    module: str | None,
    scope: str = "all",
) -> pd.DataFrame:
    """phase, layer, head, domain, reason of values that do not exist though the run succeeded."""
    return store.frame(
        """
        SELECT phase, layer, head, domain, reason
        FROM scoped_missing_values
        WHERE suite = $suite AND probe = $probe AND metric = $metric AND scope = $scope
          AND view IS NOT DISTINCT FROM $view AND module IS NOT DISTINCT FROM $module
        ORDER BY phase, layer, head, domain
        """,
        {"suite": suite, "probe": probe, "metric": metric, "scope": scope, "view": view,
         "module": module},
    )  # fmt: skip


def moved(
    store: Store,
    suite: str,
    probe: str,
    metric: str,
    view: str | None,
    module: str | None,
    companions: str,
    mean: bool,
    across_gaps: bool = False,
) -> Moved:
    """What moved along with a metric: every layer (or domain), or their mean, against companions.

    ``companions`` is category or bucket, for the mix, or scores. Heads are averaged where a metric
    has nothing but heads. Raises QueryError when there is too little to compare.
    """
    rows = metric_values(store, suite, probe, metric, view, module)
    if rows["head"].isna().any():
        rows = rows[rows["head"].isna()]  # the whole tensor, beside its heads
    if rows["domain"].notna().any():
        rows = rows.assign(series=rows["domain"])
    else:
        names = rows["layer"].map(lambda layer: "whole" if pd.isna(layer) else f"layer {layer:02}")
        rows = rows.assign(series=names)
    values = rows.pivot_table(index="phase", columns="series", values="value")
    if mean:  # a phase that lacks a layer has no mean: another set of layers would make a change
        values = values.mean(axis=1, skipna=False).to_frame("mean")
    levels = score_levels(store, suite) if companions == "scores" else mix_levels(
        store, suite, companions
    )  # fmt: skip
    return moved_with(values, levels, across_gaps=across_gaps)
