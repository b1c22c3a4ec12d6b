"""The whole weights probe against a plain cold read of the same file, and a naive norm loop.

    python -m bench.weights [--layers N] [--threads N] [--runs N] [--folder DIR]

Writes a Llama of YuLan-Mini's shapes in bfloat16, by default 17 layers and both embeddings, 2.0 GB;
``--layers 56`` is the full size, 4.85 GB. Three things alternate, each in a process of its own and
after the file has been dropped from the page cache: reading the file from end to end, the weights
probe (every statistic of every tensor and attention head in both views, and the histograms), and
torch.norm of one tensor after the other. Prints median seconds, what they are of the read that
went before (median and range), and the peak of resident memory. Imports are not counted; opening
the checkpoint is.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from math import prod
from pathlib import Path

FILE = "model.safetensors"
CONFIG = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 99_000,
    "hidden_size": 1920, "intermediate_size": 4800, "num_attention_heads": 30,
    "num_key_value_heads": 6, "max_position_embeddings": 4096, "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}  # fmt: skip


def write(folder: Path, layers: int) -> int:
    """Random weights, a standard deviation of 0.02; returns the bytes of the file."""
    import torch

    from workbench.models.architecture import architecture_of

    config = CONFIG | {"num_hidden_layers": layers}
    (folder / "config.json").write_text(json.dumps(config))
    shapes = architecture_of(config).shapes
    entries, end = {}, 0
    for name, shape in shapes.items():
        start, end = end, end + 2 * prod(shape)
        entries[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
    head = json.dumps(entries).encode()
    block = torch.randn(2**24 + 4099).mul_(0.02).bfloat16().view(torch.int16).numpy().data
    with (folder / FILE).open("wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        left = end // 2
        while left:
            file.write(block[: min(left, len(block))])
            left -= min(left, len(block))
        file.flush()
        os.fsync(file.fileno())
    return end


def forget(path: Path) -> None:
    """Drop a file from the page cache."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read(folder: Path) -> Callable[[], object]:
    """Sequentially, into one buffer."""
    buffer = memoryview(bytearray(2**24))

    def work() -> None:
        with (folder / FILE).open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass

    return work


def probe(folder: Path) -> Callable[[], object]:
    """As ``workbench probe`` runs it."""
    from probes.base import Measuring
    from probes.weights import WeightsProbe
    from workbench.checkpoints import Checkpoint

    Checkpoint.open(folder)  # imports transformers

    def work() -> None:
        WeightsProbe().measure(Checkpoint.open(folder), WeightsProbe.Settings(), Measuring())

    return work


def norm(folder: Path) -> Callable[[], object]:
    """One statistic, as scripts that are going round compute it."""
    import torch
    from safetensors import safe_open

    def work() -> None:
        with safe_open(folder / FILE, "pt") as file:
            for name in file.keys():  # noqa: SIM118  a handle is no dict
                torch.norm(file.get_tensor(name)).item()

    return work


WORKS = {"cold read": read, "weights probe": probe, "torch.norm loop": norm}


def child(name: str, folder: Path) -> None:
    """Do one thing once; prints seconds and the peak of resident bytes."""
    work = WORKS[name](folder)
    forget(folder / FILE)
    started = time.perf_counter()
    work()
    taken = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps([taken, peak]))


def compare(folder: Path, threads: int, runs: int) -> None:
    """The three in turn, so that all see the same load."""
    taken: dict[str, list[float]] = {name: [] for name in WORKS}
    peaks: dict[str, int] = dict.fromkeys(WORKS, 0)
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    for _ in range(runs):
        for name in WORKS:
            done = subprocess.run(
                [sys.executable, "-m", "bench.weights", "--child", name, "--folder", str(folder)],
                env=environment, capture_output=True, text=True, check=True,
            )  # fmt: skip
            seconds, peak = json.loads(done.stdout)
            taken[name].append(seconds)
            peaks[name] = max(peaks[name], peak)
    for name, times in taken.items():
        ratios = [mine / base for mine, base in zip(times, taken["cold read"], strict=True)]
        print(
            f"  {name:16s} {statistics.median(times):6.2f} s, "
            f"{statistics.median(ratios):5.2f} x the read ({min(ratios):.2f} to "
            f"{max(ratios):.2f}), {peaks[name] / 1e9:.2f} GB at most"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--layers", type=int, default=17)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where the file is written, on a real disk")
    parser.add_argument("--child", choices=WORKS, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        child(asked.child, asked.folder)
        return
    with tempfile.TemporaryDirectory(dir=asked.folder) as made:
        size = write(Path(made), asked.layers)
        print(
            f"{size / 1e9:.2f} GB in bfloat16, {asked.layers} layers, {asked.threads} threads, "
            f"median of {asked.runs}:"
        )
        compare(Path(made), asked.threads, asked.runs)


if __name__ == "__main__":
    main()
