"""Training runs made of known parts: curves as logs have them, and events whose place is known."""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


class Spike(NamedTuple):
    """A planted spike: its steps, and its height in standard deviations of the noise."""

    first: int
    last: int
    height: int


@dataclass
class Simulated:
    """A loss curve in the order of its log, and the truth about it."""

    steps: npt.NDArray[np.int64]
    loss: Floats
    spikes: list[Spike] = field(default_factory=list)
    """Every planted spike of the history that holds."""
    left_spikes: list[Spike] = field(default_factory=list)
    """Those on steps that a restart overrode."""


def noise(rng: np.random.Generator, count: int, memory: float = 0.3, tails: float = 30) -> Floats:
    """AR(1) with unit variance; Student's t innovations, as batches of text are not normal."""
    shocks = rng.standard_t(tails, count) * np.sqrt((tails - 2) / tails * (1 - memory**2))
    out = np.empty(count)
    level = 0.0
    for i, shock in enumerate(shocks):
        out[i] = level = memory * level + shock
    return out


def clean_loss(
    rng: np.random.Generator,
    count: int = 10_000,
    warmup: int = 300,
    decay: float = 0.15,
    tails: float = 30,
) -> Floats:
    """Warm-up, power law, and a 1-sqrt annealing over the last ``decay`` of the run.

    The noise shrinks with the excess over the irreducible loss, and the annealing takes a further
    0.25 nats, most of them at once: the derivative of 1 - sqrt is infinite there.
    """
    t = np.arange(1, count + 1)
    excess = 6.0 * (1 + t / warmup) ** -0.55 + 0.3
    start = int(count * (1 - decay))
    progress = np.clip((t - start) / max(1, count - start), 0, 1)
    return 1.6 + excess - 0.25 * np.sqrt(progress) + noise(rng, count, tails=tails) * 0.02 * excess


def plant(rng: np.random.Generator, loss: Floats, at: int, length: int, height: float) -> None:
    """Add a spike that rises at once or over a few steps and dies down, to its own length."""
    level = np.std(np.diff(loss[max(0, at - 100) : at])) / np.sqrt(2 * (1 - 0.3))
    shape = np.linspace(1.0, 0.5, length)
    rise = rng.integers(0, 1 + length // 5)
    shape[:rise] = np.linspace(0.6, 1.0, rise, endpoint=False)
    loss[at : at + length] += height * level * shape


HEIGHTS = (8, 12, 20, 60)


def labelled(seed: int, kind: str, count: int = 10_000) -> Simulated:
    """A run of one kind with eight spikes of 1 to 50 steps and 8 to 60 sigmas (``clean``: none).

    drift: the loss rises by 0.4 over a quarter of the run. bursts: the noise is twice as large
    for stretches of 300 steps. step_decay: the loss drops by 0.3 at two steps. restart: the run
    spikes and goes back by 400 steps, twice, to go on with other noise. gap: 700 steps are
    missing, twice, and the loss is 0.2 higher after each (other data). not_finite: two stretches
    of NaN.
    """
    rng = np.random.default_rng([seed, *kind.encode()])
    loss, steps = clean_loss(rng, count, tails=8), np.arange(1, count + 1)
    if kind == "drift":
        loss += np.interp(steps, (count * 0.4, count * 0.65), (0, 0.4))
    if kind == "bursts":
        for at in rng.integers(1500, count - 1500, 4):
            loss[at : at + 300] += noise(rng, 300) * 0.03
    if kind == "step_decay":
        loss -= 0.3 * (steps > count * 0.5) + 0.3 * (steps > count * 0.75)
    slots = np.linspace(1200, count - 300, 8).astype(int) + rng.integers(0, 150, 8)
    spikes: list[Spike] = []
    for at in slots if kind != "clean" else ():
        length = int(rng.choice([1, 2, 5, 12, 25, 50]))
        height = int(rng.choice(HEIGHTS))
        plant(rng, loss, at, length, height)
        spikes.append(Spike(int(steps[at]), int(steps[at + length - 1]), height))
    run = Simulated(steps, loss, spikes)
    between = [int((slots[i] + slots[i + 1]) // 2) + 200 for i in (2, 5)]
    if kind == "gap":
        for at in between:
            run.loss[at:] += 0.2
        kept = np.ones(count, bool)
        for at in between:
            kept[at - 350 : at + 350] = False
        run.steps, run.loss = steps[kept], loss[kept]
        run.spikes = [spike for spike in spikes if kept[spike.first - 1]]
    if kind == "restart":
        parts_steps, parts_loss, first = [], [], 0
        for at in between:
            branch = loss.copy()
            plant(rng, branch, at - 20, 20, 60.0)
            run.left_spikes.append(Spike(at - 19, at, 60))
            parts_steps.append(steps[first:at])
            parts_loss.append(branch[first:at])
            first = at - 400
            loss = loss + np.where(steps > first, 0.01 * noise(rng, count), 0)
        run.steps = np.concatenate([*parts_steps, steps[first:]])
        run.loss = np.concatenate([*parts_loss, loss[first:]])
    if kind == "not_finite":
        for at in between:
            run.loss[at : at + 3] = np.nan
    return run


KINDS = ("plain", "drift", "bursts", "step_decay", "restart", "gap", "not_finite")


def led_run(
    seed: int, leads: dict[str, int], idle: tuple[str, ...], count: int = 12_000, events: int = 6
) -> tuple[dict[str, Floats], list[int]]:
    """(series, first steps of the spikes) of a run whose leaders are known; steps from 1.

    ``leads``: by name, the steps by which a series begins to rise before each spike of ``loss``.
    ``idle`` series know nothing of the spikes; the first of them has heavy tails.
    """
    rng = np.random.default_rng(seed)
    series = {"loss": clean_loss(rng, count)}
    at = np.linspace(2500, count - 2200, events).astype(int) + rng.integers(0, 200, events)
    for place in at:
        plant(rng, series["loss"], int(place), 12, 40.0)
    for name, lead in leads.items():
        values = 1.0 + 0.05 * noise(rng, count, 0.5)
        for place in at:
            rise = np.minimum(1 + np.arange(lead + 15), 10) / 10
            values[place - lead : place + 15] += 0.8 * rise
        series[name] = values
    for number, name in enumerate(idle):
        series[name] = 2.0 + 0.1 * noise(rng, count, 0.5, tails=3.0 if number == 0 else 30.0)
    return series, [int(place) + 1 for place in at]
