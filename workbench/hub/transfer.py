"""Bytes from the Hub over its client's own session: ranges of a file, and patience with faults."""

import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import httpx2

Result = TypeVar("Result")

WAITS = (0.5, 1.0, 2.0, 4.0)
"""Seconds before each further try of a call that came no further."""
LONGEST_WAIT = 300.0
"""Seconds that the Hub may tell us to wait; asked for more, the call fails."""
NOTED_WAIT = 10.0
"""Seconds from which on a wait that the Hub asks for is logged."""
SLOWEST = 1024
"""Bytes a second, on average over PERIOD, below which a connection counts as broken."""
PERIOD = 30.0
"""Seconds of waiting for bytes."""
_REFUSAL = 64 << 10
"""Bytes that are read of the body of a refusal."""

_log = logging.getLogger(__name__)


class Unsteady(Exception):
    """An answer that another try may mend; ``wait`` is what the server asks for, in seconds."""

    def __init__(self, message: str, wait: float | None = None) -> None:
        super().__init__(message)
        self.wait = wait


class NoRanges(Exception):
    """The server sends the whole file when it is asked for a range."""


class FileFault(Exception):
    """What the last of several tries at a file ended with."""

    def __init__(self, name: str, fault: Exception) -> None:
        super().__init__(name, fault)
        self.name = name
        self.fault = fault


class Damaged(Exception):
    """A file's content has, again and again, another hash than the Hub states."""


class Stopped(Exception):
    """Another part of the same pull has failed, or the user has stopped it."""


def patiently(
    call: Callable[[], Result],
    *,
    gone_on: Callable[[], bool] = lambda: False,
    stop: threading.Event | None = None,
    first: bool = False,
) -> Result:
    """``call()``, tried again after cut connections, stalls, and the answers 408, 429 and 5xx.

    ``gone_on`` says whether the last try brought anything: then the count of tries starts anew.
    ``first`` marks the call that finds out whether there is a Hub at all: that nobody is there is
    raised at once. Raises what the last try raised.
    """
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.utils import httpx

    tries = 0
    while True:
        try:
            return call()
        except (httpx.TransportError, HfHubHTTPError, Unsteady) as error:
            wait = asked_wait(error)
            if not _passing(error) or (wait or 0) > LONGEST_WAIT:
                raise
            if gone_on():
                tries = 0
            if tries == len(WAITS) or (first and isinstance(error, httpx.ConnectError)):
                raise
            pause = WAITS[tries] * random.uniform(0.75, 1.25) if wait is None else wait
            tries += 1
            if wait is not None and wait >= NOTED_WAIT:
                _log.warning("The Hub asks to wait %.0f seconds before the next try.", wait)
        if stop is None:
            time.sleep(pause)
        elif stop.wait(pause):
            raise Stopped


def _passing(error: Exception) -> bool:
    """Whether the fault is of the kind that passes."""
    from huggingface_hub.errors import HfHubHTTPError

    if not isinstance(error, HfHubHTTPError):
        return True
    status = error.response.status_code
    # A signed address that the Hub led to may have run out; the next try gets a fresh one.
    led_elsewhere = bool(error.response.history) and status == 403
    return status in (408, 429) or status >= 500 or led_elsewhere


def asked_wait(error: Exception) -> float | None:
    """Seconds of a Retry-After, given as seconds or as a date."""
    response: httpx2.Response | None = getattr(error, "response", None)
    if isinstance(error, Unsteady) or response is None:
        return getattr(error, "wait", None)
    asked = response.headers.get("Retry-After", "").strip()
    if asked.isdecimal():
        return float(asked)
    until = _date(asked)
    if until is None:
        return None
    # By the server's own clock, which may not be ours.
    now = _date(response.headers.get("Date", "")) or datetime.now(UTC)
    return max(0.0, (until - now).total_seconds())


def _date(text: str) -> datetime | None:
    """A date as HTTP writes it."""
    try:
        date = parsedate_to_datetime(text)
    except (TypeError, ValueError, OverflowError):
        return None
    return date if date.tzinfo is not None else date.replace(tzinfo=UTC)


@contextmanager
def opened(url: str, headers: dict[str, str]) -> Iterator["httpx2.Response"]:
    """The answer to a GET, its body still to be read with ``chunks_of``.

    Raises what the client raises for refusals and cut connections. A redirect to another origin
    is followed without the user's token; the client's session sees to that.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import build_hf_headers, get_session

    timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
    session = get_session()
    request = session.build_request(
        "GET", url, headers=build_hf_headers() | headers, timeout=timeout
    )
    response = _within(timeout + PERIOD, lambda: session.send(request, stream=True))
    try:
        if response.status_code >= 400:
            _refuse(response)
        yield response
    finally:
        response.close()


def _within(seconds: float, send: "Callable[[], httpx2.Response]") -> "httpx2.Response":
    """What ``send`` returns; Unsteady where the head of the answer takes longer.

    The client limits the wait for the next byte alone. The thread of a request that is given up
    ends with its connection, and not later than this process.
    """
    answer: Future[httpx2.Response] = Future()

    def work() -> None:
        try:
            answer.set_result(send())
        except BaseException as error:  # raised in the thread that waits
            answer.set_exception(error)

    threading.Thread(target=work, name="request", daemon=True).start()
    wait_for([answer], seconds)
    if not answer.done():
        answer.add_done_callback(_close)
        raise Unsteady(f"the head of the answer did not come in {seconds:,.0f} seconds")
    return answer.result()


def _close(answer: "Future[httpx2.Response]") -> None:
    if answer.exception() is None:
        answer.result().close()


def _refuse(response: "httpx2.Response") -> None:
    """Raise the client's exception for the status, with no more of the body than it needs."""
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.utils import hf_raise_for_status, httpx

    body = bytearray()
    try:
        for chunk in chunks_of(response):
            body += chunk
            if len(body) > _REFUSAL:
                break
    except (httpx.HTTPError, Unsteady):
        body.clear()  # the status says enough
    of_body = ("content-encoding", "content-length", "transfer-encoding")
    short = httpx.Response(
        response.status_code,
        headers=[(k, v) for k, v in response.headers.multi_items() if k not in of_body],
        content=bytes(body[:_REFUSAL]),
        request=response.request,
        history=response.history,
    )
    try:
        hf_raise_for_status(short)
    except (HfHubHTTPError, httpx.HTTPError):
        raise
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        # The client expects a certain form of JSON in the body; without a body it does not look.
        bare = httpx.Response(
            short.status_code, headers=short.headers, request=short.request, history=short.history
        )
        hf_raise_for_status(bare)


def chunks_of(response: "httpx2.Response", *, raw: bool = False) -> Iterator[bytes]:
    """The body as it comes, decoded unless ``raw``.

    Raises Unsteady for one that comes at fewer than SLOWEST bytes a second over PERIOD seconds.
    Only the time spent waiting for bytes counts, not what the caller does with them.
    """
    waited, came = 0.0, 0
    chunks = response.iter_raw() if raw else response.iter_bytes()
    while True:
        began = time.monotonic()
        chunk = next(chunks, None)
        if chunk is None:
            return
        waited += time.monotonic() - began
        came += len(chunk)
        if waited >= PERIOD:
            if came < SLOWEST * waited:
                raise Unsteady(f"only {came:,} bytes came in {waited:,.0f} seconds")
            waited, came = 0.0, 0
        yield chunk


def stream_range(
    url: str, start: int, stop: int, size: int, *, read_past: bool = False
) -> Iterator[bytes]:
    """The bytes ``start`` to ``stop`` (exclusive) of a file of ``size`` bytes, as they come.

    Asks anew at ``url`` itself, so that a signed address behind it is always fresh. Never yields
    more than was asked for. ``read_past`` says what to do where a server sends the whole file
    instead: read past what comes before, or raise NoRanges. Raises Unsteady for fewer bytes, or
    for others than asked for, and what the client raises for refusals and cut connections.
    """
    headers = {"Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
    left = stop - start
    with opened(url, headers) as response:
        whole = response.status_code != 206
        if whole and left < size and not read_past:
            raise NoRanges(f"answered {response.status_code} with the whole file")
        _check(response, start, stop, size)
        skip = start if whole else 0
        for chunk in chunks_of(response, raw=True):
            if skip:
                passed = min(skip, len(chunk))
                chunk, skip = chunk[passed:], skip - passed
            chunk = chunk[:left]
            left -= len(chunk)
            if chunk:
                yield chunk
            if not left:
                return
    raise Unsteady(f"the answer ended {left:,} bytes too early")


def _check(response: "httpx2.Response", start: int, stop: int, size: int) -> None:
    """Is this the range, or the file, that was asked for, by all that the answer says of itself?"""
    whole = response.status_code != 206
    if not whole:
        held, wanted = response.headers.get("Content-Range", ""), f"bytes {start}-{stop - 1}/"
        if held not in (f"{wanted}{size}", f"{wanted}*"):
            raise Unsteady(f"the answer holds {held or 'no range'}, not {wanted}{size}")
    due = size if whole else stop - start
    # A whole file says how long it is; what does not may be a page of anybody's.
    length = response.headers.get("Content-Length", "unknown" if whole else str(due))
    if length != str(due):
        kind = response.headers.get("Content-Type", "unknown type").partition(";")[0]
        raise Unsteady(f"the answer has {length} bytes, not {due} ({kind})")
