"""The learning-rate schedule at points whose value is known."""

import math

import pytest

from workbench.training.schedule import WarmupStableDecay, interpolate

# The authors' annealing run: 243198 to 262198, 1-sqrt, to 5.22e-5 of a peak of 1e-2.
PUBLISHED = WarmupStableDecay(2433, 243198, 262198, 0.00522)


@pytest.mark.parametrize(
    ("step", "factor"),
    [
        (0, 0.0),
        (1, 1 / 2433),
        (2432, 2432 / 2433),
        (2433, 1.0),
        (243197, 1.0),
        (243198, 1.0),
        (243198 + 4750, 0.5 * (1 - 0.00522) + 0.00522),  # a quarter of the way: sqrt is a half
        (262198, 0.00522),
        (262771, 0.00522),
    ],
)
def test_warmup_stable_decay(step, factor):
    assert PUBLISHED(step) == pytest.approx(factor, abs=1e-12)


@pytest.mark.parametrize(
    ("step", "stage"),
    [(0, "warmup"), (2432, "warmup"), (2433, "stable"), (243197, "stable"), (243198, "annealing")],
)
def test_stage(step, stage):
    assert PUBLISHED.stage(step) == stage


@pytest.mark.parametrize(
    ("shape", "quarter", "half"),
    [
        ("linear", 0.75, 0.5),
        ("1sqrt", 0.5, 1 - math.sqrt(0.5)),
        ("cos", math.cos(math.pi / 8), math.cos(math.pi / 4)),
        ("cos2", (1 + math.cos(math.pi / 4)) / 2, 0.5),
    ],
)
def test_shapes_lead_from_start_to_end(shape, quarter, half):
    at = [interpolate(shape, progress, 1.0, 0.0) for progress in (0, 0.25, 0.5, 1)]
    assert at == pytest.approx([1, quarter, half, 0], abs=1e-12)
