"""Fetching the checkpoints of a suite, phase by phase, and what that would come to."""

import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

from analysis_db.store import Store
from workbench.catalogue import record_suite
from workbench.errors import WorkbenchError
from workbench.hub.cache import Snapshot, cache_folder, find_snapshot
from workbench.hub.endpoint import hub_of
from workbench.hub.failures import HubError, by_reason, phase_name, unusable
from workbench.hub.hashes import Damage, FileHashes
from workbench.hub.ledger import ledger_of
from workbench.hub.pull import PullPlan, plan_pull, pull_phase
from workbench.settings import Home
from workbench.suites import Phase, Suite, load_suite


def plan_suite(
    name: str,
    phases: str,
    home: Home,
    *,
    with_optimizer: bool = False,
    on_end: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """What a pull would do: ``phases``, one row each, and what it comes to on the disk.

    A row has the status on disk, fetch, absent or failed, and the files with their bytes.
    ``peak_disk_bytes`` is what the chosen phases take when all has come, and at no time more.
    """
    suite = load_suite(name, home)
    chosen = suite.select(phases)
    rows: list[dict[str, Any]] = []
    blobs: dict[Path, tuple[int, int]] = {}
    for phase, plan in _plans(suite, chosen, with_optimizer):
        row = _named(phase)
        if isinstance(plan, PullPlan):
            blobs |= _sizes(plan)
            rows.append(row | _planned(plan))
        else:
            rows.append(row | _unplanned(suite, phase, plan))
        on_end(len(rows), len(chosen))
    cache = cache_folder(suite)
    there = next(folder for folder in (cache, *cache.parents) if folder.exists())
    return {
        "phases": rows,
        "cached_bytes": sum(held for _, held in blobs.values()),
        "fetch_bytes": sum(size - held for size, held in blobs.values()),
        "peak_disk_bytes": sum(size for size, _ in blobs.values()),
        "free_bytes": shutil.disk_usage(there).free,
        "cache": str(cache.resolve()),
    }


def _named(phase: Phase) -> dict[str, Any]:
    return {"phase": phase.phase, "label": phase.label, "repo_id": phase.repo_id or ""}


def _plans(
    suite: Suite, phases: list[Phase], with_optimizer: bool
) -> Iterator[tuple[Phase, PullPlan | HubError | None]]:
    """None for a phase that lies in a folder of this machine, or nowhere."""
    with hub_of(suite) as endpoint:
        for phase in phases:
            if phase.repo_id is None:
                yield phase, None
                continue
            optimizer = with_optimizer and phase.has_optimizer
            try:
                yield phase, plan_pull(suite, phase, endpoint=endpoint, with_optimizer=optimizer)
            except HubError as error:
                yield phase, error


def _sizes(plan: PullPlan) -> dict[Path, tuple[int, int]]:
    """(bytes, bytes that are here) by blob: phases of one repository may share some."""
    return {plan.blob(file): (file.size, plan.held_of(file)) for file in plan.contents}


def _planned(plan: PullPlan) -> dict[str, Any]:
    return {
        "status": "fetch" if plan.to_fetch else "on disk",
        "files": len(plan.files),
        "bytes": plan.bytes,
        "fetch_bytes": plan.to_fetch,
        "commit": plan.listing.commit_sha[:12],
        "message": "",
        "each_file": [
            {"name": file.name, "bytes": file.size, "cached_bytes": plan.held_of(file)}
            for file in plan.files
        ],
    }


def _unplanned(suite: Suite, phase: Phase, error: HubError | None) -> dict[str, Any]:
    nothing = {"files": None, "bytes": None, "fetch_bytes": None, "commit": "", "message": ""}
    if error is None and (reason := unusable(suite, phase)):
        error = HubError(reason)
    if error is not None:
        return {"status": "failed", **nothing, "message": str(error), "each_file": []}
    found = find_snapshot(suite, phase)
    status = "on disk" if found else "absent"
    return {"status": status, **nothing, "bytes": found.bytes if found else None, "each_file": []}


def pull_suite(
    name: str,
    phases: str,
    home: Home,
    *,
    with_optimizer: bool = False,
    max_disk: int | None = None,
    on_bytes: Callable[[Phase, int, int], None] = lambda phase, done, total: None,
    on_end: Callable[[int, int], None] = lambda done, total: None,
) -> list[dict[str, Any]]:
    """Pull phase after phase; one row each, with status on disk, repaired, absent or failed.

    A phase is repaired when a file of it was here and damaged. Runs that may have read that file
    are marked, so that the next ``workbench probe`` measures them again.
    ``on_bytes`` is told (phase, bytes done, bytes in all) while a phase is fetched, ``on_end``
    (phases done, phases in all) after each. Raises WorkbenchError before anything is fetched when
    the chosen phases, what is cached of them included, take more than ``max_disk`` bytes.
    """
    suite = load_suite(name, home)
    chosen = suite.select(phases)
    if max_disk is not None:
        _check_budget(suite, chosen, with_optimizer, max_disk)
    rows: list[dict[str, Any]] = []
    store, hashes = Store(home.store), FileHashes(home.hashes)
    with hub_of(suite) as endpoint:
        for phase in chosen:
            row = _named(phase)
            repairs = _Repairs(store, suite, phase)
            try:
                if phase.repo_id is None:
                    found = _local(suite, phase)
                else:
                    found = pull_phase(
                        suite,
                        phase,
                        endpoint=endpoint,
                        with_optimizer=with_optimizer and phase.has_optimizer,
                        hashes=hashes,
                        progress=partial(on_bytes, phase),
                        on_damaged=repairs.mark,
                    )
                if found is not None and found.commit_sha:
                    ledger_of(suite, home).disown(found, phase.revision)
                rows.append(row | _pulled(found) | repairs.row())
            except HubError as error:
                rows.append(row | _pulled(None) | {"status": "failed", "message": str(error)})
            on_end(len(rows), len(chosen))
    record_suite(suite, store)
    return rows


def _local(suite: Suite, phase: Phase) -> Snapshot | None:
    """The checkpoint of a phase that is in no repository."""
    if reason := unusable(suite, phase):
        raise HubError(reason)
    return find_snapshot(suite, phase)


class _Repairs:
    """Damaged files of a phase: marks what rests on them, and tells the user."""

    def __init__(self, store: Store, suite: Suite, phase: Phase) -> None:
        self._store, self._suite, self._phase = store, suite, phase
        self._lock = Lock()
        self._names: list[str] = []
        self._runs = 0

    def mark(self, name: str, damage: Damage) -> None:
        with self._lock:  # files are checked by several threads
            self._names.append(name)
            repo_id = self._phase.repo_id or ""
            self._runs += self._store.mark_damaged(repo_id, name, damage.address, damage.since)

    def row(self) -> dict[str, Any]:
        """The fields of the phase's row that differ from those of a sound phase."""
        if not self._names:
            return {}
        message = (
            f"{phase_name(self._suite, self._phase)}: {', '.join(self._names)} was damaged and has "
            "been fetched again."
        )
        if self._runs:
            message += (
                f" {self._runs} run{'s' if self._runs > 1 else ''} may have read the damaged "
                "bytes and no longer count as measured: run `workbench probe "
                f"{self._suite.name} --phases {self._phase.phase}`."
            )
        return {"status": "repaired", "message": message}


def _check_budget(suite: Suite, phases: list[Phase], with_optimizer: bool, max_disk: int) -> None:
    blobs: dict[Path, tuple[int, int]] = {}
    fitting: list[int] = []
    for phase, plan in _plans(suite, phases, with_optimizer):
        if isinstance(plan, PullPlan):
            blobs |= _sizes(plan)
        if sum(size for size, _ in blobs.values()) <= max_disk:
            fitting.append(phase.phase)
    need = sum(size for size, _ in blobs.values())
    if need > max_disk:
        some = f"phases {fitting[0]} to {fitting[-1]} fit" if fitting else "no phase fits"
        raise WorkbenchError(
            f"These phases take {need / 1e9:,.2f} GB and --max-disk allows "
            f"{max_disk / 1e9:,.2f} GB ({some}): choose fewer, or measure all of them with "
            f"`workbench probe {suite.name} --stream --max-disk ...`."
        )


def _pulled(found: Snapshot | None) -> dict[str, Any]:
    if found is None:
        return {"status": "absent", "mb": None, "commit": "", "message": "not published"}
    return {
        "status": "on disk",
        "mb": round(found.bytes / 1e6, 1),
        "commit": found.commit_sha[:12],
        "message": "",
    }


def unusable_phases(name: str, home: Home) -> list[str]:
    """Why phases that are on disk cannot be measured, one sentence for each reason."""
    suite = load_suite(name, home)
    reasons = ((phase, unusable(suite, phase)) for phase in suite.phases)
    return by_reason(suite.name, ((p.phase, p.label, said) for p, said in reasons if said))
