"""Where the jobs of a suite get their checkpoints: from the disk, from the Hub in ranges, or from
the Hub through a disk that holds only a few of them."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, Self, TypeVar

from workbench.checkpoints import Checkpoint
from workbench.hub.cache import Snapshot, find_snapshot, optimizer_states
from workbench.hub.failures import HubError, phase_name, unusable
from workbench.hub.hashes import Damage, DamagedFile, FileHashes, Verification
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
    """Phases that the Hub did not list, or whose files on disk cannot be used, with the reason in
    one sentence."""
    repaired: list[str]
    """A sentence for every damaged file that is fetched again."""

    def __init__(self, suite: Suite, phases: Sequence[Phase], hashes: FileHashes) -> None:
        reasons = [(phase, unusable(suite, phase)) for phase in phases]
        self.refused = [(phase, reason) for phase, reason in reasons if reason is not None]
        self.repaired = []
        self._suite = suite
        self._hashes = hashes
        self._verifications: dict[int, Verification] = {}
        self._with_state: Collection[int] = ()
        found = {phase.phase: find_snapshot(suite, phase, hashes) for phase in phases}
        self._found = {number: snapshot for number, snapshot in found.items() if snapshot}
        self.sources = self._found

    def begin(self, phases: Collection[int], with_state: Collection[int] = ()) -> Self:
        """Prepare for jobs on these phases, which will be asked for in their order.

        ``with_state`` are those of which the optimizer's state is needed.
        """
        self._with_state = with_state
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """Release what was prepared."""
        for verification in self._verifications.values():
            verification.close()

    def open(self, phase: Phase) -> Checkpoint:
        """The phase's checkpoint; its files are verified meanwhile, see ``verify``.

        Raises HubError or CheckpointError.
        """
        return self._open(self._found[phase.phase], phase)

    def _open(self, snapshot: Snapshot, phase: Phase) -> Checkpoint:
        if phase.phase not in self._verifications:
            states = snapshot.optimizer if phase.phase in self._with_state else {}
            addresses = {**snapshot.files, **states}
            self._verifications[phase.phase] = Verification(snapshot.path, addresses, self._hashes)
        return _open(snapshot, phase)

    def verify(self, phase: Phase, files: Mapping[str, str]) -> bool:
        """Wait until the files are verified; False for those read from the Hub in ranges.

        Raises DamagedFile, and CheckpointError for a file that changed meanwhile. Called after the
        phase was opened.
        """
        verification = self._verifications.get(phase.phase)
        if verification is None:
            return False
        with _damage_named(self._suite, phase, verification.folder):
            verification.wait(files)
        return True

    def done(self, phase: Phase, *, succeeded: bool) -> None:
        """All jobs of the phase have ended."""
        if (verification := self._verifications.pop(phase.phase, None)) is not None:
            verification.close()


def _open(snapshot: Snapshot, phase: Phase) -> Checkpoint:
    return Checkpoint.open(snapshot.path, overrides=phase.overrides, label=phase.label)


@contextmanager
def verified(suite: Suite, phase: Phase, snapshot: Snapshot) -> Iterator[Checkpoint]:
    """The checkpoint of a snapshot, whose files are verified by the end of the block.

    Raises DamagedFile or CheckpointError then, and what opening a checkpoint raises.
    """
    verification = Verification(snapshot.path, snapshot.files, snapshot.hashes)
    try:
        yield _open(snapshot, phase)
    finally:
        try:
            with _damage_named(suite, phase, snapshot.path):
                verification.wait(snapshot.files)
        finally:
            verification.close()


def check_files(suite: Suite, phase: Phase, snapshot: Snapshot) -> None:
    """Verify the files of a snapshot. Raises DamagedFile."""
    with _damage_named(suite, phase, snapshot.path):
        for name, address in snapshot.files.items():
            snapshot.hashes.verify(snapshot.path / name, address)


@contextmanager
def _damage_named(suite: Suite, phase: Phase, folder: Path) -> Iterator[None]:
    """Turn Damage into DamagedFile, which names the phase and the remedy."""
    try:
        yield
    except Damage as damage:
        name = damage.path.relative_to(folder).as_posix()
        hash_name = "sha256" if len(damage.address) == 64 else "git blob id"
        state = " --with-optimizer" if optimizer_states([name]) else ""
        raise DamagedFile(
            f"{phase_name(suite, phase)}: {name} is damaged ({hash_name} differs from the "
            f"Hub's). Run `workbench pull {suite.name} --phases {phase.phase}{state}` to fetch it "
            "again.",
            name,
            damage,
        ) from None


class RemoteSupply(Supply):
    """Tensors read from the Hub in ranges; nothing is written to disk."""

    def __init__(self, suite: Suite, phases: Sequence[Phase], endpoint: str | None) -> None:
        self.repaired = []
        self._verifications = {}  # no file is read as a whole, so none can be verified
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
        hashes: FileHashes,
        budget: int | None,
        on_bytes: Callable[[Phase, int, int], None],
        on_damaged: Callable[[Phase, str, Damage], None],
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
        self._suite = suite
        self._verifications = {}
        self._endpoint = endpoint
        self._ledger = ledger
        self._hashes = hashes
        self._budget = budget
        self._on_bytes = on_bytes
        self._on_damaged = on_damaged
        self.repaired = []
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
        self._with_state = with_state
        self._stream = Stream(
            [
                plan if number in with_state else _without_state(plan)
                for number, plan in self._plans.items()
                if number in phases
            ],
            self._ledger,
            endpoint=self._endpoint,
            budget=self._budget,
            hashes=self._hashes,
            on_bytes=self._on_bytes,
            on_damaged=self._damaged,
        )
        return self

    def __enter__(self) -> Self:
        self._stream.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        self._stream.__exit__(*error)

    def _damaged(self, phase: Phase, name: str, damage: Damage) -> None:
        self._on_damaged(phase, name, damage)
        what = f"{phase_name(self._suite, phase)}: {name}"
        self.repaired.append(f"{what} was damaged and is fetched again.")

    def open(self, phase: Phase) -> Checkpoint:
        snapshot = self._stream.get(phase)
        checkpoint = self._open(snapshot, phase)
        kept = self._stream.kept_before(phase)
        if kept is not None and self._on_neighbours is not None:
            before = self._phases[kept[0]]
            self._on_neighbours(before, _open(kept[1], before), phase, checkpoint)
        self._stream.release_before(phase)
        return checkpoint

    def done(self, phase: Phase, *, succeeded: bool) -> None:
        super().done(phase, succeeded=succeeded)
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
