"""Ways into the store for facts that no probe measured: mixes, scores, training logs.

Every import reads and checks its files to the last row before the store is opened, and writes in
one transaction: all of it is stored, or nothing.
"""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Imported:
    """What an import stored, and what a person should know of it."""

    stored: list[dict[str, Any]]
    """A row for each thing that was stored."""
    remarks: list[str] = field(default_factory=list)
    """Sentences: what was left out, what could not be known."""
