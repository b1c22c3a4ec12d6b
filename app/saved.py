"""The user's own queries: one .sql file each in the folder ``queries`` beside the store."""

import re
import tempfile
from pathlib import Path

_NAME = re.compile(r"[\w][\w .()-]{0,79}")
_SUFFIX = ".sql"


class NameRefused(ValueError):
    """A name that cannot be the name of a file; the message says what can."""


def queries(folder: Path) -> dict[str, str]:
    """Name -> query, by name; none when there is no folder."""
    files = sorted(folder.glob(f"*{_SUFFIX}"))
    return {
        file.stem: file.read_text(encoding="utf-8") for file in files if _NAME.fullmatch(file.stem)
    }


def save(folder: Path, name: str, sql: str) -> None:
    """Keep a query under a name, in place of what it named before; the file appears whole.

    Raises NameRefused.
    """
    path = _path(folder, name)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(
        "w", dir=folder, suffix=".part", encoding="utf-8", delete=False
    ) as draft:
        try:
            draft.write(sql)
            draft.flush()
            Path(draft.name).replace(path)
        except BaseException:
            Path(draft.name).unlink()
            raise


def delete(folder: Path, name: str) -> None:
    """Forget a query; raises NameRefused."""
    _path(folder, name).unlink(missing_ok=True)


def _path(folder: Path, name: str) -> Path:
    if not _NAME.fullmatch(name) or name.endswith((" ", ".")):
        raise NameRefused(
            "A name has up to 80 letters, digits, spaces and _ . ( ) -, and begins with a letter "
            "or digit."
        )
    return folder / f"{name}{_SUFFIX}"
