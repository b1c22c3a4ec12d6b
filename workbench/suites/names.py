"""Whose name it is: a suite's name belongs to one definition for as long as it has results.

Who owns a name is in the store, beside the results; before there are any, the listing under
WORKBENCH_HOME says which definition has used the name last.
"""

import shlex
from dataclasses import dataclass
from typing import Literal

from analysis_db.store import Store
from analysis_db.suite_records import SuiteRecord, set_definition, suite_records
from workbench.errors import UsageError, WorkbenchError
from workbench.settings import Home
from workbench.suites.files import Definition, read_definitions
from workbench.suites.identity import (
    SHIPPED,
    identity,
    is_standing,
    path_of,
    shown,
    still_defines,
)
from workbench.suites.listing import Listing, kept_listing, kept_names, write_listing

Claim = Literal["free", "owner", "adopted"]
"""No results yet; the results are of this definition; they become those of this definition."""

_Checkpoints = dict[int, tuple[str | None, str]]
"""Repository or folder, and revision, by phase."""


@dataclass(frozen=True)
class Names:
    """The names of suites, as the store and the listings of a home know them."""

    home: Home
    records: dict[str, SuiteRecord]

    @classmethod
    def read(cls, home: Home) -> "Names":
        return cls(home, suite_records(Store(home.store)))

    def owner_of(self, name: str) -> str | None:
        """The identity of the definition that has results under the name, if that is known."""
        record = self.records.get(name)
        return record.definition if record is not None and record.results else None

    def check(self, definition: Definition, *, adopt: bool = False) -> Claim:
        """What using the definition under its name means; nothing is written.

        ``adopt`` is the user's word that this is the definition of the results, whose former one
        is gone or unknown. Raises UsageError when the results are of another definition.
        """
        record = self.records.get(definition.name)
        own = identity(definition, self.home)
        if record is None or not record.results:
            return "free"
        if record.definition == own:
            return "owner"
        if record.definition is None:
            if is_standing(own):
                return "owner"
            if not adopt and not self._agrees(definition):
                raise UsageError(self._unknown(definition))
            return "adopted"
        if still_defines(record.definition, definition.name, self.home):
            raise UsageError(self._taken(definition, record.definition))
        if not adopt and not self._agrees(definition):
            raise UsageError(self._moved(definition, record.definition))
        return "adopted"

    def adopt(self, definition: Definition) -> None:
        """Make the results and the numbers of the phases those of this definition."""
        own = identity(definition, self.home)
        set_definition(Store(self.home.store), definition.name, own)
        kept = kept_listing(definition.name, self.home)
        write_listing(definition.name, self.home, kept.model_copy(update={"definition": own}))

    def remembered(self, name: str) -> Definition | None:
        """The definition of a suite that was given by path before; None for a new name.

        Raises UsageError when it is gone or unknown, WorkbenchError when its file is wrong.
        """
        record = self.records.get(name, SuiteRecord(None, None, results=False))
        listed = kept_listing(name, self.home).definition
        places = [record.definition, listed] if record.results else [listed, record.definition]
        known = [place for place in places if place and place != SHIPPED]
        for place in known:
            path = path_of(place, self.home)
            if path is not None and still_defines(place, name, self.home):
                return next(d for d in read_definitions(path) if d.name == name)
        if known:
            raise UsageError(
                f"{shown(known[0], self.home)}, which defines suite {name}, is not there: restore "
                f"it, or name its new place once: `workbench phases NEW/{name}.toml`."
            )
        if record.results:
            raise UsageError(
                f"The store has results of suite {name} and does not say what defines it: name "
                f"its TOML once: `workbench phases PATH/{name}.toml`."
            )
        return None

    def all_remembered(self) -> list[str]:
        """The names of suites in the store or with a listing."""
        recorded = [n for n, record in self.records.items() if record.results or record.definition]
        listed = [n for n in kept_names(self.home) if kept_listing(n, self.home).definition]
        return sorted({*recorded, *listed})

    def _agrees(self, definition: Definition) -> bool:
        """Whether each phase that the store has of the name is the same checkpoint here."""
        stored = self._stored(definition.name)
        try:
            here = _checkpoints(definition, kept_listing(definition.name, self.home))
        except WorkbenchError:  # nothing of it was ever listed
            return not stored
        return stored.items() <= here.items()

    def _stored(self, name: str) -> _Checkpoints:
        sql = "SELECT phase, repo_id, revision FROM phases WHERE suite = $suite"
        rows = Store(self.home.store).table(sql, {"suite": name}).to_pylist()
        return {row["phase"]: (row["repo_id"], row["revision"]) for row in rows}

    def _taken(self, definition: Definition, owner: str) -> str:
        return (
            f"{definition.toml.path} defines a second suite named {definition.name}: the name "
            f"belongs to {shown(owner, self.home)}, which has results in the store; "
            f"{_remedy(definition)}."
        )

    def _moved(self, definition: Definition, owner: str) -> str:
        return (
            f"{definition.toml.path} names other checkpoints than the store has results of under "
            f"the name {definition.name}, which belongs to {shown(owner, self.home)}, a file that "
            f"is not there: {_remedy(definition)}, or, if it is the same suite and was moved, "
            f"{_adopt(definition)}."
        )

    def _unknown(self, definition: Definition) -> str:
        return (
            f"{definition.toml.path} names other checkpoints than the store has results of under "
            f"the name {definition.name}, and the store does not say what defined that suite: "
            f"{_remedy(definition)}, or, if it is the same suite, {_adopt(definition)}."
        )


def remember(definition: Definition, home: Home) -> None:
    """Keep where the definition is, unless its name alone leads to it."""
    own = identity(definition, home)
    if not is_standing(own) and kept_listing(definition.name, home).definition != own:
        write_listing(definition.name, home, Listing(definition=own))


def _remedy(definition: Definition) -> str:
    if definition.family:
        return "change the field name or the values of this family to choose another name"
    return "rename the file to choose another name"


def _adopt(definition: Definition) -> str:
    return f"run `workbench phases {shlex.quote(str(definition.toml.path))} --adopt`"


def _checkpoints(definition: Definition, kept: Listing) -> _Checkpoints:
    found = definition.found
    suite = definition.suite(kept.names, kept.numbers) if found else definition.suite()
    return {phase.phase: (phase.place, phase.revision) for phase in suite.phases}
