"""The Hub cache on disk: which phase's checkpoint is there, whole, and what identifies it."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path

from workbench.hub.hashes import FileHashes
from workbench.hub.shards import foreign_shard, is_file_name
from workbench.json_text import LONGEST, InvalidJSON, parse_json
from workbench.suites import Phase, Suite

CONFIG = "config.json"
FORMS = ("model.safetensors", "pytorch_model.bin")
"""Weights in one file, the form that is preferred first; an index beside it names shards."""
_SAFETENSORS = re.compile(r"model(-\d+-of-\d+)?\.safetensors")
_PICKLED = re.compile(r"pytorch_model(-\d+-of-\d+)?\.bin")
_BLOBS = "blobs"
_ADDRESS = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")
_TEXTS = (
    CONFIG, "generation_config.json", *(f"{single}.index.json" for single in FORMS), "tokenizer*",
    "special_tokens_map.json", "vocab.json", "merges.txt", "added_tokens.json",
)  # fmt: skip
_OPTIMIZER = (
    "latest_universal", "*_universal/*", "optimizer.pt", "optimizer.bin", "*.distcp", ".metadata",
    "*/.metadata",
)  # fmt: skip


def wanted(names: Iterable[str], *, with_optimizer: bool = False) -> list[str]:
    """Of the files of a repository those that a probe reads, in their order.

    Config, tokenizer and weights of the top folder; pickled weights only where there are no
    safetensors, code never. Optimizer states when asked for.
    """
    names = list(names)
    weights = _SAFETENSORS if any(map(_SAFETENSORS.fullmatch, names)) else _PICKLED
    return [
        name
        for name in names
        if weights.fullmatch(name)
        or ("/" not in name and _matches(name, _TEXTS) and not name.endswith(".py"))
        or (with_optimizer and _matches(name, _OPTIMIZER))
    ]


def optimizer_states(names: Iterable[str]) -> list[str]:
    """Of the files of a repository those of optimizer states."""
    return [name for name in names if _matches(name, _OPTIMIZER)]


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


@dataclass(frozen=True)
class Snapshot:
    """A phase's files on disk."""

    path: Path
    repo_id: str
    """Empty for a folder that is no repository's, as is ``commit_sha``."""
    commit_sha: str
    bytes: int
    """Of everything that the snapshot holds."""
    hashes: FileHashes = field(default_factory=FileHashes, compare=False, repr=False)
    """Remembers the hashes of files outside of a cache."""

    @cached_property
    def files(self) -> dict[str, str]:
        """Content address of each file that a probe reads (weights, config, tokenizer) by name.

        The sha256 of an LFS file, the git blob id of another. Optimizer states and files of other
        tools are left out: they do not change what a measurement rests on. In a cache it is the
        name of the file's blob, which ``hashes.Verification`` compares with the content; outside
        of a cache it is computed here.
        """
        names = wanted(sorted(path.name for path in self.path.iterdir() if path.is_file()))
        shards = _named_shards(self.path) - set(names)  # outside of the Hub, of any name
        return {name: self._content_address(name) for name in [*names, *sorted(shards)]}

    @cached_property
    def optimizer(self) -> dict[str, str]:
        """Content address of each file of optimizer states by name; none when they are not here."""
        below = (path for path in self.path.rglob("*") if path.is_file())
        names = sorted(path.relative_to(self.path).as_posix() for path in below)
        return {name: self._content_address(name) for name in optimizer_states(names)}

    def _content_address(self, name: str) -> str:
        """The name of the blob that a file of a cache links to, else the sha256 of the file.

        One link is followed and no more: the blob may itself be a link into the store that the
        client shares between repositories, where files are named by their Xet hash. Some file
        systems have no links; and a link out of any other folder states no hash.
        """
        path = self.path / name
        if path.is_symlink():
            blob = path.readlink()
            if blob.parent.name == _BLOBS and _ADDRESS.fullmatch(blob.name):
                return blob.name
        return self.hashes.address(path)


def find_snapshot(suite: Suite, phase: Phase, hashes: FileHashes | None = None) -> Snapshot | None:
    """The phase's checkpoint if its weights are complete on disk; asks no network.

    ``hashes`` remembers the hashes of files outside of a cache.
    """
    place = _place(suite, phase)
    if place is None:
        return None
    return snapshot_in(place[0], phase.repo_id or "", place[1], hashes)


def find_flaw(suite: Suite, phase: Phase) -> str | None:
    """Why what is on disk of the phase can never be its checkpoint; None for what may be missing.

    The reason is the middle of a sentence.
    """
    place = _place(suite, phase)
    return flaw_in(place[0]) if place is not None else None


def _place(suite: Suite, phase: Phase) -> tuple[Path, str] | None:
    """Folder and commit of the phase's checkpoint, whether it is there or not."""
    if phase.folder is not None:
        return phase.folder, ""
    if phase.repo_id is None:
        return None
    root = repository_folder(suite, phase.repo_id)
    ref = root / "refs" / phase.revision
    commit = ref.read_text("utf-8", "replace").strip() if ref.is_file() else phase.revision
    # A name that is a path would lead to the snapshot of another repository.
    return (root / "snapshots" / commit, commit) if is_file_name(commit) else None


def snapshot_in(
    folder: Path, repo_id: str, commit: str, hashes: FileHashes | None = None
) -> Snapshot | None:
    """What lies in the folder, if its weights are complete."""
    if not complete(folder):
        return None
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return Snapshot(folder, repo_id, commit, size, hashes or FileHashes())


def repository_folder(suite: Suite, repo_id: str) -> Path:
    return cache_folder(suite) / f"models--{repo_id.replace('/', '--')}"


def complete(folder: Path) -> bool:
    """Whether config and every weight file are there (a dangling link is not)."""
    if not (folder / CONFIG).is_file():
        return False
    for single in FORMS:
        index = folder / f"{single}.index.json"
        if index.is_file():
            shards = _shards(index, single)
            return not isinstance(shards, str) and all((folder / n).is_file() for n in shards)
        if (folder / single).is_file():
            return True
    return False


def flaw_in(folder: Path) -> str | None:
    """Why the index of the folder's weights cannot be followed; None for one that can, or none."""
    for single in FORMS:
        index = folder / f"{single}.index.json"
        if index.is_file():
            shards = _shards(index, single)
            return shards if isinstance(shards, str) else None
        if (folder / single).is_file():
            return None
    return None


def _named_shards(folder: Path) -> set[str]:
    """The weight files that the indexes of a folder name."""
    names: set[str] = set()
    for single in FORMS:
        index = folder / f"{single}.index.json"
        if index.is_file() and not isinstance(shards := _shards(index, single), str):
            names |= shards
    return {name for name in names if (folder / name).is_file()}


def _shards(index: Path, single: str) -> set[str] | str:
    """The files that an index names, or why it cannot be followed."""
    if index.stat().st_size > LONGEST:
        return f"{index.name} has more than {LONGEST:,} bytes"
    try:
        parsed = parse_json(index.read_bytes())
    except InvalidJSON as error:
        return f"{index.name} is not valid JSON ({error})"
    weight_map = parsed.get("weight_map") if isinstance(parsed, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        return f"{index.name} has no weight_map"
    return foreign_shard(weight_map, single) or set(weight_map.values())


def cache_folder(suite: Suite) -> Path:
    """The Hub cache that the suite's checkpoints live in."""
    if suite.cache_dir is not None:
        return suite.cache_dir
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)
