"""Where the jobs of a suite get their checkpoints: from the disk, from the Hub in ranges, or from
the Hub through a disk that holds only a few of them."""

from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Protocol, Self, TypeVar

from workbench.checkpoints import Checkpoint
from workbench.hub.cache import Snapshot, find_snapshot, optimizer_states
from workbench.hub.failures import HubError, phase_name, unusable
from workbench.hub.ledger import Ledger
from workbench.hub.pull import PullPlan, plan_pull
from workbench.hub.remote import RemoteSnapshot, remote_snapshot
from workbench.hub.stream import Stream
from workbench.suites import Phase, Suite

Found = TypeVar("Found")
OnNeighbours = Callable[[Phase, Checkpoint, Phase, Checkpoint], None]


class Source(Protocol):
    """What identifies a checkpoint, wherever it lies."""

    @property
    def repo_id(self) -> str: ...
    @property
    def commit_sha(self) -> str: ...
    @property
    def files(self) -> Mapping[str, str]:
        """Content address of each file that a probe reads, by name."""

    @property
    def optimizer(self) -> Mapping[str, str]:
        """The same of the files of optimizer states; none where they are not to be had."""


class Supply:
    """Checkpoints that are on disk; the other ways to get them are its subclasses.

    Used as a context manager while jobs are run.
    """

    sources: Mapping[int, Source]
    """By phase number, for the phases that can be measured."""
    refused: list[tuple[Phase, str]]
    """Phases that the Hub did not list, or that are of no use on disk, with the reason in one
    sentence."""

    def __init__(self, suite: Suite, phases: Sequence[Phase]) -> None:
        reasons = [(phase, unusable(suite, phase)) for phase in phases]
        self.refused = [(phase, reason) for phase, reason in reasons if reason is not None]
        found = {phase.phase: find_snapshot(suite, phase) for phase in phases}
        self._found = {number: snapshot for number, snapshot in found.items() if snapshot}
        self.sources = self._found

    def begin(self, phases: Collection[int], with_state: Collection[int] = ()) -> Self:
        """Prepare for jobs on these phases, which will be asked for in their order.

        ``with_state`` are those of which the optimizer's state is needed.
        """
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """Let go of what was prepared."""

    def open(self, phase: Phase) -> Checkpoint:
        """The phase's checkpoint. Raises HubError or CheckpointError."""
        return _open(self._found[phase.phase], phase)

    def done(self, phase: Phase, *, succeeded: bool) -> None:
        """All jobs of the phase have ended."""


def _open(snapshot: Snapshot, phase: Phase) -> Checkpoint:
    return Checkpoint.open(snapshot.path, overrides=phase.overrides, label=phase.label)


class RemoteSupply(Supply):
    """Tensors read from the Hub in ranges; nothing is written to disk."""

    def __init__(self, suite: Suite, phases: Sequence[Phase], endpoint: str | None) -> None:
        self._remote, self.refused = _of_each(
            phases, lambda phase: remote_snapshot(suite, phase, endpoint)
        )
        self.sources: Mapping[int, RemoteSnapshot] = self._remote

    def open(self, phase: Phase) -> Checkpoint:
        return Checkpoint.open_remote(
            self._remote[phase.phase], overrides=phase.overrides, label=phase.label
        )


@dataclass(frozen=True)
class _Listed:
    """A checkpoint that is still to come."""

    repo_id: str
    commit_sha: str
    files: Mapping[str, str]
    optimizer: Mapping[str, str]


class StreamSupply(Supply):
    """Checkpoints that are fetched for the jobs and removed after them, see ``Stream``."""

    def __init__(
        self,
        suite: Suite,
        phases: Sequence[Phase],
        endpoint: str | None,
        ledger: Ledger,
        budget: int | None,
        on_bytes: Callable[[Phase, int, int], None],
        on_neighbours: OnNeighbours | None = None,
        *,
        with_optimizer: bool = False,
    ) -> None:
        """``with_optimizer`` fetches the optimizer states that were published, where needed.

        ``on_neighbours`` is given a phase and the one before it, while both are on disk.
        """

        def plan(phase: Phase) -> PullPlan:
            states = with_optimizer and phase.has_optimizer
            return plan_pull(suite, phase, endpoint=endpoint, with_optimizer=states)

        self._plans, self.refused = _of_each(phases, plan)
        for phase in phases:
            if phase.phase in self._plans and (reason := self._leave_state(suite, phase, budget)):
                self.refused.append((phase, reason))
        self.sources = {number: _listed(plan) for number, plan in self._plans.items()}
        self._endpoint = endpoint
        self._ledger = ledger
        self._budget = budget
        self._on_bytes = on_bytes
        self._on_neighbours = on_neighbours
        self._phases = {phase.phase: phase for phase in phases}

    def _leave_state(self, suite: Suite, phase: Phase, budget: int | None) -> str | None:
        """Do without a state that the budget has no room for; says so in a sentence."""
        plan = self._plans[phase.phase]
        without = _without_state(plan)
        if budget is None or plan.bytes <= budget or without.bytes == plan.bytes:
            return None
        self._plans[phase.phase] = without
        return (
            f"{phase_name(suite, phase)}: with its optimizer state it takes "
            f"{plan.bytes / 1e9:,.2f} GB and --max-disk allows {budget / 1e9:,.2f} GB: raise it "
            "to have the state measured, or name the probes without optimizer."
        )

    def begin(self, phases: Collection[int], with_state: Collection[int] = ()) -> Self:
        self._stream = Stream(
            [
                plan if number in with_state else _without_state(plan)
                for number, plan in self._plans.items()
                if number in phases
            ],
            self._ledger,
            endpoint=self._endpoint,
            budget=self._budget,
            on_bytes=self._on_bytes,
        )
        return self

    def __enter__(self) -> Self:
        self._stream.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._stream.__exit__(*error)

    def open(self, phase: Phase) -> Checkpoint:
        snapshot = self._stream.get(phase)
        checkpoint = _open(snapshot, phase)
        kept = self._stream.kept_before(phase)
        if kept is not None and self._on_neighbours is not None:
            before = self._phases[kept[0]]
            self._on_neighbours(before, _open(kept[1], before), phase, checkpoint)
        self._stream.release_before(phase)
        return checkpoint

    def done(self, phase: Phase, *, succeeded: bool) -> None:
        self._stream.done(phase, succeeded=succeeded)


def _listed(plan: PullPlan) -> _Listed:
    every = {file.name: file.etag for file in plan.files}
    states = {name: every.pop(name) for name in optimizer_states(list(every))}
    return _Listed(plan.listing.repo_id, plan.listing.commit_sha, every, states)


def _without_state(plan: PullPlan) -> PullPlan:
    states = set(optimizer_states(file.name for file in plan.files))
    return replace(plan, files=tuple(f for f in plan.files if f.name not in states))


def _of_each(
    phases: Sequence[Phase], ask: Callable[[Phase], Found]
) -> tuple[dict[int, Found], list[tuple[Phase, str]]]:
    """The Hub's answer for each published phase, several asked at once, and the refusals."""

    def answer(phase: Phase) -> Found | HubError:
        try:
            return ask(phase)
        except HubError as error:
            return error

    published = [phase for phase in phases if phase.repo_id is not None]
    with ThreadPoolExecutor(max_workers=8) as pool:
        answers = list(zip(published, pool.map(answer, published), strict=True))
    found = {p.phase: got for p, got in answers if not isinstance(got, HubError)}
    return found, [(p, str(got)) for p, got in answers if isinstance(got, HubError)]
