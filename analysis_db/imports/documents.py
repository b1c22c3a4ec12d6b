"""JSON files that say where they are wrong: file, line and field."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from analysis_db.errors import StoreError

_DECODER = json.JSONDecoder()
_BETWEEN = re.compile(r"[\s,:]*")


@dataclass(frozen=True)
class Document:
    """A JSON file and what it holds."""

    path: Path
    text: str
    content: Any

    @classmethod
    def read(cls, path: Path) -> "Document":
        """Raises StoreError when it cannot be read, is no JSON, or has a key twice."""
        try:
            text = path.read_text(encoding="utf-8")
            return cls(path, text, json.loads(text, object_pairs_hook=unique_keys))
        except (OSError, UnicodeDecodeError) as error:
            raise StoreError(f"{path} cannot be read ({error}); nothing was imported.") from None
        except json.JSONDecodeError as error:
            raise StoreError(
                f"{path}, line {error.lineno}: not valid JSON ({error.msg}); nothing was imported."
            ) from None
        except DuplicateKeyError as error:
            again = text.rfind(json.dumps(error.key, ensure_ascii=False))
            line = text.count("\n", 0, max(again, 0)) + 1
            raise StoreError(
                f"{path}, line {line}: the key {error.key!r} is there twice in one object; nothing "
                "was imported."
            ) from None

    @property
    def sha256(self) -> str:
        return sha256(self.text.encode()).hexdigest()

    def at(self, *keys: str | int) -> Any:
        """The value under these keys, one in the other; raises StoreError when there is none."""
        value = self.content
        for depth, key in enumerate(keys):
            try:
                value = value[key]
            except (LookupError, TypeError):
                raise self.wrong(keys[:depth], f"has no {key!r}") from None
        return value

    def mapping(self, *keys: str | int) -> dict[str, Any]:
        """The object under these keys; raises StoreError when it is none."""
        value = self.at(*keys)
        if not isinstance(value, dict):
            raise self.wrong(keys, "is not an object")
        return value

    def wrong(self, keys: Sequence[str | int], what: str) -> StoreError:
        """The error to raise for the value under these keys."""
        field = f" field {'.'.join(map(str, keys))}" if keys else " the file"
        return StoreError(
            f"{self.path}, line {_line(self.text, keys)}:{field} {what}; nothing was imported."
        )


class DuplicateKeyError(Exception):
    """A JSON object has a key twice."""

    def __init__(self, key: str) -> None:
        self.key = key


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The pairs of a JSON object as a dict. Raises DuplicateKeyError."""
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise DuplicateKeyError(key)
            seen.add(key)
    return found


def _line(text: str, keys: Sequence[str | int]) -> int:
    """The line on which the value under these keys begins."""
    place = _skip(text, 0)
    for key in keys:
        named = text[place] == "{"
        place = _skip(text, place + 1)
        index = 0
        while True:
            found: str | int = index
            if named:
                found, place = _DECODER.raw_decode(text, place)
                place = _skip(text, place)
            if found == key:
                break
            _, place = _DECODER.raw_decode(text, place)
            place = _skip(text, place)
            index += 1
    return text.count("\n", 0, place) + 1


def _skip(text: str, place: int) -> int:
    found = _BETWEEN.match(text, place)
    return found.end() if found else place


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
