"""Suites and what is known of them here: on disk, in the store, on their Hub."""

from typing import Any

from analysis_db.store import Store
from workbench.hub.cache import find_snapshot
from workbench.settings import Home
from workbench.suites import Suite, load_suite, load_suite_file, suite_files


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
