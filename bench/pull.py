"""`workbench pull` against `hf download`: the same files from the same server, side by side.

    python -m bench.pull [--size GB] [--runs N] [--shards N] [--folder FOLDER]
    python -m bench.pull --kill N [--size GB]

The two commands alternate, each into a fresh cache, and both count with the start of their
process. Prints the median seconds of each and the ratio of the pairs. With --kill, the pull is
killed N times at random moments of its transfer, and the bytes that came twice are counted: what
the server had handed to its system, less than 64 KiB of which wait there on a connection.
"""

import argparse
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from tests.faults.counting import Coverage, sent_again, sent_of
from tests.faults.faulty_hub import FaultyHub
from tests.faults.stage import REPO_ID, write_suite

BIN = Path(sys.executable).parent
OURS = [str(BIN / "workbench"), "pull", "tiny", "--json"]
THEIRS = [str(BIN / "hf"), "download", REPO_ID]
SERVE = """
import sys
from pathlib import Path
from workbench.hub.server import LocalHub
with LocalHub(Path(sys.argv[1])) as hub:
    print(hub.endpoint, flush=True)
    sys.stdin.read()
"""


def make_checkpoint(folder: Path, size: float, shards: int) -> None:
    """Random bf16 weights of so many GB, in one file or in shards with an index."""
    folder.mkdir(parents=True)
    elements = int(size * 1e9 / 2 / shards / 8)
    random_bits = np.random.default_rng(0)
    names = [f"model-{i + 1:05}-of-{shards:05}.safetensors" for i in range(shards)]
    for name in names if shards > 1 else ["model.safetensors"]:
        tensors = {
            f"{name}.{n}": torch.from_numpy(
                random_bits.integers(-(1 << 15), 1 << 15, elements, np.int16)
            ).view(torch.bfloat16)
            for n in range(8)
        }
        save_file(tensors, folder / name)
    if shards > 1:
        index = ",".join(f'"{name}.{n}":"{name}"' for name in names for n in range(8))
        (folder / "model.safetensors.index.json").write_text(f'{{"weight_map":{{{index}}}}}')
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "tokenizer.json").write_text("{}")


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The endpoint of a Hub in a process of its own that has hashed its files already."""
    command = [sys.executable, "-c", SERVE, str(folder)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as process:  # type: ignore[call-overload]
        endpoint = process.stdout.readline().strip()
        subprocess.run([*THEIRS, "--dry-run"], env=variables(endpoint, folder), check=True,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
        try:
            yield endpoint
        finally:
            process.stdin.close()


def variables(endpoint: str, home: Path) -> dict[str, str]:
    own = {"HF_ENDPOINT": endpoint, "HF_HOME": str(home / "hf"), "WORKBENCH_HOME": str(home / "wb")}
    return os.environ | own | {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}


@contextmanager
def fresh_home(folder: Path) -> Iterator[Path]:
    home = Path(tempfile.mkdtemp(dir=folder))
    write_suite(home / "wb")
    try:
        yield home
    finally:
        shutil.rmtree(home)
        os.sync()  # what one run has left to write does not slow the next


def seconds(command: list[str], endpoint: str, folder: Path) -> float:
    with fresh_home(folder) as home:
        started = time.perf_counter()
        subprocess.run(command, env=variables(endpoint, home), check=True,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
        return time.perf_counter() - started


def compare(endpoint: str, folder: Path, runs: int) -> None:
    pairs = []
    for run in range(runs):
        took = {}
        for command in (OURS, THEIRS) if run % 2 == 0 else (THEIRS, OURS):
            took[command[0]] = seconds(command, endpoint, folder)
        pairs.append((took[OURS[0]], took[THEIRS[0]]))
        print(f"run {run + 1}: workbench {pairs[-1][0]:.2f} s, hf {pairs[-1][1]:.2f} s", flush=True)
    ours, theirs = (statistics.median(side) for side in zip(*pairs, strict=True))
    ratios = sorted(one / other for one, other in pairs)
    print(
        f"median of {runs}: workbench pull {ours:.2f} s, hf download {theirs:.2f} s; "
        f"ratio {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
    )


def kill(endpoint: str, folder: Path, kills: int, size: float) -> None:
    chance = random.Random(0)
    known: dict[str, Coverage] = {}
    most = killed = 0
    # So slow that all the kills fall into the transfer.
    with fresh_home(folder) as home, FaultyHub(endpoint, rate=size * 1e9 / kills / 0.35) as hub:
        while True:
            before = len(hub.settled())
            process = subprocess.Popen(OURS, env=variables(hub.endpoint, home),
                                       stdout=subprocess.DEVNULL)  # fmt: skip
            if killed < kills:
                while not sent_of(hub.requests[before:]) and process.poll() is None:
                    time.sleep(0.005)
                time.sleep(chance.uniform(0, 0.5))
                process.kill()
            ended = process.wait()
            again = sent_again(hub.settled()[before:], known)
            most = max(most, *again.values()) if again else most
            if ended != -9:
                break
            killed += 1
        sent = sum(sent_of(hub.requests).values())
        whole = sum(path.stat().st_size for path in (folder / "hub" / REPO_ID).iterdir())
    assert ended == 0, f"the pull ended with {ended}"
    print(
        f"{killed} kills: {sent / 1e6:,.1f} MB were sent of files of {whole / 1e6:,.1f} MB, "
        f"{(sent - whole) / killed / 2**20:.1f} MiB twice a kill, "
        f"at most {most / 2**20:.1f} MiB of a file"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=float, default=2.0, help="GB of weights")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--shards", type=int, default=1, help="files that the weights are in")
    parser.add_argument("--kill", type=int, metavar="N", help="kill the pull N times instead")
    parser.add_argument("--folder", type=Path, help="for the files, which are removed again")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=asked.folder) as temporary:
        folder = Path(temporary)
        make_checkpoint(folder / "hub" / REPO_ID, asked.size, asked.shards)
        with served(folder / "hub") as endpoint:
            if asked.kill:
                kill(endpoint, folder, asked.kill, asked.size)
            else:
                compare(endpoint, folder, asked.runs)


if __name__ == "__main__":
    main()
