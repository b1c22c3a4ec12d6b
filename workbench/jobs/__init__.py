"""Phases x probes -> jobs: what has to be measured, and the local engine that measures it.

A job's fingerprint covers everything its numbers depend on: the checkpoint's files, the overrides,
the probe and its version, the settings, dtype and kind of device. A fingerprint that has succeeded
is skipped. A job that fails is kept with its traceback and does not stop the others.
"""

import hashlib
import json
import platform
import time
import traceback
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

import workbench
from analysis_db.store import RunRecord, Store
from probes.base import Measuring, Probe, ProbeSettings
from workbench.checkpoints import Checkpoint
from workbench.errors import WorkbenchError
from workbench.hub.pull import Snapshot, find_snapshot
from workbench.suites import Phase, Suite


@dataclass(frozen=True)
class Job:
    """One probe on one phase's checkpoint."""

    suite: str
    phase: Phase
    snapshot: Snapshot
    probe: type[Probe]
    settings: ProbeSettings
    device: str
    dtype: str

    @property
    def name(self) -> str:
        return f"{self.phase.label}, {self.probe.id}"

    @cached_property
    def settings_json(self) -> str:
        return json.dumps(self.settings.model_dump(mode="json"), sort_keys=True)

    @cached_property
    def fingerprint(self) -> str:
        facts = [
            sorted(self.snapshot.files.items()),
            self.phase.overrides,
            self.probe.id,
            self.probe.version,
            self.settings_json,
            self.dtype,
            self.device.partition(":")[0],
        ]
        return _sha256(json.dumps(facts, sort_keys=True))


@dataclass(frozen=True)
class Plan:
    """What a `workbench probe` call comes to."""

    jobs: tuple[Job, ...]
    """To be run, a phase at a time."""
    done: tuple[Job, ...]
    """Succeeded before; skipped."""
    absent: tuple[Phase, ...]
    """Phases of which no checkpoint was published."""
    not_pulled: tuple[Phase, ...]
    """Phases whose checkpoint is not on disk."""


@dataclass(frozen=True)
class Outcome:
    """How one job ended."""

    job: Job
    seconds: float
    rows: int
    error: str | None
    """The last line of the traceback, for a job that failed."""


def plan_jobs(
    suite: Suite,
    phases: Sequence[Phase],
    probes: Sequence[type[Probe]],
    store: Store,
    *,
    settings: dict[str, dict[str, Any]],
    device: str,
    dtype: str,
    force: bool = False,
) -> Plan:
    """Look up which jobs are missing. ``settings`` holds the fields that differ, by probe id."""
    succeeded = store.complete_fingerprints(suite.name)
    jobs: list[Job] = []
    done: list[Job] = []
    absent = [phase for phase in phases if phase.repo_id is None]
    not_pulled: list[Phase] = []
    for phase in phases:
        if phase.repo_id is None:
            continue
        snapshot = find_snapshot(suite, phase)
        if snapshot is None:
            not_pulled.append(phase)
            continue
        for probe in probes:
            job = Job(
                suite.name,
                phase,
                snapshot,
                probe,
                probe.Settings.model_validate(settings.get(probe.id, {})),
                device,
                dtype,
            )
            (done if job.fingerprint in succeeded and not force else jobs).append(job)
    return Plan(tuple(jobs), tuple(done), tuple(absent), tuple(not_pulled))


def register(store: Store, probes: Sequence[type[Probe]]) -> None:
    """Write the probes and the definitions of their metrics into the store."""
    store.register_probes(
        [
            {"probe": p.id, "version": p.version, "title": p.title, "needs": p.needs}
            for p in probes
        ],
        [
            {
                "metric": m.id,
                "probe": p.id,
                "version": m.version,
                "formula": m.formula,
                "unit": m.unit,
                "source": m.source,
            }
            for p in probes
            for m in p.metrics
        ],
    )


def run_jobs(
    jobs: Sequence[Job],
    store: Store,
    on_start: Callable[[Job], None] = lambda job: None,
    on_end: Callable[[Outcome], None] = lambda outcome: None,
) -> list[Outcome]:
    """The local engine: one job after the other, each checkpoint opened once."""
    outcomes: list[Outcome] = []
    opened: tuple[Phase, Checkpoint] | None = None
    for job in jobs:
        on_start(job)
        started, clock = datetime.now(UTC), time.perf_counter()
        tables: dict[str, Any] = {}
        notes: dict[str, str] = {}
        error: str | None = None
        last_line: str | None = None
        try:
            if opened is None or opened[0] != job.phase:
                opened = None  # lets go of the model before the next one is loaded
                checkpoint = Checkpoint.open(
                    job.snapshot.path, overrides=job.phase.overrides, label=job.phase.label
                )
                opened = (job.phase, checkpoint)
            measured = job.probe().measure(
                opened[1], job.settings, Measuring(job.device, job.dtype)
            )
            tables, notes = measured.tables(), measured.notes
        except Exception as failure:  # the next job may succeed; this one's traceback is kept
            error = traceback.format_exc()
            last_line = (
                str(failure)
                if isinstance(failure, WorkbenchError)
                else traceback.format_exception_only(failure)[-1].strip()
            )
        seconds = time.perf_counter() - clock
        store.write_run(_record(job, started, seconds, error, notes), tables)
        rows = sum(table.num_rows for table in tables.values())
        outcomes.append(Outcome(job, seconds, rows, last_line))
        on_end(outcomes[-1])
    return outcomes


def _record(
    job: Job, started: datetime, seconds: float, error: str | None, notes: dict[str, str]
) -> RunRecord:
    return RunRecord(
        run_id=uuid.uuid4().hex,
        fingerprint=job.fingerprint,
        suite=job.suite,
        phase=job.phase.phase,
        probe=job.probe.id,
        probe_version=job.probe.version,
        settings=job.settings_json,
        settings_hash=_sha256(job.settings_json),
        status="failed" if error else "complete",
        started_at=started,
        seconds=seconds,
        device=job.device,
        dtype=job.dtype,
        host=platform.node(),
        repo_id=job.phase.repo_id or "",
        commit_sha=job.snapshot.commit_sha,
        file_hashes=json.dumps(job.snapshot.files, sort_keys=True),
        overrides=json.dumps(job.phase.overrides, sort_keys=True),
        notes=json.dumps(notes, sort_keys=True),
        code_version=workbench.__version__,
        error=error,
    )


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
