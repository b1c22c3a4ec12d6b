"""The local engine: one job after the other in this process.

A job that fails is kept with its traceback and does not stop the others.
"""

import json
import platform
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import workbench
from analysis_db.errors import StoreError
from analysis_db.run_ids import new_run_id
from analysis_db.store import RunRecord, Store
from probes.base import Measuring, Probe
from workbench.checkpoints import Checkpoint
from workbench.errors import WorkbenchError
from workbench.jobs.plan import Job, sha256
from workbench.jobs.supply import Supply
from workbench.suites import Phase


@dataclass(frozen=True)
class Outcome:
    """How one job ended."""

    job: Job
    seconds: float
    rows: int
    error: str | None
    """The last line of the traceback, for a job that failed."""
    warning: str | None = None
    """What the probe says of its own values, as its note ``warning``."""
    checkpoint_warning: str | None = None
    """What is contradictory in the checkpoint, as the run's note of that name."""


def run_jobs(
    jobs: Sequence[Job],
    store: Store,
    supply: Supply,
    on_start: Callable[[Job], None] = lambda job: None,
    on_end: Callable[[Outcome], None] = lambda outcome: None,
) -> list[Outcome]:
    """The local engine: one job after the other, each checkpoint opened once."""
    outcomes: list[Outcome] = []
    opened: tuple[Phase, Checkpoint] | None = None
    probe: Probe | None = None
    for job in jobs:
        on_start(job)
        started, clock = datetime.now(UTC), time.perf_counter()
        tables: dict[str, Any] = {}
        notes: dict[str, str] = {}
        error: str | None = None
        last_line: str | None = None
        try:
            if opened is None or opened[0] != job.phase:
                opened = probe = None  # lets go of the model before the next one is loaded
                opened = (job.phase, supply.open(job.phase))
            if type(probe) is not job.probe:  # parts of one probe share what it holds
                probe = None
                probe = job.probe()
            measured = probe.measure(opened[1], job.settings, Measuring(job.device, job.dtype))
            tables, notes = measured.tables(), measured.notes
            if contradiction := opened[1].warning():
                notes["checkpoint_warning"] = contradiction
        except Exception as failure:  # the next job may succeed; this one's traceback is kept
            error = traceback.format_exc()
            last_line = (
                str(failure)
                if isinstance(failure, WorkbenchError)
                else traceback.format_exception_only(failure)[-1].strip()
            )
        seconds = time.perf_counter() - clock
        try:
            store.write_run(_record(job, started, seconds, error, notes), tables)
        except StoreError as refusal:  # values that the store refuses are this job's failure
            tables, error, last_line = {}, traceback.format_exc(), str(refusal)
            store.write_run(_record(job, started, seconds, error, notes), tables)
        rows = sum(table.num_rows for table in tables.values())
        outcomes.append(
            Outcome(
                job,
                seconds,
                rows,
                last_line,
                notes.get("warning"),
                notes.get("checkpoint_warning"),
            )
        )
        on_end(outcomes[-1])
        if job is jobs[-1] or jobs[len(outcomes)].phase != job.phase:
            opened = probe = None
            failed = any(outcome.error for outcome in outcomes if outcome.job.phase == job.phase)
            supply.done(job.phase, succeeded=not failed)
    return outcomes


def _record(
    job: Job, started: datetime, seconds: float, error: str | None, notes: dict[str, str]
) -> RunRecord:
    return RunRecord(
        run_id=new_run_id(started),
        fingerprint=job.fingerprint,
        suite=job.suite,
        phase=job.phase.phase,
        probe=job.probe.id,
        probe_version=job.probe.version,
        part=job.part,
        settings=job.settings_json,
        settings_hash=sha256(job.settings_json),
        status="failed" if error else "complete",
        started_at=started,
        seconds=seconds,
        device=job.device,
        dtype=job.dtype,
        host=platform.node(),
        repo_id=job.phase.repo_id or "",
        commit_sha=job.source.commit_sha,
        file_hashes=json.dumps(job.files, sort_keys=True),
        overrides=job.phase.overrides_json,
        notes=json.dumps(notes, sort_keys=True),
        code_version=workbench.__version__,
        error=error,
    )
