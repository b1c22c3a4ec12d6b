"""The metrics store: tables and queries, without torch. ``Store(path)`` is the way in."""

from analysis_db.errors import QueryError, StoreBusy, StoreError, StoreTooNew
from analysis_db.store import RunRecord, Store

__all__ = ["QueryError", "RunRecord", "Store", "StoreBusy", "StoreError", "StoreTooNew"]
