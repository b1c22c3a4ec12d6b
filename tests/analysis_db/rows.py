"""Runs and rows for the store's tests; also a program that writes runs without end."""

import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa

from analysis_db.store import RunRecord, Store
from probes.base import Measurements

ROWS = 300
SUITE = {"name": "s", "title": "Suite S", "about": "", "licence": "MIT"}


def phase(number: int, repo_id: str | None = "org/repo") -> dict[str, object]:
    return {
        "phase": number,
        "label": f"phase {number}",
        "stage": "stable",
        "repo_id": repo_id,
        "revision": "main",
        "start_step": None,
        "step": 10 * number,
        "step_basis": "made up",
        "phase_tokens_b": 0.5,
        "tokens_b": 0.5 * number,
        "context_length": 64,
        "rope_theta": 10000.0,
        "form": "plain",
        "has_optimizer": False,
        "on_disk": True,
        "evidence": "",
        "overrides": "{}",
    }


def run(run_id: str, *, minutes: int = 0, status: str = "complete", **fields: object) -> RunRecord:
    values: dict[str, object] = {
        "run_id": run_id,
        "fingerprint": f"print of {run_id}",
        "suite": "s",
        "phase": 1,
        "probe": "loss",
        "probe_version": 1,
        "settings": "{}",
        "settings_hash": "0",
        "status": status,
        "started_at": datetime(2026, 11, 24, tzinfo=UTC) + timedelta(minutes=minutes),
        "seconds": 1.0,
        "device": "cpu",
        "dtype": "float32",
        "host": "here",
        "repo_id": "org/repo",
        "commit_sha": "0" * 40,
        "file_hashes": "{}",
        "overrides": "{}",
        "notes": "{}",
        "code_version": "0",
        "error": None if status == "complete" else "Traceback ...",
    }
    return RunRecord(**{**values, **fields})  # type: ignore[arg-type]


def measurements(*values: float | None) -> dict[str, pa.Table]:
    found = Measurements()
    for layer, value in enumerate(values):
        found.add("nll", value, layer=layer, reason=None if value is not None else "no tokens")
    return found.tables()


def write_for_ever(path: Path, pause_s: float) -> None:
    """One run of ROWS rows after the other, a pause between; says so on stdout after each."""
    store = Store(path)
    table = measurements(*[1.0] * ROWS)
    number = 0
    while True:
        store.write_run(run(f"run {number}"), table)
        print(number, flush=True)
        number += 1
        time.sleep(pause_s)


if __name__ == "__main__":
    write_for_ever(Path(sys.argv[1]), float(sys.argv[2]))
