"""Errors that the file of a store causes, each with the way to repair it."""

from pathlib import Path

# Texts of DuckDB 2.0. The first three are damage; a file can open and fail only where it is read.
_DAMAGED = ("Corrupt", "checksum", "Could not read enough bytes")
_NEWER = ("storage version", "newer version of DuckDB")
_LOG = "replaying WAL"
_FULL = ("Could not write", "No space left")
_DENIED = ("Permission denied", "Read-only file system")
_MAGIC = slice(8, 12)

RESTORE = (
    "restore a backup, or move the file to another folder, without deleting it, and rebuild the "
    "store with `workbench import store FOLDER` from what `workbench export --all FOLDER` wrote; "
    "if there is neither, `workbench probe` measures again"
)


def is_damage(error: Exception) -> bool:
    """Whether the file has lost or changed bytes."""
    return any(text in str(error) for text in _DAMAGED)


def file_trouble(path: Path, error: Exception, *, opened: bool) -> str | None:
    """What is wrong with the file and what to do, as one sentence; None for any other error.

    ``opened`` says that the file could be opened, so that some of it may be intact.
    """
    said = str(error).splitlines()[0]
    if path.is_dir():
        return f"{path} is a folder, where the metrics store has to be a file: move the folder."
    if any(text in said for text in _FULL):
        return (
            f"The disk of {path} is full or refuses to be written ({said}): free some space and "
            "repeat the command; nothing of it was stored."
        )
    if _LOG in said:
        return _log_trouble(path, said)
    if any(text in said for text in _NEWER):
        return (
            f"{path} was written by a newer DuckDB than the one installed ({said}): update the "
            "workbench and its duckdb; the store was not touched."
        )
    if any(text in said for text in _DENIED):
        return (
            f"{path} cannot be opened ({said}): fix the permissions of the file and its folder, "
            "you need to read and write both; the store was not touched."
        )
    if is_damage(error):
        save = "save intact views with `workbench export VIEW FILE`, then " if opened else ""
        return f"{path} is damaged or incomplete ({said}): {save}{RESTORE}."
    if not opened and path.is_file() and not _has_magic(path):
        size = path.stat().st_size
        what = "is not a DuckDB database, or its header is overwritten" if size else "is empty"
        return (
            f"{path} cannot be opened as a metrics store, it {what} ({size:,} bytes): if it was a "
            f"store, {RESTORE}."
        )
    return None


def _has_magic(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(_MAGIC.stop)[_MAGIC] == b"DUCK"


def _log_trouble(path: Path, said: str) -> str:
    log = f"{path.name}.wal"
    if "does not match" in said and "checksum" not in said:
        return (
            f"{path} cannot be opened, {log} beside it belongs to another store or to another "
            f"state of this one ({said}): put back the {path.name} that it belongs to, or move "
            f"only {log} out of the folder, which keeps all that {path.name} itself contains."
        )
    return (
        f"{path} cannot be opened, {log} beside it is damaged ({said}): keep a copy of both and "
        f"move only {log} out of the folder; {path.name} keeps all but the last writes, and "
        "`workbench status` shows what to measure again."
    )
