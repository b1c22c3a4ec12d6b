"""What a faulty Hub can do to a request that one of its rules matches."""

import time
from collections.abc import Callable

from tests.faults.faulty_hub import Exchange, Fault, FaultyHub


def refuse(
    status: int,
    code: str | None = None,
    message: str | None = None,
    **headers: str,
) -> Fault:
    """An answer with that status; ``code`` and ``message`` are the Hub's X-Error headers."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    named |= {"X-Error-Code": code} if code else {}
    named |= {"X-Error-Message": message} if message else {}
    return lambda exchange: exchange.send((status, named, b"{}"))


def later(seconds: float, *, as_date: bool = False, clock: float = 0.0) -> Fault:
    """429 with Retry-After, in seconds or as a date; the server's clock may be off by ``clock``."""

    def fault(exchange: Exchange) -> None:
        now = time.time() + clock
        date = exchange.handler.date_time_string
        wait = date(now + seconds) if as_date else f"{seconds:.0f}"
        exchange.send((429, {"Retry-After": wait, "Date": date(now)}, b"{}"))

    return fault


def cut(*, reset: bool) -> Fault:
    """The body ends at the rule's byte: by a reset, or in peace with fewer bytes than announced."""

    def fault(exchange: Exchange) -> None:
        status, headers, body = exchange.answer()
        exchange.send((status, headers, body[: exchange.offset]), len(body))
        exchange.cut(reset=reset)

    return fault


def stall(seconds: float) -> Fault:
    """Nothing comes after the rule's byte, for so long; then the connection ends."""

    def fault(exchange: Exchange) -> None:
        status, headers, body = exchange.answer()
        exchange.send((status, headers, body[: exchange.offset]), len(body))
        exchange.wait(seconds)
        exchange.cut()

    return fault


def drip(
    exchange: Exchange, *, status: int | None = None, size: int = 2, pause: float = 0.02
) -> None:
    """The Hub's answer, ``size`` bytes at a time with a pause after each; with another status."""
    was, headers, body = exchange.answer()
    exchange.handler.head(status or was, headers, len(body))
    for at in range(0, len(body), size):
        exchange.handler.body(body[at : at + size])
        exchange.wait(pause)


def drip_head(exchange: Exchange) -> None:
    """The head of an answer, a byte at a time."""
    connection = exchange.handler.request
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Long: ")
    for _ in range(1000):
        connection.sendall(b"x")
        exchange.wait(0.1)


def silent(seconds: float) -> Fault:
    """Not even a status comes, for so long; then the connection ends."""

    def fault(exchange: Exchange) -> None:
        exchange.wait(seconds)
        exchange.cut()

    return fault


def hang_up(exchange: Exchange) -> None:
    """The connection is reset instead of an answer."""
    exchange.cut(reset=True)


def away(seconds: float) -> Fault:
    """The server is gone, and comes back after so many seconds."""
    return lambda exchange: exchange.hub.away(seconds)


def flip(exchange: Exchange) -> None:
    """One bit of the rule's byte is wrong."""
    status, headers, body = exchange.answer()
    changed = bytearray(body)
    changed[exchange.offset] ^= 1
    exchange.send((status, headers, bytes(changed)))


def replace(
    body: Callable[[bytes], bytes] = lambda body: body,
    *,
    status: int | None = None,
    length: Callable[[int], int] = lambda length: length,
    **headers: str | None,
) -> Fault:
    """The Hub's answer with another body, status, announced length or headers (None: without).

    The connection ends after it: an announced length that is wrong would spoil the next answer.
    """

    def fault(exchange: Exchange) -> None:
        was, had, content = exchange.answer()
        changes = {name.replace("_", "-"): value for name, value in headers.items()}
        lowered = {name.lower() for name in changes}
        kept = {name: value for name, value in had.items() if name.lower() not in lowered}
        kept |= {name: value for name, value in changes.items() if value is not None}
        content = body(content)
        exchange.send((status or was, kept, content), length(len(content)))
        exchange.cut()

    return fault


def whole(exchange: Exchange) -> None:
    """The range is ignored: 200 and all of the file."""
    del exchange.handler.headers["Range"]
    exchange.send(exchange.answer())


def shifted(by: int) -> Fault:
    """Another range of the file than the one asked for, and a Content-Range that says so."""

    def fault(exchange: Exchange) -> None:
        start, stop = exchange.handler.headers["Range"].removeprefix("bytes=").split("-")
        del exchange.handler.headers["Range"]
        exchange.handler.headers["Range"] = f"bytes={int(start) + by}-{int(stop) + by}"
        exchange.send(exchange.answer())

    return fault


def page(*, announced: bool = True) -> Fault:
    """200 and a page of HTML, as a network gives that wants a login first."""
    html = b"<!DOCTYPE html><html><title>Welcome</title><body>Please log in.</body></html>"

    def fault(exchange: Exchange) -> None:
        exchange.send((200, {"Content-Type": "text/html"}, html), None if announced else -1)
        exchange.cut()

    return fault


def json_body(text: str) -> Fault:
    """200 and that JSON."""
    answer = (200, {"Content-Type": "application/json"}, text.encode())
    return lambda exchange: exchange.send(answer)


def round_and_round(exchange: Exchange) -> None:
    """A redirect to itself."""
    exchange.send((302, {"Location": exchange.handler.path}, b""))


def lead_to(other: FaultyHub, seconds: float) -> Fault:
    """302 to a signed address at another host, good for so long; files that are no LFS stay."""

    def fault(exchange: Exchange) -> None:
        if not exchange.request.file.endswith(".safetensors"):
            exchange.handler.pass_on(exchange.hub.upstream)
            return
        path = exchange.handler.path.partition("?")[0]
        expires = time.time() + seconds
        location = f"{other.endpoint}/signed{path}?expires={expires}&signature=abc"
        exchange.send((302, {"Location": location}, b""))

    return fault


def led_by(other: str) -> Fault:
    """What another Hub answers."""
    return lambda exchange: exchange.handler.pass_on(other)


def before(action: Callable[[], object]) -> Fault:
    """Something happens, then the Hub answers."""

    def fault(exchange: Exchange) -> None:
        action()
        exchange.handler.pass_on(exchange.hub.upstream)

    return fault
