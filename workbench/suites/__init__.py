"""What is studied, as data: a suite is an ordered list of phases, one checkpoint each.

A suite is a TOML file, with its phases in it or in a CSV beside it. Those of the catalogue ship
with the package; the user's own, and those our trainer makes, lie in ``WORKBENCH_HOME/suites``, or
anywhere, and are then named by path.
"""

from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path

from workbench.errors import UsageError, WorkbenchError
from workbench.settings import Home
from workbench.suites.files import Definition, read_definitions
from workbench.suites.listing import listed_suite
from workbench.suites.models import Form, Phase, Suite

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

CATALOGUE = Path(__file__).parent / "catalogue"


def load_suite(name: str, home: Home) -> Suite:
    """The suite of that name, or that a TOML file defines whose path is given.

    A suite whose revisions are found on the Hub is listed the first time. Raises UsageError when
    there is no such suite, WorkbenchError for a file that is wrong, HubError when it cannot be
    listed.
    """
    definition = find_definition(name, home)
    return listed_suite(definition, home) if definition.found else definition.suite()


def load_suite_file(path: Path) -> Suite:
    """Read and validate one suite TOML that names its phases. Paths in it are relative to it."""
    return _only(path).suite()


def find_definition(name: str, home: Home) -> Definition:
    """What defines the suite of that name or path; raises as ``load_suite`` does."""
    if name.endswith(".toml") or "/" in name:
        return _at_path(Path(name).expanduser(), home)
    known = {definition.name: definition for definition in _all_in(CATALOGUE)}
    own = home.suites / f"{name}.toml"
    if own.is_file():
        definition = _only(own)
        if definition.name in known:
            raise _clash(definition, known[definition.name])
        return definition
    if name not in known:
        known |= {definition.name: definition for definition in _all_in(home.suites)}
    if name not in known:
        near = get_close_matches(name, known, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "`workbench suites` lists them."
        demo = "" if "demo" in known else " `workbench demo` makes demo."
        raise UsageError(f"There is no suite named {name!r}: {hint}{demo}")
    return known[name]


def _at_path(path: Path, home: Home) -> Definition:
    if not path.is_file():
        raise UsageError(f"There is no file {path}: give the path of a suite's TOML, or a name.")
    definition = _only(path.absolute())
    for folder in (CATALOGUE, home.suites):
        for other in _all_in(folder):
            if other.name == definition.name and not other.toml.path.samefile(path):
                raise _clash(definition, other)
    return definition


def read_all(home: Home) -> list[Definition]:
    """Every suite: those of the catalogue, then the user's own. Raises WorkbenchError."""
    known: dict[str, Definition] = {}
    for folder in (CATALOGUE, home.suites):
        for definition in _all_in(folder):
            if known.setdefault(definition.name, definition) is not definition:
                raise _clash(definition, known[definition.name])
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
