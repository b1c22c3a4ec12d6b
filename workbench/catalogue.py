"""Suites and what is known of them here: on disk, in the store, on their Hub."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from analysis_db.store import Store
from workbench.hub.pull import HubError, Snapshot, find_snapshot, pull_phase
from workbench.settings import Home
from workbench.suites import Phase, Suite, load_suite, load_suite_file, suite_files


def list_suites(home: Home) -> list[dict[str, Any]]:
    """One row per suite."""
    measured: dict[str, int] = {}
    if home.store.exists():
        sql = "SELECT suite, count(*) AS n FROM coverage WHERE status = 'measured' GROUP BY suite"
        measured = {row["suite"]: row["n"] for row in Store(home.store).table(sql).to_pylist()}
    rows = []
    for path in suite_files(home).values():
        suite = load_suite_file(path)
        rows.append(
            {
                "suite": suite.name,
                "title": suite.title,
                "phases": len(suite.phases),
                "published": sum(phase.repo_id is not None for phase in suite.phases),
                "on_disk": sum(find_snapshot(suite, phase) is not None for phase in suite.phases),
                "measured_jobs": measured.get(suite.name, 0),
            }
        )
    return rows


def list_phases(name: str, home: Home) -> list[dict[str, Any]]:
    """One row per phase of a suite."""
    suite = load_suite(name, home)
    measured: dict[int, int] = {}
    if home.store.exists():
        sql = (
            "SELECT phase, count(*) AS n FROM coverage "
            "WHERE suite = $suite AND status = 'measured' GROUP BY phase"
        )
        rows = Store(home.store).table(sql, {"suite": name}).to_pylist()
        measured = {row["phase"]: row["n"] for row in rows}
    return [
        {
            "phase": phase.phase,
            "stage": phase.stage,
            "repo_id": phase.repo_id or "not published",
            "step": phase.end_step,
            "tokens_b": phase.tokens_seen_b,
            "context": phase.context_length,
            "on_disk": find_snapshot(suite, phase) is not None,
            "measured": measured.get(phase.phase, 0),
            "form": phase.form,
            "optimizer": phase.has_optimizer,
            "note": ", ".join(f"{k} = {v}" for k, v in phase.overrides.items()),
        }
        for phase in suite.phases
    ]


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
    with ExitStack() as stack:
        endpoint = None
        if suite.local_hub is not None:
            from workbench.hub.server import LocalHub

            endpoint = stack.enter_context(LocalHub(suite.local_hub)).endpoint
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


def record_suite(suite: Suite, store: Store) -> None:
    """Write a suite, its phases and its published facts into the store."""
    from analysis_db.imports.tables import import_data_mix, import_published_scores
    from analysis_db.imports.training_log import import_training_log

    store.put_suite(
        {
            "name": suite.name,
            "title": suite.title,
            "about": suite.about,
            "licence": suite.licence,
        },
        [
            {
                "phase": phase.phase,
                "label": phase.label,
                "stage": phase.stage,
                "repo_id": phase.repo_id,
                "revision": phase.revision,
                "start_step": phase.start_step,
                "step": phase.end_step,
                "step_basis": phase.end_step_basis,
                "phase_tokens_b": phase.tokens_b,
                "tokens_b": phase.tokens_seen_b,
                "context_length": phase.context_length,
                "rope_theta": phase.rope_theta,
                "form": phase.form,
                "has_optimizer": phase.has_optimizer,
                "on_disk": find_snapshot(suite, phase) is not None,
                "evidence": phase.evidence,
                "overrides": phase.overrides_json,
            }
            for phase in suite.phases
        ],
    )
    if suite.data_mix is not None:
        import_data_mix(store, suite.name, suite.data_mix)
    if suite.published_scores is not None:
        import_published_scores(store, suite.name, suite.published_scores)
    if suite.training_log is not None:
        import_training_log(store, suite.training_log)
