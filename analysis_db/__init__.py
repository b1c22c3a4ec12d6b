"""The metrics store: tables and queries, without torch. ``open(path)`` is the way in."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis_db.errors import QueryError, StoreBusy, StoreError, StoreTooNew

if TYPE_CHECKING:
    from analysis_db.notebook import Notebook
    from analysis_db.store import RunRecord, Store

__all__ = [
    "Notebook",
    "QueryError",
    "RunRecord",
    "Store",
    "StoreBusy",
    "StoreError",
    "StoreTooNew",
    "open",
]
_HOMES = {"Notebook": "notebook", "RunRecord": "store", "Store": "store"}


def open(path: str | Path) -> "Notebook":
    """The metrics store in that file; nothing is opened before the first question."""
    from analysis_db.notebook import Notebook

    return Notebook(Path(path))


def __getattr__(name: str) -> Any:
    """Pandas takes half a second to import, and a query's process needs none of it."""
    if name not in _HOMES:
        raise AttributeError(f"module 'analysis_db' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"analysis_db.{_HOMES[name]}"), name)
