"""The weights probe in ranges from a Hub, against pull and measure, and against measure alone.

    python -m bench.remote [--size GB] [--runs N]

Makes a checkpoint of random weights in YuLan-Mini's layout and width, serves it by a local Hub in
a process of its own, and measures it in three ways, one after the other in every run, each in a
fresh process: the files of the checkpoint are warm for all of them. Prints the median seconds
(without imports), the bytes moved against the bytes needed, the peak of resident memory, and
whether the values are the same.
"""

import argparse
import hashlib
import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPO_ID = "bench/YuLan-Mini-Layout"
WAYS = ("local", "pull", "remote")
SHAPE = {
    "model_type": "miniyulan", "architectures": ["MiniYuLanModelForCausalLM"], "hidden_size": 1920,
    "intermediate_size": 4800, "num_attention_heads": 30, "num_key_value_heads": 6,
    "vocab_size": 20_000, "hidden_states_shrink": 0.187, "tie_word_embeddings": True,
}  # fmt: skip


def write_checkpoint(folder: Path, size: float) -> None:
    """About ``size`` GB in bf16; the embedding stored twice, as published."""
    import torch
    from safetensors.torch import save_file

    from workbench.models import MiniYuLanConfig, MiniYuLanForCausalLM
    from workbench.models.modeling import published_state_dict

    def config(layers: int) -> MiniYuLanConfig:
        return MiniYuLanConfig(**SHAPE, num_hidden_layers=layers)

    with torch.device("meta"):
        one, two = (published_state_dict(MiniYuLanForCausalLM(config(n))) for n in (1, 2))
        small, layer = (
            sum(2 * t.numel() for t in one.values()),
            sum(2 * t.numel() for t in two.values()) - sum(2 * t.numel() for t in one.values()),
        )
        layers = max(1, round((size * 1e9 - small) / layer) + 1)
        shapes = {
            n: t.shape
            for n, t in published_state_dict(MiniYuLanForCausalLM(config(layers))).items()
        }
    torch.manual_seed(0)
    state = {name: torch.randn(shape).mul_(0.02).bfloat16() for name, shape in shapes.items()}
    state["lm_head.weight"] = state["model.embed_tokens.weight"].clone()
    folder.mkdir(parents=True)
    config(layers).save_pretrained(folder)
    save_file(state, folder / "model.safetensors", {"format": "pt"})


def serve(folder: Path) -> None:
    """Until the standard input ends."""
    from workbench.hub.server import LocalHub

    with LocalHub(folder) as hub:
        print(hub.endpoint, flush=True)
        sys.stdin.read()


def measure(way: str, folder: Path, endpoint: str, cache: Path) -> None:
    """One measurement in this process; prints its figures as JSON."""
    from probes.base import Measuring
    from probes.weights import WeightsProbe
    from workbench.checkpoints import Checkpoint
    from workbench.hub.pull import pull_phase
    from workbench.hub.remote import remote_snapshot
    from workbench.suites import Phase, Suite

    phase = Phase(phase=1, repo_id=REPO_ID)
    suite = Suite(name="bench", title="Bench", phases=(phase,), cache_dir=cache)
    figures: dict[str, object] = {}
    started = time.perf_counter()
    if way == "remote":
        remote = remote_snapshot(suite, phase, endpoint)
        checkpoint = Checkpoint.open_remote(remote)
    elif way == "pull":
        checkpoint = Checkpoint.open(pull_phase(suite, phase, endpoint=endpoint).path)
    else:
        checkpoint = Checkpoint.open(folder / REPO_ID)
    found = WeightsProbe().measure(checkpoint, WeightsProbe.Settings(), Measuring())
    figures["seconds"] = time.perf_counter() - started
    if way == "remote":
        figures |= {"moved": remote.moved, "requests": remote.requests}
    tables = json.dumps({name: table.to_pylist() for name, table in found.tables().items()})
    figures["values"] = hashlib.sha256(tables.encode()).hexdigest()
    status = Path("/proc/self/status").read_text()  # ru_maxrss begins with the parent's peak
    figures["peak_kb"] = int(re.search(r"VmHWM:\s+(\d+) kB", status)[1])
    print(json.dumps(figures))


def run(way: str, folder: Path, endpoint: str) -> dict:
    with tempfile.TemporaryDirectory(dir=folder) as cache:
        arguments = [sys.executable, __file__, "--measure", way, str(folder), endpoint, cache]
        done = subprocess.run(arguments, capture_output=True, text=True, check=True)
        kept = sum(p.lstat().st_size for p in Path(cache).rglob("*") if p.is_file())
    return json.loads(done.stdout.splitlines()[-1]) | {"disk": kept}


def main(size: float, runs: int) -> None:
    folder = Path(tempfile.mkdtemp(prefix="bench-remote-"))
    hub = None
    try:
        write_checkpoint(folder / REPO_ID, size)
        needed = sum(p.stat().st_size for p in (folder / REPO_ID).glob("*.safetensors"))
        hub = subprocess.Popen(
            [sys.executable, __file__, "--serve", str(folder)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        endpoint = hub.stdout.readline().strip()
        run("remote", folder, endpoint)  # the Hub hashes what it serves once
        figures: dict[str, list[dict]] = {way: [] for way in WAYS}
        for _ in range(runs):
            for way in WAYS:
                figures[way].append(run(way, folder, endpoint))
    finally:
        if hub is not None:
            hub.communicate()
        shutil.rmtree(folder)
    print(f"{needed / 1e9:.2f} GB of weights, median of {runs} runs")
    for way in WAYS:
        told = figures[way]
        seconds = [f["seconds"] for f in told]
        print(
            f"{way:7} {statistics.median(seconds):7.2f} s ({min(seconds):.2f} to "
            f"{max(seconds):.2f}), peak memory {max(f['peak_kb'] for f in told) / 2**10:,.0f} MiB, "
            f"on disk {max(f['disk'] for f in told) / 1e9:.2f} GB"
        )
    moved = max(f["moved"] for f in figures["remote"])
    requests = max(f["requests"] for f in figures["remote"])
    print(f"remote moved {moved / needed:.4f} x the bytes needed in {requests} requests")
    values = {f["values"] for way in WAYS for f in figures[way]}
    print("values equal" if len(values) == 1 else "VALUES DIFFER")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=float, default=1.0, help="GB of weights")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--measure", nargs=4, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.serve:
        serve(asked.serve)
    elif asked.measure:
        way, folder, endpoint, cache = asked.measure
        measure(way, Path(folder), endpoint, Path(cache))
    else:
        main(asked.size, asked.runs)
