"""The synthetic store that the tests of the dashboard look at; written once, only read."""

import pytest

from tests.app import synthetic


@pytest.fixture(scope="session")
def home(tmp_path_factory):
    """A WORKBENCH_HOME with the synthetic store."""
    folder = tmp_path_factory.mktemp("home")
    synthetic.build(folder)
    return folder


@pytest.fixture(scope="session")
def store(home):
    from analysis_db.store import Store

    return Store(home / "metrics.duckdb")
