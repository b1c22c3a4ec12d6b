"""The Hub cache on disk: which phase's checkpoint is there, whole, and what identifies it."""

import hashlib
import json
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from workbench.suites import Phase, Suite

WANTED = (
    "config.json", "generation_config.json", "*.safetensors", "*.safetensors.index.json",
    "tokenizer*", "special_tokens_map.json", "vocab.json", "merges.txt", "added_tokens.json",
)  # fmt: skip
"""What a probe reads, from the top folder of a repository; code and pickled weights never."""
UNWANTED = ("*.py", "*.bin")
OPTIMIZER = ("latest_universal", "*_universal/*")


@dataclass(frozen=True)
class Snapshot:
    """A phase's files on disk."""

    path: Path
    repo_id: str
    commit_sha: str
    files: dict[str, str]
    """Content address of each file that a probe reads (weights, config, tokenizer) by name: the
    sha256 of an LFS file, the git blob id of another. Optimizer states and what other tools
    have put beside them are left out, so that they do not change what a measurement rests on."""
    bytes: int
    """Of everything that the snapshot holds."""


def find_snapshot(suite: Suite, phase: Phase) -> Snapshot | None:
    """The phase's checkpoint if its weights are complete on disk; asks no network."""
    if phase.repo_id is None:
        return None
    root = repository_folder(suite, phase.repo_id)
    ref = root / "refs" / phase.revision
    commit = ref.read_text(encoding="utf-8").strip() if ref.is_file() else phase.revision
    folder = root / "snapshots" / commit
    if not complete(folder):
        return None
    paths = {p.relative_to(folder).as_posix(): p for p in sorted(folder.rglob("*")) if p.is_file()}
    return Snapshot(
        folder,
        phase.repo_id,
        commit,
        {name: _content_address(path) for name, path in paths.items() if is_wanted(name)},
        sum(path.stat().st_size for path in paths.values()),
    )


def repository_folder(suite: Suite, repo_id: str) -> Path:
    return cache_folder(suite) / f"models--{repo_id.replace('/', '--')}"


def is_wanted(name: str, *, with_optimizer: bool = False) -> bool:
    if any(fnmatch(name, pattern) for pattern in UNWANTED):
        return False
    if with_optimizer and any(fnmatch(name, pattern) for pattern in OPTIMIZER):
        return True
    return "/" not in name and any(fnmatch(name, pattern) for pattern in WANTED)


def _content_address(path: Path) -> str:
    """The name of the blob that a file of a snapshot links to.

    That is one link and no more: the blob may itself be a link into the store that the client
    shares between repositories, where files are named by their Xet hash. Where the cache has no
    links (some file systems have none), the content is hashed.
    """
    if path.is_symlink():
        return path.readlink().name
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def complete(folder: Path) -> bool:
    """Whether config and every weight file are there (a dangling link is not)."""
    if not (folder / "config.json").is_file():
        return False
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return (folder / "model.safetensors").is_file()
    try:
        shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, LookupError, TypeError, AttributeError):  # no index of weights at all
        return False
    return bool(shards) and all((folder / str(shard)).is_file() for shard in shards)


def cache_folder(suite: Suite) -> Path:
    """The Hub cache that the suite's checkpoints live in."""
    if suite.cache_dir is not None:
        return suite.cache_dir
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)
