"""JSON that comes from outside: parsed with bounds, or refused with a reason."""

import json
import re
from collections.abc import Iterable
from typing import Any

LONGEST = 100_000_000
"""Bytes of the longest JSON text that is read: an answer of a Hub, a config, an index."""
DEEPEST = 100
"""Objects and lists inside each other; a config or an index has fewer than ten."""
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


class InvalidJSON(ValueError):
    """The text is no JSON that can be worked with; the message says why."""


def parse_json(text: bytes | str) -> Any:
    """The parsed value. Raises InvalidJSON.

    What the parser accepts and the code after it cannot handle is refused too: values nested
    deeper than DEEPEST, and texts that no encoding can write (half of a surrogate pair).
    """
    if len(text) > LONGEST:
        raise InvalidJSON(f"it has {len(text):,} bytes, and at most {LONGEST:,} are read")
    try:
        text = text.decode("utf-8-sig") if isinstance(text, bytes) else text
        value = json.loads(text)
        _check_depth(value)
        if _SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise InvalidJSON("it is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise InvalidJSON(str(error)) from None
    except UnicodeDecodeError as error:
        raise InvalidJSON(f"byte {error.start:,} is not UTF-8") from None
    except UnicodeEncodeError:
        raise InvalidJSON("it holds half of a surrogate pair, which is no text") from None
    except ValueError as error:  # a number of more digits than Python converts
        raise InvalidJSON(str(error)) from None
    return value


def _check_depth(value: Any) -> None:
    """Raise RecursionError for more than DEEPEST levels, without recursion of its own."""
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(DEEPEST):
        children = (c for parent in level for c in _children(parent))
        level = [child for child in children if isinstance(child, dict | list)]
        if not level:
            return
    raise RecursionError


def _children(parent: dict[str, Any] | list[Any]) -> Iterable[Any]:
    return parent.values() if isinstance(parent, dict) else parent
