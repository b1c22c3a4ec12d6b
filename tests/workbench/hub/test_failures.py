"""Waits that a Hub asks for, minimum rates, and one sentence for phases that fail alike."""

import logging
import time
from collections.abc import Iterator
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import httpx

from workbench.hub import transfer
from workbench.hub.failures import by_reason, classify
from workbench.hub.transfer import Unsteady, asked_wait, chunks_of, patiently
from workbench.text import printable, spans


def refusal(status: int = 429, **headers: str) -> HfHubHTTPError:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    request = httpx.Request("GET", "http://hub/api/models/o/m")
    return HfHubHTTPError("no", response=httpx.Response(status, headers=named, request=request))


def test_a_wait_by_date() -> None:
    now = datetime.now(UTC)
    for date in (now + timedelta(days=1), now - timedelta(days=400)):
        text = format_datetime(date + timedelta(days=1), usegmt=True)
        with_clock = refusal(Retry_After=text, Date=format_datetime(date, usegmt=True))
        assert asked_wait(with_clock) == 86_400
    by_ours = asked_wait(refusal(Retry_After=format_datetime(now + timedelta(days=1), usegmt=True)))
    assert by_ours == pytest.approx(86_400, abs=5)
    assert asked_wait(refusal(Retry_After="soon")) is None
    assert asked_wait(refusal()) is None


@pytest.mark.parametrize(
    ("wait", "says"),
    [
        ("301", "the Hub asks to wait 5.02 minutes (429 Too Many Requests)"),
        ("5400", "the Hub asks to wait 1.5 hours (429 Too Many Requests)"),
        ("86400", "the Hub asks to wait 1 day (429 Too Many Requests)"),
        ("9" * 400, "the Hub asks to wait 1e+06 days (429 Too Many Requests)"),
        ("300", "the Hub refused (429 Too Many Requests)"),
    ],
)
def test_a_long_wait_is_told(wait: str, says: str) -> None:
    failure = classify(refusal(Retry_After=wait), "o/m", "main", "pull again")
    assert failure is not None
    assert failure.reason == says


def test_a_wait_of_more_than_a_moment_is_logged(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    for wait, said in (
        ("9", []),
        ("120", ["The Hub asks to wait 120 seconds before the next try."]),
    ):
        faults = [refusal(Retry_After=wait)]

        def call(faults: list[HfHubHTTPError] = faults) -> int:
            if faults:
                raise faults.pop()
            return 1

        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert patiently(call) == 1
        assert [record.getMessage() for record in caplog.records] == said
    assert waited == [9, 120]


class Body:
    """A response whose chunks come after so many seconds each."""

    def __init__(self, chunks: list[tuple[float, int]], clock: list[float]) -> None:
        self.chunks = chunks
        self.clock = clock

    def iter_bytes(self) -> Iterator[bytes]:
        for seconds, size in self.chunks:
            self.clock[0] += seconds
            yield bytes(size)


@pytest.mark.parametrize(
    ("chunks", "busy", "steady"),
    [
        ([(1, 2)] * 100, 0, False),
        ([(9, 1024 * 9 - 1)] * 10, 0, False),
        ([(9, 1024 * 9)] * 10, 0, True),
        ([(1, 50_000)] * 60 + [(1, 2)] * 60, 0, False),
        ([(0.1, 200)] * 100, 60, True),  # what the caller does in between does not count
        ([(1, 2)] * 29, 0, True),
    ],
)
def test_the_minimum_rate(
    chunks: list[tuple[float, int]], busy: float, steady: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr(transfer.time, "monotonic", lambda: clock[0])
    body: httpx.Response = Body(chunks, clock)  # type: ignore[assignment]
    refused = pytest.raises(Unsteady, match=r"only .* bytes came in")
    with nullcontext() if steady else refused:
        for _ in chunks_of(body):
            clock[0] += busy


def test_phases_that_fail_alike_share_a_sentence() -> None:
    failed = [
        (1, "phase 1", "Phase 1 of suite s: no."),
        (2, "step 2", "Step 2 of suite s: no."),
        (3, "phase 3", "Phase 3 of suite s: other."),
        (5, "phase 5", "Phase 5 of suite s: no."),
        (6, "phase 6", "something else"),
        (7, "phase 7", "something else"),
    ]
    assert by_reason("s", failed) == [
        "Phases 1-2,5 of suite s: no.",
        "Phase 3 of suite s: other.",
        "something else",
    ]


def test_texts_of_sentences() -> None:
    assert printable("a\x1b[31m\nb") == "a\\x1b[31m\\nb"
    assert printable("x" * 1000) == "x" * 200 + "..."
    assert spans([3, 1, 2, 7, 7]) == "1-3,7"
