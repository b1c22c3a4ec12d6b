"""A server in front of a local Hub that hands answers on, changed as a test wants them."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

_DIRECT = build_opener(ProxyHandler({}))


@dataclass
class Asked:
    path: str
    headers: dict[str, str]


@dataclass
class Answer:
    status: int
    headers: dict[str, str] = field(default_factory=dict)
    """Content-Length may promise more than the body holds: the connection is cut then."""
    body: bytes = b""


Rule = Callable[[Asked, Answer], Answer]


class Relay:
    """``route`` says which Hub answers a path, ``rule`` changes the answer; both can be set."""

    def __init__(self, endpoint: str) -> None:
        self.route: Callable[[str], str] = lambda path: endpoint
        self.rule: Rule = lambda asked, answer: answer
        self.asked: list[Asked] = []
        handler = type("Handler", (_Handler,), {"relay": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        serve = {"target": self._server.serve_forever, "kwargs": {"poll_interval": 0.02}}
        threading.Thread(**serve, daemon=True).start()
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
    relay: Relay
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        asked = Asked(self.path, dict(self.headers.items()))
        self.relay.asked.append(asked)
        ranged = {"Range": self.headers["Range"]} if "Range" in self.headers else {}
        request = Request(self.relay.route(self.path) + self.path, headers=ranged)
        try:
            response = _DIRECT.open(request)
        except HTTPError as refused:
            response = refused
        with response:
            headers = {
                name: value
                for name, value in response.headers.items()
                if name not in ("Server", "Date", "Connection")
            }
            answer = self.relay.rule(asked, Answer(response.status, headers, response.read()))
        self.send_response(answer.status)
        length = answer.headers.setdefault("Content-Length", str(len(answer.body)))
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(answer.body)
        if int(length) != len(answer.body):
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""
