"""What is compared after measuring: every pair of phases from its sketches, and neighbours exactly
while both of their checkpoints are on disk."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import workbench
from analysis_db import pairs
from analysis_db.pair_values import ExactChange
from analysis_db.pairs import PairToDo, SketchRun
from analysis_db.store import Store
from probes.changes import compared
from workbench.checkpoints import Checkpoint
from workbench.errors import UsageError, WorkbenchError
from workbench.hub.cache import Snapshot, find_snapshot
from workbench.hub.failures import unusable
from workbench.hub.hashes import DamagedFile, FileHashes
from workbench.jobs.local import mark_damaged
from workbench.jobs.supply import verified
from workbench.settings import Home
from workbench.suites import Phase, Suite, load_suite

OnCompare = Callable[[int, int], None]


def _silent(a: int, b: int) -> None:
    pass


def exact_changes(a: Checkpoint, b: Checkpoint) -> list[ExactChange]:
    """Every weight that both hold, compared in the effective view, a tensor of each in memory.

    Raises CheckpointError where the two are not of the same architecture.
    """
    found = compared(a.weights("effective"), b.weights("effective"))
    return [ExactChange((c.module, c.layer), c.norm_a, c.norm_b, c.distance) for c in found]


@dataclass
class Neighbours:
    """Compares a stream's phase with the one before it, while both are there."""

    suite: Suite
    store: Store
    on_compare: OnCompare = _silent
    _found: dict[tuple[int, int], list[ExactChange]] = field(default_factory=dict)

    def __call__(self, before: Phase, a: Checkpoint, phase: Phase, b: Checkpoint) -> None:
        self.write()
        self.on_compare(before.phase, phase.phase)
        try:
            self._found[before.phase, phase.phase] = exact_changes(a, b)
        except WorkbenchError:
            return  # what is wrong with a checkpoint is its jobs' failure; the two stay estimated

    def write(self) -> None:
        """Store what was found of pairs of which both phases have been measured by now."""
        if not self._found:
            return
        runs = _runs(self.store, self.suite)
        for a, b in [ab for ab in self._found if ab[0] in runs and ab[1] in runs]:
            changes = self._found.pop((a, b))
            _write(self.store, self.suite, PairToDo(runs[a], runs[b]), changes)


def compare_phases(
    suite: Suite,
    store: Store,
    hashes: FileHashes,
    *,
    exact: bool,
    on_compare: OnCompare = _silent,
) -> list[str]:
    """Compare what is new; returns warnings: identity alarms of the suite, and damaged files.

    ``exact`` compares neighbouring phases that are on disk themselves, unless that has been done.
    """
    version = workbench.__version__
    damaged: dict[str, None] = {}
    if exact:
        for pair in _neighbours_to_do(suite, store):
            sides = [_find(suite, run, hashes) for run in pair]
            if sides[0] is None or sides[1] is None:
                continue
            on_compare(pair.a.phase, pair.b.phase)
            try:
                changes = _exact_changes(suite, store, sides[0], sides[1])
            except DamagedFile as error:
                damaged[str(error)] = None
            except WorkbenchError:
                continue  # stays estimated
            else:
                _write(store, suite, pair, changes)
    pairs.update_weights(store, suite.name, code_version=version)
    pairs.update_activations(store, suite.name, code_version=version)
    return [*damaged, *pairs.identity_alarms(store, suite.name)]


def _exact_changes(suite: Suite, store: Store, *sides: tuple[Phase, Snapshot]) -> list[ExactChange]:
    """Compare two checkpoints on disk; a file that is damaged is marked and raises DamagedFile."""
    with ExitStack() as stack:
        opened = []
        for phase, snapshot in sides:
            stack.enter_context(_marking(store, phase))
            opened.append(stack.enter_context(verified(suite, phase, snapshot)))
        return exact_changes(*opened)


@contextmanager
def _marking(store: Store, phase: Phase) -> Iterator[None]:
    try:
        yield
    except DamagedFile as error:
        mark_damaged(store, phase, error)
        raise


def _runs(store: Store, suite: Suite) -> dict[int, SketchRun]:
    return {run.phase: run for run in pairs.sketch_runs(store, suite.name, pairs.WEIGHT)}


def _neighbours_to_do(suite: Suite, store: Store) -> Iterator[PairToDo]:
    runs = pairs.sketch_runs(store, suite.name, pairs.WEIGHT)
    known = pairs.exact_pairs(store, suite.name)
    for a, b in pairwise(runs):
        if (a.phase, b.phase) not in known:
            yield PairToDo(a, b)


def _find(suite: Suite, run: SketchRun, hashes: FileHashes) -> tuple[Phase, Snapshot] | None:
    """The checkpoint that the run measured, if it is here and still the same."""
    phase = next((phase for phase in suite.phases if phase.phase == run.phase), None)
    snapshot = find_snapshot(suite, phase, hashes) if phase else None
    if phase is None or snapshot is None:
        return None
    same = json.loads(run.file_hashes) == dict(snapshot.files)
    return (phase, snapshot) if same and phase.overrides_json == run.overrides else None


def _write(store: Store, suite: Suite, pair: PairToDo, changes: list[ExactChange]) -> None:
    pairs.write_exact(store, suite.name, pair, changes, code_version=workbench.__version__)


def compare_two(
    name: str, a: str, b: str, home: Home, *, on_compare: OnCompare = _silent
) -> tuple[list[dict[str, Any]], list[str]]:
    """Compare two phases that are on disk tensor by tensor, store it; returns values and warnings.

    A warning is a sentence: why some weights have no value, or an identity alarm of the suite.
    What is not yet measured of them is measured. Raises UsageError for phases that are the same,
    more than two, or not on disk.
    """
    from workbench.jobs import ProbeRequest, probe_suite

    suite = load_suite(name, home)
    phases = {phase.phase: phase for spec in (a, b) for phase in suite.select(spec)}
    chosen = sorted(phases)
    if len(chosen) != 2:
        raise UsageError(f"{a} and {b} name {len(chosen)} phases: name two different ones.")
    for number, phase in phases.items():
        if not phase.is_published:
            raise UsageError(
                f"No checkpoint of phase {number} was published: compare its neighbours."
            )
    for phase in phases.values():
        if reason := unusable(suite, phase):
            raise UsageError(reason)
    unpulled = [n for n in chosen if find_snapshot(suite, phases[n]) is None]
    if unpulled:
        numbers = ",".join(map(str, unpulled))
        raise UsageError(
            f"Phase {numbers} is not on disk, and an exact comparison needs both: "
            f"`workbench pull {name} --phases {numbers}`."
        )
    store, hashes = Store(home.store), FileHashes(home.hashes)
    runs = _runs(store, suite) if home.store.exists() else {}
    # Those measured already stay as they are, whatever settings they were measured with.
    unmeasured = [n for n in chosen if n not in runs or _find(suite, runs[n], hashes) is None]
    if unmeasured:
        numbers = ",".join(map(str, unmeasured))
        result = probe_suite(ProbeRequest(name, numbers, "changes", exact=False), home)
        if result.failed:
            job, error = result.failed[0].job, result.failed[0].error
            raise WorkbenchError(f"{job.name} failed ({error}): nothing was compared.")
        runs = _runs(store, suite)
    pair = PairToDo(*(runs[number] for number in chosen))
    sides = [_find(suite, run, FileHashes(home.hashes)) for run in pair]
    if sides[0] is None or sides[1] is None:
        raise WorkbenchError(
            "A checkpoint changed on disk while it was being compared: repeat the command."
        )
    on_compare(*chosen)
    _write(store, suite, pair, _exact_changes(suite, store, sides[0], sides[1]))
    rows = store.table(
        "SELECT metric, layer, module, value, exact, error_bound FROM pair_metrics "
        "WHERE suite = $suite AND phase_a = $a AND phase_b = $b AND view = 'effective' "
        "ORDER BY layer NULLS FIRST, module, metric",
        {"suite": suite.name, "a": chosen[0], "b": chosen[1]},
    )
    reason = store.table(
        "SELECT reason FROM pair_runs WHERE suite = $suite AND phase_a = $a AND phase_b = $b "
        "AND kind = $kind AND reason IS NOT NULL",
        {"suite": suite.name, "a": chosen[0], "b": chosen[1], "kind": pairs.WEIGHT},
    )
    gaps = [f"phases {chosen[0]} and {chosen[1]}: {row['reason']}" for row in reason.to_pylist()]
    return list(rows.to_pylist()), gaps + pairs.identity_alarms(store, suite.name)
