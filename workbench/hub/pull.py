"""Pull a phase's checkpoint into a Hub cache, resumable and checked.

The Hub's own client neither goes on where a dead download was nor compares what came with the hash
that the Hub states, so this does. The result has the standard cache layout: whatever else uses the
Hub's cache finds it, offline too. What makes a snapshot count as complete, its config and the name
of its revision, is written last.
"""

import os
import shutil
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from workbench.hub.cache import (
    CONFIG,
    FORMS,
    Snapshot,
    cache_folder,
    find_snapshot,
    flaw_in,
    repository_folder,
    snapshot_in,
)
from workbench.hub.failures import (
    HubError,
    elsewhere,
    explained_phase,
    phase_name,
    unusable,
    useless,
)
from workbench.hub.fetch import Fetcher, Partial
from workbench.hub.hashes import Damage, FileHashes
from workbench.hub.listing import HubFile, Listing, list_files
from workbench.hub.transfer import Stopped
from workbench.suites import Phase, Suite

_INDEXES = tuple(f"{single}.index.json" for single in FORMS)
FILES_AT_ONCE = 8
CONNECTIONS = 8
"""To the Hub, for all files together."""

OnDamaged = Callable[[str, Damage], None]
"""Called with the name of a cached file that is damaged, before it is fetched again."""


def _ignore_damage(name: str, damage: Damage) -> None:
    pass


@dataclass(frozen=True)
class PullPlan:
    """What pulling a phase comes to, by what the Hub lists and what lies in the cache."""

    suite: Suite
    phase: Phase
    listing: Listing
    files: tuple[HubFile, ...]
    """Those that are wanted."""

    @property
    def root(self) -> Path:
        """The repository's folder in the cache."""
        return repository_folder(self.suite, self.listing.repo_id)

    @property
    def folder(self) -> Path:
        """The snapshot's."""
        return self.root / "snapshots" / self.listing.commit_sha

    def blob(self, file: HubFile) -> Path:
        return self.root / "blobs" / file.etag

    def cached(self, file: HubFile) -> Path | None:
        """Where the file's content lies: its blob, or itself in a cache that has no links."""
        pointer = self.folder / file.name
        if pointer.is_file() and not pointer.is_symlink():
            return pointer
        return self.blob(file) if self.blob(file).is_file() else None

    @cached_property
    def contents(self) -> list[HubFile]:
        """The files without those whose content another one has as well, large ones first."""
        return sorted({f.etag: f for f in self.files}.values(), key=lambda f: -f.size)

    @property
    def bytes(self) -> int:
        return sum(file.size for file in self.contents)

    @cached_property
    def held(self) -> int:
        """Bytes that are in the cache already, those of files that are cut off included."""
        return sum(map(self.held_of, self.contents))

    def held_of(self, file: HubFile) -> int:
        """Bytes of the file that are in the cache already."""
        return file.size if self.cached(file) else Partial(self.blob(file), file.size).held()

    @property
    def to_fetch(self) -> int:
        return self.bytes - self.held


def plan_pull(
    suite: Suite, phase: Phase, *, endpoint: str | None = None, with_optimizer: bool = False
) -> PullPlan:
    """Ask the Hub what a pull of the phase has to bring; fetches nothing.

    Raises HubError: no published checkpoint, no such repository or revision, no connection, no
    weights in the repository.
    """
    name = phase_name(suite, phase)
    if phase.repo_id is None:
        raise HubError(f"{name} has no published checkpoint: leave it out of --phases.")
    with explained_phase(suite, phase):
        listing = list_files(phase.repo_id, phase.revision, endpoint)
    files = listing.wanted(with_optimizer=with_optimizer)
    if not any(file.name.endswith((".safetensors", ".bin")) for file in files):
        raise HubError(
            f"{name}: repository {phase.repo_id} holds no weights at revision {phase.revision}: "
            "its page on the Hub shows what it holds."
        )
    return PullPlan(suite, phase, listing, tuple(files))


def pull_phase(
    suite: Suite,
    phase: Phase,
    *,
    endpoint: str | None = None,
    with_optimizer: bool = False,
    hashes: FileHashes | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    on_damaged: OnDamaged = _ignore_damage,
) -> Snapshot:
    """Fetch weights, config and tokenizer of a phase and check all of them, the cached ones too.

    ``hashes`` remembers what was checked. ``progress`` is told (bytes done, bytes in all), by one
    thread at a time; ``on_damaged`` may be called from several. Raises HubError: what
    ``plan_pull`` raises, no room on the disk, or a file that comes with another hash than the
    Hub's. A pull that fails leaves nothing that ``find_snapshot`` takes for complete; what it had
    fetched stays, and the next one goes on there.
    """
    from huggingface_hub import is_offline_mode

    if phase.folder is not None and (found := find_snapshot(suite, phase)):
        return found
    if (phase.folder is not None or is_offline_mode()) and (reason := unusable(suite, phase)):
        raise HubError(reason)
    if is_offline_mode() and not with_optimizer and (found := find_snapshot(suite, phase)):
        _check_offline(suite, phase, found, hashes or FileHashes())
        return found
    plan = plan_pull(suite, phase, endpoint=endpoint, with_optimizer=with_optimizer)
    return carry_out(
        plan, endpoint=endpoint, hashes=hashes, progress=progress, on_damaged=on_damaged
    )


def _check_offline(suite: Suite, phase: Phase, found: Snapshot, hashes: FileHashes) -> None:
    for name, address in found.files.items():
        try:
            hashes.verify_anew(found.path / name, address)
        except Damage:
            raise HubError(
                f"{phase_name(suite, phase)}: {name} is damaged (its hash differs from the Hub's) "
                "and cannot be fetched while HF_HUB_OFFLINE is set: unset it and pull again."
            ) from None


def carry_out(
    plan: PullPlan,
    *,
    endpoint: str | None = None,
    hashes: FileHashes | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    on_damaged: OnDamaged = _ignore_damage,
    stop: threading.Event | None = None,
) -> Snapshot:
    """Do what was planned, see ``pull_phase``; setting ``stop`` ends it with Stopped."""
    hashes = hashes or FileHashes()
    with explained_phase(plan.suite, plan.phase):
        _check_room(plan)
        fetcher = Fetcher(CONNECTIONS, _adding(progress, plan.bytes), stop or threading.Event())
        bringing = _Bringing(plan, endpoint, hashes, on_damaged, fetcher)
        # The indexes first: what they name may make all the rest of no use.
        bringing.run([f for f in plan.contents if f.name in _INDEXES])
        _link(plan, [f for f in plan.files if f.name in _INDEXES])
        _check_indexes(plan)
        bringing.run([f for f in plan.contents if f.name not in _INDEXES])
        _link(plan, plan.files)
        found = snapshot_in(plan.folder, plan.listing.repo_id, plan.listing.commit_sha, hashes)
        if found is None:
            _check_indexes(plan)
            raise HubError(
                f"{phase_name(plan.suite, plan.phase)}: repository {plan.listing.repo_id} has no "
                "complete weights (config, and every file that its index names): its page on the "
                "Hub shows what it holds."
            )
        _name_revision(plan)
        _clean(plan)
    return found


def _check_indexes(plan: PullPlan) -> None:
    """Refuse a phase whose index cannot be followed."""
    if flaw := flaw_in(plan.folder):
        if find_snapshot(plan.suite, plan.phase) is None:
            _name_revision(plan)  # whoever looks at the disk is then told the same
        raise HubError(useless(plan.suite, plan.phase, flaw))


def _check_room(plan: PullPlan) -> None:
    cache = cache_folder(plan.suite)
    cache.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(cache).free
    if plan.to_fetch > free:
        raise HubError(
            f"{phase_name(plan.suite, plan.phase)} needs {plan.to_fetch / 1e9:,.1f} GB and the "
            f"disk of {cache} has {free / 1e9:,.1f} GB free: free some space, or "
            f"{elsewhere(plan.suite)}."
        )


@dataclass(frozen=True)
class _Bringing:
    """Checks the files of a plan that are here and fetches the rest."""

    plan: PullPlan
    endpoint: str | None
    hashes: FileHashes
    on_damaged: OnDamaged

    fetcher: Fetcher

    def run(self, files: Sequence[HubFile]) -> None:
        """Several files at once."""
        with ThreadPoolExecutor(max_workers=FILES_AT_ONCE) as pool:
            jobs = [pool.submit(self._bring, file) for file in files]
            try:
                for job in as_completed(jobs):
                    job.result()
            except BaseException:
                self.fetcher.stop.set()
                pool.shutdown(cancel_futures=True)
                errors = [job.exception() for job in jobs if not job.cancelled()]
                for error in errors:  # not the one of a file that only was stopped
                    if error is not None and not isinstance(error, Stopped):
                        raise error from None
                raise

    def _bring(self, file: HubFile) -> None:
        from huggingface_hub import hf_hub_url

        plan, fetcher = self.plan, self.fetcher
        if fetcher.stop.is_set():
            raise Stopped
        if self._is_here(file):
            return
        with _locked(plan, file.etag, fetcher.stop):
            damage = self._damage(file)
            if damage is not None:
                self.on_damaged(file.name, damage)
                remove(damage.path)
            elif plan.cached(file) is not None:  # another process has brought it
                fetcher.report(file.size)
                return
            blob = plan.blob(file)
            blob.parent.mkdir(parents=True, exist_ok=True)
            url = hf_hub_url(
                plan.listing.repo_id,
                file.name,
                # By commit: a revision that moves meanwhile does not mix two checkpoints.
                revision=plan.listing.commit_sha,
                endpoint=self.endpoint,
            )
            fetcher.fetch(url, file, blob)
            self.hashes.record(blob, file.etag)

    def _is_here(self, file: HubFile) -> bool:
        """Whether the file is in the cache with the content that the Hub states."""
        if self.plan.cached(file) is None or self._damage(file) is not None:
            return False
        self.fetcher.report(file.size)
        return True

    def _damage(self, file: HubFile) -> Damage | None:
        """What is wrong with the cached file, which is hashed whatever is remembered of it."""
        path = self.plan.cached(file)
        try:
            if path is not None:
                self.hashes.verify_anew(path, file.etag)
        except Damage as damage:
            return damage
        return None


def _adding(progress: Callable[[int, int], None], total: int) -> Callable[[int], None]:
    lock = threading.Lock()
    done = 0

    def add(more: int) -> None:
        nonlocal done
        with lock:
            done += more
            progress(done, total)

    return add


@contextmanager
def _locked(plan: PullPlan, etag: str, stop: threading.Event) -> Iterator[None]:
    """Hold the lock that the Hub's client uses for the same blob."""
    from filelock import Timeout
    from huggingface_hub.utils import WeakFileLock

    path = _lock_path(plan, etag)
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        try:
            with WeakFileLock(path, timeout=1.0):
                yield
                return
        except Timeout:
            if stop.is_set():
                raise Stopped from None


def _lock_path(plan: PullPlan, etag: str) -> Path:
    return plan.root.parent / ".locks" / plan.root.name / f"{etag}.lock"


def remove(path: Path) -> None:
    """Delete a blob, with the chain of links that it may lead to."""
    while path.is_symlink():
        target = path.parent / path.readlink()
        path.unlink(missing_ok=True)
        path = target
    path.unlink(missing_ok=True)


def _link(plan: PullPlan, files: Sequence[HubFile]) -> None:
    """Give the files their names in the snapshot, the config last."""
    for file in sorted(files, key=lambda file: file.name == CONFIG):
        pointer, blob = plan.folder / file.name, plan.blob(file)
        target = os.path.relpath(blob, pointer.parent)
        if pointer.is_symlink() and os.readlink(pointer) == target:
            continue
        if pointer.is_file() and not pointer.is_symlink():
            continue  # checked, in a cache without links
        pointer.parent.mkdir(parents=True, exist_ok=True)
        pointer.unlink(missing_ok=True)
        with suppress(FileExistsError):  # another process was as quick
            try:
                os.symlink(target, pointer)
            except PermissionError:  # a file system without links
                shutil.copyfile(blob, pointer)


def _name_revision(plan: PullPlan) -> None:
    """Write that the revision is this commit, as the client does, in one step."""
    if plan.phase.revision == plan.listing.commit_sha:
        return
    ref = plan.root / "refs" / plan.phase.revision
    if ref.is_file() and ref.read_text(encoding="utf-8") == plan.listing.commit_sha:
        return
    ref.parent.mkdir(parents=True, exist_ok=True)
    written = _lock_path(plan, f"ref.{uuid.uuid4().hex}")
    written.parent.mkdir(parents=True, exist_ok=True)
    written.write_text(plan.listing.commit_sha, encoding="utf-8")
    written.replace(ref)


def _clean(plan: PullPlan) -> None:
    """Remove what dead downloads left in the repository's cache.

    The client never goes on with an ``.incomplete``. A part of ours is of no use when the commit
    has no such file and the suite no other phase in the repository, and neither is a count whose
    part is gone. What a living process works on is locked and stays.
    """
    from filelock import FileLock, Timeout

    alone = sum(phase.repo_id == plan.phase.repo_id for phase in plan.suite.phases) == 1
    leftovers: dict[str, list[Path]] = {}
    resumable = {file.etag for file in plan.listing.files}
    for path in (plan.root / "blobs").iterdir():
        etag, _, rest = path.name.partition(".")
        of_no_use = alone and etag not in resumable
        orphan = rest == "part.done" and not path.with_suffix("").exists()
        if rest.endswith("incomplete") or orphan or (rest.startswith("part") and of_no_use):
            leftovers.setdefault(etag, []).append(path)
    for etag, paths in leftovers.items():
        # In a cache that is not ours to write they stay: the phase is complete all the same.
        with suppress(Timeout, OSError), FileLock(_lock_path(plan, etag), timeout=0, mode=0o664):
            for path in paths:
                path.unlink(missing_ok=True)
