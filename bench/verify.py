"""What verifying a checkpoint costs: the weights probe with and without it, on the same cold file.

    python -m bench.verify [--layers N] [--threads N] [--runs N] [--folder DIR]

Writes a Llama of YuLan-Mini's shapes in bfloat16 (17 layers, 2.0 GB). Four cases alternate, each in
a process of its own and after the file has been dropped from the page cache: hashing the file
alone, the weights probe alone, the probe while the file is hashed for the first time (as
``workbench probe`` does), and the probe of a file whose hash is remembered. Prints median seconds
and the ratio to the probe alone (median and range). Imports are not counted.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench.weights import FILE, forget, write
from workbench.hub.hashes import FileHashes, Verification, digest_of

ADDRESS, MEMO, FRESH = "address", "memo.jsonl", "fresh.jsonl"


def hash_alone(folder: Path) -> Callable[[], object]:
    return lambda: digest_of(folder / FILE, 64)


def probe_alone(folder: Path) -> Callable[[], object]:
    from probes.base import Measuring
    from probes.weights import WeightsProbe
    from workbench.checkpoints import Checkpoint

    Checkpoint.open(folder)  # imports transformers
    return lambda: WeightsProbe().measure(
        Checkpoint.open(folder), WeightsProbe.Settings(), Measuring()
    )


def verified(folder: Path, memo: Path) -> Callable[[], object]:
    """The probe as the local engine runs it: the values count once the file is verified."""
    measure = probe_alone(folder)
    files = {FILE: (folder / ADDRESS).read_text()}

    def work() -> None:
        verification = Verification(folder, files, FileHashes(memo))
        measure()
        verification.wait(files)
        verification.close()

    return work


def first_time(folder: Path) -> Callable[[], object]:
    (folder / FRESH).unlink(missing_ok=True)
    return verified(folder, folder / FRESH)


def remembered(folder: Path) -> Callable[[], object]:
    return verified(folder, folder / MEMO)


CASES = {
    "hash alone": hash_alone,
    "probe alone": probe_alone,
    "probe, first read": first_time,
    "probe, hash known": remembered,
}


def child(name: str, folder: Path) -> None:
    """Run one case once; prints seconds."""
    work = CASES[name](folder)
    forget(folder / FILE)
    started = time.perf_counter()
    work()
    print(time.perf_counter() - started)


def compare(folder: Path, threads: int, runs: int) -> None:
    """The cases in turn, so that all see the same load."""
    taken: dict[str, list[float]] = {name: [] for name in CASES}
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    for _ in range(runs):
        for name in CASES:
            command = [sys.executable, "-m", "bench.verify", "--child", name]
            done = subprocess.run(
                [*command, "--folder", str(folder)],
                env=environment,
                capture_output=True,
                text=True,
                check=True,
            )
            taken[name].append(json.loads(done.stdout))
    for name, times in taken.items():
        pairs = zip(times, taken["probe alone"], strict=True)
        ratios = [mine / base for mine, base in pairs]
        print(
            f"  {name:18s} {statistics.median(times):6.2f} s, {statistics.median(ratios):5.2f} x "
            f"the probe alone ({min(ratios):.2f} to {max(ratios):.2f})"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--layers", type=int, default=17)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where the file is written, on a real disk")
    parser.add_argument("--child", choices=CASES, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        child(asked.child, asked.folder)
        return
    with tempfile.TemporaryDirectory(dir=asked.folder) as made:
        folder = Path(made)
        size = write(folder, asked.layers)
        address = digest_of(folder / FILE, 64)
        (folder / ADDRESS).write_text(address)
        FileHashes(folder / MEMO).record(folder / FILE, address)
        print(f"{size / 1e9:.2f} GB, {asked.threads} threads, median of {asked.runs}:")
        compare(folder, asked.threads, asked.runs)


if __name__ == "__main__":
    main()
