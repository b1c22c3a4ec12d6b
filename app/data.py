"""Where the pages get their frames from: cached queries, keyed on the state of the store's file.

No connection outlives the making of a page, so that a probe run can write while somebody looks.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from analysis_db import queries
from analysis_db.companions import Moved
from analysis_db.store import Store

_page = threading.local()  # Streamlit makes a page in a thread of its own


def store_path() -> Path:
    """The store under WORKBENCH_HOME, the same place as the command line's."""
    return Path(os.environ.get("WORKBENCH_HOME") or "workbench-data").absolute() / "metrics.duckdb"


def store() -> Store:
    return Store(store_path())


@contextmanager
def one_connection() -> Iterator[None]:
    """For all queries of a page while it is made."""
    with store().session() as _page.store:
        try:
            yield
        finally:
            del _page.store


def load(query: str, *args: Any) -> pd.DataFrame:
    """The frame of ``analysis_db.queries.<query>(store, *args)`` as the store is now."""
    frame = _query(query, *_stamp(), args)
    assert isinstance(frame, pd.DataFrame)
    return frame


def totals(suite: str) -> dict[str, Any]:
    """Numbers of a suite: runs, seconds, values."""
    found = _query("totals", *_stamp(), (suite,))
    assert isinstance(found, dict)
    return found


def moved(*args: Any) -> Moved:
    """As ``analysis_db.queries.moved``, without the store."""
    found = _query("moved", *_stamp(), args)
    assert isinstance(found, Moved)
    return found


def suite() -> str:
    """The suite that the sidebar has chosen."""
    return str(st.session_state["chosen_suite"])


def _stamp() -> tuple[str, int, int]:
    path = store_path()
    status = path.stat()
    return str(path), status.st_mtime_ns, status.st_size


@st.cache_data(max_entries=200, show_spinner=False)
def _query(query: str, path: str, mtime_ns: int, size: int, args: tuple[Any, ...]) -> Any:
    return getattr(queries, query)(getattr(_page, "store", None) or Store(Path(path)), *args)
