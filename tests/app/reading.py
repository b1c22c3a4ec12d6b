"""What a Markdown slot shows of an escaped text."""

import re
import string

_WRAPPED = re.compile(r":color\[(\\?.)\]")
_ESCAPED = re.compile(rf"\\([{re.escape(string.punctuation)}])")


def shown(markdown: str) -> str:
    """``markdown`` without its escapes; its own markup stays."""
    return _ESCAPED.sub(r"\1", _WRAPPED.sub(r"\1", markdown))
