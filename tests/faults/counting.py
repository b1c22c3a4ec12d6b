"""How many bytes of which file were sent, and how many of them twice."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.faults.faulty_hub import Request


@dataclass
class Coverage:
    """Bytes of a file that have been sent, as ranges that do not touch."""

    spans: list[range] = field(default_factory=list)

    def add(self, span: range) -> int:
        """Take in a span; returns how many of its bytes were here before."""
        again = sum(len(_common(span, other)) for other in self.spans)
        start, stop, apart = span.start, span.stop, []
        for other in self.spans:
            if other.stop < start or stop < other.start:
                apart.append(other)
            else:
                start, stop = min(start, other.start), max(stop, other.stop)
        self.spans = [*apart, range(start, stop)] if span else self.spans
        return again


def _common(a: range, b: range) -> range:
    return range(max(a.start, b.start), min(a.stop, b.stop))


def bodies(requests: list[Request]) -> Iterator[Request]:
    """Those that brought content of files."""
    return (r for r in requests if r.kind in ("file", "signed") and r.status in (200, 206))


def sent_of(requests: list[Request]) -> dict[str, int]:
    """Bytes of content that were sent, by file."""
    total: dict[str, int] = {}
    for request in bodies(requests):
        total[request.file] = total.get(request.file, 0) + request.sent
    return total


def sent_again(requests: list[Request], known: dict[str, Coverage] | None = None) -> dict[str, int]:
    """Bytes that were sent more than once, by file; ``known`` is what came before, and is added to.

    With ``known`` only what was sent before these requests, or twice among them, counts.
    """
    known = {} if known is None else known
    again: dict[str, int] = {}
    for request in bodies(requests):
        twice = known.setdefault(request.file, Coverage()).add(request.span)
        again[request.file] = again.get(request.file, 0) + twice
    return again
