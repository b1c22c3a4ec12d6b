"""One stage for all tests of faults."""

from collections.abc import Iterator

import pytest

from tests.faults.stage import Stage, in_small, set_up


@pytest.fixture(scope="session")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with set_up(tmp_path_factory.mktemp("stage")) as stage:
        yield stage


@pytest.fixture
def _small() -> Iterator[None]:
    with in_small():
        yield
