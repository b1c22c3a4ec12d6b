"""A local Hub: serves folders ``<owner>/<name>/`` over HTTP as the Hugging Face Hub serves repos.

It speaks what huggingface_hub 2.4 calls for models: model info at a revision, the recursive tree
with LFS hashes, and HEAD and GET of files with ranges. Suites that were trained here are pulled
through it with the real client, and tests plant their faults in the folders it serves. A file
that is a git-LFS pointer is announced with the size and hash that the pointer states.
"""

import hashlib
import json
import re
import threading
from dataclasses import dataclass
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote, urlsplit

LFS_SUFFIXES = (".safetensors", ".pt", ".bin", ".gguf")
_POINTER = re.compile(
    rb"version https://git-lfs\.github\.com/spec/v1\noid sha256:([0-9a-f]{64})\nsize (\d+)\n"
)
_CHUNK = 1 << 20


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
    if name.endswith(LFS_SUFFIXES):
        with path.open("rb") as content:
            sha256 = hashlib.file_digest(content, "sha256").hexdigest()
        written = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n"
        return HubFile(name, path, size, _blob_id(written.encode()), sha256)
    return HubFile(name, path, size, _blob_id(path.read_bytes()), None)


def _blob_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\x00" % len(content) + content).hexdigest()


class Repository:
    """A folder seen as a repository with the one revision ``main``."""

    def __init__(self, repo_id: str, folder: Path) -> None:
        self.repo_id = repo_id
        names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
        self.files = {name: describe(name, folder / name) for name in names}
        listing = "".join(f"{f.blob_id} {f.name}\n" for f in self.files.values())
        self.commit = hashlib.sha1(listing.encode()).hexdigest()

    def info(self) -> dict[str, Any]:
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
                {"rfilename": f.name, "size": f.size, "blobId": f.blob_id} | self._lfs(f)
                for f in self.files.values()
            ],
        }

    def tree(self, under: str) -> list[dict[str, Any]]:
        """Every file and folder below ``under``, as the recursive tree call lists them."""
        prefix = under + "/" if under else ""
        chosen = [f for f in self.files.values() if f.name.startswith(prefix)]
        folders = {p.as_posix() for f in chosen for p in Path(f.name).parents} - {".", under}
        return [
            {"type": "directory", "oid": _blob_id(p.encode()), "size": 0, "path": p}
            for p in sorted(folders)
            if p.startswith(prefix)
        ] + [
            {"type": "file", "oid": f.blob_id, "size": f.size, "path": f.name} | self._lfs(f)
            for f in chosen
        ]

    @staticmethod
    def _lfs(file: HubFile) -> dict[str, Any]:
        if file.sha256 is None:
            return {}
        lfs = {"oid": file.sha256, "sha256": file.sha256, "size": file.size, "pointerSize": 134}
        return {"lfs": lfs}


class LocalHub:
    """Serves ``folder`` on 127.0.0.1 while used as a context manager."""

    def __init__(self, folder: Path, port: int = 0) -> None:
        self.folder = folder.resolve()
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", port), handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        )

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def repository(self, repo_id: str) -> Repository | None:
        folder = (self.folder / repo_id).resolve()
        inside = folder.is_relative_to(self.folder) and folder.is_dir()
        return Repository(repo_id, folder) if inside else None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: LocalHub
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet: requests are no news to the user."""

    def _answer(self) -> None:
        parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        match parts:
            case ["api", "models", owner, name]:
                self._api(f"{owner}/{name}", "main", None)
            case ["api", "models", owner, name, "revision", revision]:
                self._api(f"{owner}/{name}", revision, None)
            case ["api", "models", owner, name, "tree", revision, *under]:
                self._api(f"{owner}/{name}", revision, "/".join(under))
            case [owner, name, "resolve", revision, *file]:
                self._resolve(f"{owner}/{name}", revision, "/".join(file))
            case _:
                self._refuse(404, "EntryNotFound", "Not found")

    def _repository(self, repo_id: str, revision: str) -> Repository | None:
        repository = self.hub.repository(repo_id)
        if repository is None:
            self._refuse(404, "RepoNotFound", "Repository not found")
        elif revision not in ("main", repository.commit):
            self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return None
        return repository

    def _api(self, repo_id: str, revision: str, tree: str | None) -> None:
        repository = self._repository(repo_id, revision)
        if repository is not None:
            content = repository.info() if tree is None else repository.tree(tree)
            self._send(200, {"Content-Type": "application/json"}, json.dumps(content).encode())

    def _resolve(self, repo_id: str, revision: str, name: str) -> None:
        repository = self._repository(repo_id, revision)
        if repository is None:
            return
        file = repository.files.get(name)
        if file is None:
            self._refuse(404, "EntryNotFound", f"Entry not found: {name}")
            return
        headers = {
            "X-Repo-Commit": repository.commit,
            "ETag": f'"{file.etag}"',
            "Accept-Ranges": "bytes",
            "Content-Type": "application/octet-stream",
        }
        if file.sha256 is not None:
            headers |= {"X-Linked-Etag": f'"{file.sha256}"', "X-Linked-Size": str(file.size)}
        start, end = 0, file.size
        status = 200
        if wanted := re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", "")):
            first, last = wanted.groups()
            if first:
                start, end = int(first), min(int(last or file.size) + 1, file.size)
            else:
                start = max(0, file.size - int(last or 0))
            if start >= end:
                self._send(416, {"Content-Range": f"bytes */{file.size}"}, b"")
                return
            status = 206
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{file.size}"
        self._send_file(status, headers, file.path, start, end)

    def _send_file(
        self, status: int, headers: dict[str, str], path: Path, start: int, end: int
    ) -> None:
        self._head(status, headers, end - start)
        if self.command == "HEAD":
            return
        with path.open("rb") as content:
            content.seek(start)
            left = end - start
            while left and (chunk := content.read(min(_CHUNK, left))):
                self.wfile.write(chunk)
                left -= len(chunk)
        if left:  # the file is shorter than announced: the client has to see a cut, not a pause
            self.close_connection = True

    def _refuse(self, status: int, code: str, message: str) -> None:
        headers = {"X-Error-Code": code, "X-Error-Message": message}
        self._send(status, headers, json.dumps({"error": message}).encode())

    def _send(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self._head(status, headers, len(body))
        if self.command != "HEAD":
            self.wfile.write(body)

    def _head(self, status: int, headers: dict[str, str], length: int) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()
