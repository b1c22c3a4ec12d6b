"""Small rows for a store: a suite of three phases, the last one without a checkpoint."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa

from analysis_db import RunRecord, Store
from probes.base import Measurements

SUITE = "tiny"
START = datetime(2026, 11, 24, 8, tzinfo=UTC)


def put_suite(store: Store) -> None:
    rows = [
        {
            "phase": phase,
            "label": f"phase {phase}",
            "stage": "stable",
            "repo_id": None if phase == 3 else f"org/phase-{phase}",
            "revision": "main",
            "step": 10 * phase,
            "tokens_b": 0.5 * phase,
            "form": "reparameterised",
            "has_optimizer": False,
            "on_disk": False,
        }
        for phase in (1, 2, 3)
    ]
    suite = {"name": SUITE, "title": "Tiny suite", "about": "", "licence": "MIT"}
    store.put_suite(suite, rows)
    store.register_probes(
        [{"probe": p, "version": 1, "title": p, "needs": "tensors"} for p in ("loss", "weights")],
        [
            {"metric": "rms", "probe": "weights", "version": 1, "formula": "sqrt(mean w^2)",
             "unit": "", "source": "here"}
        ],
    )  # fmt: skip


def record(run_id: str, minute: int = 0, **changes: Any) -> RunRecord:
    """A complete run of the weights probe on phase 1, started ``minute`` minutes after START."""
    fields: dict[str, Any] = {
        "run_id": run_id,
        "fingerprint": f"print-{run_id}",
        "suite": SUITE,
        "phase": 1,
        "probe": "weights",
        "probe_version": 1,
        "settings": "{}",
        "settings_hash": "0",
        "status": "complete",
        "started_at": START + timedelta(minutes=minute),
        "seconds": 1.5,
        "device": "cpu",
        "dtype": "float32",
        "host": "here",
        "repo_id": "org/phase-1",
        "commit_sha": "0" * 40,
        "file_hashes": "{}",
        "overrides": "{}",
        "notes": "{}",
        "code_version": "0",
    }
    return RunRecord(**(fields | changes))


def measured(*values: float | None) -> dict[str, pa.Table]:
    """The effective rms of q_proj in layer 0, 1, ...; None is a value that does not exist."""
    found = Measurements()
    for layer, value in enumerate(values):
        found.add("rms", value, view="effective", layer=layer, module="q_proj",
                  reason="made up" if value is None else None)  # fmt: skip
    return found.tables()
