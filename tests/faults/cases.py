"""The faults that a server can have, and what a pull has to make of each."""

import email.utils
import gzip
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.faults.counting import sent_again, sent_of
from tests.faults.faults import (
    away,
    cut,
    flip,
    hang_up,
    json_body,
    later,
    lead_to,
    led_by,
    page,
    refuse,
    replace,
    round_and_round,
    shifted,
    silent,
    stall,
    whole,
)
from tests.faults.faulty_hub import Fault, FaultyHub, Rule
from tests.faults.stage import BIG, SEGMENT, SIZE, STALL, Stage, faulty
from workbench.hub.failures import HubError
from workbench.hub.pull import plan_pull, pull_phase

OFTEN = None  # a rule's `times`: every request

Rules = tuple[Rule, ...]


@dataclass(frozen=True)
class Case:
    """A fault, and how the pull has to end: with the right files, or with one sentence."""

    name: str
    rules: Rules | Callable[[Stage, FaultyHub], Rules]
    """The function is given the second host as well."""
    sentence: str | None = None
    """What the sentence has to say (a pattern); None: the files come, and are right."""
    keeps: bool = False
    """After the failure part of the file is in the cache, and the next pull goes on there."""
    again: int | None = None
    """So many bytes may be fetched twice where the files come; None: any number."""


@dataclass(frozen=True)
class Seen:
    """How a case ended."""

    message: str | None
    """The sentence, or None when the files came."""
    wrong: list[str]
    """What was not as it should be, in the cache or in what the next pull did."""
    kept: int = 0
    """Bytes of files in the cache after the failure."""
    again: int = 0
    """Bytes that were fetched twice, where the files came."""

    @property
    def outcome(self) -> str:
        return "; ".join(self.wrong) or self.message or "the right files"


def see(stage: Stage, case: Case, cache: Path) -> Seen:
    """Pull with the fault, and after a failure once more without it."""
    suite, phase = stage.suite(cache)
    with FaultyHub(stage.hub.endpoint, host="localhost") as other:
        rules = case.rules if isinstance(case.rules, tuple) else case.rules(stage, other)
        with faulty(stage.hub.endpoint, *rules) as hub:
            try:
                snapshot = pull_phase(suite, phase, endpoint=hub.endpoint)
                again = sum(sent_again(hub.settled()).values())
                return Seen(None, stage.wrong_with(snapshot), again=again)
            except HubError as error:
                message = str(error)
            hub.settled()
    wrong = stage.wrong_after_failure(cache)
    with faulty(stage.hub.endpoint) as hub:
        held = plan_pull(suite, phase, endpoint=hub.endpoint).held
        wrong += stage.wrong_with(pull_phase(suite, phase, endpoint=hub.endpoint))
        fetched = sum(sent_of(hub.settled()).values())
    if fetched != stage.size - held:
        wrong.append(f"{held} of {stage.size} bytes were here and {fetched} were fetched")
    return Seen(message, wrong, held)


REFUSED = r"the Hub refused \(.*\): "
CUT = r"kept disconnecting \(.*\): pull again to resume"
UNREACHED = r"the Hub cannot be reached \(.*\): check the network and HF_ENDPOINT"
NO_HUB = r"what answered is not a Hub \(.*\): check the network and HF_ENDPOINT"
DAMAGED = rf"{BIG} arrived damaged twice .* pull again"
GATED = r"is gated: accept its terms on the Hub and set HF_TOKEN"

OFFSETS = (0, 1, 7, 65_535, 65_536, 65_537, SEGMENT - 1, SEGMENT, SEGMENT + 1, 1_234_567)


def big(fault: Fault, at: int | None = None, **when: Any) -> Rules:
    return (Rule(fault, path=f"*/{BIG}", at=at, **when),)


def info(fault: Fault, **when: Any) -> Rules:
    return (Rule(fault, kind="info", **when),)


def _cuts() -> Iterator[Case]:
    for at in OFFSETS:
        yield Case(f"reset at byte {at:,}", big(cut(reset=True), at), again=0)
        yield Case(f"short body, {at:,} bytes", big(cut(reset=False), at), again=0)
    for name, reset in (("reset", True), ("short body", False)):
        fault = cut(reset=reset)
        everywhere = tuple(Rule(fault, path=f"*/{BIG}", at=at) for at in range(0, SIZE, 70_000))
        yield Case(f"{name} every 70,000 bytes", everywhere, again=0)
        yield Case(
            f"{name} at byte 1,234,567, always", big(fault, 1_234_567, times=OFTEN), CUT, True
        )
        yield Case(f"{name} at byte 0, always", big(fault, 0, times=OFTEN), CUT)
    yield Case("reset instead of the model info", info(hang_up))
    yield Case("reset instead of the model info, always", info(hang_up, times=OFTEN), UNREACHED)
    yield Case("reset instead of a file", big(hang_up))
    yield Case("model info is cut short", info(cut(reset=False)))
    yield Case("gone while a file comes, back soon", big(away(0.1), 700_000))
    yield Case("gone while a file comes, for good", big(away(600), 700_000), CUT)
    yield Case("connection refused", info(away(600)), UNREACHED)
    yield Case("stall at byte 300,000", big(stall(STALL), 300_000), again=0)
    yield Case("stall at byte 300,000, always", big(stall(STALL), 300_000, times=OFTEN), CUT, True)
    yield Case("no answer to a file", big(silent(STALL)))
    yield Case("no answer to the model info", info(silent(STALL)))
    yield Case("no answer to the model info, always", info(silent(STALL), times=OFTEN), UNREACHED)


def _bodies() -> Iterator[Case]:
    more = replace(lambda body: body + b"x" * 1000)
    yield Case("extra body", big(more))
    yield Case("extra body, always", big(more, times=OFTEN), CUT)
    yield Case(
        "extra bytes, not announced", big(replace(lambda b: b + b"x" * 9, length=lambda n: n - 9))
    )
    too_big = replace(length=lambda n: n + 1000)
    yield Case("Content-Length too big", big(too_big))
    yield Case("Content-Length too big, always", big(too_big, times=OFTEN), CUT)
    half = replace(length=lambda n: n // 2)
    yield Case("Content-Length too small", big(half))
    yield Case("Content-Length too small, always", big(half, times=OFTEN), CUT, True)
    yield Case("no Content-Length", big(replace(length=lambda n: -1), times=OFTEN))
    for status in (200, 206):
        empty = replace(lambda body: b"", status=status)
        yield Case(f"empty body, {status}", big(empty))
        yield Case(f"empty body, {status}, always", big(empty, times=OFTEN), CUT)
    yield Case("204 for a file", big(refuse(204)))
    for at in (0, 1_000_000, 1_999_999):
        yield Case(f"flipped byte {at:,}", big(flip, at))
    yield Case("flipped byte, always", big(flip, 1_000_000, times=OFTEN), DAMAGED)
    tokens = "*/tokenizer.json"
    yield Case("flipped byte in a small file", (Rule(flip, path=tokens, at=9),))
    yield Case(
        "flipped byte in a small file, always",
        (Rule(flip, path=tokens, at=9, times=OFTEN),),
        r"tokenizer\.json arrived damaged twice",
    )
    packed = replace(gzip.compress, Content_Encoding="gzip")
    yield Case("compressed although not asked to", big(packed))
    yield Case("a page of HTML instead of a file", big(page()))
    yield Case("a page of HTML instead of a file, always", big(page(), times=OFTEN), CUT)
    yield Case(
        "a page of HTML without length, always", big(page(announced=False), times=OFTEN), CUT
    )
    yield Case("a page of HTML instead of the model info", info(page(), times=OFTEN), NO_HUB)
    for text in ("{}", "[]", "null", '{"detail": "log in"}', '{"id": '):
        yield Case(f"{text} as model info", info(json_body(text), times=OFTEN), NO_HUB)
    endless = json_body(f"[{' ' * (1 << 20)}]")
    too_long = r"not a Hub \(it answers with more than 1,048,576 bytes"
    yield Case("an answer that is too long", info(endless, times=OFTEN), too_long)
    empty_model = json_body('{"id": "owner/name"}')
    yield Case("a model without files", info(empty_model, times=OFTEN), "HF_ENDPOINT|no weights")
    yield Case("Range ignored", big(whole, times=OFTEN))
    for by in (-100, 100):
        yield Case(f"another range ({by:+})", big(shifted(by), 1_234_567))
    lies = {
        "start": replace(Content_Range="bytes 0-1/2000080"),
        "size": replace(Content_Range="bytes 0-524287/99"),
        "words": replace(Content_Range="some of it"),
        "nothing": replace(Content_Range=None),
    }
    for name, lie in lies.items():
        yield Case(f"Content-Range lies ({name})", big(lie, 1_234_567))
        yield Case(f"Content-Range lies ({name}), always", big(lie, 600_000, times=OFTEN), CUT)
    moved = replace(lambda body: body[1:] + b"x")
    yield Case("bytes are shifted below a right Content-Range", big(moved, 1_234_567))


def _refusals() -> Iterator[Case]:
    unknown = r"the Hub has no public repository .* HF_TOKEN"
    yield Case("401", info(refuse(401), times=OFTEN), "HF_TOKEN")
    wrong_token = refuse(401, message="Invalid credentials in Authorization header")
    yield Case("401 for a wrong token", info(wrong_token, times=OFTEN), "HF_TOKEN")
    yield Case("401 for a file", big(refuse(401), times=OFTEN), "HF_TOKEN")
    yield Case("403 gated", info(refuse(403, "GatedRepo"), times=OFTEN), GATED)
    yield Case("403 gated, for a file", big(refuse(403, "GatedRepo"), times=OFTEN), GATED)
    not_you = r"does not let you read .* \(403\).* HF_TOKEN"
    yield Case("403 for a file", big(refuse(403), times=OFTEN), not_you)
    yield Case("404 repository", info(refuse(404, "RepoNotFound"), times=OFTEN), unknown)
    no_revision = refuse(404, "RevisionNotFound")
    yield Case("404 revision", info(no_revision, times=OFTEN), "has no revision main: correct it")
    yield Case("404 without a code", info(refuse(404), times=OFTEN), REFUSED)
    gone = refuse(404, "EntryNotFound")
    yield Case("404 file", big(gone, times=OFTEN), "a file that .* lists is not there")
    yield Case(
        "a file vanishes", big(gone, skip=2, times=OFTEN), "a file that .* lists is not there"
    )
    less = r"the Hub has less of .* than it lists \(416\)"
    yield Case("416", big(refuse(416), 1_234_567, times=OFTEN), less)
    yield Case("429 with Retry-After 1", info(later(1)))
    yield Case("429 with Retry-After 0 for a file", big(later(0)))
    yield Case("429 with a date", big(later(1, as_date=True)))
    decades = 30 * 365 * 86_400.0
    for clock in (-decades, decades):
        by_that = later(0, as_date=True, clock=clock)
        yield Case(f"429 with a date, by a clock {clock / 86_400:+,.0f} days off", big(by_that))
    yield Case("429, always", big(later(0), times=OFTEN), REFUSED)
    for as_date in (False, True):
        a_day = later(86_400, as_date=as_date)
        said = rf"the Hub asks to wait 1 day \(429 Too Many Requests for {BIG}\): pull again aft"
        yield Case(f"429 with a day, as a date: {as_date}", big(a_day, times=OFTEN), said)
        listed = r"the Hub asks to wait 1 day \(429 Too Many Requests\): pull again after that"
        yield Case(f"model info: 429 with a day, {as_date}", info(a_day, times=OFTEN), listed)
    yield Case(
        "429 with a date that has no zone",
        lambda stage, other: info(_without_zone, times=OFTEN),
        "asks to wait 2 days",
    )
    yield Case("429 without Retry-After", big(refuse(429)))
    yield Case("429 with nonsense", big(refuse(429, Retry_After="soon")))
    for status in (408, 500, 502, 503, 504):
        yield Case(f"{status} for the model info", info(refuse(status)))
        yield Case(
            f"{status} for the model info, always", info(refuse(status), times=OFTEN), REFUSED
        )
        yield Case(f"{status} for a file", big(refuse(status)))
        yield Case(f"{status} in mid-file", big(refuse(status), 1_234_567))
        yield Case(f"{status} for a file, always", big(refuse(status), times=OFTEN), REFUSED)
        every = (Rule(refuse(status), kind="any", times=3),)
        yield Case(f"{status} thrice, whatever is asked", every)


def _addresses() -> Iterator[Case]:
    yield Case("redirects in a circle, model info", info(round_and_round, times=OFTEN), UNREACHED)
    yield Case("redirects in a circle, file", big(round_and_round, times=OFTEN), UNREACHED)
    yield Case("ETag that changes", big(replace(ETag='"other"', X_Linked_Etag='"other"')))
    yield Case(
        "another file under the same address",
        lambda stage, other: big(led_by_commit(stage), times=OFTEN),
        DAMAGED,
    )
    yield Case(
        "the revision moves",
        lambda stage, other: (
            Rule(led_by(stage.moved.endpoint), kind="info", skip=1, times=OFTEN),
            Rule(led_by(stage.moved.endpoint), path="*/resolve/main/*", times=OFTEN),
        ),
    )
    lost = refuse(404, "RevisionNotFound")
    yield Case("the commit is gone", big(lost, skip=1, times=OFTEN), r"pull again")
    yield Case("large files at another host", _elsewhere)
    yield Case(
        "a signed address that runs out",
        lambda stage, other: (
            Rule(lead_to(other, -1), path="*.safetensors"),
            Rule(lead_to(other, 60), times=OFTEN),
        ),
    )
    yield Case(
        "signed addresses that have always run out",
        lambda stage, other: (Rule(lead_to(other, -1), times=OFTEN),),
        REFUSED,
    )
    yield Case("the other host resets", _elsewhere_with(cut(reset=True)))
    yield Case("the other host flips a byte", _elsewhere_with(flip))
    yield Case("the other host ignores ranges", _elsewhere_with(whole))
    for year in ("1990", "2099"):
        date = f"Mon, 01 Jan {year} 00:00:00 GMT"
        skew = replace(Date=date, Last_Modified=date)
        yield Case(f"the server's clock says {year}", (Rule(skew, kind="any", times=OFTEN),))
    bare = info(_no_hashes, times=OFTEN)  # as some mirrors answer
    yield Case("model info without sizes and hashes", bare)
    for status in (500, 502, 503):
        yield Case(f"{status} for the tree", (*bare, Rule(refuse(status), kind="tree")))
    no_tree = Rule(refuse(503), kind="tree", times=OFTEN)
    yield Case("503 for the tree, always", (*bare, no_tree), REFUSED)


def _without_zone(exchange: Any) -> None:
    date = email.utils.formatdate(time.time() + 2 * 86_400)
    exchange.send((429, {"Retry-After": date}, b"{}"))


def led_by_commit(stage: Stage) -> Fault:
    """The moved branch's file, at the address of the old commit."""

    def fault(exchange: Any) -> None:
        exchange.handler.path = (
            f"/{exchange.request.path.split('/resolve/')[0].strip('/')}/resolve/main/{BIG}"
        )
        exchange.handler.pass_on(stage.moved.endpoint)

    return fault


def _elsewhere(stage: Stage, other: FaultyHub) -> Rules:
    return (Rule(lead_to(other, 60), times=OFTEN),)


def _elsewhere_with(fault: Fault) -> Callable[[Stage, FaultyHub], Rules]:
    def rules(stage: Stage, other: FaultyHub) -> Rules:
        other.rules = (Rule(fault, kind="signed", path=f"*/{BIG}", at=1_000_000),)
        return _elsewhere(stage, other)

    return rules


def _no_hashes(exchange: Any) -> None:
    exchange.handler.path = exchange.handler.path.partition("?")[0]
    exchange.handler.pass_on(exchange.hub.upstream)


CASES = (*_cuts(), *_bodies(), *_refusals(), *_addresses())
