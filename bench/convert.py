"""The fold of a full-size YuLan-Mini into Llama: time, memory, and whether the logits agree.

    python -m bench.convert [FOLDER]

Makes a checkpoint of the published shape with random weights (56 layers, 4.85 GB in bfloat16, head
stored twice, all 450 scales away from 1), folds it in a process of its own, and copies the same
file for comparison; both begin with a cold file and end when the disk has everything. Then our
model reads the one folder and plain transformers the other, in float32, one after the other.
Needs 10 GB of disk under FOLDER (default: here), which it frees again, and 12 GB of memory.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from math import prod
from pathlib import Path

import torch

from workbench.models import MiniYuLanConfig, MiniYuLanForCausalLM
from workbench.models.modeling import published_state_dict

TOKENS = (1, 17, 4242, 98765, 3, 1000, 55555, 8)
FOLD = """
import sys
from workbench.cli import app
sys.argv = ["workbench", "convert", "1", "llama", "--to", "llama", "--suite", "full"]
app(standalone_mode=False)
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""
LOGITS = f"""
import sys, torch, transformers
transformers.utils.logging.disable_progress_bar()
if sys.argv[1] == "stored":
    import workbench.models
model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32).eval()
with torch.no_grad():
    torch.save(model(torch.tensor([{TOKENS}])).logits[0], sys.argv[1] + ".pt")
assert ("workbench" in sys.modules) == (sys.argv[1] == "stored")
"""


def write_checkpoint(folder: Path) -> Path:
    """A phase repository of the published shape; returns its weight file."""
    folder.mkdir()
    config = MiniYuLanConfig()
    with torch.device("meta"):
        state = published_state_dict(MiniYuLanForCausalLM(config))
    entries, end = {}, 0
    for name, tensor in state.items():
        start, end = end, end + 2 * prod(tensor.shape)
        entries[name] = {
            "dtype": "BF16", "shape": list(tensor.shape), "data_offsets": [start, end],
        }  # fmt: skip
    header = json.dumps(entries).encode()
    header += b" " * (-len(header) % 8)
    draw = torch.Generator().manual_seed(0)
    path = folder / "model.safetensors"
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for name, tensor in state.items():
            if name in ("model.embed_tokens.weight", "lm_head.weight"):  # tied, published twice
                draw.manual_seed(1)
            numbers = random_numbers(name, prod(tensor.shape), draw).bfloat16()
            file.write(numbers.view(torch.uint8).numpy().data)
        os.fsync(file.fileno())
    config.architectures = ["MiniYuLanModelForCausalLM"]
    config.save_pretrained(folder)
    return path


def random_numbers(name: str, count: int, draw: torch.Generator) -> torch.Tensor:
    """Weights of such a size that the effective ones are those of a trained model."""
    noise = torch.randn(count, generator=draw)
    after = any(part in name for part in ("o_proj", "down_proj"))
    if "norm" in name or name == "lm_head_alpha":
        return noise.mul_(0.2).add_(1.0)
    if name.endswith("_alpha"):
        return noise.mul_(0.2).add_(1.0).mul_(0.0345 if after else 0.365)
    return noise.mul_(0.6 if after else 0.1 if "embed" in name or "head" in name else 0.05)


def cold(path: Path) -> None:
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def copy_seconds(path: Path, to: Path) -> float:
    cold(path)
    started = time.perf_counter()
    shutil.copyfile(path, to)
    with to.open("rb") as copied:
        os.fsync(copied.fileno())
    seconds = time.perf_counter() - started
    to.unlink()
    return seconds


def run(code: str, folder: Path, *words: str) -> str:
    """What the code prints in a process of its own, in ``folder``, which is its WORKBENCH_HOME."""
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        cwd=folder,
        env=os.environ | {"WORKBENCH_HOME": str(folder)},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return done.stdout


def main(where: Path) -> None:
    with tempfile.TemporaryDirectory(dir=where) as name:
        folder = Path(name)
        weights = write_checkpoint(folder / "stored")
        size = weights.stat().st_size / 1e9
        (folder / "suites").mkdir()
        (folder / "suites/full.csv").write_text(f"phase,folder\n1,{folder / 'stored'}\n")
        (folder / "suites/full.toml").write_text(
            'name = "full"\ntitle = "Full"\nphases = "full.csv"'
        )
        copied = copy_seconds(weights, folder / "copy")
        cold(weights)
        started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        fold = run(FOLD, folder)
        folded, after = (
            time.perf_counter() - started,
            resource.getrusage(resource.RUSAGE_CHILDREN),
        )
        busy = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        print(f"fold of {size:.2f} GB: {folded:.1f} s, {size / folded:.2f} GB/s, start included")
        print(f"of these the processor worked {busy:.1f} s")
        print(f"plain copy of the same file: {copied:.1f} s, {size / copied:.2f} GB/s")
        print(f"fold / copy: {folded / copied:.2f} x")
        print(f"peak resident memory of the fold: {int(fold.splitlines()[-1]) / 1024:.0f} MiB")
        for side in ("stored", "llama"):
            run(LOGITS, folder, side)
        ours, theirs = (torch.load(folder / f"{side}.pt") for side in ("stored", "llama"))
        difference = ((ours - theirs).abs().max() / ours.abs().max()).item()
        same = (ours.argmax(-1) == theirs.argmax(-1)).sum().item()
        print(f"largest difference of a logit / largest logit: {difference:.1e}")
        print(f"same next token at {same} of {len(TOKENS)} places")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=Path())
    main(parser.parse_args().folder)
