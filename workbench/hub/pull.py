"""Pull a phase's checkpoint into a Hub cache with the Hub's own client, and check what came.

The client does not compare a download with the hash that the Hub states, so this does. The result
has the standard cache layout: whatever else uses the Hub's cache finds it, offline too. What makes
a snapshot count as complete, its config and the name of its revision, is written last.
"""

import glob
import hashlib
import json
import os
import shutil
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import getproxies_environment, proxy_bypass

from workbench.hub.failures import HubError, cache_folder, elsewhere, explained, phase_name
from workbench.suites import Phase, Suite

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoSibling

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
    root = _repository_folder(suite, phase.repo_id)
    ref = root / "refs" / phase.revision
    commit = ref.read_text(encoding="utf-8").strip() if ref.is_file() else phase.revision
    folder = root / "snapshots" / commit
    if not _complete(folder):
        return None
    paths = {p.relative_to(folder).as_posix(): p for p in sorted(folder.rglob("*")) if p.is_file()}
    return Snapshot(
        folder,
        phase.repo_id,
        commit,
        {name: _content_address(path) for name, path in paths.items() if _wanted(name)},
        sum(path.stat().st_size for path in paths.values()),
    )


def _repository_folder(suite: Suite, repo_id: str) -> Path:
    return cache_folder(suite) / f"models--{repo_id.replace('/', '--')}"


def _wanted(name: str, *, with_optimizer: bool = False) -> bool:
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


def _complete(folder: Path) -> bool:
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


def pull_phase(
    suite: Suite,
    phase: Phase,
    *,
    endpoint: str | None = None,
    with_optimizer: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Snapshot:
    """Fetch weights, config and tokenizer of a phase; code and ``.bin`` files never.

    ``progress`` is told (bytes done, bytes in all), by one thread at a time. Raises HubError: no
    repository or revision, no connection, no room on the disk, or a file whose hash is not the
    Hub's (it is removed). A pull that fails leaves nothing that ``find_snapshot`` takes for
    complete, and what a former pull had completed stays.
    """
    from huggingface_hub import is_offline_mode

    if phase.repo_id is None:
        raise HubError(
            f"{phase_name(suite, phase)} has no published checkpoint: leave it out of --phases."
        )
    if is_offline_mode() and not with_optimizer and (found := find_snapshot(suite, phase)):
        return found
    with explained(suite, phase):
        commit = _fetch(suite, phase, phase.repo_id, endpoint, with_optimizer, progress)
        _name_revision(_repository_folder(suite, phase.repo_id), phase.revision, commit)
    snapshot = find_snapshot(suite, phase)
    if snapshot is None:
        raise HubError(
            f"{phase_name(suite, phase)}: repository {phase.repo_id} has no complete weights in "
            "safetensors form: its page on the Hub shows what it holds."
        )
    return snapshot


def _fetch(
    suite: Suite,
    phase: Phase,
    repo_id: str,
    endpoint: str | None,
    with_optimizer: bool,
    progress: Callable[[int, int], None],
) -> str:
    """Bring what is missing of the revision, checked, into the cache; returns the commit sha."""
    from huggingface_hub import HfApi, snapshot_download

    _reach_directly(endpoint)
    info = HfApi(endpoint=endpoint).model_info(
        repo_id, revision=phase.revision, files_metadata=True
    )
    wanted = [f for f in info.siblings or [] if _wanted(f.rfilename, with_optimizer=with_optimizer)]
    root = _repository_folder(suite, repo_id)
    folder = root / "snapshots" / str(info.sha)
    if not _complete(folder):  # a pull was cut off, maybe before it had checked what came
        for file in wanted:
            if (folder / file.rfilename).is_file() and not _intact(folder, file):
                _remove(folder / file.rfilename)
    missing = [f for f in wanted if not (folder / f.rfilename).is_file()]
    need = _bytes_to_fetch(root, missing)
    _check_room(suite, phase, need)
    report = _reporter(progress, need)
    # By commit, so that a revision that moves meanwhile does not mix two checkpoints.
    config = [f for f in missing if f.rfilename == "config.json"]
    for batch in ([f for f in missing if f not in config], config):
        if batch:
            snapshot_download(
                repo_id,
                revision=info.sha,
                cache_dir=cache_folder(suite),
                endpoint=endpoint,
                allow_patterns=_patterns([f.rfilename for f in batch]),
                ignore_patterns=list(UNWANTED),
                tqdm_class=report,
            )
            _check(suite, phase, folder, batch)
    return str(info.sha)


def _patterns(names: Sequence[str]) -> list[str]:
    """Files of the top folder by name, others by their folder: the client tries each pattern."""
    tops = {(top, bool(rest)) for top, _, rest in (name.partition("/") for name in names)}
    return sorted(glob.escape(top) + ("/*" if is_folder else "") for top, is_folder in tops)


def _bytes_to_fetch(root: Path, missing: Sequence["RepoSibling"]) -> int:
    """Bytes of the blobs that are not in the cache yet, each counted once."""
    sizes = {(f.lfs.sha256 if f.lfs else f.blob_id): f.size or 0 for f in missing}
    return sum(size for blob, size in sizes.items() if not (root / "blobs" / str(blob)).exists())


def _check_room(suite: Suite, phase: Phase, need: int) -> None:
    cache = cache_folder(suite)
    cache.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(cache).free
    if need > free:
        raise HubError(
            f"{phase_name(suite, phase)} needs {need / 1e9:,.1f} GB and the disk of {cache} has "
            f"{free / 1e9:,.1f} GB free: free some space, or {elsewhere(suite)}."
        )


def _check(suite: Suite, phase: Phase, folder: Path, files: Sequence["RepoSibling"]) -> None:
    """Raise HubError for files that did not come, or came damaged; those are removed."""
    absent = [f.rfilename for f in files if not (folder / f.rfilename).is_file()]
    if absent:
        raise HubError(f"{phase_name(suite, phase)}: {absent[0]} did not arrive: pull again.")
    damaged = [f for f in files if not _intact(folder, f)]
    for file in damaged:
        _remove(folder / file.rfilename)
    if damaged:
        names = ", ".join(f.rfilename for f in damaged)
        raise HubError(
            f"{phase_name(suite, phase)}: {names} arrived damaged (not the hash that the Hub "
            "states) and was removed: pull again."
        )


def _intact(folder: Path, file: "RepoSibling") -> bool:
    """Whether the content has the hash that the Hub states for it."""
    path = folder / file.rfilename
    if file.lfs is not None:
        with path.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest() == file.lfs.sha256
    text = path.read_bytes()  # small: the Hub wants LFS above 10 MB
    return hashlib.sha1(b"blob %d\x00" % len(text) + text).hexdigest() == file.blob_id


def _remove(path: Path) -> None:
    """Delete a file of a snapshot with the blob, or the chain of links, that it leads to."""
    while path.is_symlink():
        target = path.parent / path.readlink()
        path.unlink()
        path = target
    path.unlink(missing_ok=True)


def _name_revision(root: Path, revision: str, commit: str) -> None:
    """Write that the revision is this commit, as the client does, in one step."""
    if revision == commit:
        return
    ref = root / "refs" / revision
    ref.parent.mkdir(parents=True, exist_ok=True)
    written = ref.with_name(f"{ref.name}.{os.getpid()}.tmp")
    written.write_text(commit, encoding="utf-8")
    written.replace(ref)


def _reach_directly(endpoint: str | None) -> None:
    """Keep a proxy that the environment names out of the way to a Hub on this machine."""
    from huggingface_hub import close_session

    host = urlsplit(endpoint or "").hostname
    proxies = getproxies_environment()
    if host == "127.0.0.1" and proxies and not proxy_bypass(host):
        os.environ["no_proxy"] = ",".join(filter(None, (proxies.get("no"), host)))
        close_session()  # the client read the environment when it opened its session


def _reporter(progress: Callable[[int, int], None], total: int) -> type:
    """A bar class for the Hub's client that draws nothing and reports the bytes on disk."""
    from huggingface_hub.utils import tqdm

    lock = threading.Lock()
    done = 0

    class Reporter(tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            # The client has a bar for the bytes received, too, and one that counts files.
            self._counts = kwargs.get("name") == "huggingface_hub.snapshot_download"
            super().__init__(*args, **(kwargs | {"disable": True}))

        def update(self, n: float | None = 1) -> None:
            nonlocal done
            if self._counts and n:
                with lock:
                    done += int(n)
                    progress(min(done, total), total)

    return Reporter
