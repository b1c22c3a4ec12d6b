"""Are a checkpoint's values the same whichever way they were measured?

    python -m bench.equality [--home FOLDER] [--phase N]

Measures one phase of the demo suite again and again with the real command, each time into a copy of
the store: with one thread and with two, from the disk and in ranges from the Hub, and with other
batch sizes. Compares every value with the first run's, and prints for each probe how many values
there are, how many are the same bit for bit, and the largest difference, relative to the larger
magnitude of the two or, for values near zero, to the median magnitude of their metric. Makes the
demo in a temporary folder unless ``--home`` has one.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd

import analysis_db

FIRST = "2 threads, from disk"
TENSORS = "weights,spectra,changes"
MODEL = "activations,attention,loss,benchmarks"
BATCHED = ("activations", "attention", "loss", "benchmarks")
QUERY = """
    SELECT probe, metric, view, layer, module, head, domain, value FROM phase_metrics
    WHERE suite = 'demo' AND phase = $phase
    UNION ALL
    SELECT 'benchmarks', metric, NULL, NULL, task, NULL, NULL, value FROM benchmarks
    WHERE suite = 'demo' AND phase = $phase AND source = 'measured'
    UNION ALL
    SELECT probe, kind, view, layer, module, generate_subscripts(values, 1), NULL, unnest(values)
    FROM sketches WHERE suite = 'demo' AND phase = $phase
"""


def ways() -> dict[str, tuple[int, list[str]]]:
    """Name -> (threads, options of `workbench probe`)."""
    found = {FIRST: (2, ["--probes", f"{TENSORS},{MODEL}"])}
    found["1 thread"] = (1, ["--probes", f"{TENSORS},{MODEL}"])
    found["in ranges from the Hub"] = (2, ["--probes", TENSORS, "--remote"])
    for size in (1, 3, 16):
        sizes = [word for probe in BATCHED for word in ("--set", f"{probe}.batch_size={size}")]
        found[f"batches of {size}"] = (2, ["--probes", MODEL, *sizes])
    return found


def workbench(home: Path, *words: str, threads: int = 2) -> None:
    environment = os.environ | {"WORKBENCH_HOME": str(home), "OMP_NUM_THREADS": str(threads)}
    command = [str(Path(sys.executable).with_name("workbench")), *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(words)}\n{done.stdout}{done.stderr}")


def measured(home: Path, phase: int, threads: int, options: list[str]) -> pd.DataFrame:
    """Everything that was measured of the phase this way, by where it stands."""
    store = home / "metrics.duckdb"
    kept = store.with_suffix(".kept")
    shutil.copy(store, kept)
    try:
        workbench(
            home, "probe", "demo", "--phases", str(phase), "--force", *options, threads=threads
        )
        frame = analysis_db.open(store).sql(QUERY, {"phase": phase})
    finally:
        os.replace(kept, store)
    probes = options[options.index("--probes") + 1].split(",")
    frame = frame[frame["probe"].isin(probes)]
    keys = [column for column in frame.columns if column != "value"]
    frame[keys] = frame[keys].astype(object).where(frame[keys].notna(), "").astype(str)
    return frame.set_index(keys).sort_index()


def compare(first: pd.DataFrame, other: pd.DataFrame) -> None:
    """One line a probe."""
    both = first.join(other, how="outer", suffixes=("_a", "_b"), sort=False)
    both = both[both.index.get_level_values("probe").isin(other.index.get_level_values("probe"))]
    a, b = both["value_a"], both["value_b"]
    usual = a.abs().groupby(level=["probe", "metric"]).transform("median")
    scale = pd.concat([a.abs(), b.abs(), usual], axis=1).max(axis=1)
    apart = ((a - b).abs() / scale).where(a != b, 0.0)
    for probe, part in apart.groupby(level="probe"):
        lost = int((a[part.index].isna() != b[part.index].isna()).sum())
        worst = part.idxmax()
        where = " ".join(str(word) for word in worst[1:] if word != "") if part.max() else ""
        print(
            f"  {probe:12} {len(part):7,} values, {int((part == 0).sum()):7,} the same bit for "
            f"bit, largest difference {part.max():.1e} {where}"
            + (f", {lost} ON ONE SIDE ALONE" if lost else "")
        )


def main(home: Path | None, phase: int) -> None:
    with tempfile.TemporaryDirectory(prefix="bench-equality-") as temporary:
        if home is None:
            home = Path(temporary)
            workbench(home, "demo")
        first = None
        for name, (threads, options) in ways().items():
            found = measured(home, phase, threads, options)
            print(f"{name}: {len(found):,} values", flush=True)
            if first is None:
                first = found
            else:
                compare(first, found)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--home", type=Path, help="a WORKBENCH_HOME that holds the demo")
    parser.add_argument("--phase", type=int, default=20)
    asked = parser.parse_args()
    main(asked.home, asked.phase)
