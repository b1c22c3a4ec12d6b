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
from workbench.hub.hashes import DamagedFile
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


@dataclass
class _Result:
    """What a job yields; the error is None for one that succeeded."""

    tables: dict[str, Any]
    notes: dict[str, str]
    verified: bool = False
    error: Exception | None = None

    @property
    def traceback(self) -> str | None:
        return None if self.error is None else "".join(traceback.format_exception(self.error))

    @property
    def sentence(self) -> str | None:
        """The error in one line."""
        if self.error is None or isinstance(self.error, WorkbenchError | StoreError):
            return None if self.error is None else str(self.error)
        return traceback.format_exception_only(self.error)[-1].strip()


def run_jobs(
    jobs: Sequence[Job],
    store: Store,
    supply: Supply,
    on_start: Callable[[Job], None] = lambda job: None,
    on_end: Callable[[Outcome], None] = lambda outcome: None,
) -> list[Outcome]:
    """The local engine: one job after the other, each checkpoint opened once.

    Values are stored after the files that they rest on have been verified.
    """
    outcomes: list[Outcome] = []
    bench = _Bench(supply)
    for job in jobs:
        on_start(job)
        started, clock = datetime.now(UTC), time.perf_counter()
        result = bench.measure(job)
        if isinstance(result.error, DamagedFile):
            mark_damaged(store, job.phase, result.error)
        seconds = time.perf_counter() - clock
        try:
            store.write_run(_record(job, started, seconds, result), result.tables)
        except StoreError as refusal:  # values that the store refuses are this job's failure
            result = _Result({}, result.notes, result.verified, refusal)
            store.write_run(_record(job, started, seconds, result), {})
        rows = sum(table.num_rows for table in result.tables.values())
        warnings = [result.notes.get(note) for note in ("warning", "checkpoint_warning")]
        outcomes.append(Outcome(job, seconds, rows, result.sentence, *warnings))
        on_end(outcomes[-1])
        if job is jobs[-1] or jobs[len(outcomes)].phase != job.phase:
            bench.clear()
            failed = any(outcome.error for outcome in outcomes if outcome.job.phase == job.phase)
            supply.done(job.phase, succeeded=not failed)
    return outcomes


def mark_damaged(store: Store, phase: Phase, error: DamagedFile) -> None:
    """Mark the runs that rest on the damaged file."""
    damage = error.damage
    store.mark_damaged(phase.repo_id or "", error.name, damage.address, damage.since)


class _Bench:
    """Holds the checkpoint and the probe of the last job, which the next one may share."""

    def __init__(self, supply: Supply) -> None:
        self._supply = supply
        self.clear()

    def clear(self) -> None:
        """Release both."""
        self._phase: Phase | None = None
        self._checkpoint: Checkpoint | None = None
        self._probe: Probe | None = None

    def measure(self, job: Job) -> _Result:
        """Run a job. Every exception becomes its result: the next job may succeed."""
        try:
            if self._checkpoint is None or self._phase != job.phase:
                self.clear()  # before the next model is loaded
                self._phase, self._checkpoint = job.phase, self._supply.open(job.phase)
            if type(self._probe) is not job.probe:  # parts of one probe share what it holds
                self._probe = None
                self._probe = job.probe()
            measuring = Measuring(job.device, job.dtype)
            measured = self._probe.measure(self._checkpoint, job.settings, measuring)
            if contradiction := self._checkpoint.warning():
                measured.notes["checkpoint_warning"] = contradiction
            verified = self._supply.verify(job.phase, job.files)
            return _Result(measured.tables(), measured.notes, verified)
        except Exception as failure:
            return _Result({}, {}, error=self._cause(failure, job))

    def _cause(self, failure: Exception, job: Job) -> Exception:
        """The damaged file that a job failed on, else the failure itself."""
        try:
            self._supply.verify(job.phase, job.files)
        except DamagedFile as damaged:
            damaged.__cause__ = None if damaged is failure else failure
            return damaged
        except Exception:
            return failure
        return failure


def _record(job: Job, started: datetime, seconds: float, result: _Result) -> RunRecord:
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
        status="failed" if result.error else "complete",
        started_at=started,
        seconds=seconds,
        device=job.device,
        dtype=job.dtype,
        host=platform.node(),
        repo_id=job.phase.repo_id or "",
        commit_sha=job.source.commit_sha,
        file_hashes=json.dumps(job.files, sort_keys=True),
        overrides=job.phase.overrides_json,
        notes=json.dumps(result.notes, sort_keys=True),
        code_version=workbench.__version__,
        error=result.traceback,
        verified=result.verified,
    )
