"""Pull a phase's checkpoint into a Hub cache with the Hub's own client, and check what came.

The client does not compare a download with the hash that the Hub states, so this does. The result
has the standard cache layout: whatever else uses the Hub's cache finds it, offline too. What makes
a snapshot count as complete, its config and the name of its revision, is written last.
"""

import glob
import hashlib
import os
import shutil
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.hub.cache import (
    UNWANTED,
    Snapshot,
    cache_folder,
    complete,
    find_snapshot,
    is_wanted,
    repository_folder,
)
from workbench.hub.failures import HubError, elsewhere, explained, phase_name
from workbench.suites import Phase, Suite

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoSibling


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
        _name_revision(repository_folder(suite, phase.repo_id), phase.revision, commit)
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

    info = HfApi(endpoint=endpoint).model_info(
        repo_id, revision=phase.revision, files_metadata=True
    )
    wanted = [
        f for f in info.siblings or [] if is_wanted(f.rfilename, with_optimizer=with_optimizer)
    ]
    root = repository_folder(suite, repo_id)
    folder = root / "snapshots" / str(info.sha)
    if not complete(folder):  # a pull was cut off, maybe before it had checked what came
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
