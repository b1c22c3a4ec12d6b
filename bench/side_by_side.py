"""Writers and readers of one store at once: failures, lost rows, how long each waits.

    python -m bench.side_by_side [--minutes 10] [--writers 2] [--readers 4]

Readers ask as fast as they can, as a page with many figures does; writers store a run of 2,000
rows, then pause for a tenth of a second. Each is a process of its own. Exits with 1 when anything
failed or is missing.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from analysis_db.errors import StoreError
from analysis_db.run_ids import new_run_id
from analysis_db.store import Store
from tests.analysis_db.rows import SUITE, measurements, phase, run

ROWS = 2_000
PAUSE_S = 0.1
READ = (
    "SELECT phase, count(*) AS n FROM phase_metrics WHERE suite = 's' AND probe = 'loss' "
    "AND metric = 'nll' GROUP BY phase"
)


def write(store: Store, until: float) -> dict[str, object]:
    """Store runs until then."""
    table = measurements(*[1.0] * ROWS)
    seconds, failures, done = [], [], []
    while time.time() < until:
        started = datetime.now(UTC)
        run_id = new_run_id(started)
        clock = time.perf_counter()
        try:
            store.write_run(run(run_id, started_at=started), table)
            done.append(run_id)
        except StoreError as error:
            failures.append(str(error))
        seconds.append(time.perf_counter() - clock)
        time.sleep(PAUSE_S)
    return {"seconds": seconds, "failures": failures, "done": done}


def read(store: Store, until: float) -> dict[str, object]:
    """Ask without a pause until then; every run has to be whole."""
    seconds, failures = [], []
    while time.time() < until:
        clock = time.perf_counter()
        try:
            counts = store.table(READ)["n"].to_pylist()
            if any(count % ROWS for count in counts):
                failures.append(f"a torn run: {counts}")
        except StoreError as error:
            failures.append(str(error))
        seconds.append(time.perf_counter() - clock)
    return {"seconds": seconds, "failures": failures}


def table_row(what: str, sides: list[dict[str, list[float]]]) -> str:
    seconds = np.concatenate([np.asarray(side["seconds"]) for side in sides]) * 1e3
    failed = sum(len(side["failures"]) for side in sides)
    return (
        f"| {what} | {len(sides)} | {len(seconds):,} | {failed} | {np.percentile(seconds, 50):.0f} "
        f"| {np.percentile(seconds, 95):.0f} | {seconds.max():.0f} |"
    )


def main(minutes: float, writers: int, readers: int) -> int:
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder) / "metrics.duckdb")
        store.put_suite(SUITE, [phase(1)])
        until = time.time() + 60 * minutes
        processes = [
            subprocess.Popen(
                [sys.executable, "-m", "bench.side_by_side", "--as", role, str(store.path),
                 str(until)],
                stdout=subprocess.PIPE,
                text=True,
            )
            for role in ["write"] * writers + ["read"] * readers
        ]  # fmt: skip
        found = [json.loads(process.communicate()[0]) for process in processes]
        wrote, asked = found[:writers], found[writers:]
        kept = store.table(
            "SELECT r.run_id, count(m.run_id) AS n FROM data.run r "
            "LEFT JOIN data.measurement m USING (run_id) GROUP BY r.run_id"
        )
    rows = dict(zip(kept["run_id"].to_pylist(), kept["n"].to_pylist(), strict=True))
    done = [run_id for side in wrote for run_id in side["done"]]
    lost = ROWS * len(done) - sum(rows.get(run_id, 0) for run_id in done)
    torn = sum(n != ROWS for n in rows.values())
    print("| | processes | times | failures | p50, ms | p95, ms | longest, ms |")
    print("|---|---|---|---|---|---|---|")
    print(table_row("write a run", wrote))
    print(table_row("ask", asked))
    print(f"\n{minutes:g} minutes; rows lost {lost:,} of {ROWS * len(done):,}, torn runs {torn}")
    for said in sorted({text for side in found for text in side["failures"]}):
        print(f"- {said}")
    failed = sum(len(side["failures"]) for side in found)
    return 1 if failed or lost or torn else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--as"]:
        _, _, role, path, end = sys.argv
        job = write if role == "write" else read
        print(json.dumps(job(Store(Path(path)), float(end))))
        sys.exit(0)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--writers", type=int, default=2)
    parser.add_argument("--readers", type=int, default=4)
    arguments = parser.parse_args()
    sys.exit(main(arguments.minutes, arguments.writers, arguments.readers))
