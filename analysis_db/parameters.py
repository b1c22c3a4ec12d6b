"""Values of a query's parameters: as people type them, and as SQL literals."""

import json
import re
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

import duckdb


def typed(text: str) -> Any:
    """What JSON makes of it (a number, true, false, null, a list, quoted text); else the text.

    ``007`` and ``NaN`` are text, as JSON knows neither; so is an object in braces.
    """

    def refuse(name: str) -> Any:
        raise ValueError(name)

    try:
        value = json.loads(text, parse_constant=refuse)
    except ValueError:
        return text
    return text if isinstance(value, dict) else value


def with_literals(sql: str, params: Mapping[str, Any]) -> str:
    """The query with each ``$name`` replaced by its value; text and comments stay as they are."""
    text, done = sql.encode(), 0
    parts: list[bytes] = []
    for start, end in _places(sql):
        name = text[start + 1 : end].decode()
        if name in params:
            parts += [text[done:start], literal(params[name]).encode()]
            done = end
    return b"".join([*parts, text[done:]]).decode()


def parameter_names(sql: str) -> set[str]:
    """The names after ``$`` in a query."""
    text = sql.encode()
    return {text[start + 1 : end].decode() for start, end in _places(sql)}


def _places(sql: str) -> Iterator[tuple[int, int]]:
    """(start, end) in bytes of every ``$name`` of a query."""
    text = sql.encode()
    starts = duckdb.tokenize(sql)
    for (start, kind), (after, _) in pairwise(starts):
        if kind is duckdb.token_type.operator and text[start:after] == b"$":
            name = re.match(r"\w+", text[after:].decode())
            if name:
                yield start, after + len(name[0].encode())


def literal(value: Any) -> str:
    """A value of JSON as SQL, of the type that it has when it is bound."""
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return f"({value})"
    if isinstance(value, float):
        return f"CAST('{value!r}' AS DOUBLE)"
    if isinstance(value, list):
        return f"[{', '.join(map(literal, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_quoted(str(k))}: {literal(v)}' for k, v in value.items())}}}"
    return _quoted(str(value))


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
