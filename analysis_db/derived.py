"""Change points of a series over phases.

Two questions, each by binary segmentation with the permutation test of ``chance.best_split``:

- ``levels``: did the metric step away from the straight line it was on? A straight trend is no
  change point.
- ``changes``: does the metric move at another pace from some phase on? Asked of the changes from
  phase to phase; a change over several phases counts as its mean for each.

With 27 phases a step of four times the scatter is found four times in five (bench/derived.py), and
only one with three values on either side at least.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from analysis_db.chance import best_split
from analysis_db.errors import QueryError

Of = Literal["levels", "changes"]
LEAST = 3
"""Values on either side of a cut."""
SHORTEST = 12
"""Values that a stretch must have to be searched: below, a walk passes for a step too often."""
SEED, DRAWS, LEVEL = 0, 9_999, 0.05
COLUMNS = ("layer", "phase_a", "phase_b", "size", "n", "p_value", "p_adjusted")


@dataclass(frozen=True)
class ChangePoint:
    """From ``phase_a`` to ``phase_b`` a series steps to another level, or begins another pace.

    They are neighbours but where phases between have no value.
    """

    phase_a: int
    phase_b: int
    size: float
    """How much the level (of = levels) or the change per phase (of = changes) differs after it."""
    n: int
    """Values of the stretch that was searched."""
    p_value: float
    """Chance of a step as clear as this one anywhere in the stretch, if there is none."""
    p_adjusted: float
    """``p_value`` times the number of stretches of its depth and of series searched, at most 1."""


def change_points(
    values: Mapping[int, float],
    *,
    of: Of = "levels",
    level: float = LEVEL,
    series: int = 1,
    seed: int = SEED,
    draws: int = DRAWS,
) -> list[ChangePoint]:
    """Change points of one series {phase: value}, in order; a phase with NaN is a gap.

    A stretch is cut at its best place while ``p_adjusted`` is at most ``level``; ``series`` is the
    number of series that are searched along with it. Raises QueryError in one sentence when there
    are too few values.
    """
    phases = np.array(sorted(p for p, v in values.items() if np.isfinite(v)))
    found_N = np.array([values[p] for p in phases], float)
    if of == "changes":
        between = np.diff(phases)
        found_N, at_N = np.diff(found_N) / between, phases[1:] - between / 2
    else:
        at_N = phases.astype(float)
    if len(found_N) < SHORTEST:
        raise QueryError(
            f"Change points need {SHORTEST} {of} at least, and there are {len(found_N)}: measure "
            "more phases."
        )
    points: list[ChangePoint] = []
    stretches = [(0, len(found_N), 0)]
    while stretches:
        start, end, depth = stretches.pop()
        if end - start < SHORTEST:
            continue
        split = best_split(
            found_N[start:end], at_N[start:end],
            trend=of == "levels", least=LEAST, seed=seed, draws=draws,
        )  # fmt: skip
        adjusted = min(1.0, split.p_value * 2**depth * series)
        if adjusted > level:
            continue
        at = start + split.at
        # Change number ``at``, the first at the new pace, goes from phase ``at`` to the next one.
        before, after = (at, at + 1) if of == "changes" else (at - 1, at)
        points.append(
            ChangePoint(
                int(phases[before]),
                int(phases[after]),
                split.size,
                end - start,
                split.p_value,
                adjusted,
            )
        )
        stretches += [(start, at, depth + 1), (at, end, depth + 1)]
    return sorted(points, key=lambda point: point.phase_a)


def change_point_frame(
    values: pd.DataFrame, *, of: Of = "levels", level: float = LEVEL
) -> pd.DataFrame:
    """Change points of every column of ``values`` (phases x layers), p-values adjusted for all.

    The columns are ``COLUMNS``; ``layer`` is the name of the column. Empty when there is none.
    """
    rows = [
        {"layer": column, **vars(point)}
        for column in values
        for point in change_points(
            dict(zip(values.index, values[column], strict=True)),
            of=of,
            level=level,
            series=values.shape[1],
        )
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))
