"""Folders as the Hub describes repositories: revisions, files, sizes and hashes.

``<owner>/<name>/`` is the revision ``main`` of a repository and ``<owner>/<name>@<revision>/`` a
further branch of it (a slash in the branch's name is written %2F).
"""

import hashlib
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote

LFS_SUFFIXES = (".safetensors", ".pt", ".bin", ".gguf")
LFS_SIZE = 1 << 20
"""Files above this many bytes are LFS files whatever their name is."""

_REPO_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*", re.ASCII)
_POINTER = re.compile(
    rb"version https://git-lfs\.github\.com/spec/v1\noid sha256:([0-9a-f]{64})\nsize (\d+)\n"
)


@dataclass(frozen=True)
class HubFile:
    """One file of a repository as the Hub describes it."""

    name: str
    path: Path
    size: int
    blob_id: str
    """The git blob id; for an LFS file that of its pointer."""
    sha256: str | None
    """Of the content, for LFS files alone."""

    @property
    def etag(self) -> str:
        return self.sha256 or self.blob_id


def describe(name: str, path: Path) -> HubFile:
    """Size and hashes of a file; hashing is done once per version of the file."""
    stat = path.stat()
    return _describe(name, path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=100_000)
def _describe(name: str, path: Path, size: int, mtime_ns: int) -> HubFile:
    if size < 200 and (pointer := _POINTER.fullmatch(text := path.read_bytes())):
        return HubFile(name, path, int(pointer[2]), _blob_id(text), pointer[1].decode())
    if name.endswith(LFS_SUFFIXES) or size > LFS_SIZE:
        with path.open("rb") as content:
            sha256 = hashlib.file_digest(content, "sha256").hexdigest()
        written = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n"
        return HubFile(name, path, size, _blob_id(written.encode()), sha256)
    return HubFile(name, path, size, _blob_id(path.read_bytes()), None)


def _blob_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\x00" % len(content) + content).hexdigest()


class Repository:
    """A folder as it is now, seen as one revision of a repository.

    The commit sha is a hash of names and contents: the same files have the same sha anywhere.
    """

    def __init__(self, repo_id: str, folder: Path) -> None:
        self.repo_id = repo_id
        self.folder = folder
        names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
        self.files = {name: describe(name, folder / name) for name in names}
        listing = "".join(f"{f.blob_id} {f.name}\n" for f in self.files.values())
        self.commit = hashlib.sha1(listing.encode()).hexdigest()

    def unchanged(self, name: str) -> bool:
        """Whether that one file is on disk as it was when the folder was listed."""
        file = self.files.get(name)
        return file is not None and file.path.is_file() and describe(name, file.path) == file

    def info(self, *, with_files: bool) -> dict[str, Any]:
        """Model info; sizes and hashes of files only when asked for, as the Hub does it."""
        return {
            "_id": self.commit[:24],
            "id": self.repo_id,
            "modelId": self.repo_id,
            "sha": self.commit,
            "private": False,
            "gated": False,
            "disabled": False,
            "downloads": 0,
            "likes": 0,
            "tags": [],
            "lastModified": "2026-01-01T00:00:00.000Z",
            "createdAt": "2026-01-01T00:00:00.000Z",
            "siblings": [
                {"rfilename": f.name}
                | ({"size": f.size, "blobId": f.blob_id} | _lfs(f, "sha256") if with_files else {})
                for f in self.files.values()
            ],
        }

    def tree(self, under: str, *, recursive: bool) -> list[dict[str, Any]]:
        """The files and folders in folder ``under``, or everything below it."""
        prefix = under + "/" if under else ""
        below = [f for f in self.files.values() if f.name.startswith(prefix)]
        folders = {p.as_posix() for f in below for p in Path(f.name).parents}
        listed = [
            {"type": "directory", "oid": _blob_id(path.encode()), "size": 0, "path": path}
            for path in sorted(folders - {"."})
            if path.startswith(prefix)
        ] + [
            {"type": "file", "oid": f.blob_id, "size": f.size, "path": f.name} | _lfs(f, "oid")
            for f in below
        ]
        return [e for e in listed if recursive or "/" not in str(e["path"]).removeprefix(prefix)]


def _lfs(file: HubFile, hash_field: str) -> dict[str, Any]:
    if file.sha256 is None:
        return {}
    return {"lfs": {hash_field: file.sha256, "size": file.size, "pointerSize": 134}}


def branches(root: Path, repo_id: str) -> dict[str, Path]:
    """The folder of each branch of a repository, main first; empty where there is none."""
    if _REPO_ID.fullmatch(repo_id) is None:
        return {}
    main = root / repo_id
    found = {"main": main} if main.is_dir() else {}
    if main.parent.is_dir():
        for folder in sorted(main.parent.iterdir()):
            name, at, revision = folder.name.partition("@")
            if name == main.name and at and revision and folder.is_dir():
                found[unquote(revision)] = folder
    return found
