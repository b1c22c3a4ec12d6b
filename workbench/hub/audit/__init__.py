"""Identity and completeness of a suite's checkpoints by the Hub's API, without their weights."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from workbench.hub.audit import configs, files, identity, optimizer, tensors
from workbench.hub.audit.facts import SEVERITIES, UNREACHABLE, Facts, Finding, Severity
from workbench.hub.audit.gather import gather_facts
from workbench.hub.failures import HubError
from workbench.suites import Phase, Suite
from workbench.text import spans

__all__ = ["SEVERITIES", "Audit", "Finding", "Severity", "audit_phases", "check"]


@dataclass(frozen=True)
class Audit:
    """What was found at the chosen phases."""

    facts: tuple[Facts, ...]
    """Of the chosen phases, in order."""
    findings: tuple[Finding, ...]
    """In the order of phases, errors first within each."""

    @property
    def reached(self) -> list[Facts]:
        """The phases of which something is known, if only that they are not there."""
        return [f for f in self.facts if f.fault is None or f.fault.check != UNREACHABLE]


def audit_phases(
    suite: Suite,
    chosen: Sequence[Phase],
    endpoint: str | None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Audit:
    """Gather the facts and check them; ``endpoint`` is what ``hub_of(suite)`` gives.

    ``progress`` is told (requests done, requests known of). Raises HubError when not one of the
    chosen phases could be asked about; one that cannot be reached stops no other.
    """
    every = gather_facts(suite, chosen, endpoint, progress)
    numbers = {phase.phase for phase in chosen}
    audit = check(every, numbers)
    asked = [facts for facts in audit.facts if facts.phase.repo_id is not None]
    unasked = [facts.fault for facts in asked if facts.fault and facts.fault.check == UNREACHABLE]
    if asked and len(unasked) == len(asked):
        said = [(f.phase.phase, f.fault.message) for f in asked if f.fault is not None]
        raise HubError(" ".join(_by_message(suite, said)))
    return audit


def _by_message(suite: Suite, said: Sequence[tuple[int, str]]) -> list[str]:
    """One sentence for all phases of which the same was said."""
    phases: dict[str, list[int]] = {}
    for number, message in said:
        phases.setdefault(message, []).append(number)
    return [
        f"Phase{'s' if len(numbers) > 1 else ''} {spans(numbers)} of suite {suite.name}: "
        f"{message[:1].lower()}{message[1:]}"
        for message, numbers in phases.items()
    ]


def check(every: Sequence[Facts], chosen: set[int]) -> Audit:
    """The findings at the ``chosen`` phases, from the facts of ``every`` phase of the suite."""
    found: list[Finding] = []
    before: Facts | None = None
    for at, facts in enumerate(every):
        if facts.phase.phase in chosen:
            found += _of_phase(facts, every[at - 1] if at else None, before)
        before = facts if facts.config is not None else before
    listed = [facts for facts in every if facts.listing is not None]
    across = [*identity.identical_weights(listed), *configs.tokenizers(listed)]
    found += [finding for finding in across if finding.phase in chosen]
    order = {facts.phase.phase: at for at, facts in enumerate(every)}
    found.sort(key=lambda f: (order[f.phase], SEVERITIES.index(f.severity), f.check))
    picked = tuple(facts for facts in every if facts.phase.phase in chosen)
    return Audit(picked, tuple(found))


def _of_phase(facts: Facts, previous: Facts | None, configured: Facts | None) -> Iterator[Finding]:
    """``configured`` is the nearest phase before that has a config."""
    yield from files.reachable(facts)
    if facts.listing is None or (facts.fault and facts.fault.check == UNREACHABLE):
        return
    yield from files.files(facts)
    yield from files.indexes(facts)
    yield from tensors.tensors(facts)
    yield from tensors.tied_copies(facts)
    yield from optimizer.optimizer(facts)
    yield from configs.config_values(facts, previous)
    yield from configs.config_changes(facts, configured)
