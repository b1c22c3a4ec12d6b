"""What the dashboard asks of the store: pandas frames out of the public views, and of the table
``data.measured`` where going through every value would take too long.

Every function takes a ``Store`` first, then plain values (so that results can be cached by them).
A suite, run or metric that the store does not know gives an empty frame with the same columns.
"""

from analysis_db.queries.metrics import (
    distribution,
    extreme_places,
    metric_menu,
    metric_scopes,
    metric_values,
    missing_values,
    moved,
    position_values,
    probes_with_values,
    seam,
    token_sets,
)
from analysis_db.queries.pairs import (
    identity_alarms,
    pair_choices,
    pair_reasons,
    pair_values,
)
from analysis_db.queries.suites import (
    audits,
    benchmark_tasks,
    benchmarks,
    coverage,
    data_mix,
    failures,
    findings,
    phases,
    suites,
    totals,
    view_columns,
    warnings,
)
from analysis_db.queries.training import (
    every_training_run,
    found_spikes,
    run_spikes,
    series_names,
    spike_settings,
    training_history,
    training_menu,
    training_runs,
    training_series,
)

__all__ = [
    "audits",
    "benchmark_tasks",
    "benchmarks",
    "coverage",
    "data_mix",
    "distribution",
    "every_training_run",
    "extreme_places",
    "failures",
    "findings",
    "found_spikes",
    "identity_alarms",
    "metric_menu",
    "metric_scopes",
    "metric_values",
    "missing_values",
    "moved",
    "pair_choices",
    "pair_reasons",
    "pair_values",
    "phases",
    "position_values",
    "probes_with_values",
    "run_spikes",
    "seam",
    "series_names",
    "spike_settings",
    "suites",
    "token_sets",
    "totals",
    "training_history",
    "training_menu",
    "training_runs",
    "training_series",
    "view_columns",
    "warnings",
]
