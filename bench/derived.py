"""How often the tests behind derived questions are wrong, and how often they find what is there.

    python -m bench.derived [--tries N]

Prints Markdown: false-positive rates at the nominal 5 %, and power, on simulated runs of 27 phases.
Seeds are fixed: the same numbers every time.
"""

import argparse
from collections.abc import Callable

import numpy as np
import pandas as pd

from analysis_db.chance import best_split, correlate
from analysis_db.companions import moved_with

Floats = np.ndarray
DRAWS, NOMINAL = 499, 0.05


def autocorrelated(random: np.random.Generator, n: int, phi: float) -> Floats:
    shocks = random.standard_normal(n + 50)
    for i in range(1, len(shocks)):
        shocks[i] += phi * shocks[i - 1]
    return shocks[50:]


def rate(tries: int, p_value: Callable[[np.random.Generator, int], float]) -> str:
    found = sum(
        p_value(np.random.default_rng(1_000_000 + seed), seed) <= NOMINAL for seed in range(tries)
    )
    return f"{found / tries:.3f}"


def correlation(n: int, phi: float, rho: float = 0.0) -> Callable[..., float]:
    def p(random: np.random.Generator, seed: int) -> float:
        left, other = autocorrelated(random, n, phi), autocorrelated(random, n, phi)
        right = rho * left + np.sqrt(1 - rho * rho) * other
        return float(correlate(left[:, None], right[:, None], seed=seed, draws=DRAWS).p_value[0, 0])

    return p


def levels(random: np.random.Generator, seed: int) -> float:
    """What comparing the levels of two walks would say."""
    left, right = (random.standard_normal(26).cumsum()[:, None] for _ in range(2))
    rho = abs(correlate(left, right, seed=seed, draws=1).spearman[0, 0])
    return 0.05 if rho > 0.388 else 1.0  # the textbook's 5 % for n = 26


def search(random: np.random.Generator, seed: int) -> float:
    """The smallest adjusted p-value of 6 layers that drift together, against 5 parts of a mix."""
    shared = random.standard_normal((26, 1))
    layers = shared + 0.5 * random.standard_normal((26, 6)) + 1.0
    frames = [
        pd.DataFrame(np.vstack([np.zeros(c.shape[1]), c.cumsum(axis=0)]))
        for c in (layers, random.standard_normal((26, 5)))
    ]
    return float(moved_with(*frames, seed=seed, draws=DRAWS).table["p_adjusted"].min())


def step(make: Callable[[np.random.Generator], Floats], trend: bool = True) -> Callable[..., float]:
    def p(random: np.random.Generator, seed: int) -> float:
        values = make(random)
        at = np.arange(len(values), dtype=float)
        return best_split(values, at, trend=trend, least=3, seed=seed, draws=DRAWS).p_value

    return p


def raised(height: float, n: int) -> Floats:
    return height * (np.arange(n) >= int(0.6 * n))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--tries", type=int, default=1000)
    tries = parser.parse_args().tries
    print(f"{tries} tries each, nominal level {NOMINAL}, {DRAWS} permutations.\n")
    print("| correlation of changes, nothing there | n = 26 | n = 12 | n = 7 |\n|---|---|---|---|")
    for phi in (0.0, 0.3, 0.6, -0.4):
        cells = [rate(tries, correlation(n, phi)) for n in (26, 12, 7)]
        print(f"| walks whose increments follow by {phi} | {' | '.join(cells)} |")
    print(f"| levels of two walks, textbook test (not offered) | {rate(tries, levels)} | | |")
    print(f"| 30 pairs searched, p_adjusted | {rate(tries, search)} | | |")
    print("\n| correlation, power | n = 26 |\n|---|---|")
    for rho in (0.3, 0.5, 0.7):
        print(f"| rho {rho} | {rate(tries, correlation(26, 0.0, rho))} |")
    print("\n| change points, nothing there | rate |\n|---|---|")
    nothing = {
        "levels: noise": step(lambda r: r.standard_normal(27)),
        "levels: noise about a trend": step(lambda r: r.standard_normal(27) + np.arange(27)),
        "levels: noise that follows by 0.3": step(lambda r: autocorrelated(r, 27, 0.3)),
        "levels: noise that follows by 0.6": step(lambda r: autocorrelated(r, 27, 0.6)),
        "levels: random walk": step(lambda r: r.standard_normal(27).cumsum()),
        "changes: random walk with drift": step(lambda r: r.standard_normal(26) + 1.0, False),
    }
    for name, p in nothing.items():
        print(f"| {name} | {rate(tries, p)} |")
    print("\n| change points, power by the step's height over the scatter | 2 | 3 | 4 | 8 |")
    print("|---|---|---|---|---|")
    for name, n, trend in (("levels, step in noise", 27, True), ("changes, new pace", 26, False)):
        cells = [
            rate(tries, step(lambda r, h=h, n=n: raised(h, n) + r.standard_normal(n), trend))
            for h in (2, 3, 4, 8)
        ]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
