"""What is kept of a suite under WORKBENCH_HOME: its definition, and what a pattern has found.

A suite that is given by path is known by its name from then on: its listing says where its TOML is.
Checkpoints that a pattern finds are kept with the numbers that they were given.
Everything works offline afterwards and a phase keeps its number: results are stored under it. A
checkpoint that turns up later is numbered after all others, also where training passed it in the
middle; only a suite that has no results yet may be numbered anew. What has gone from the Hub keeps
its number and its place. The listing of another definition of the same name is not used.
"""

import os
from collections.abc import Iterable
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from workbench.errors import WorkbenchError
from workbench.settings import Home
from workbench.suites.files import Definition
from workbench.suites.identity import identity, is_standing
from workbench.suites.models import Phase, Suite


class Listing(BaseModel):
    """What is kept of a suite."""

    model_config = ConfigDict(extra="forbid")

    definition: str = ""
    """Its ``identity``; empty in a listing from before definitions were recorded."""
    refs: dict[str, dict[str, str]] = {}
    """Commit by repository and ref; of a folder of this machine, empty texts by sub-folder."""
    gone: dict[str, dict[str, str]] = {}
    """Those of ``refs`` that are no longer there."""
    numbers: dict[str, int] = {}
    """Phase numbers by the key of ``blocks.Candidate``."""

    @property
    def names(self) -> dict[str, list[str]]:
        """All that was ever found, by source."""
        sources = self.refs.keys() | self.gone.keys()
        return {s: [*self.refs.get(s, {}), *self.gone.get(s, {})] for s in sources}


def listed_suite(definition: Definition, home: Home) -> Suite:
    """The suite as last listed; repositories that never were, are listed now, and kept.

    Raises HubError when that is impossible.
    """
    kept = read_listing(definition, home)
    unknown = [repo for repo in _repositories(definition) if repo not in kept.refs]
    found = {repo: refs for repo, refs in kept.refs.items() if repo not in unknown}
    return _renewed(definition, home, found | _listed(definition, unknown), fixed=True)[0]


def known_suite(definition: Definition, home: Home) -> Suite | None:
    """As ``listed_suite``, but None where the Hub would have to be asked."""
    kept = read_listing(definition, home)
    if all(repo in kept.refs for repo in _repositories(definition)):
        return listed_suite(definition, home)
    return None


def refreshed_suite(definition: Definition, home: Home, *, fixed: bool) -> tuple[Suite, list[str]]:
    """List the suite anew, and say in sentences what is other than before.

    ``fixed`` says that the numbers given have to stay, since results are stored under them.
    """
    refs = _listed(definition, _repositories(definition))
    return _renewed(definition, home, refs, fixed=fixed)


def _renewed(
    definition: Definition, home: Home, refs: dict[str, dict[str, str]], *, fixed: bool
) -> tuple[Suite, list[str]]:
    before = read_listing(definition, home)
    refs = refs | {
        folder: _folders_in(definition.folder / folder) for folder in _folders(definition)
    }
    gone = {
        source: {n: c for n, c in (before.gone.get(source, {}) | old).items() if n not in now}
        for source, now in refs.items()
        for old in [before.refs.get(source, {})]
    }
    own = identity(definition, home)
    after = Listing(
        definition=own, refs=refs, gone={s: names for s, names in gone.items() if names}
    )
    keys = [candidate.key for candidate in definition.candidates(after.names)]
    new = [key for key in keys if key not in before.numbers]
    late = bool(new) and keys[-len(new) :] != new and bool(before.numbers)
    if late and not fixed:
        after.numbers = {key: place for place, key in enumerate(keys, 1)}
    else:
        last = max(before.numbers.values(), default=0)
        after.numbers = before.numbers | {key: last + n for n, key in enumerate(new, 1)}
    suite = definition.suite(after.names, after.numbers)
    suite = suite.model_copy(update={"phases": _marked(suite.phases, after)})
    if after != before:
        write_listing(definition.name, home, after)
    return suite, _changes(before, after, new, late=late, fixed=fixed)


def _marked(phases: Iterable[Phase], listing: Listing) -> tuple[Phase, ...]:
    """The phases, those that are gone from the Hub marked as not confirmed."""
    gone = {f"{s}@{name}" for s, names in listing.gone.items() for name in names}
    evidence = "no longer on the Hub when it was last listed"
    return tuple(
        phase.model_copy(update={"confirmed": False, "evidence": evidence})
        if f"{phase.repo_id}@{phase.revision}" in gone
        else phase
        for phase in phases
    )


def _changes(
    before: Listing, after: Listing, new: list[str], *, late: bool, fixed: bool
) -> list[str]:
    if not before.numbers:
        return [f"{len(after.numbers)} phases were found."]
    said: list[str] = []
    if new:
        said.append(f"New: {_few(new)}.")
    if late and fixed:
        first = after.numbers[new[0]]
        said.append(
            f"Numbered from {first} on, after all others, though training passed some of it "
            "earlier: results keep their phase."
        )
    elif late:
        said.append("No results are stored yet, so all phases were numbered anew.")
    for source, names in after.gone.items():
        if lost := [name for name in names if name not in before.gone.get(source, {})]:
            said.append(f"No longer in {source}: {_few(lost)}; they keep their numbers.")
    for source, refs in after.refs.items():
        old = before.refs.get(source, {})
        if moved := [n for n, commit in refs.items() if n in old and old[n] != commit]:
            said.append(f"At another commit than before in {source}: {_few(moved)}.")
    return said or ["Nothing has changed."]


def _few(names: list[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more


def _repositories(definition: Definition) -> list[str]:
    return [b.repo_id for b in definition.found if b.repo_id is not None]


def _folders(definition: Definition) -> list[str]:
    return [str(b.folder) for b in definition.found if b.folder is not None]


def _listed(definition: Definition, repositories: list[str]) -> dict[str, dict[str, str]]:
    if not repositories:
        return {}
    from workbench.hub.discover import list_refs  # the Hub knows suites, not they the Hub

    return list_refs(repositories, definition.local_hub)


def _folders_in(folder: Path) -> dict[str, str]:
    if not folder.is_dir():
        return {}
    return {path.name: "" for path in sorted(folder.iterdir()) if path.is_dir()}


def read_listing(definition: Definition, home: Home) -> Listing:
    """What is kept of the definition; an empty listing when nothing is, or that of another one."""
    kept, own = kept_listing(definition.name, home), identity(definition, home)
    known = kept.definition or (own if is_standing(own) else "")
    return kept if known == own else Listing()


def kept_listing(name: str, home: Home) -> Listing:
    """What is kept under the name, whichever definition it is of; an empty listing if nothing."""
    path = _path(name, home)
    try:
        return Listing.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return Listing()
    except (ValidationError, OSError):
        raise WorkbenchError(
            f"{path}, the list of the phases of suite {name}, cannot be read: fix its permissions "
            "or restore it; without it the phases would be numbered anew."
        ) from None


def kept_names(home: Home) -> list[str]:
    """The names of all suites that have a listing."""
    return sorted(path.stem for path in _path("", home).parent.glob("*.json"))


def _path(name: str, home: Home) -> Path:
    return home.root / "listings" / f"{name}.json"


def write_listing(name: str, home: Home, listing: Listing) -> None:
    """Replace what is kept under the name."""
    path = _path(name, home)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.{os.getpid()}.part")
        part.write_text(listing.model_dump_json(indent=1), encoding="utf-8")
        part.replace(path)
    except OSError as error:
        raise WorkbenchError(
            f"{path}, where the workbench keeps what it knows of suite {name}, cannot be written "
            f"({error.strerror}): free some space or fix its permissions."
        ) from None
