"""Files of an import: patterns of names, expanded, and the encoding of their text."""

import re
from collections.abc import Sequence
from glob import glob, has_magic
from pathlib import Path

from analysis_db.errors import StoreError

_UTF16 = (b"\xff\xfe", b"\xfe\xff")


def encoding_of(path: Path) -> str:
    """UTF-16 when the file begins with its mark, as PowerShell and Excel write it; else UTF-8."""
    with path.open("rb") as file:
        return "utf-16" if file.read(2) in _UTF16 else "utf-8-sig"


def expand(paths: Sequence[Path]) -> tuple[list[Path], list[str]]:
    """(files and folders, remarks): a pattern that the shell left as it is becomes its files.

    Numbers in names are sorted as numbers. Raises StoreError when nothing matches.
    """
    found: list[Path] = []
    remarks = []
    for path in paths:
        if path.exists() or not has_magic(str(path)):
            found.append(path)
            continue
        files = sorted(map(Path, glob(str(path), recursive=True)), key=_by_number)
        if not files:
            raise StoreError(f"No file matches {path}; nothing was imported.")
        found += files
        if len(files) > 1:
            shown = [str(file) for file in files]
            if len(shown) > 5:
                shown = [*shown[:3], f"{len(shown) - 4} more", shown[-1]]
            remarks.append(
                f"{path} matches {len(files)} files, read in this order: {', '.join(shown)}."
            )
    return found, remarks


def expand_one(path: Path) -> Path:
    """The one file or folder that a pattern matches. Raises StoreError when it is not one."""
    files, _ = expand([path])
    if len(files) > 1:
        raise StoreError(
            f"{path} matches {len(files)} files, from {files[0]} to {files[-1]}: name one of them; "
            "nothing was imported."
        )
    return files[0]


def _by_number(path: Path) -> list[tuple[int, int, str]]:
    parts = re.split(r"(\d+)", str(path))
    return [(1, int(part), "") if part.isdecimal() else (0, 0, part) for part in parts]
