"""The demo suite, made once by the real command: 27 phases trained, published, pulled, measured."""

import json

import pytest

from tests.e2e.command import workbench


@pytest.fixture(scope="session")
def demo(tmp_path_factory):
    """(home, what `workbench demo --json` said)."""
    home = tmp_path_factory.mktemp("demo") / "home"
    done = workbench("demo", "--json", home=home, timeout=1800)
    return home, json.loads(done.stdout)[0]


@pytest.fixture(scope="session")
def demo_home(demo):
    return demo[0]
