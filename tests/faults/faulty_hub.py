"""A reverse proxy in front of a real Hub, over real HTTP, that misbehaves where a rule says so.

Every request goes on to the Hub behind it and its answer comes back, unless a rule matches: then
the rule's fault answers. Every request is kept with the bytes that were sent for it, so that a
test can count what was fetched twice.
"""

import fcntl
import http.client
import select
import socket
import struct
import termios
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from http.server import BaseHTTPRequestHandler
from types import TracebackType
from typing import Any, Literal, Self, cast
from urllib.parse import parse_qs, unquote, urlsplit

Kind = Literal["info", "tree", "head", "file", "signed", "other"]
Answer = tuple[int, dict[str, str], bytes]

_CHUNK = 1 << 16
_OF_A_CONNECTION = ("connection", "transfer-encoding", "content-length", "date", "server")


@dataclass
class Request:
    """What was asked, and what was sent for it."""

    method: str
    path: str
    """Without escapes and query."""
    kind: Kind
    headers: dict[str, str]
    """With names in lower case."""
    start: int | None
    """The first byte of the file that is asked for; None when no range was."""
    status: int = 0
    sent: int = 0
    """Bytes of the body."""

    @property
    def file(self) -> str:
        """The file's name in its repository, whatever the address."""
        return self.path.partition("/resolve/")[2].partition("/")[2]

    @property
    def span(self) -> range:
        """The bytes of the file that were sent."""
        start = (self.start or 0) if self.status == 206 else 0
        return range(start, start + self.sent)


@dataclass(frozen=True)
class Rule:
    """When a fault strikes."""

    fault: "Fault"
    kind: Kind | Literal["any"] = "file"
    path: str = "*"
    """A pattern of the whole path."""
    at: int | None = None
    """Only answers that hold this byte of the file; the fault may strike there."""
    skip: int = 0
    """So many matching requests pass first."""
    times: int | None = 1
    """So many are struck; None: all."""

    def fits(self, request: Request, stop: int) -> bool:
        holds = self.at is None or (request.start or 0) <= self.at < stop
        return self.kind in ("any", request.kind) and fnmatchcase(request.path, self.path) and holds


@dataclass
class Exchange:
    """One request that a fault answers."""

    hub: "FaultyHub"
    handler: "_Handler"
    request: Request
    rule: Rule

    @property
    def offset(self) -> int:
        """Where in the answer's body the fault strikes."""
        return (self.rule.at or 0) - (self.request.start or 0) if self.rule.at is not None else 0

    def answer(self, upstream: str | None = None) -> Answer:
        """The Hub's own answer."""
        return self.handler.ask(upstream or self.hub.upstream)

    def send(self, answer: Answer, length: int | None = None) -> None:
        """Send status, headers and body, announcing another length if one is given."""
        self.handler.send(answer, length)

    def wait(self, seconds: float) -> None:
        """Do nothing for so long, or until the peer has gone."""
        _peer_gone(self.handler.request, seconds)

    def cut(self, *, reset: bool = False) -> None:
        """End the connection, by a reset or in peace, once the peer has what was sent."""
        self.handler.cut(reset=reset)


Fault = Callable[[Exchange], None]


class FaultyHub:
    """Stands at ``endpoint`` in front of ``upstream`` while used as a context manager."""

    def __init__(
        self,
        upstream: str,
        rules: tuple[Rule, ...] = (),
        *,
        rate: float | None = None,
        host: str = "127.0.0.1",
    ) -> None:
        self.upstream = upstream
        self.rules = rules
        self.rate = rate
        """Bytes of bodies a second, of all connections together; None: as fast as it goes."""
        self.host = host
        self.requests: list[Request] = []
        self._seen: dict[Rule, int] = {}
        self._lock = threading.Lock()
        self._free_at = 0.0
        self._connections: set[socket.socket] = set()
        self.busy = 0
        """Requests that are being answered."""
        self.closed = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = self._listener.getsockname()[1]

    @property
    def endpoint(self) -> str:
        return f"http://{self.host}:{self.port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.closed.set()
        _shut(self._listener)
        self.drop_all()

    def drop_all(self) -> None:
        """End every connection, whatever is under way on it."""
        with self._lock:
            connections = list(self._connections)
        for connection in connections:
            _shut(connection, close=False)

    def away(self, seconds: float) -> None:
        """Refuse connections for a while, as a server does that starts anew."""
        _shut(self._listener)
        self.drop_all()
        timer = threading.Timer(seconds, self._come_back)
        timer.daemon = True
        timer.start()

    def _come_back(self) -> None:
        if not self.closed.is_set():
            self._listener = socket.create_server(("127.0.0.1", self.port), backlog=128)
            self._accept(self._listener)

    def settled(self) -> list[Request]:
        """All requests, once nobody is being served any more."""
        limit = time.monotonic() + 10
        while self.busy and time.monotonic() < limit:
            time.sleep(0.005)
        return list(self.requests)

    @contextmanager
    def answering(self) -> Iterator[None]:
        """While a request is being answered."""
        with self._lock:
            self.busy += 1
        try:
            yield
        finally:
            with self._lock:
                self.busy -= 1

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return  # closed
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with self._lock:
            self._connections.add(connection)
        with suppress(ConnectionError, _Cut):  # the peer went away, or the rule had it so
            _Handler(connection, ("", 0), cast(Any, self))
        connection.close()
        with self._lock:
            self._connections.discard(connection)

    def rule_for(self, request: Request, stop: int) -> Rule | None:
        """The first rule whose turn it is; those after it do not count the request."""
        found: Rule | None = None
        with self._lock:
            self.requests.append(request)
            for rule in self.rules:
                if found is None and rule.fits(request, stop):
                    self._seen[rule] = seen = self._seen.get(rule, 0) + 1
                    if seen > rule.skip and (rule.times is None or seen <= rule.skip + rule.times):
                        found = rule
        return found

    def pace(self, size: int) -> None:
        """Wait until so many bytes may be sent."""
        if self.rate is None:
            return
        with self._lock:
            now = time.monotonic()
            self._free_at = max(now, self._free_at) + size / self.rate
            wait = self._free_at - now
        self.closed.wait(wait)


def _shut(connection: socket.socket, *, close: bool = True) -> None:
    with suppress(OSError):  # it has ended already
        connection.shutdown(socket.SHUT_RDWR)  # wakes whoever waits in it
    if close:
        connection.close()


class _Cut(Exception):
    """The connection is to end here."""


class _Handler(BaseHTTPRequestHandler):
    server: FaultyHub  # type: ignore[assignment]
    protocol_version = "HTTP/1.1"
    request_: Request

    def setup(self) -> None:
        # Little under way: what the peer has not read when it dies counts as sent.
        self.request.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _CHUNK)
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        super().setup()

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""

    def do_HEAD(self) -> None:
        with self.server.answering():
            self._answer()

    def do_GET(self) -> None:
        with self.server.answering():
            self._answer()

    def do_POST(self) -> None:
        with self.server.answering():
            self._answer()

    def _answer(self) -> None:
        asked = self.headers.get("Range", "").removeprefix("bytes=").partition("-")
        start = int(asked[0]) if asked[0] else None
        stop = int(asked[2]) + 1 if asked[2] else 1 << 62
        path = unquote(urlsplit(self.path).path)
        kind = _kind(self.command, path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.request_ = Request(self.command, path, kind, headers, start)
        rule = self.server.rule_for(self.request_, stop)
        if kind == "signed" and rule is None:
            rule = Rule(_signed, kind="signed")
        if rule is None:
            self.pass_on(self.server.upstream)
        else:
            rule.fault(Exchange(self.server, self, self.request_, rule))

    def ask(self, upstream: str) -> Answer:
        with _asked(self, upstream) as answer:
            return answer.status, _headers(answer), answer.read()

    def pass_on(self, upstream: str) -> None:
        """The Hub's answer as it comes."""
        with _asked(self, upstream) as answer:
            self.head(answer.status, _headers(answer), int(answer.headers["Content-Length"]))
            while chunk := answer.read(_CHUNK):
                self.body(chunk)

    def send(self, answer: Answer, length: int | None = None) -> None:
        status, headers, body = answer
        self.head(status, headers, len(body) if length is None else length)
        if self.command != "HEAD":
            self.body(body)

    def head(self, status: int, headers: dict[str, str], length: int | None) -> None:
        """Status and headers; for length -1 none is announced, the end of the connection counts."""
        self.request_.status = status
        self.send_response_only(status)
        if "Date" not in headers:
            self.send_header("Date", self.date_time_string())
        for name, value in headers.items():
            self.send_header(name, value)
        if length == -1:
            self.send_header("Connection", "close")
        else:
            self.send_header("Content-Length", str(length))
        self.end_headers()

    def body(self, data: bytes) -> None:
        for at in range(0, len(data), _CHUNK):
            chunk = memoryview(data)[at : at + _CHUNK]
            self.server.pace(len(chunk))
            while chunk:
                sent = self.request.send(chunk)
                self.request_.sent += sent
                chunk = chunk[sent:]

    def cut(self, *, reset: bool) -> None:
        self.wfile.flush()
        while _unread(self.request) and not _peer_gone(self.request, 0.001):
            pass
        if reset:
            self.request.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        raise _Cut


def _unread(connection: socket.socket) -> int:
    """Bytes that the peer's system has not taken yet."""
    return struct.unpack("i", fcntl.ioctl(connection, termios.TIOCOUTQ, b"\0" * 4))[0]


def _peer_gone(connection: socket.socket, seconds: float) -> bool:
    """Whether the peer ends the connection within so many seconds."""
    ends = select.poll()
    ends.register(connection, select.POLLRDHUP)  # errors and hang-ups are told anyway
    return bool(ends.poll(seconds * 1000))


class _asked:  # noqa: N801 - a context manager
    """The Hub's answer to the handler's request, with the connection that it comes on."""

    def __init__(self, handler: _Handler, upstream: str) -> None:
        address = urlsplit(upstream)
        self._connection = http.client.HTTPConnection(address.hostname or "", address.port)
        headers = {name: value for name, value in handler.headers.items() if name != "Host"}
        # Asked as a proxy, the address is whole.
        asked = urlsplit(handler.path)
        path = f"{asked.path.removeprefix('/signed')}?{asked.query}"
        headers["Connection"] = "close"
        body = handler.rfile.read(int(headers.get("Content-Length", 0)))
        self._connection.request(handler.command, path, body or None, headers)

    def __enter__(self) -> http.client.HTTPResponse:
        return self._connection.getresponse()

    def __exit__(self, *error: object) -> None:
        self._connection.close()


def _headers(answer: http.client.HTTPResponse) -> dict[str, str]:
    return {k: v for k, v in answer.getheaders() if k.lower() not in _OF_A_CONNECTION}


def _kind(method: str, path: str) -> Kind:
    match path.strip("/").split("/"):
        case ["signed", *_]:
            return "signed"
        case ["api", "models", _, _] | ["api", "models", _, _, "revision", _]:
            return "info"
        case ["api", "models", _, _, "tree", *_]:
            return "tree"
        case [_, _, "resolve", *_]:
            return "head" if method == "HEAD" else "file"
        case _:
            return "other"


def _signed(exchange: Exchange) -> None:
    """A file behind a signed address, as the Hub's store of large files serves it."""
    asked = parse_qs(urlsplit(exchange.handler.path).query)
    if float(asked["expires"][0]) < time.time():
        body = b"<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>"
        exchange.send((403, {"Content-Type": "application/xml"}, body))
    else:
        exchange.handler.pass_on(exchange.hub.upstream)
