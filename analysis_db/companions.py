"""What moved along with a metric: its changes between phases against those of the data mix or of
benchmark scores.

Changes are compared, not levels: over a training run nearly everything drifts, and two drifting
levels correlate whether or not one has to do with the other. What is found is an association over
at most 26 changes, never a cause.
"""

from collections import Counter
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import pandas as pd

from analysis_db.chance import PERMUTATIONS, Floats, correlate
from analysis_db.errors import QueryError
from analysis_db.store import Store

With = Literal["mix", "scores"]
Key = tuple[Hashable, ...]
Pairs = tuple[tuple[int, int], ...]

FEWEST = 5
"""Changes that a correlation must have: with 4, no order of them has a p-value below 0.08."""
SEED = 0
COLUMNS = (
    "layer", "companion", "n", "phases_apart", "spearman", "pearson", "p_value", "p_adjusted",
    "tried",
)  # fmt: skip


@dataclass(frozen=True, repr=False)
class Moved:
    """Every layer of a metric against every companion."""

    table: pd.DataFrame
    """Columns ``COLUMNS``, the smallest p_adjusted first."""
    changes: pd.DataFrame
    """What was compared: layer, companion, phase_a, phase_b, metric_change, companion_change."""
    warning: str
    """What to keep in mind, in plain words."""

    def __str__(self) -> str:
        return f"{self.warning}\n\n{self.table.to_string(index=False)}"

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """What a notebook shows: the warning before the numbers."""
        return f"<p>{escape(self.warning)}</p>{self.table.to_html(index=False)}"


def mix_levels(store: Store, suite: str, part_of: str) -> pd.DataFrame:
    """Shares (phases x parts) of the runs that the training went on with.

    A phase of several runs none of which is known to be that one has no row. Raises QueryError when
    the suite has no mix, or ``part_of`` is neither category nor bucket.
    """
    if part_of not in ("category", "bucket"):
        raise QueryError(f"The mix has no parts by {part_of}: choose category or bucket.")
    found = store.frame(
        "SELECT phase, part, share FROM data.mix_part "
        "WHERE suite = $suite AND part_of = $part_of AND main_line",
        {"suite": suite, "part_of": part_of},
    )
    if found.empty:
        raise QueryError(f"The store holds no data mix of {suite}: `workbench import data-mix`.")
    return found.pivot(index="phase", columns="part", values="share")


def score_levels(store: Store, suite: str) -> pd.DataFrame:
    """Scores (phases x series) in the unit of ``score_changes``, each source apart.

    A series is one source, task, metric, number of documents, shots and setting; its name carries
    all of them. Scores of another model than the suite's, or of an unknown one, are in none. Where
    a phase has two scores in a series, the phase is left out of it. Raises QueryError when the
    suite has no score.
    """
    found = store.frame(
        """
        SELECT phase, value * factor AS value,
               concat_ws(' ', source, task, metric,
                         CASE WHEN source <> 'published' AND shots IS NOT NULL
                              THEN concat(shots, '-shot') END,
                         CASE WHEN n IS NOT NULL THEN concat('n=', n) END,
                         CASE WHEN setting IS NOT NULL THEN concat('(', setting, ')') END) AS series
        FROM data.scaled_score WHERE suite = $suite AND own AND phase IS NOT NULL
        QUALIFY count(*) OVER (PARTITION BY source, task, metric, n, shots, setting, phase) = 1
        """,
        {"suite": suite},
    )
    if found.empty:
        raise QueryError(f"The store holds no score of a phase of {suite}.")
    return found.pivot_table(index="phase", columns="series", values="value")


def moved_with(
    values: pd.DataFrame,
    companions: pd.DataFrame,
    *,
    across_gaps: bool = False,
    seed: int = SEED,
    draws: int = PERMUTATIONS,
) -> Moved:
    """Correlate the changes of every column of ``values`` with those of every companion.

    Both are phases x columns. A change goes from a phase at which both have a value to the next
    such phase. Most changes are over the same number of phases; others, as over an unpublished
    checkpoint, are left out unless ``across_gaps``. p_adjusted is corrected for everything tried:
    pairs over the same phases by the greatest coefficient among them, the groups of such pairs by
    their number (Bonferroni). Raises QueryError when no pair has ``FEWEST`` changes.
    """
    groups: dict[Pairs, list[tuple[Hashable, Hashable]]] = {}
    left_out: Counter[tuple[int, int]] = Counter()
    for layer in values:
        for companion in companions:
            pairs, gaps = _pairs(values[layer], companions[companion], across_gaps)
            left_out.update(gaps)
            groups.setdefault(pairs, []).append((layer, companion))
    tested = {pairs: names for pairs, names in groups.items() if len(pairs) >= FEWEST}
    if not tested:
        most = max(map(len, groups), default=0)
        raise QueryError(
            f"A correlation needs {FEWEST} changes at least, and there are {most} between phases "
            "at which both sides have a value: measure more phases."
        )
    tables, changes = [], []
    for pairs, names in tested.items():
        table, compared = _test_group(values, companions, pairs, names, seed, draws)
        tables.append(table.assign(p_adjusted=(table["p_adjusted"] * len(tested)).clip(upper=1.0)))
        changes.append(compared)
    table = pd.concat(tables, ignore_index=True)
    table["tried"] = int(table["p_value"].notna().sum())
    table = table.sort_values(["p_adjusted", "p_value"], kind="stable", ignore_index=True)
    too_short = sum(len(names) for pairs, names in groups.items() if len(pairs) < FEWEST)
    return Moved(
        table[list(COLUMNS)],
        pd.concat(changes, ignore_index=True),
        _warning(table, left_out, too_short),
    )


def _pairs(
    left: pd.Series, right: pd.Series, across_gaps: bool
) -> tuple[Pairs, list[tuple[int, int]]]:
    """Neighbouring phases at which both have a value, and those left out for their distance."""
    both = sorted(set(left.dropna().index) & set(right.dropna().index))
    pairs = [(int(a), int(b)) for a, b in pairwise(both)]
    if across_gaps or not pairs:
        return tuple(pairs), []
    strides = Counter(b - a for a, b in pairs)
    usual = min(strides, key=lambda stride: (-strides[stride], stride))
    return (
        tuple(pair for pair in pairs if pair[1] - pair[0] == usual),
        [pair for pair in pairs if pair[1] - pair[0] != usual],
    )


def _test_group(
    values: pd.DataFrame,
    companions: pd.DataFrame,
    pairs: Pairs,
    names: list[tuple[Hashable, Hashable]],
    seed: int,
    draws: int,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    layers = list(dict.fromkeys(layer for layer, _ in names))
    parts = list(dict.fromkeys(part for _, part in names))
    left, right = _changes(values[layers], pairs), _changes(companions[parts], pairs)
    found = correlate(left, right, seed=seed, draws=draws)
    rows: list[dict[str, Any]] = []
    compared = []
    apart = ", ".join(str(stride) for stride in sorted({b - a for a, b in pairs}))
    for layer, part in names:
        at = layers.index(layer), parts.index(part)
        rows.append(
            {
                "layer": layer,
                "companion": part,
                "n": found.n,
                "phases_apart": apart,
                **{
                    name: float(getattr(found, name)[at])
                    for name in ("spearman", "pearson", "p_value", "p_adjusted")
                },
            }
        )
        compared.append(
            pd.DataFrame(
                {
                    "layer": layer,
                    "companion": part,
                    "phase_a": [a for a, _ in pairs],
                    "phase_b": [b for _, b in pairs],
                    "metric_change": left[:, at[0]],
                    "companion_change": right[:, at[1]],
                }
            )
        )
    return pd.DataFrame(rows), pd.concat(compared, ignore_index=True)


def _changes(levels: pd.DataFrame, pairs: Pairs) -> Floats:
    """Changes (pairs x columns), rounded to 1e-10 of each column's greatest level.

    Ranks are blind to size: without this, shares that rise by the same each time would be ordered
    by the last bits of a subtraction.
    """
    before = levels.loc[[a for a, _ in pairs]].to_numpy(float)
    after = levels.loc[[b for _, b in pairs]].to_numpy(float)
    unit = 1e-10 * np.fmax(np.abs(before), np.abs(after)).max(axis=0)
    unit[unit == 0] = 1.0
    return np.round((after - before) / unit) * unit


def _warning(table: pd.DataFrame, left_out: Mapping[tuple[int, int], int], short: int) -> str:
    counts = table["n"].unique()
    n = f"{counts.min()}" if len(counts) == 1 else f"{counts.min()} to {counts.max()}"
    tried = int(table["tried"].iloc[0]) if len(table) else 0
    said = [
        f"{n} changes between phases are few, and what moves together need not be cause and "
        f"effect; {tried:,} pairs were tried, so read p_adjusted, not p_value. Changes are "
        "compared, not levels: levels all drift along with the training."
    ]
    if left_out:
        gaps = ", ".join(f"{a} to {b}" for a, b in sorted(left_out))
        said.append(f"Left out, over another number of phases than most: {gaps}.")
    constant = int(table["p_value"].isna().sum())
    if constant:
        said.append(f"{constant} pairs have a side that never changes: they have no coefficient.")
    if short:
        said.append(f"{short} pairs have fewer than {FEWEST} changes: they were not tested.")
    return " ".join(said)
