"""Suites and what is known of them here: on disk, in the store, on their Hub."""

from collections.abc import Iterable
from typing import Any

from analysis_db.store import Store
from workbench.errors import UsageError, WorkbenchError
from workbench.hub.cache import find_snapshot, repository_folder
from workbench.settings import Home
from workbench.suites import Definition, Phase, Suite, find_definition, load_suite, read_all
from workbench.suites.identity import identity
from workbench.suites.listing import known_suite, refreshed_suite
from workbench.suites.names import Names


def list_suites(home: Home, part: str = "") -> list[dict[str, Any]]:
    """One row per suite whose name holds ``part``; asks no network.

    They are those of the catalogue, of the home, and those that were once given by path or that
    the store has results of. ``phases`` and ``published`` are None for a suite whose revisions were
    never listed, or whose definition is not there; ``problem`` says what is wrong.
    """
    measured = _measured_jobs(home, "suite")
    names = Names.read(home)
    rows = {d.name: _standing_row(d, names) for d in read_all(home) if part in d.name}
    for name in names.all_remembered():
        if part in name and name not in rows:
            rows[name] = _remembered_row(name, names)
    return [row | {"measured_jobs": measured.get(name, 0)} for name, row in rows.items()]


def _standing_row(definition: Definition, names: Names) -> dict[str, Any]:
    """Of a suite in the catalogue or the home; of the one that has its name, if that is another."""
    try:
        names.check(definition)
    except UsageError as refusal:
        return _remembered_row(definition.name, names) | {"problem": str(refusal)}
    return _suite_row(definition, names.home)


def _remembered_row(name: str, names: Names) -> dict[str, Any]:
    try:
        definition = names.remembered(name)
        assert definition is not None, "every remembered name has a definition or an error"
        return _suite_row(definition, names.home)
    except WorkbenchError as error:
        record = names.records.get(name)
        title = (record and record.title) or ""
        unknown = {"phases": None, "published": None, "on_disk": 0, "definition": ""}
        return {"suite": name, "family": "", "title": title, **unknown, "problem": str(error)}


def _suite_row(definition: Definition, home: Home) -> dict[str, Any]:
    suite = known_suite(definition, home) if definition.found else definition.suite()
    phases = suite.phases if suite is not None else None
    return {
        "suite": definition.name,
        "family": definition.family,
        "title": definition.head.title,
        "phases": phases and len(phases),
        "published": phases and sum(phase.repo_id is not None for phase in phases),
        "on_disk": len(_on_disk(suite)) if suite is not None else 0,
        "definition": str(definition.toml.path),
        "problem": "",
    }


def fold_families(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of ``list_suites`` with a family in one, but for members that are here already."""
    folded: dict[str, dict[str, Any]] = {}
    for row in rows:
        name, family = row["suite"], row["family"]
        used = row["on_disk"] or row["measured_jobs"]
        shown = {key: value for key, value in row.items() if key != "family"}
        if not family or used:
            folded[name] = shown
        if family:
            first = folded.setdefault(family, shown | {"suite": family, "title": ""})
            first["members"] = [*first.get("members", []), name]
    for row in folded.values():
        if members := row.pop("members", None):
            row["title"] = f"{len(members)} suites"
    return list(folded.values())


def list_phases(name: str, home: Home) -> list[dict[str, Any]]:
    """One row per phase of a suite."""
    suite = load_suite(name, home)
    measured = _measured_jobs(home, "phase", suite.name)
    on_disk = _on_disk(suite)
    return [
        {
            "phase": phase.phase,
            "label": phase.label,
            "stage": phase.stage,
            "repo_id": phase.place or "not published",
            "revision": phase.revision,
            "step": phase.end_step,
            "tokens_b": phase.tokens_seen_b,
            "context": phase.context_length,
            "on_disk": phase.phase in on_disk,
            "measured": measured.get(phase.phase, 0),
            "form": phase.form,
            "optimizer": phase.has_optimizer,
            "confirmed": phase.confirmed,
            "note": "; ".join(_notes(phase)),
        }
        for phase in suite.phases
    ]


def _notes(phase: Phase) -> list[str]:
    doubt = [] if phase.confirmed else [f"unconfirmed: {phase.evidence}"]
    if phase.place is None:
        doubt = [f"not published: {phase.evidence}"]
    return doubt + [f"{field} = {value}" for field, value in phase.overrides.items()]


def _on_disk(suite: Suite) -> set[int]:
    """The phases whose checkpoints are here; a repository that is not is looked for once."""
    repositories = {phase.repo_id for phase in suite.phases if phase.repo_id is not None}
    here = {repo_id for repo_id in repositories if repository_folder(suite, repo_id).is_dir()}
    return {
        phase.phase
        for phase in suite.phases
        if (phase.folder is not None or phase.repo_id in here)
        and find_snapshot(suite, phase) is not None
    }


def _measured_jobs(home: Home, column: str, suite: str | None = None) -> dict[Any, int]:
    """Jobs that have been measured, by suite or by the phases of one."""
    if not home.store.exists():
        return {}
    sql = (
        f"SELECT {column} AS key, count(*) AS n FROM coverage "
        "WHERE status = 'measured' AND ($suite IS NULL OR suite = $suite) GROUP BY ALL"
    )
    rows = Store(home.store).table(sql, {"suite": suite}).to_pylist()
    return {row["key"]: row["n"] for row in rows}


def refresh_suite(name: str, home: Home) -> list[str]:
    """List the revisions of a suite anew, and say in sentences what is other than before.

    Numbers that results are stored under stay. Raises HubError when the Hub cannot be asked.
    """
    definition = find_definition(name, home)
    if not definition.found:
        return [f"{definition.toml.path} names all phases itself: there is nothing to list."]
    record = Names.read(home).records.get(definition.name)
    facts = definition.head.data_mix or definition.head.published_scores  # by number, too
    fixed = facts is not None or (record is not None and record.results)
    suite, changes = refreshed_suite(definition, home, fixed=fixed)
    if record is not None:
        suite = suite.model_copy(update={"definition": identity(definition, home)})
        record_suite(suite, Store(home.store))
    return changes


def record_suite(suite: Suite, store: Store) -> None:
    """Write a suite, its phases and its published facts into the store."""
    from analysis_db.imports.tables import import_data_mix, import_published_scores
    from analysis_db.imports.training_log import import_training_log

    on_disk = _on_disk(suite)
    facts = {"data_mix": suite.data_mix, "published_score": suite.published_scores}
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
                "repo_id": phase.place,
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
                "on_disk": phase.phase in on_disk,
                "evidence": ("" if phase.confirmed else "unconfirmed: ") + phase.evidence,
                "overrides": phase.overrides_json,
            }
            for phase in suite.phases
        ],
        definition=suite.definition or None,
        without=[table for table, path in facts.items() if path is None],
    )
    if suite.data_mix is not None:
        import_data_mix(store, suite.name, suite.data_mix)
    if suite.published_scores is not None:
        import_published_scores(store, suite.name, suite.published_scores)
    if suite.training_log is not None:
        import_training_log(store, suite.training_log)
