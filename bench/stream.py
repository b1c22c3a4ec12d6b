"""A suite through a small disk: the most that lay on it against the budget, and the time.

    python -m bench.stream [--size GB] [--phases N]

Makes phases of random weights in YuLan-Mini's layout, serves them by a local Hub, and runs the
real `workbench probe --stream --max-disk` with a budget of two checkpoints, looking at the cache
every few milliseconds; then the same with pull and probe, all phases on disk. Prints seconds, the
most bytes in the cache, and whether the stored values are the same.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from bench.remote import write_checkpoint

WORKBENCH = str(Path(sys.executable).with_name("workbench"))
TOML = (
    'name = "bench"\ntitle = "Bench"\nphases = "bench/phases.csv"\n'
    'local_hub = "bench/hub"\ncache_dir = "../cache"\n'
)


class Watch(threading.Thread):
    """Looks again and again at what the cache takes on the disk."""

    def __init__(self, cache: Path) -> None:
        super().__init__()
        self.cache = cache
        self.most = 0
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.wait(0.005):
            self.most = max(self.most, sum(map(_size, self.cache.glob("models--*/blobs/*"))))

    def __enter__(self) -> "Watch":
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.over.set()
        self.join()


def _size(path: Path) -> int:
    """As announced: a part counts whole from its first byte on, though it is sparse."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def make_suite(home: Path, phases: int, size: float) -> None:
    hub = home / "suites" / "bench" / "hub" / "bench"
    hub.mkdir(parents=True)
    (home / "suites" / "bench.toml").write_text(TOML)
    rows = [f"{n},bench/p{n},miniyulan" for n in range(1, phases + 1)]
    (home / "suites" / "bench" / "phases.csv").write_text(
        "\n".join(["phase,repo_id,model_type", *rows])
    )
    write_checkpoint(hub / "p1", size)
    for n in range(2, phases + 1):
        shutil.copytree(hub / "p1", hub / f"p{n}")
        with (hub / f"p{n}" / "model.safetensors").open("r+b") as weights:
            weights.seek(-1, os.SEEK_END)  # one byte makes it another file
            weights.write(bytes([n]))


def workbench(home: Path, *words: str) -> tuple[float, int]:
    """Seconds, and the most bytes in the cache."""
    started = time.perf_counter()
    with Watch(home / "cache") as watch:
        subprocess.run(
            [WORKBENCH, *words],
            env=os.environ | {"WORKBENCH_HOME": str(home)},
            stdout=subprocess.DEVNULL,
            check=True,
        )
    return time.perf_counter() - started, watch.most


def values(home: Path) -> list[dict[str, object]]:
    from analysis_db import Store

    sql = "SELECT phase, metric, view, layer, module, head, value FROM phase_metrics ORDER BY ALL"
    return Store(home / "metrics.duckdb").table(sql).to_pylist()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=float, default=0.5, help="GB of a checkpoint")
    parser.add_argument("--phases", type=int, default=6)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        home = Path(folder)
        make_suite(home, asked.phases, asked.size)
        one = sum(map(_size, (home / "suites/bench/hub/bench/p1").iterdir()))
        budget = 2 * one
        probe = ("probe", "bench", "--probes", "weights")
        seconds, most = workbench(home, *probe, "--stream", "--max-disk", str(budget))
        left = sum(map(_size, (home / "cache").glob("models--*/blobs/*")))
        streamed = values(home)
        (home / "metrics.duckdb").unlink()
        pulling, all_of_it = workbench(home, "pull", "bench")
        probing, _ = workbench(home, *probe)
        same = values(home) == streamed
    print(f"{asked.phases} phases of {one / 1e9:.2f} GB, budget {budget / 1e9:.3f} GB")
    print("| way | seconds | most on disk |\n|---|---|---|")
    print(f"| stream | {seconds:.1f} | {most / 1e9:.3f} GB, {left} bytes in the end |")
    print(f"| pull, then probe | {pulling + probing:.1f} | {all_of_it / 1e9:.3f} GB |")
    print(f"values equal: {same}; most against the budget: {most / budget:.4f}")


if __name__ == "__main__":
    main()
