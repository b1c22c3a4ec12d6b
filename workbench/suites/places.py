"""Where in a suite's file something is wrong, and what a misspelt field was meant to be."""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from pydantic import BaseModel, ValidationError

from workbench.errors import WorkbenchError

Place = Sequence[str | int]
"""A path of keys, and of indices into arrays of tables, as pydantic states it."""

_TABLE = re.compile(r"\s*\[\s*([\w.\"'-]+)\s*\]\s*(#.*)?")
_ITEM = re.compile(r"\s*\[\[\s*([\w.\"'-]+)\s*\]\]\s*(#.*)?")
_KEY = re.compile(r"""\s*([\w.-]+|"[^"]*"|'[^']*')\s*=""")


@dataclass(frozen=True)
class Toml:
    """The text of a TOML file, to say where it is wrong."""

    path: Path
    text: str

    def wrong(self, place: Place, what: str, known: Collection[str] = ()) -> WorkbenchError:
        """The error for the field at ``place``."""
        return wrong(self.path, line_of(self.text, place), place, what, known)

    def explained(
        self, error: ValidationError, model: type[BaseModel], under: Place = ()
    ) -> WorkbenchError:
        """The first fault that pydantic found in what stands ``under`` a place."""
        place = (*under, *error.errors()[0]["loc"])
        return explained(self.path, line_of(self.text, place), error, model, under)


def wrong(
    path: Path, line: int, place: Place, what: str, known: Collection[str] = ()
) -> WorkbenchError:
    """File, line, field, what is wrong, and the nearest of the names that are known."""
    field = ".".join(str(part) for part in place)
    at = f"field {field}: " if field else ""
    near = get_close_matches(str(place[-1]), known, n=1) if place else []
    hint = f"; did you mean {near[0]}?" if near else f"; known are {', '.join(known)}."
    return WorkbenchError(f"{path}, line {line}: {at}{what}{hint if known else '.'}")


def explained(
    path: Path, line: int, error: ValidationError, model: type[BaseModel], under: Place = ()
) -> WorkbenchError:
    """The first fault that pydantic found in a ``model``, as one sentence."""
    first = error.errors()[0]
    place = (*under, *first["loc"])
    if first["type"] == "extra_forbidden":
        known = list(model.model_fields) if len(first["loc"]) == 1 else []
        return wrong(path, line, place, "unknown", known)
    return wrong(path, line, place, first["msg"].removeprefix("Value error, "))


def line_of(text: str, place: Place) -> int:
    """The line of a TOML text where the value at ``place`` stands, or what is nearest around it."""
    wanted = [str(part) for part in place]
    table: list[str] = []
    tables: dict[str, int] = {}
    best, best_line = 0, 1
    for number, line in enumerate(text.splitlines(), 1):
        if item := _ITEM.fullmatch(line):
            tables[item[1]] = tables.get(item[1], -1) + 1
            here = table = [*_keys(item[1]), str(tables[item[1]])]
        elif header := _TABLE.fullmatch(line):
            here = table = _keys(header[1])
        elif key := _KEY.match(line):
            here = table + _keys(key[1])
        else:
            continue
        depth = min(len(here), len(wanted))
        if best < depth and here[:depth] == wanted[:depth]:
            best, best_line = depth, number
    return best_line


def _keys(dotted: str) -> list[str]:
    return [part.strip("\"'") for part in dotted.split(".")]
