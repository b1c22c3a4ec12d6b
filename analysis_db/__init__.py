"""The metrics store: tables and queries, without torch. ``open(path)`` is the way in."""

from analysis_db.errors import QueryError, StoreBusy, StoreError, StoreTooNew
from analysis_db.notebook import Notebook
from analysis_db.notebook import open_notebook as open
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
