"""Start-up of the command line: `workbench --help` against a bare interpreter, side by side.

    python -m bench.help [--runs N]

Prints the median seconds of each and the ratio; the two alternate, so that both see the same load.
"""

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path


def seconds(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - started


def main(runs: int) -> None:
    help_command = [str(Path(sys.executable).with_name("workbench")), "--help"]
    bare = [sys.executable, "-c", "pass"]
    seconds(help_command)
    pairs = [(seconds(help_command), seconds(bare)) for _ in range(runs)]
    ours, theirs = (statistics.median(side) for side in zip(*pairs, strict=True))
    print(f"workbench --help {ours:.3f} s, bare interpreter {theirs:.3f} s, {ours / theirs:.1f} x")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=9)
    main(parser.parse_args().runs)
