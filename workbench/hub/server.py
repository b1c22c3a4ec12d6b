"""A local Hub: serves folders (see ``repository``) over HTTP as the Hugging Face Hub serves repos.

It speaks what huggingface_hub 2.4 calls to read models: refs, model info at a revision, the tree
with LFS hashes, and HEAD and GET of files with ranges. It offers no Xet storage, so the client
fetches files in the plain way whatever its settings are. Suites that were trained here are pulled
through it with the real client, and tests plant their faults in the folders it serves. A file
that is a git-LFS pointer is announced with the size and hash that the pointer states.
"""

import json
import re
import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, quote, unquote, urlsplit

from workbench.hub.repository import HubFile, Repository, branches

_COMMIT = re.compile(r"[0-9a-f]{40}")
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")
_CHUNK = 1 << 20


class _Server(ThreadingHTTPServer):
    """Threads a connection; closing the server ends the connections that are kept alive, too."""

    daemon_threads = True
    request_queue_size = 64  # with the usual 5, eight clients at once wait seconds for each other

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
        self._listed: dict[Path, Repository] = {}
        self._server = _Server(("127.0.0.1", port), type("Handler", (_Handler,), {"hub": self}))
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        )

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def repository(self, repo_id: str, revision: str = "main") -> Repository | None:
        """A branch or commit of the repository as it is now; None when there is no such one."""
        found = branches(self.folder, repo_id)
        if revision in found:
            return self._list(repo_id, found[revision])
        if not _COMMIT.fullmatch(revision):
            return None
        last = self._last(repo_id, revision)
        likely = [last.folder] if last is not None and last.folder.is_dir() else []
        for folder in [*likely, *found.values()]:
            repository = self._list(repo_id, folder)
            if repository.commit == revision:
                return repository
        return None

    def commits(self, repo_id: str) -> dict[str, str]:
        """The commit of each branch as it is now, by name; empty where there is no repository."""
        found = branches(self.folder, repo_id)
        return {name: self._list(repo_id, folder).commit for name, folder in found.items()}

    def repository_with(self, repo_id: str, revision: str, name: str) -> Repository | None:
        """As ``repository``, without listing the folder for each file of a commit just listed."""
        last = self._last(repo_id, revision)
        if last is not None and last.unchanged(name):
            return last
        return self.repository(repo_id, revision)

    def _list(self, repo_id: str, folder: Path) -> Repository:
        self._listed[folder] = Repository(repo_id, folder)
        return self._listed[folder]

    def _last(self, repo_id: str, commit: str) -> Repository | None:
        """The revision that had that commit when its folder was last listed."""
        listed = list(self._listed.values())
        return next((r for r in listed if (r.repo_id, r.commit) == (repo_id, commit)), None)

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
            case ["api", "models", owner, name, "refs"]:
                self._refs(f"{owner}/{name}", options)
            case ["api", "models", owner, name, "revision", revision]:
                self._info(f"{owner}/{name}", revision, options)
            case ["api", "models", owner, name, "tree", revision, *under]:
                self._tree(f"{owner}/{name}", revision, "/".join(under), options)
            case [owner, name, "resolve", revision, *file]:
                self._resolve(f"{owner}/{name}", revision, "/".join(file))
            case _:
                self._refuse(404, "EntryNotFound", "Not found")

    def _absent(self, repo_id: str, revision: str) -> None:
        """Refuse as the Hub does, by what is missing: the repository or the revision."""
        if branches(self.hub.folder, repo_id):
            self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        else:
            self._refuse(404, "RepoNotFound", "Repository not found")

    def _refs(self, repo_id: str, options: dict[str, str]) -> None:
        commits = self.hub.commits(repo_id)
        if not commits:
            self._absent(repo_id, "main")
            return
        listed = [
            {"name": name, "ref": f"refs/heads/{name}", "targetCommit": commit}
            for name, commit in commits.items()
        ]
        refs: dict[str, Any] = {"branches": listed, "tags": [], "converts": []}
        self._send_json(refs | ({"pullRequests": []} if "include_prs" in options else {}))

    def _info(self, repo_id: str, revision: str, options: dict[str, str]) -> None:
        repository = self.hub.repository(repo_id, revision)
        if repository is None:
            self._absent(repo_id, revision)
        else:
            self._send_json(repository.info(with_files="blobs" in options))

    def _tree(self, repo_id: str, revision: str, under: str, options: dict[str, str]) -> None:
        repository = self.hub.repository(repo_id, revision)
        if repository is None:
            self._absent(repo_id, revision)
            return
        listed = repository.tree(under, recursive=options.get("recursive") == "true")
        if under and not listed:
            self._refuse(404, "EntryNotFound", f"{under} does not exist on {revision}")
        else:
            self._send_json(listed)

    def _resolve(self, repo_id: str, revision: str, name: str) -> None:
        repository = self.hub.repository_with(repo_id, revision, name)
        if repository is None:
            self._absent(repo_id, revision)
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
