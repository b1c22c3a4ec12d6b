"""Learning-rate schedules: factors of the peak rate over optimizer steps.

Warm-up-stable-decay as YuLan-Mini trains with it (arXiv 2412.17743, section 3.2; the shapes are
those of the authors' training script): linear warm-up from 0, a constant part, an annealing part
that falls by a named shape, and a constant tail at the final rate.
"""

import math
from dataclasses import dataclass
from typing import Literal

Shape = Literal["linear", "1sqrt", "cos", "cos2"]


def interpolate(shape: Shape, progress: float, start: float, end: float) -> float:
    """The factor at ``progress`` (0 to 1) between ``start`` and ``end``."""
    if shape == "linear":
        return start + progress * (end - start)
    if shape == "1sqrt":
        return (1 - math.sqrt(progress)) * (start - end) + end
    if shape == "cos":
        return (1 - math.cos(math.pi * progress / 2)) * (end - start) + start
    return (1 - math.cos(math.pi * progress)) / 2 * (end - start) + start


@dataclass(frozen=True)
class WarmupStableDecay:
    """The factor that multiplies the peak rate at each step; steps count from 0."""

    warmup_steps: int
    decay_start: int
    decay_end: int
    final_factor: float
    shape: Shape = "1sqrt"

    def __call__(self, step: int) -> float:
        if step < self.warmup_steps:
            return step / self.warmup_steps
        if step < self.decay_start:
            return 1.0
        length = self.decay_end - self.decay_start
        progress = min((step - self.decay_start) / length, 1.0)
        return interpolate(self.shape, progress, 1.0, self.final_factor)

    def stage(self, step: int) -> str:
        """The name of the part that a step lies in: warmup, stable or annealing."""
        if step < self.warmup_steps:
            return "warmup"
        return "stable" if step < self.decay_start else "annealing"
