"""A local Hub: serves folders ``<owner>/<name>/`` over HTTP as the Hugging Face Hub serves repos.

It speaks what huggingface_hub 2.4 calls to read models: model info at a revision, the tree with
LFS hashes, and HEAD and GET of files with ranges. It offers no Xet storage, so the client fetches
files in the plain way whatever its settings are. Suites that were trained here are pulled
through it with the real client, and tests plant their faults in the folders it serves. A file
that is a git-LFS pointer is announced with the size and hash that the pointer states.
"""

import hashlib
import json
import re
import socket
import sys
import threading
from dataclasses import dataclass
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, quote, unquote, urlsplit

LFS_SUFFIXES = (".safetensors", ".pt", ".bin", ".gguf")
LFS_SIZE = 1 << 20
"""Files above this many bytes are LFS files whatever their name is."""

_REPO_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*", re.ASCII)
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")
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
    if name.endswith(LFS_SUFFIXES) or size > LFS_SIZE:
        with path.open("rb") as content:
            sha256 = hashlib.file_digest(content, "sha256").hexdigest()
        written = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n"
        return HubFile(name, path, size, _blob_id(written.encode()), sha256)
    return HubFile(name, path, size, _blob_id(path.read_bytes()), None)


def _blob_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\x00" % len(content) + content).hexdigest()


class Repository:
    """A folder as it is now, seen as a repository with the one revision ``main``.

    The commit sha is a hash of names and contents: the same files have the same sha anywhere.
    """

    def __init__(self, repo_id: str, folder: Path) -> None:
        self.repo_id = repo_id
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


class _Server(ThreadingHTTPServer):
    """Threads a connection; closing the server ends the connections that are kept alive, too."""

    daemon_threads = True

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self._connections: set[socket.socket] = set()
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._connections.discard(request)
        super().shutdown_request(request)

    def server_close(self) -> None:
        super().server_close()
        for connection in list(self._connections):
            self.shutdown_request(connection)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away in the middle of an answer is no news to the user."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class LocalHub:
    """Serves ``folder`` on 127.0.0.1 while used as a context manager."""

    def __init__(self, folder: Path, port: int = 0) -> None:
        self.folder = folder.resolve()
        self._listed: dict[str, Repository] = {}
        self._server = _Server(("127.0.0.1", port), type("Handler", (_Handler,), {"hub": self}))
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        )

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def repository(self, repo_id: str) -> Repository | None:
        """The repository as its folder is now; None when there is no such folder."""
        if _REPO_ID.fullmatch(repo_id) is None or not (self.folder / repo_id).is_dir():
            return None
        self._listed[repo_id] = Repository(repo_id, self.folder / repo_id)
        return self._listed[repo_id]

    def repository_with(self, repo_id: str, commit: str, name: str) -> Repository | None:
        """As ``repository``, without listing the folder for each file of a commit just listed."""
        listed = self._listed.get(repo_id)
        if listed is not None and listed.commit == commit and listed.unchanged(name):
            return listed
        return self.repository(repo_id)

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
        url = urlsplit(self.path)
        options = {key: values[-1] for key, values in parse_qs(url.query).items()}
        match [unquote(part) for part in url.path.strip("/").split("/")]:
            case ["api", "models", owner, name]:
                self._info(f"{owner}/{name}", "main", options)
            case ["api", "models", owner, name, "revision", revision]:
                self._info(f"{owner}/{name}", revision, options)
            case ["api", "models", owner, name, "tree", revision, *under]:
                self._tree(f"{owner}/{name}", revision, "/".join(under), options)
            case [owner, name, "resolve", revision, *file]:
                self._resolve(f"{owner}/{name}", revision, "/".join(file))
            case _:
                self._refuse(404, "EntryNotFound", "Not found")

    def _at(self, repository: Repository | None, revision: str) -> Repository | None:
        """The repository if it has that revision; else the refusal is sent."""
        if repository is None:
            self._refuse(404, "RepoNotFound", "Repository not found")
        elif revision not in ("main", repository.commit):
            self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        else:
            return repository
        return None

    def _info(self, repo_id: str, revision: str, options: dict[str, str]) -> None:
        repository = self._at(self.hub.repository(repo_id), revision)
        if repository is not None:
            self._send_json(repository.info(with_files="blobs" in options))

    def _tree(self, repo_id: str, revision: str, under: str, options: dict[str, str]) -> None:
        repository = self._at(self.hub.repository(repo_id), revision)
        if repository is None:
            return
        listed = repository.tree(under, recursive=options.get("recursive") == "true")
        if under and not listed:
            self._refuse(404, "EntryNotFound", f"{under} does not exist on {revision}")
        else:
            self._send_json(listed)

    def _resolve(self, repo_id: str, revision: str, name: str) -> None:
        found = self.hub.repository_with(repo_id, revision, name)
        repository = self._at(found, revision)
        if repository is None:
            return
        commit = {"X-Repo-Commit": repository.commit}
        file = repository.files.get(name)
        if file is None:
            self._refuse(404, "EntryNotFound", f"Entry not found: {name}", commit)
            return
        headers = commit | {
            "ETag": f'"{file.etag}"',
            "Accept-Ranges": "bytes",
            "Content-Type": "application/octet-stream",
        }
        if file.sha256 is not None:
            headers |= {"X-Linked-Etag": f'"{file.sha256}"', "X-Linked-Size": str(file.size)}
        span = self._asked_range(file.size)
        if span is None:
            self._send_file(200, headers, file, range(file.size))
        elif span:
            headers["Content-Range"] = f"bytes {span.start}-{span.stop - 1}/{file.size}"
            self._send_file(206, headers, file, span)
        else:
            self._send(416, {"Content-Range": f"bytes */{file.size}"}, b"")

    def _asked_range(self, size: int) -> range | None:
        """The bytes asked for (empty: none of them exists), or None for the whole file.

        As RFC 9110 has it, a range counts for GET only, and one that makes no sense, or several
        at once, are answered with the whole file.
        """
        asked = _RANGE.fullmatch(self.headers.get("Range", ""))
        if asked is None or self.command != "GET" or not any(asked.groups()):
            return None
        first, last = asked.groups()
        if not first:
            return range(max(0, size - int(last)), size)
        if last and int(last) < int(first):
            return None
        return range(int(first), min(int(last) + 1 if last else size, size))

    def _send_file(self, status: int, headers: dict[str, str], file: HubFile, span: range) -> None:
        with file.path.open("rb") as content:
            self._head(status, headers, span.stop - span.start)
            if self.command == "HEAD":
                return
            content.seek(span.start)
            left = span.stop - span.start
            while left and (chunk := content.read(min(_CHUNK, left))):
                self.wfile.write(chunk)
                left -= len(chunk)
        if left:  # the file is shorter than announced: the client has to see a cut, not a pause
            self.close_connection = True

    def _refuse(
        self, status: int, code: str, message: str, headers: dict[str, str] | None = None
    ) -> None:
        named = {"X-Error-Code": code, "X-Error-Message": quote(message, safe=" :/")}
        self._send(status, (headers or {}) | named, json.dumps({"error": message}).encode())

    def _send_json(self, content: Any) -> None:
        self._send(200, {"Content-Type": "application/json"}, json.dumps(content).encode())

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
