"""An optimizer's state read and measured as it streams by, against a plain read of its bytes.

    python -m bench.optimizer [--size GB] [--runs N] [--threads N]

Writes a universal state of YuLan-Mini's layer shapes with the weights beside it, then alternates
the two, each on a cold cache: `cat`, so to speak, of every file that the probe reads, and the probe
in a process of its own. Prints medians, their ratio, and the resident memory of the probe's
process, before the first parameter and at its most. Imports are not counted.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROBE = """
import sys, time
from pathlib import Path
import torch
torch.set_num_threads(int(sys.argv[2]))
from probes.base import Measuring
from probes.optimizer import OptimizerProbe
from workbench.checkpoints import Checkpoint
def resident():  # getrusage would count what the parent had
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) * 1024
Checkpoint.open(Path(sys.argv[1]))  # imports transformers
before, started = resident(), time.perf_counter()
settings = OptimizerProbe.Settings(lr=0.01, matrix_lr=0.01 / 7.5, eps=1e-15, beta1=0.9, beta2=0.95)
found = OptimizerProbe().measure(Checkpoint.open(Path(sys.argv[1])), settings, Measuring())
print(time.perf_counter() - started, before, resident(), len(found.rows))
"""


def write(folder: Path, size: float) -> None:
    """A checkpoint in bf16 and its universal state of about ``size`` GB, random values."""
    import torch

    from workbench.models import MiniYuLanConfig, MiniYuLanForCausalLM
    from workbench.training.publish import save_weights

    layer = 12 * (2 * 1920 * 1920 + 2 * 384 * 1920 + 3 * 4800 * 1920)
    layers = max(1, round((size * 1e9 - 12 * 8000 * 1920) / layer))
    config = MiniYuLanConfig(
        vocab_size=8000, hidden_size=1920, intermediate_size=4800, num_hidden_layers=layers,
        num_attention_heads=30, num_key_value_heads=6, tie_word_embeddings=True,
    )  # fmt: skip
    with torch.device("meta"):
        shapes = dict(MiniYuLanForCausalLM(config).named_parameters())
    weights = {}
    zero = folder / "global_step1000_universal" / "zero"
    for name, shape in shapes.items():
        part = zero / name
        part.mkdir(parents=True)
        weight = torch.randn(shape.shape).mul_(0.02)
        weights[name] = weight
        average = torch.randn(shape.shape).mul_(1e-6)
        for key, tensor in (("fp32", weight), ("exp_avg", average), ("exp_avg_sq", average**2)):
            torch.save({"cat_dim": 0, "param": tensor}, part / f"{key}.pt")
        torch.save(torch.tensor(1000.0), part / "step.pt")
    (folder / "latest_universal").write_text("global_step1000_universal")
    save_weights(folder, weights)
    config.save_pretrained(folder)


def files_of(folder: Path) -> list[Path]:
    return [p for p in folder.rglob("*") if p.suffix in (".pt", ".safetensors")]


def forget(paths: list[Path]) -> None:
    """Let the system drop the files from its cache."""
    for path in paths:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def plain_read(paths: list[Path]) -> float:
    buffer = bytearray(8 * 2**20)
    started = time.perf_counter()
    for path in paths:
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=float, default=0.8, help="GB of the state")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name:
        folder = Path(name)
        write(folder, asked.size)
        paths = files_of(folder)
        size = sum(path.stat().st_size for path in paths)
        reads, probes, ratios = [], [], []
        for _ in range(asked.runs):
            forget(paths)
            reads.append(plain_read(paths))
            forget(paths)
            done = subprocess.run(
                [sys.executable, "-c", PROBE, str(folder), str(asked.threads)],
                capture_output=True, text=True, check=True,
                env=os.environ | {"OMP_NUM_THREADS": str(asked.threads)},
            )  # fmt: skip
            seconds, before, most, rows = map(float, done.stdout.split())
            probes.append(seconds)
            ratios.append(seconds / reads[-1])
    print(f"{size / 1e9:.2f} GB in {len(paths)} files, {asked.threads} threads, {asked.runs} runs")
    print("| way | median seconds | GB/s |\n|---|---|---|")
    for way, taken in (("plain cold read", reads), ("streamed and measured", probes)):
        middle = statistics.median(taken)
        print(f"| {way} | {middle:.2f} | {size / 1e9 / middle:.2f} |")
    print(f"ratio: median {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    print(
        f"resident: {before / 1e6:.0f} MB with the libraries, {most / 1e6:.0f} MB at the most; "
        f"{rows:.0f} values"
    )


if __name__ == "__main__":
    main()
