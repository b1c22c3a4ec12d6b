"""What the faults strike at: repositories, the real Hub in front of them, and what a pull left."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np
from huggingface_hub import close_session, constants
from safetensors.numpy import save_file

from tests.faults.faulty_hub import FaultyHub, Rule
from workbench.hub import api, fetch, transfer
from workbench.hub.cache import Snapshot
from workbench.hub.endpoint import reach_directly
from workbench.hub.server import LocalHub
from workbench.suites import Phase, Suite

REPO_ID = "owner/Model-Phase1"
BIG, SMALL = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
SIZE = 2_000_000
"""Bytes of BIG without its header."""
SEGMENT = 1 << 19
WRITE = 1 << 16
STALL = 30.0
"""Seconds that a server is silent; the client gives up long before."""
PATIENCE = 0.4
"""Seconds that the client waits for a byte."""


def fill(folder: Path, seed: int, size: int) -> None:
    """Write a model in two shards; other seeds give other weights under the same names."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(seed)
    for name, floats in ((BIG, size // 4), (SMALL, size // 16)):
        save_file({name[:11]: random.standard_normal(floats, dtype=np.float32)}, folder / name)
    weight_map = {name[:11]: name for name in (BIG, SMALL)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "hidden_size": seed}))
    vocabulary = {f"token {n}": n for n in range(5_000)}
    (folder / "tokenizer.json").write_text(json.dumps({"seed": seed, "vocab": vocabulary}))


@dataclass(frozen=True)
class Stage:
    """A Hub with a repository, and another one where its branch has moved on."""

    folder: Path
    hub: LocalHub
    moved: LocalHub

    @property
    def repository(self) -> Path:
        return self.hub.folder / REPO_ID

    @property
    def size(self) -> int:
        """Bytes of the files that a pull brings."""
        return sum(path.stat().st_size for path in self.repository.iterdir())

    def suite(self, cache: Path) -> tuple[Suite, Phase]:
        phase = Phase(phase=1, repo_id=REPO_ID)
        return Suite(name="tiny", title="Tiny", phases=(phase,), cache_dir=cache), phase

    def wrong_with(self, snapshot: Snapshot) -> list[str]:
        """What is not as it should be after a pull that succeeded; empty when all is well."""
        wrong = []
        root = snapshot.path.parents[1]
        etags = set()
        for source in sorted(self.repository.iterdir()):
            pointer = snapshot.path / source.name
            if not pointer.is_file() or pointer.read_bytes() != source.read_bytes():
                wrong.append(f"{source.name} is not the right file")
            elif not pointer.is_symlink() or pointer.resolve().parent != root / "blobs":
                wrong.append(f"{source.name} is no link to a blob")
            etags.add(content_address(source))
        if (root / "refs" / "main").read_text() != snapshot.path.name:
            wrong.append("refs/main names another commit")
        wrong += [f"blobs/{name} is left over" for name in names_in(root / "blobs") - etags]
        wrong += [f"blobs/{name} is missing" for name in etags - names_in(root / "blobs")]
        extra = names_in(snapshot.path) - names_in(self.repository)
        return wrong + [f"{name} does not belong into the snapshot" for name in extra]

    def wrong_after_failure(self, cache: Path) -> list[str]:
        """What is not as it should be after a pull that failed."""
        root = cache / f"models--{REPO_ID.replace('/', '--')}"
        etags = {content_address(path) for path in self.repository.iterdir()}
        wrong = []
        for name in names_in(root / "blobs"):
            etag, _, rest = name.partition(".")
            if rest == "" and content_address(root / "blobs" / name, len(etag)) != etag:
                wrong.append(f"blob {name} does not hold what its name says")
            if etag not in etags or rest not in ("", "part", "part.done"):
                wrong.append(f"blobs/{name} is left over")
        if any(root.glob("snapshots/*/config.json")) or any(root.glob("refs/*")):
            wrong.append("the snapshot looks complete")
        return wrong


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


def content_address(path: Path, digits: int | None = None) -> str:
    """The Hub's: sha256 for weights, git's blob id for the rest."""
    content = path.read_bytes()
    if digits == 64 or (digits is None and path.suffix == ".safetensors"):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def write_suite(home: Path) -> None:
    """Name the repository in a suite of the user's own, called tiny, on the client's Hub."""
    folder = home / "suites"
    folder.mkdir(parents=True)
    (folder / "tiny.toml").write_text('name = "tiny"\ntitle = "Tiny"\nphases = "tiny.csv"\n')
    (folder / "tiny.csv").write_text(f"phase,repo_id\n1,{REPO_ID}\n")


@contextmanager
def set_up(folder: Path, size: int = SIZE) -> Iterator[Stage]:
    """The stage, built in the folder; ``size`` is the larger file's."""
    fill(folder / "hub" / REPO_ID, 1, size)
    fill(folder / "moved" / REPO_ID, 2, size)
    with LocalHub(folder / "hub") as hub, LocalHub(folder / "moved") as moved:
        reach_directly(hub.endpoint)
        yield Stage(folder, hub, moved)


@contextmanager
def in_small() -> Iterator[None]:
    """The pull's measures made small: segments, writes, waits and the client's patience."""
    with (
        mock.patch.object(fetch, "SEGMENT", SEGMENT),
        mock.patch.object(fetch, "_WRITE", WRITE),
        mock.patch.object(transfer, "WAITS", (0.02, 0.05, 0.1, 0.3)),
        mock.patch.object(constants, "HF_HUB_DOWNLOAD_TIMEOUT", PATIENCE),
        mock.patch.object(api, "LONGEST", 1 << 20),
    ):
        yield


@contextmanager
def faulty(upstream: str, *rules: Rule, rate: float | None = None) -> Iterator[FaultyHub]:
    """A faulty Hub that the client meets without connections of a former one."""
    close_session()
    with FaultyHub(upstream, rules, rate=rate) as hub:
        yield hub
    close_session()
