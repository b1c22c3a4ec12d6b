"""What is studied, as data: a suite is an ordered list of phases, one checkpoint each.

A suite is a TOML file, with its phases in it or in a CSV beside it. Those of the catalogue ship
with the package; the user's own, and those our trainer makes, are in ``WORKBENCH_HOME/suites``, or
anywhere, and are then named by path the first time. A name belongs to one definition.
"""

from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path

from workbench.errors import UsageError, WorkbenchError
from workbench.settings import Home
from workbench.suites.files import Definition, read_definitions
from workbench.suites.identity import CATALOGUE, identity
from workbench.suites.listing import listed_suite
from workbench.suites.models import Form, Phase, Suite
from workbench.suites.names import Names, remember

__all__ = [
    "CATALOGUE",
    "Definition",
    "Form",
    "Phase",
    "Suite",
    "find_definition",
    "load_suite",
    "load_suite_file",
    "read_all",
]


def load_suite(name: str, home: Home) -> Suite:
    """The suite of that name, or that a TOML file defines whose path is given.

    A suite given by path is known by its name afterwards, and one whose revisions are found on the
    Hub is listed the first time. Raises UsageError when
    there is no such suite or its name belongs to another definition, WorkbenchError for a file
    that is wrong, HubError when it cannot be listed.
    """
    definition = find_definition(name, home)
    suite = listed_suite(definition, home) if definition.found else definition.suite()
    remember(definition, home)
    return suite.model_copy(update={"definition": identity(definition, home)})


def load_suite_file(path: Path) -> Suite:
    """Read and validate one suite TOML that names its phases. Paths in it are relative to it."""
    return _only(path).suite()


def find_definition(name: str, home: Home, *, adopt: bool = False) -> Definition:
    """What defines the suite of that name or path; raises as ``load_suite`` does.

    ``adopt`` is the user's word that this is the definition of the results under its name, whose
    former one is gone or unknown.
    """
    names = Names.read(home)
    if name.endswith(".toml") or "/" in name:
        definition = _at_path(Path(name).expanduser())
    else:
        definition = _of_name(name, home, names)
    if names.owner_of(definition.name) is None:
        _check_unique(definition, home)
    if names.check(definition, adopt=adopt) == "adopted":
        _check_unique(definition, home)
        names.adopt(definition)
    return definition


def _at_path(path: Path) -> Definition:
    if not path.is_file():
        raise UsageError(f"There is no file {path}: give the path of a suite's TOML, or a name.")
    return _only(path.absolute())


def _of_name(name: str, home: Home, names: Names) -> Definition:
    own = home.suites / f"{name}.toml"
    if own.is_file():
        return _only(own)
    known = {definition.name: definition for definition in _all_in(CATALOGUE)}
    if name not in known:
        known |= {definition.name: definition for definition in _all_in(home.suites)}
    if name in known:
        return known[name]
    remembered = names.remembered(name)
    if remembered is not None:
        return remembered
    near = get_close_matches(name, {*known, *names.all_remembered()}, n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else "`workbench suites` lists them."
    demo = "" if "demo" in known else " `workbench demo` makes demo."
    raise UsageError(f"There is no suite named {name!r}: {hint}{demo}")


def _check_unique(definition: Definition, home: Home) -> None:
    """Raise WorkbenchError when a suite of the catalogue, or of the home, has the same name."""
    own = identity(definition, home)
    for folder in (CATALOGUE, home.suites):
        for other in _all_in(folder):
            if other.name == definition.name and identity(other, home) != own:
                raise _clash(definition, other)


def read_all(home: Home) -> list[Definition]:
    """Every suite that needs no path: those of the catalogue, then those of the home.

    Of two with the same name, the one that has results in the store. Raises WorkbenchError when
    neither has.
    """
    names = Names.read(home)
    known: dict[str, Definition] = {}
    for folder in (CATALOGUE, home.suites):
        for definition in _all_in(folder):
            other = known.setdefault(definition.name, definition)
            if other is not definition:
                owner = names.owner_of(definition.name)
                if owner == identity(definition, home):
                    known[definition.name] = definition
                elif owner != identity(other, home):
                    raise _clash(definition, other)
    return list(known.values())


def _all_in(folder: Path) -> Iterator[Definition]:
    for path in sorted(folder.glob("*.toml")):
        yield from read_definitions(path)


def _only(path: Path) -> Definition:
    first, *more = read_definitions(path)
    if more:
        raise UsageError(
            f"{path} defines {1 + len(more)} suites: put it into WORKBENCH_HOME/suites and name "
            f"one of them, such as {first.name}."
        )
    return first


def _clash(definition: Definition, other: Definition) -> WorkbenchError:
    what = f"{other.toml.path} defines a suite {definition.name} as well: rename one of the two"
    return definition.toml.wrong(("name",), what)
