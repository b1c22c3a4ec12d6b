"""How severe an event is: a number to rank events by, and a word for it.

Three parts are added, each 1 where that part alone makes an event major:

- height: the peak over the values before it, in spreads, over 3 thresholds of the detector;
- rise: of a loss, the rise in nats over ln 2, one bit per token: the perplexity doubles. Of any
  other positive quantity, such as a gradient norm, the decades that it rises by: ln(peak / centre)
  over ln 10;
- recovery: the values until the event is over (or its history ends) over 50.

With x their sum, the score is 9 x / (1 + x), from 0 to 9. It is 9 + x / (1 + x) for an event that
has not recovered more than 50 values later, and 10 for values that are not finite, in the event or
by themselves. Height alone would not do: a noisy loss rises by two nats at 12 spreads. Nor would
the rise: spikes of one nat that last are worse than those of two that are over at once. No training
report defines such a score (that of OLMo 2 counts flags); the units are chosen so that each part is
1 at what is plainly no noise.
"""

import math
import re

SLOW_STRIDES = 50
"""A recovery that takes longer makes an event major at least."""
HIGH_THRESHOLDS = 3.0
"""A peak so many thresholds high makes an event major at least."""
WORST = 10.0
"""Severity score of values that are not finite."""
_NEVER_BACK = 9.0
_LOSS = re.compile(r"(?<![a-z])loss(?![ _-]?scale)", re.IGNORECASE)


def relative_rise(metric: str, centre: float, peak: float) -> float:
    """By how much the metric rose from centre to peak: bits of a loss, decades of anything else."""
    if _LOSS.search(metric):
        return max(0.0, peak - centre) / math.log(2)
    return math.log10(peak) - math.log10(centre) if 0 < centre < peak else 0.0


def severity(
    thresholds: float, rise: float, strides: float, *, never_back: bool, finite: bool
) -> tuple[str, float]:
    """(minor, major or severe; score from 0 to 10) of a spike.

    ``thresholds`` is the height of its peak in thresholds of its detector, ``rise`` that of
    ``relative_rise``, ``strides`` the values from its start until its recovery; ``never_back``: its
    history goes on for more than ``SLOW_STRIDES`` values without a recovery.
    """
    if not finite:
        return "severe", WORST
    x = thresholds / HIGH_THRESHOLDS + rise + strides / SLOW_STRIDES
    part = 1 - 1 / (1 + x)
    if never_back:
        return "severe", _NEVER_BACK + part
    return "major" if x >= 1 else "minor", _NEVER_BACK * part
