"""Which definition a suite's name stands for, as text that the store and the listings keep.

``catalogue`` for a suite that ships with the package; a file in WORKBENCH_HOME by its path from
there, so that a home may be moved or copied as a whole; any other file by its absolute path.
"""

from pathlib import Path

from workbench.errors import WorkbenchError
from workbench.settings import Home
from workbench.suites.files import Definition, read_definitions

CATALOGUE = Path(__file__).parent / "catalogue"
SHIPPED = "catalogue"
_IN_HOME = "WORKBENCH_HOME/"


def identity(definition: Definition, home: Home) -> str:
    """The text that identifies the definition, equal for all paths of one file."""
    return identity_at(_canonical(definition), home)


def identity_at(path: Path, home: Home) -> str:
    """That of a file, which need not exist yet; its path has no symbolic links."""
    if path.parent == CATALOGUE.resolve():
        return SHIPPED
    root = home.root.resolve()
    return f"{_IN_HOME}{path.relative_to(root)}" if path.is_relative_to(root) else str(path)


def is_standing(identity: str) -> bool:
    """Whether the name alone identifies the suite: it is in the catalogue or the home's suites."""
    return identity == SHIPPED or Path(identity).parent == Path(_IN_HOME, "suites")


def path_of(identity: str, home: Home) -> Path | None:
    """The file that the text stands for; None for the catalogue."""
    if identity == SHIPPED:
        return None
    inside = identity.startswith(_IN_HOME)
    return home.root / identity.removeprefix(_IN_HOME) if inside else Path(identity)


def shown(identity: str, home: Home) -> str:
    """The text as an error states it."""
    return str(path_of(identity, home) or "the catalogue that ships with the workbench")


def still_defines(identity: str, name: str, home: Home) -> bool:
    """Whether the definition is still there; a file that cannot be read counts as there."""
    path = path_of(identity, home)
    paths = sorted(CATALOGUE.glob("*.toml")) if path is None else [path]
    try:
        return any(found.name == name for p in paths if p.exists() for found in read_definitions(p))
    except (WorkbenchError, OSError):
        return True


def _canonical(definition: Definition) -> Path:
    """The path without symbolic links.

    A link to a file in another folder stays as it is where paths in the TOML, which are relative
    to the link, do not mean the same there: the two define different checkpoints.
    """
    given = definition.toml.path
    here = given.parent.resolve() / given.name
    real = given.resolve()
    same_places = all(
        (here.parent / path).resolve() == (real.parent / path).resolve()
        for path in definition.paths
    )
    return real if real.name == here.name and same_places else here
