"""Short texts for sentences: names and reasons from outside, spans of numbers."""

from collections.abc import Iterable

_LONGEST = 200
"""Characters of a name or a reason that are quoted."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type where it has none."""
    lines = str(error).strip().splitlines()
    return printable(lines[0]).rstrip(".") if lines else type(error).__name__


def printable(text: str) -> str:
    """The text without what a terminal would obey, and not longer than a sentence allows."""
    shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text[: _LONGEST + 1])
    return shown if len(text) <= _LONGEST else f"{shown[:_LONGEST]}..."


def spans(numbers: Iterable[int]) -> str:
    """1, 2, 3, 7 as ``1-3,7``: the form that ``--phases`` takes."""
    found: list[list[int]] = []
    for number in sorted(set(numbers)):
        if found and number == found[-1][1] + 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in found)
