"""Bytes from the Hub over its client's own session: ranges of a file, and patience with faults."""

import random
import threading
import time
from collections.abc import Callable, Iterator
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import httpx2

Result = TypeVar("Result")

WAITS = (0.5, 1.0, 2.0, 4.0)
"""Seconds before each further try of a call that came no further."""
LONGEST_WAIT = 300.0
"""Seconds that the Hub may tell us to wait; asked for more, the call fails."""


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
            wait = _asked_wait(error)
            if not _passing(error) or (wait or 0) > LONGEST_WAIT:
                raise
            if gone_on():
                tries = 0
            if tries == len(WAITS) or (first and isinstance(error, httpx.ConnectError)):
                raise
            pause = WAITS[tries] * random.uniform(0.75, 1.25) if wait is None else wait
            tries += 1
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


def _asked_wait(error: Exception) -> float | None:
    """Seconds of a Retry-After, given as seconds or as a date."""
    response: httpx2.Response | None = getattr(error, "response", None)
    if isinstance(error, Unsteady) or response is None:
        return getattr(error, "wait", None)
    asked = response.headers.get("Retry-After", "").strip()
    if asked.isdecimal():
        return float(asked)
    try:
        until = parsedate_to_datetime(asked)
        # By the server's own clock, which may not be ours.
        now = parsedate_to_datetime(response.headers.get("Date", ""))
        return max(0.0, (until - now).total_seconds())
    except (TypeError, ValueError):
        return None


def stream_range(
    url: str, start: int, stop: int, size: int, *, read_past: bool = False
) -> Iterator[bytes]:
    """The bytes ``start`` to ``stop`` (exclusive) of a file of ``size`` bytes, as they come.

    Asks anew at ``url`` itself, so that a signed address behind it is always fresh. Never yields
    more than was asked for. ``read_past`` says what to do where a server sends the whole file
    instead: read past what comes before, or raise NoRanges. Raises Unsteady for fewer bytes, or
    for others than asked for, and what the client raises for refusals and cut connections.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

    headers = build_hf_headers() | {
        "Range": f"bytes={start}-{stop - 1}",
        "Accept-Encoding": "identity",
    }
    left = stop - start
    with get_session().stream(
        "GET", url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT
    ) as response:
        hf_raise_for_status(response)
        whole = response.status_code != 206
        if whole and left < size and not read_past:
            raise NoRanges(f"answered {response.status_code} with the whole file")
        _check(response, start, stop, size)
        skip = start if whole else 0
        for chunk in response.iter_raw():
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
