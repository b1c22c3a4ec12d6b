"""The demo suite audited as it is, and with each published trap planted in a copy of it.

    WORKBENCH_HOME=... python -m bench.audit

Needs the suite that `workbench demo` makes. Prints, trap by trap, what the audit found beyond what
it finds in the suite as it is, the bytes it read of how many, and the seconds it took (the local
Hub has hashed its files before). Exits with 1 when a trap was not found, or anything else was.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from workbench.hub.audit import Audit, audit_phases
from workbench.hub.server import LocalHub
from workbench.settings import Home
from workbench.suites import load_suite
from workbench.text import spans

WEIGHTS, PICKLED, CONFIG = "model.safetensors", "pytorch_model.bin", "config.json"
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
UP, HEAD = "model.layers.3.mlp.up_proj.weight", "lm_head.weight"


class Suite:
    """A copy of the demo suite; its files are links, which a trap replaces rather than changes."""

    def __init__(self, demo: Path, root: Path) -> None:
        shutil.copytree(demo / "suites", root / "suites", copy_function=os.link)
        self.home = Home(root)
        self.toml = root / "suites" / "demo.toml"
        self.hub = root / "suites" / "demo" / "hub"
        self.suite = load_suite("demo", self.home)

    def repo(self, phase: int) -> Path:
        (found,) = [p.repo_id for p in self.suite.phases if p.phase == phase]
        return self.hub / str(found)

    def write(self, phase: int, name: str, content: bytes) -> None:
        (self.repo(phase) / name).unlink(missing_ok=True)
        (self.repo(phase) / name).write_bytes(content)

    def copy(self, name: str, phase: int, *others: int) -> None:
        for other in others:
            self.write(other, name, (self.repo(phase) / name).read_bytes())

    def config(self, phase: int, **fields: object) -> None:
        config = json.loads((self.repo(phase) / CONFIG).read_text()) | fields
        self.write(phase, CONFIG, json.dumps(config).encode())

    def tensors(self, phase: int, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
        state = load_file(self.repo(phase) / WEIGHTS)
        change(state)
        (self.repo(phase) / WEIGHTS).unlink()
        save_file({n: t.clone() for n, t in state.items()}, self.repo(phase) / WEIGHTS)

    def shard(self, phase: int) -> None:
        state = load_file(self.repo(phase) / WEIGHTS)
        (self.repo(phase) / WEIGHTS).unlink()
        weight_map = {}
        for number, file in enumerate(SHARDS):
            names = sorted(state)[number::2]
            save_file({n: state[n] for n in names}, self.repo(phase) / file)
            weight_map |= dict.fromkeys(names, file)
        index = json.dumps({"weight_map": weight_map}).encode()
        self.write(phase, f"{WEIGHTS}.index.json", index)

    def universal(self, phase: int) -> Path:
        folder = self.repo(phase)
        return folder / (folder / "latest_universal").read_text()

    def audit(self) -> tuple[Audit, int, float]:
        """What was found, the bytes that a pull would fetch, and the seconds it took."""
        suite = load_suite("demo", self.home)
        with LocalHub(self.hub) as hub:
            for phase in suite.phases:
                if phase.repo_id:
                    hub.repository(phase.repo_id)
            started = time.perf_counter()
            audit = audit_phases(suite, suite.phases, hub.endpoint)
            seconds = time.perf_counter() - started
        listings = [f.listing for f in audit.facts if f.listing is not None]
        return audit, sum(f.size for one in listings for f in one.wanted()), seconds


def end_of_training(suite: Suite) -> None:
    """The state of the last step, in the repository of the phase before annealing."""
    last = suite.suite.phases[-1].end_step
    suite.universal(25).rename(suite.repo(25) / f"global_step{last}_universal")
    suite.write(25, "latest_universal", f"global_step{last}_universal".encode())


def stale_safetensors(suite: Suite) -> None:
    """As the converter leaves them that is run once for all revisions."""
    for phase in (8, 9, 10, 24):
        state = load_file(suite.repo(phase) / WEIGHTS)
        torch.save(state, suite.repo(phase) / PICKLED)
    suite.copy(WEIGHTS, 24, 8, 9, 10)


def missing_shard(suite: Suite) -> None:
    suite.shard(12)
    (suite.repo(12) / SHARDS[1]).unlink()


def shard_of_another_phase(suite: Suite) -> None:
    suite.shard(12)
    suite.shard(13)
    suite.copy(SHARDS[0], 12, 13)


def no_override(suite: Suite) -> None:
    text = suite.toml.read_text().partition("[overrides")[0]
    suite.toml.unlink()
    suite.toml.write_text(text)


TRAPS: dict[str, tuple[Callable[[Suite], object], str, tuple[int, ...]]] = {
    "YuLan-Mini: a phase whose repository is not there": (
        lambda s: shutil.rmtree(s.repo(22)), "missing-repository", (22,)),
    "YuLan-Mini: a repository without weights": (
        lambda s: (s.repo(1) / WEIGHTS).unlink(), "missing-file", (1,)),
    "YuLan-Mini: the config of another phase, uncorrected": (no_override, "config-value", (25,)),
    "YuLan-Mini: the last step uploaded as an earlier one": (
        end_of_training, "optimizer-step", (25,)),
    "Pythia: revisions that serve the final weights": (
        lambda s: s.copy(WEIGHTS, 24, *range(5, 12)), "identical-weights", (*range(5, 12), 24)),
    "Pythia: safetensors of another revision than the .bin": (
        stale_safetensors, "stale-safetensors", (8, 9, 10, 24)),
    "OLMo 2: three revisions that are byte-identical": (
        lambda s: s.copy(WEIGHTS, 6, 7, 8), "identical-weights", (6, 7, 8)),
    "one shard of another phase": (shard_of_another_phase, "identical-weights", (12, 13)),
    "a shard that is not there": (missing_shard, "missing-shard", (12,)),
    "weights cut in the upload": (
        lambda s: s.write(9, WEIGHTS, (s.repo(9) / WEIGHTS).read_bytes()[:-1000]),
        "broken-weights", (9,)),
    "a tensor that is missing": (
        lambda s: s.tensors(9, lambda state: state.pop(UP)), "missing-tensor", (9,)),
    "the config of a wider model": (
        lambda s: s.config(9, intermediate_size=320), "wrong-shape", (9,)),
    "weights of another dtype than the config says": (
        lambda s: s.tensors(9, lambda state: state.update({UP: state[UP].float()})),
        "dtype-differs", (9,)),
    "tied embeddings that are not equal": (
        lambda s: s.tensors(9, lambda state: state.update({HEAD: state[HEAD] * 2})),
        "tied-copies-differ", (9,)),
    "the step of another phase": (
        lambda s: s.config(9, num_steps_trained_before_this_epoch=1), "config-value", (9,)),
    "no optimizer where one is promised": (
        lambda s: (shutil.rmtree(s.universal(20)), (s.repo(20) / "latest_universal").unlink()),
        "optimizer-missing", (20,)),
    "an optimizer that lacks a file": (
        lambda s: (s.universal(20) / "zero" / UP / "exp_avg.pt").unlink(),
        "optimizer-incomplete", (20,)),
    "another tokenizer": (
        lambda s: s.write(9, "tokenizer.json", b"{}"), "tokenizer-differs", (9,)),
    "a config that is no JSON": (lambda s: s.write(9, CONFIG, b"<html>"), "broken-file", (9,)),
}  # fmt: skip
"""Name -> (what plants it, the check that has to find it, the phases where)."""


def serious(audit: Audit) -> set[tuple[str, int, str]]:
    return {
        (f.check, f.phase, json.dumps(f.evidence, default=str))
        for f in audit.findings
        if f.severity != "note"
    }


def main(demo: Path) -> int:
    wrong = 0
    with tempfile.TemporaryDirectory(dir=demo, prefix=".bench-audit-") as scratch:
        untouched = Suite(demo, Path(scratch) / "as-it-is")
        untouched.audit()  # loads the libraries
        audit, size, seconds = untouched.audit()
        known = serious(audit)
        told = sorted({(check, phase) for check, phase, _ in known})
        print(f"as it is: {told or 'no errors, no warnings'}, {_cost(audit, size, seconds)}")
        for number, (name, (plant, check, phases)) in enumerate(TRAPS.items()):
            suite = Suite(demo, Path(scratch) / str(number))
            plant(suite)
            audit, size, seconds = suite.audit()
            new = {(found, phase) for found, phase, _ in serious(audit) - known}
            found = new == {(check, phase) for phase in phases}
            wrong += not found
            verdict = f"{check} at {spans(phases)}" if found else f"WRONG: {sorted(new)}"
            print(f"{name:54} {verdict:36} {_cost(audit, size, seconds)}", flush=True)
            shutil.rmtree(suite.home.root)
    print(f"{len(TRAPS) - wrong} of {len(TRAPS)} traps found, and nothing else")
    return 1 if wrong else 0


def _cost(audit: Audit, size: int, seconds: float) -> str:
    moved = sum(facts.moved for facts in audit.facts)
    return f"{moved / 1e6:.1f} of {size / 1e6:.1f} MB, {seconds:.2f} s"


if __name__ == "__main__":
    argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0]).parse_args()
    sys.exit(main(Home.from_env().root))
