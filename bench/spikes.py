"""Spike detectors on simulated runs whose spikes are known, and leads whose leaders are known.

    python -m bench.spikes [--seeds N]

Prints Markdown: precision and recall of the events by kind of run and by length and height of the
spike, false alarms per 10,000 steps of clean curves, how often leads are found and invented,
seconds for a million steps. An event is right when it overlaps a planted spike of the same history,
from five steps before its first step to five after its last; only what a detector could judge
counts as missed. Seeds are fixed: the same numbers every time, but for the seconds.
"""

import argparse
import time
from collections import defaultdict
from dataclasses import asdict

import numpy as np
import pandas as pd

from analysis_db.detectors import DETECTORS, scan
from analysis_db.series import Series, SeriesKey
from analysis_db.spike_events import Event, find_events
from analysis_db.spike_leads import LeadSearch, lead_summary
from bench.simulated_runs import HEIGHTS, KINDS, Simulated, Spike, clean_loss, labelled, led_run

SLACK = 5
LEADS = {"variance": 40, "attention": 12}
TRUE = {f"simulated/{name}" for name in LEADS}
LENGTHS = ((1, 2), (3, 12), (13, 50))


def series(name: str, steps: np.ndarray, values: np.ndarray) -> Series:
    return Series(SeriesKey("simulated", name), steps, values)


def overlaps(event: Event, spike: Spike) -> bool:
    return event.start_step <= spike.last + SLACK and event.end_step >= spike.first - SLACK


def judged(run: Simulated, found: Series, spike: Spike, window: int) -> bool:
    """Whether a whole window lies before the spike since the beginning or the last gap."""
    begin = max((after for _, after in found.current.gaps if after <= spike.first), default=1)
    return spike.first - begin >= window


def tally(run: Simulated, name: str, counts: dict[str, list[int]], kind: str) -> None:
    """Add [right events, wrong events, spikes found, spikes that could be found]."""
    found = series("loss", run.steps, run.loss)
    events, _ = find_events(found, [DETECTORS[name]])
    events = [event for event in events if event.kind == "spike"]
    truth = [(spike, False) for spike in run.spikes] + [(spike, True) for spike in run.left_spikes]
    for event in events:
        left = event.superseded_from is not None
        right = any(overlaps(event, s) for s, is_left in truth if is_left == left)
        counts[kind][0 if right else 1] += 1
    for spike, is_left in truth:
        if judged(run, found, spike, DETECTORS[name].window):
            hit = any(overlaps(e, spike) for e in events if (e.superseded_from is None) != is_left)
            length = spike.last - spike.first + 1
            row = next(f"{a}-{b} steps" for a, b in LENGTHS if a <= length <= b)
            for key in (kind, row, f"{spike.height} sigmas"):
                counts[key][2] += hit
                counts[key][3] += 1


def share(part: int, whole: int) -> str:
    return f"{part / whole:.3f}" if whole else ""


def detectors_table(seeds: int) -> None:
    counts = {name: defaultdict(lambda: [0, 0, 0, 0]) for name in DETECTORS}
    for kind in KINDS:
        for seed in range(seeds):
            run = labelled(seed, kind)
            for name in DETECTORS:
                tally(run, name, counts[name], kind)
    rows = (*KINDS, *(f"{a}-{b} steps" for a, b in LENGTHS), *(f"{h} sigmas" for h in HEIGHTS))
    print("| runs | " + " | ".join(f"{n} precision | {n} recall" for n in DETECTORS) + " |")
    print("|---|" + "---|" * 2 * len(DETECTORS))
    for row in rows:
        cells = []
        for name in DETECTORS:
            right, wrong, hit, possible = counts[name][row]
            cells += [share(right, right + wrong), share(hit, possible)]
        print(f"| {row} | " + " | ".join(cells) + " |")
    totals = []
    for name in DETECTORS:
        right, wrong, hit, possible = np.sum([counts[name][kind] for kind in KINDS], axis=0)
        totals += [f"**{share(right, right + wrong)}**", f"**{share(hit, possible)}**"]
    print("| **all** | " + " | ".join(totals) + " |")


def false_alarms(seeds: int, tails: float) -> None:
    """On clean curves: warm-up, power law, 1-sqrt annealing."""
    events, steps = dict.fromkeys(DETECTORS, 0), 0
    for seed in range(seeds):
        loss = clean_loss(np.random.default_rng([seed, 1]), tails=tails)
        steps += len(loss)
        for event in find_events(series("loss", np.arange(1, len(loss) + 1), loss))[0]:
            events[event.detector] += event.kind == "spike"
    cells = " | ".join(f"{1e4 * count / steps:.2f}" for count in events.values())
    print(f"| {tails:g} degrees of freedom | {cells} |")


def leads_table(seeds: int) -> None:
    """True leaders found and idle series accused."""
    idle = ("heavy_tails", *(f"idle_{i}" for i in range(8)))
    frames = []
    for seed in range(seeds):
        for true in (LEADS, {}):
            curves, _ = led_run(seed, true, idle)
            made = {n: series(n, np.arange(1, len(v) + 1), v) for n, v in curves.items()}
            search = LeadSearch(made["loss"], find_events(made["loss"], [DETECTORS["mad"]])[0])
            for other in made.values():
                search.test(other)
            frames.append(pd.DataFrame([asdict(lead) for lead in search.leads()]))
    single = pd.concat(frames)
    over_run = pd.concat([lead_summary(frame) for frame in frames])
    print("| series | begins to rise | named, per run (q <= 0.05) | led, per event (p <= 0.05) "
          "| lead, median |\n|---|---|---|---|---|")  # fmt: skip
    single["led"] = single["lead_steps"].notna() & (single["p_value"] <= 0.05)
    over_run["named"] = over_run["q_value"] <= 0.05
    for name in (*LEADS, "idle"):
        runs, events = (
            frame[frame["leader"] == f"simulated/{name}"]
            if name in LEADS
            else frame[~frame["leader"].isin(TRUE)]
            for frame in (over_run, single)
        )
        median = events.loc[events["led"], "lead_steps"].median()
        rises, found = (
            (f"{LEADS[name]} steps before", f"{median:.0f} steps")
            if name in LEADS
            else ("never", "")
        )
        print(
            f"| {name} | {rises} | {runs['named'].mean():.3f} of {len(runs)} "
            f"| {events['led'].mean():.3f} of {len(events)} | {found} |"
        )
    chance = single.loc[~single["leader"].isin(TRUE), "p_value"]
    shares = ", ".join(f"{(chance <= a).mean():.3f} at {a}" for a in (0.02, 0.05, 0.2))
    print(f"\nIdle series with a p-value at or below a level: {shares}.")


def speed() -> None:
    values = np.random.default_rng(0).normal(2, 0.01, 1_000_000)
    for name, detector in DETECTORS.items():
        seconds = []
        for _ in range(5):
            started = time.perf_counter()
            scan(values, detector)
            seconds.append(time.perf_counter() - started)
        print(f"| {name} | {min(seconds):.2f} s |")


def main(seeds: int) -> None:
    print(f"### Events, {seeds} runs of 10,000 steps of each kind, 8 spikes in each\n")
    detectors_table(seeds)
    print("\n### False alarms per 10,000 steps of clean curves, by the tails of the noise\n")
    print("| noise: Student's t | " + " | ".join(DETECTORS) + " |\n|---|" + "---|" * len(DETECTORS))
    for tails in (30, 5, 3):
        false_alarms(seeds, tails)
    print(
        f"\n### Leads, {2 * seeds} runs of 12,000 steps with 6 spikes, half of them without any\n"
    )
    leads_table(seeds)
    print("\n### A million values, best of 5\n\n| detector | time |\n|---|---|")
    speed()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=40, help="runs of each kind")
    main(parser.parse_args().seeds)
