"""A WORKBENCH_HOME, and suites written into it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from workbench.settings import Home
from workbench.suites import Suite, load_suite

Write = Callable[..., Suite]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home")
    (home.suites / "mine").mkdir(parents=True)
    return home


@pytest.fixture
def write(home: Home) -> Write:
    """Write ``mine.toml``, and its CSV when rows are given; load it."""

    def written(toml: str, rows: str | None = None) -> Suite:
        (home.suites / "mine.toml").write_text(toml, encoding="utf-8")
        if rows is not None:
            (home.suites / "mine" / "phases.csv").write_text(rows, encoding="utf-8")
        return load_suite("mine", home)

    return written
