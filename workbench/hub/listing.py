"""What the Hub states of a revision: its commit, and size and hash of every file."""

import json
import re
from collections import Counter
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from workbench.hub import cache
from workbench.hub.api import OddAnswer, ask, ask_pages
from workbench.text import printable

LARGEST = 1 << 53
"""Bytes of a file; JSON states no larger number exactly."""
_COMMIT = re.compile(r"[0-9a-f]{40}")
_HASH = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")


@dataclass(frozen=True)
class HubFile:
    """One file of a commit."""

    name: str
    size: int
    """Bytes."""
    etag: str
    """Its content address, the name of its blob in the cache: the sha256 (64 hex digits) of an
    LFS file, the git blob id (40) of another."""


@dataclass(frozen=True)
class Listing:
    """All files of one commit of a repository."""

    repo_id: str
    commit_sha: str
    files: tuple[HubFile, ...]

    def wanted(self, *, with_optimizer: bool = False) -> list[HubFile]:
        """Those that a probe reads, see ``cache.wanted``."""
        by_name = {file.name: file for file in self.files}
        return [by_name[name] for name in cache.wanted(by_name, with_optimizer=with_optimizer)]


def list_files(repo_id: str, revision: str, endpoint: str | None) -> Listing:
    """Ask the Hub; raises what its client raises, after faults that pass have been waited for.

    Raises OddAnswer for an answer that no Hub gives; nothing in it can lead out of the cache, and
    no size in it can be other than a file's.
    """
    where = f"revision/{quote(revision, safe='')}"
    info = ask(repo_id, where, endpoint, {"blobs": "true"})
    if not isinstance(info, dict):
        raise OddAnswer("it describes no model")
    commit = info.get("sha")
    if not isinstance(commit, str) or not _COMMIT.fullmatch(commit):
        raise OddAnswer(f"it names {_shown(commit)} as the commit")
    siblings = _objects(info.get("siblings") or [])
    if siblings and all(entry.get("blobId") is None for entry in siblings):  # as some mirrors do
        files = _in_tree(repo_id, commit, endpoint)
    else:
        files = [_file(f.get("rfilename"), f, "blobId", "sha256") for f in siblings]
    names = Counter(file.name for file in files)
    if names and (most := names.most_common(1)[0])[1] > 1:
        raise OddAnswer(f"it lists {_shown(most[0])} twice")
    return Listing(repo_id, commit, tuple(files))


def _in_tree(repo_id: str, commit: str, endpoint: str | None) -> list[HubFile]:
    entries = _objects(ask_pages(repo_id, f"tree/{commit}", endpoint, {"recursive": "true"}))
    for entry in entries:
        if entry.get("type") not in ("file", "directory"):
            raise OddAnswer(f"it lists something of the type {_shown(entry.get('type'))}")
    files = [entry for entry in entries if entry["type"] == "file"]
    return [_file(entry.get("path"), entry, "oid", "oid") for entry in files]


def _objects(listed: Any) -> list[dict[str, Any]]:
    if not isinstance(listed, list) or not all(isinstance(entry, dict) for entry in listed):
        raise OddAnswer("its list of files is no list of objects")
    return listed


def _file(name: Any, entry: dict[str, Any], blob_id: str, sha256: str) -> HubFile:
    """A file as the Hub describes it; the last two name the fields that hold its hashes."""
    if not isinstance(name, str) or not _is_path(name):
        raise OddAnswer(f"it lists a file {_shown(name)}")
    lfs, size = entry.get("lfs"), entry.get("size")
    if lfs is not None and not isinstance(lfs, dict):
        raise OddAnswer(f"it lists the file {_shown(name)} with the lfs {_shown(lfs)}")
    etag = lfs.get(sha256) if lfs else entry.get(blob_id)
    if not isinstance(etag, str) or not _HASH.fullmatch(etag):
        raise OddAnswer(f"it lists the file {_shown(name)} with the hash {_shown(etag)}")
    if type(size) is not int or not 0 <= size <= LARGEST:
        raise OddAnswer(f"it lists the file {_shown(name)} with the size {_shown(size)}")
    return HubFile(name, size, etag)


def _is_path(name: str) -> bool:
    """Whether it can be the path of a file below a folder, and nothing else."""
    controls = any(ord(character) < 32 or ord(character) == 127 for character in name)
    return not controls and not {"", ".", ".."} & set(name.split("/"))


def _shown(value: Any) -> str:
    return printable(json.dumps(value))
