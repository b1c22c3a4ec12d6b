"""Audit a suite: ask its Hub, keep the findings in the store, and return them."""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from analysis_db.store import Store
from workbench.catalogue import record_suite
from workbench.hub.audit import SEVERITIES, Audit, audit_phases
from workbench.hub.endpoint import hub_of
from workbench.settings import Home
from workbench.suites import load_suite
from workbench.text import spans


def audit_suite(
    name: str,
    phases: str,
    home: Home,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Audit the named phases and keep what was found; no weights are downloaded.

    Returns ``suite``, ``phases`` (one row each that could be asked about: phase, repo_id,
    revision, commit_sha, bytes_read), ``findings`` (phase, severity, check, repo_id, commit_sha,
    message, evidence) and their numbers, ``checkpoints`` (how many were looked at), their
    ``bytes`` (what a pull would fetch) and the ``bytes_read`` of them.

    The findings of a phase that could not be reached are returned and not kept: those of its last
    audit stay. Raises HubError, with nothing stored, when the Hub cannot be reached at all.
    """
    suite = load_suite(name, home)
    with hub_of(suite) as endpoint:
        audit = audit_phases(suite, suite.select(phases), endpoint, progress)
    store = Store(home.store)
    record_suite(suite, store)
    rows = [
        {
            "phase": facts.phase.phase,
            "repo_id": facts.phase.repo_id,
            "revision": facts.phase.revision,
            "commit_sha": facts.commit_sha or None,
            "bytes_read": facts.moved,
        }
        for facts in audit.reached
    ]
    _keep(store, suite.name, audit, rows)
    listings = [facts.listing for facts in audit.facts if facts.listing is not None]
    counts = Counter(finding.severity for finding in audit.findings)
    return {
        "suite": suite.name,
        "phases": rows,
        "findings": [asdict(finding) for finding in audit.findings],
        **{f"{severity}s": counts[severity] for severity in SEVERITIES},
        "checkpoints": len(listings),
        "bytes": sum(file.size for listing in listings for file in listing.wanted()),
        "bytes_read": sum(facts.moved for facts in audit.facts),
    }


def _keep(store: Store, suite: str, audit: Audit, rows: list[dict[str, Any]]) -> None:
    reached = {row["phase"] for row in rows}
    findings = [
        {
            "phase": finding.phase,
            "severity": finding.severity,
            "check_id": finding.check,
            "message": finding.message,
            "evidence": json.dumps(finding.evidence, sort_keys=True, default=str),
        }
        for finding in audit.findings
        if finding.phase in reached
    ]
    store.put_audits(suite, rows, findings, audited_at=datetime.now(UTC))


def by_sentence(findings: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What a table shows: findings that say the same of several phases as one row, worst first."""
    rows: dict[tuple[str, str, str], list[int]] = {}
    for finding in findings:
        key = finding["severity"], finding["check"], finding["message"]
        rows.setdefault(key, []).append(finding["phase"])
    shown = [
        {"phase": spans(numbers), "severity": severity, "check": check, "finding": message}
        for (severity, check, message), numbers in rows.items()
    ]
    return sorted(shown, key=lambda row: SEVERITIES.index(row["severity"]))
