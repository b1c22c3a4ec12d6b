"""Fetching the checkpoints of a suite, phase by phase."""

from collections.abc import Callable
from typing import Any

from analysis_db.store import Store
from workbench.catalogue import record_suite
from workbench.hub.cache import Snapshot
from workbench.hub.endpoint import hub_of
from workbench.hub.failures import HubError
from workbench.hub.pull import pull_phase
from workbench.settings import Home
from workbench.suites import Phase, Suite, load_suite


def pull_suite(
    name: str,
    phases: str,
    home: Home,
    *,
    with_optimizer: bool = False,
    on_bytes: Callable[[Phase, int, int], None] = lambda phase, done, total: None,
    on_end: Callable[[int, int], None] = lambda done, total: None,
) -> list[dict[str, Any]]:
    """Pull phase after phase; one row each, with status on disk, absent or failed.

    ``on_bytes`` is told (phase, bytes done, bytes in all) while a phase is fetched, ``on_end``
    (phases done, phases in all) after each.
    """
    suite = load_suite(name, home)
    chosen = suite.select(phases)
    rows: list[dict[str, Any]] = []
    with hub_of(suite) as endpoint:
        for phase in chosen:
            optimizer = with_optimizer and phase.has_optimizer
            row = {"phase": phase.phase, "repo_id": phase.repo_id or ""}
            rows.append(row | _pull(suite, phase, endpoint, optimizer, on_bytes))
            on_end(len(rows), len(chosen))
    record_suite(suite, Store(home.store))
    return rows


def _pull(
    suite: Suite,
    phase: Phase,
    endpoint: str | None,
    with_optimizer: bool,
    on_bytes: Callable[[Phase, int, int], None],
) -> dict[str, Any]:
    nothing = {"mb": None, "commit": ""}
    if phase.repo_id is None:
        return {"status": "absent", **nothing, "message": "not published"}
    try:
        found = pull_phase(
            suite,
            phase,
            endpoint=endpoint,
            with_optimizer=with_optimizer,
            progress=lambda done, total: on_bytes(phase, done, total),
        )
        return _pulled(found)
    except HubError as error:
        return {"status": "failed", **nothing, "message": str(error)}


def _pulled(snapshot: Snapshot) -> dict[str, Any]:
    return {
        "status": "on disk",
        "mb": round(snapshot.bytes / 1e6, 1),
        "commit": snapshot.commit_sha[:12],
        "message": "",
    }
