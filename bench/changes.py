"""Sketching a checkpoint against reading it, and how often the stated error holds.

    python -m bench.changes [--megabytes N] [--runs N] [--threads N] [--suite demo]

Writes a bfloat16 file of YuLan-Mini's shapes, then alternates a cold sequential read of it and the
probe `changes` on it, cold as well, each in a process of its own; prints the medians, the resident
memory and the size of the sketches. Then compares neighbouring phases of a suite on disk, exactly
and by sketches narrow enough to be estimates, and counts how often the truth lies within the bound.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

WIDTH = 256
"""Of the sketches in the second part: most matrices of the demo are larger."""

READ = """
import sys, time
started = time.perf_counter()
with open(sys.argv[1] + "/model.safetensors", "rb", buffering=0) as file:
    room = bytearray(8 * 2**20)
    while file.readinto(room):
        pass
print(time.perf_counter() - started, 0, 0)
"""
SKETCH = """
import re, sys, time
from pathlib import Path
import torch
torch.set_num_threads(int(sys.argv[2]))
from probes.base import Measuring
from probes.changes import ChangesProbe
from workbench.checkpoints import Checkpoint
checkpoint = Checkpoint.open(Path(sys.argv[1]))
started = time.perf_counter()
found = ChangesProbe().measure(checkpoint, ChangesProbe.Settings(), Measuring())
seconds = time.perf_counter() - started
kept = sum(4 * len(sketch["values"]) for sketch in found.sketches)
# Not ru_maxrss, which begins with the memory of the process that started this one.
resident = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]
print(seconds, int(resident) / 1e6, kept / 1e6)
"""


def write_checkpoint(folder: Path, megabytes: int) -> int:
    """A Llama of YuLan-Mini's shapes with as many layers as fit; returns the file's bytes."""
    import json

    import torch
    from safetensors.torch import save_file

    d, ffn, kv, vocabulary = 1920, 4800, 384, 20_000
    shapes = {
        "self_attn.q_proj.weight": (d, d), "self_attn.k_proj.weight": (kv, d),
        "self_attn.v_proj.weight": (kv, d), "self_attn.o_proj.weight": (d, d),
        "mlp.gate_proj.weight": (ffn, d), "mlp.up_proj.weight": (ffn, d),
        "mlp.down_proj.weight": (d, ffn), "input_layernorm.weight": (d,),
        "post_attention_layernorm.weight": (d,),
    }  # fmt: skip
    layers = max(1, int(megabytes * 1e6 - 4 * vocabulary * d) // (2 * 36_500_000))
    names = {"model.embed_tokens.weight": (vocabulary, d), "lm_head.weight": (vocabulary, d),
             "model.norm.weight": (d,)}  # fmt: skip
    for layer in range(layers):
        names |= {f"model.layers.{layer}.{name}": shape for name, shape in shapes.items()}
    torch.manual_seed(0)
    state = {name: torch.randn(shape, dtype=torch.bfloat16) for name, shape in names.items()}
    config = {
        "model_type": "llama", "num_hidden_layers": layers, "hidden_size": d,
        "intermediate_size": ffn, "num_attention_heads": 30, "num_key_value_heads": 6,
        "vocab_size": vocabulary, "tie_word_embeddings": False,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    save_file(state, folder / "model.safetensors")
    return (folder / "model.safetensors").stat().st_size


def drop_from_cache(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def speed(megabytes: int, runs: int, threads: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        size = write_checkpoint(folder, megabytes)
        taken: dict[str, list[list[float]]] = {"read": [], "sketch": []}
        for _ in range(runs):
            for what, code in (("read", READ), ("sketch", SKETCH)):
                drop_from_cache(folder / "model.safetensors")
                done = subprocess.run(
                    [sys.executable, "-c", code, name, str(threads)],
                    capture_output=True, text=True, check=True,
                )  # fmt: skip
                taken[what].append([float(word) for word in done.stdout.split()])
        read, sketch = (statistics.median(t[0] for t in taken[w]) for w in ("read", "sketch"))
        memory, kept = taken["sketch"][0][1:]
        print(
            f"{size / 1e9:.2f} GB bf16, {threads} threads, median of {runs}: "
            f"cold read {read:.2f} s ({size / read / 1e9:.2f} GB/s), "
            f"sketch {sketch:.2f} s ({size / sketch / 1e9:.2f} GB/s), ratio {sketch / read:.2f}; "
            f"resident {memory:.2f} GB; sketches {kept:.2f} MB"
        )


def coverage(suite_name: str) -> None:
    """How many tensors' true values lie within the stated bound, over all neighbours."""
    import pyarrow as pa

    from analysis_db.pair_values import pair_rows, with_exact
    from probes.base import Measuring
    from probes.changes import ChangesProbe
    from workbench.checkpoints import Checkpoint
    from workbench.hub.cache import find_snapshot
    from workbench.jobs.pairs import exact_changes
    from workbench.settings import Home
    from workbench.suites import load_suite

    suite = load_suite(suite_name, Home.from_env())
    found = [(phase, find_snapshot(suite, phase)) for phase in suite.phases]
    opened = {
        phase.phase: Checkpoint.open(snapshot.path, overrides=phase.overrides)
        for phase, snapshot in found
        if snapshot is not None
    }
    tables = {}
    for phase, checkpoint in opened.items():
        settings = ChangesProbe.Settings(width=WIDTH)
        table = ChangesProbe().measure(checkpoint, settings, Measuring()).tables()["sketches"]
        tables[phase] = table.append_column("run_id", [[str(phase)] * table.num_rows])
    inside: dict[str, list[bool]] = {}
    for a, b in pairwise(opened):
        rows = pa.concat_tables([tables[a], tables[b]])
        estimated = pair_rows(_tensors(rows, a, b), [(a, b)]).table.to_pylist()
        truth = with_exact(_tensors(rows, a, b), exact_changes(opened[a], opened[b]))
        exact = {
            (r["metric"], r["module"], r["layer"]): r["value"]
            for r in pair_rows(truth, [(a, b)]).table.to_pylist()
        }
        for row in estimated:
            if not row["exact"]:
                value = exact[row["metric"], row["module"], row["layer"]]
                aggregate = row["module"] == "total" or (
                    row["layer"] is None and row["module"] not in ("embed", "lm_head")
                )
                kind = f"{row['metric']} of {'sums' if aggregate else 'tensors'}"
                inside.setdefault(kind, []).append(abs(row["value"] - value) <= row["error_bound"])
    for kind, hits in sorted(inside.items()):
        share = 100 * sum(hits) / len(hits)
        print(
            f"{kind}: {sum(hits)} of {len(hits)} estimates ({share:.1f} %) within the stated "
            f"bound, width {WIDTH}"
        )


def _tensors(rows, a: int, b: int):
    """The sketches of two phases, compared."""
    from analysis_db.pair_values import compare_module, joined

    names = rows["module"].to_pylist()
    parts = [
        compare_module(module, rows.filter([n == module for n in names]), [str(a), str(b)], [a, b])
        for module in sorted(set(names))
    ]
    return joined(parts, [a, b])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--suite", default="demo", help="'' leaves the second part out")
    asked = parser.parse_args()
    started = time.perf_counter()
    speed(asked.megabytes, asked.runs, asked.threads)
    if asked.suite:
        coverage(asked.suite)
    print(f"({time.perf_counter() - started:.0f} s)")


if __name__ == "__main__":
    main()
