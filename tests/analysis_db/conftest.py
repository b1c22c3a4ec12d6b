"""A store that knows a suite of three phases, the last without a checkpoint, and two probes."""

from pathlib import Path

import pytest

from analysis_db import Store
from tests.analysis_db.rows import SUITE, phase


def put_suite(store: Store) -> None:
    store.put_suite(SUITE, [phase(1), phase(2), phase(3, repo_id=None)])
    store.register_probes(
        [{"probe": p, "version": 1, "title": p, "needs": "model"} for p in ("loss", "weights")],
        [
            {"metric": "nll", "probe": "loss", "version": 1, "formula": "nll_sum / tokens",
             "unit": "nats", "source": "here"}
        ],
    )  # fmt: skip


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "metrics.duckdb")
    put_suite(store)
    return store
