"""kill -9 of a writer at random moments, again and again: torn runs and lost commits.

    python -m bench.kills [KILLS]

The writer stores one run after the other without a pause and says so after each. A commit is lost
when it was said and is not there; a run is torn when it has some of its rows. Exits with 1 for
either.
"""

import argparse
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from analysis_db.store import Store
from tests.analysis_db.rows import ROWS


def main(kills: int) -> int:
    random.seed(0)
    runs = torn = lost = 0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "metrics.duckdb"
        for _ in range(kills):
            writer = subprocess.Popen(
                [sys.executable, "-m", "tests.analysis_db.rows", str(path), "0"],
                stdout=subprocess.PIPE,
                text=True,
            )
            assert writer.stdout is not None
            heard = [writer.stdout.readline() for _ in range(random.randint(1, 8))]
            time.sleep(random.uniform(0, 0.06))
            writer.kill()
            heard += writer.stdout.read().split()  # what it had said and we had not read
            writer.wait()
            said = int(heard[-1]) + 1
            n = Store(path).table("FROM data.run").num_rows
            counts = (
                Store(path)
                .table("SELECT count(*) AS n FROM data.measurement GROUP BY run_id")["n"]
                .to_pylist()
            )
            torn += sum(count % ROWS != 0 for count in counts) + (sum(counts) != n * ROWS)
            lost += max(0, said - (n - runs))
            runs = n
    print(f"{kills} kills -9, {runs} runs of {ROWS} rows kept: torn {torn}, lost commits {lost}")
    return 1 if torn or lost else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("kills", type=int, nargs="?", default=100)
    sys.exit(main(parser.parse_args().kills))
