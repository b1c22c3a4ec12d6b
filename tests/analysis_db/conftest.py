"""A store with the tiny suite in it."""

from pathlib import Path

import pytest

from analysis_db import Store
from tests.analysis_db.samples import put_suite


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "metrics.duckdb")
    put_suite(store)
    return store
