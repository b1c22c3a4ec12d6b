"""Converting a phase's checkpoint into a form that other tools serve."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from workbench.errors import UsageError
from workbench.hub.cache import Snapshot, find_snapshot
from workbench.hub.failures import phase_name, unusable
from workbench.hub.hashes import FileHashes
from workbench.settings import Home
from workbench.suites import Phase, Suite, load_suite


class Converted(NamedTuple):
    """What `convert_phase` has done."""

    name: str
    """The phase, as in ``Phase 25 of suite yulan-mini``."""
    phase: Phase
    bytes: int
    """Of the weights that were written."""


def convert_phase(
    suite_name: str,
    spec: str,
    out: Path,
    home: Home,
    *,
    dtype: str | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Converted:
    """Write the checkpoint of the one phase that ``spec`` names, from the disk, as a Llama.

    The suite's overrides of the config are applied. Raises UsageError for more than one phase or
    one that is not on disk, DamagedFile, and what `fold_to_llama` raises.
    """
    suite = load_suite(suite_name, home)
    chosen = suite.select(spec)
    if len(chosen) != 1:
        raise UsageError(
            f"{spec!r} names {len(chosen)} phases of suite {suite.name}: convert one at a time."
        )
    (phase,) = chosen
    name = phase_name(suite, phase)
    snapshot = _snapshot_of(suite, phase, name, FileHashes(home.hashes))

    import torch

    from workbench.checkpoints.llama import fold_to_llama
    from workbench.jobs.supply import check_files

    check_files(suite, phase, snapshot)
    # Memory and disk set the pace. A second thread adds nothing, and on a busy machine the two
    # wait for each other: measured, ten times as long.
    torch.set_num_threads(1)
    written = fold_to_llama(
        snapshot.path,
        out,
        phase.overrides,
        dtype=None if dtype is None else getattr(torch, dtype),
        label=name,
        progress=progress,
    )
    return Converted(name, phase, written)


def _snapshot_of(suite: Suite, phase: Phase, name: str, hashes: FileHashes) -> Snapshot:
    found = find_snapshot(suite, phase, hashes)
    if found is not None:
        return found
    if reason := unusable(suite, phase):
        raise UsageError(reason)
    if phase.folder is not None:
        raise UsageError(f"{name}: {phase.folder} lacks config or weights: complete it first.")
    if phase.repo_id is None:
        raise UsageError(f"{name} has no published checkpoint: convert another phase.")
    raise UsageError(
        f"{name} is not on disk: fetch it with `workbench pull {suite.name} --phases "
        f"{phase.phase}` first."
    )
