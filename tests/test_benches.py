"""Every command of bench/ can be started: what README says of speed can be measured again."""

import importlib
from pathlib import Path

import pytest

MODULES = sorted(path.stem for path in (Path(__file__).parents[1] / "bench").glob("*.py"))


@pytest.mark.parametrize("name", MODULES)
def test_bench_can_be_imported(name):
    module = importlib.import_module(f"bench.{name}")
    assert module.__doc__
    if name != "simulated_runs":  # which others import
        assert callable(module.main)
        assert f"python -m bench.{name}" in module.__doc__
