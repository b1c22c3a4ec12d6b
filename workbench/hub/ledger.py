"""What a stream has brought to the disk, so that it removes this and nothing else.

Kept in a file that is read anew for every change: after a kill the next stream still knows which
blobs are its own, and what the user pulls meanwhile stops being a stream's at once.
"""

import json
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from workbench.errors import WorkbenchError
from workbench.hub.cache import CONFIG, Snapshot
from workbench.hub.fetch import Partial
from workbench.hub.pull import PullPlan, remove
from workbench.json_text import InvalidJSON, parse_json
from workbench.settings import Home
from workbench.suites import Suite

Entry = dict[str, dict[str, Any]]


class Ledger:
    """By repository folder: blobs with their sizes, files of snapshots, names of revisions.

    A revision stands with the commit that it named before, "" for none.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    @contextmanager
    def held(self) -> Iterator[None]:
        """For the life of a stream. Raises WorkbenchError while another one is alive."""
        from filelock import FileLock, Timeout

        self._path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self._path.with_suffix(".stream.lock"), timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise WorkbenchError(
                f"Suite {self._path.stem} is being streamed by another process: wait for it, or "
                "stop it."
            ) from None
        try:
            yield
        finally:
            lock.release()

    def bytes(self) -> int:
        """Of all blobs that are ours, those still on their way counted whole."""
        return sum(sum(entry["blobs"].values()) for entry in self._read().values())

    def to_come(self, plan: PullPlan) -> int:
        """Bytes that the plan adds to what is on disk or claimed."""
        ours = _entry(self._read(), plan.root)["blobs"]
        return sum(
            file.size - plan.held_of(file) for file in plan.contents if file.etag not in ours
        )

    def claim(self, plan: PullPlan) -> None:
        """Write down what the plan will bring and was not there before, not even in part."""
        with self._changed() as kept:
            entry = _entry(kept, plan.root)
            for file in plan.files:
                if not os.path.lexists(plan.folder / file.name):
                    entry["files"][_key(plan, file.name)] = True
                if not plan.held_of(file):
                    entry["blobs"][file.etag] = file.size
            ref = plan.root / "refs" / plan.phase.revision
            before = ref.read_text(encoding="utf-8") if ref.exists() else ""
            if before != plan.listing.commit_sha:
                entry["refs"].setdefault(plan.phase.revision, before)

    def drop(self, plan: PullPlan, needed: Collection[PullPlan] = ()) -> None:
        """Remove what was brought for the plan and is of use to none of those ``needed``."""
        with self._changed() as kept:
            entry = _entry(kept, plan.root)
            for file in sorted(plan.files, key=lambda file: file.name != CONFIG):
                if entry["files"].pop(_key(plan, file.name), None):
                    (plan.folder / file.name).unlink(missing_ok=True)
            _restore(plan.root, plan.phase.revision, entry["refs"].pop(plan.phase.revision, None))
            spared = {f.etag for other in needed if other.root == plan.root for f in other.files}
            spared |= _linked(plan.root)
            for file in plan.contents:
                if file.etag not in spared and entry["blobs"].pop(file.etag, None) is not None:
                    remove(plan.blob(file))
                    Partial(plan.blob(file), file.size).forget()
            _remove_empty_folders(plan.root)

    def drop_others(self, plans: Collection[PullPlan]) -> None:
        """Remove what a former stream left that none of the plans can use."""
        with self._changed() as kept:
            for root, entry in kept.items():
                folder = Path(root)
                here = [plan for plan in plans if plan.root == folder]
                files = {_key(plan, file.name) for plan in here for file in plan.files}
                for name in entry["files"].keys() - files:
                    (folder / "snapshots" / name).unlink(missing_ok=True)
                    del entry["files"][name]
                blobs = {file.etag for plan in here for file in plan.files} | _linked(folder)
                for etag in entry["blobs"].keys() - blobs:
                    remove(folder / "blobs" / etag)
                    Partial(folder / "blobs" / etag, 0).forget()
                    del entry["blobs"][etag]
                for revision in entry["refs"].keys() - {plan.phase.revision for plan in here}:
                    _restore(folder, revision, entry["refs"].pop(revision))
                _remove_empty_folders(folder)

    def disown(self, snapshot: Snapshot, revision: str) -> None:
        """The user has pulled this phase: what a stream had brought of it stays."""
        if not self._path.exists():
            return
        with self._changed() as kept:
            entry = _entry(kept, snapshot.path.parents[1])
            for name in [n for n in entry["files"] if n.startswith(f"{snapshot.commit_sha}/")]:
                del entry["files"][name]
            for etag in entry["blobs"].keys() & _linked(snapshot.path.parents[1]):
                del entry["blobs"][etag]
            entry["refs"].pop(revision, None)

    @contextmanager
    def _changed(self) -> Iterator[dict[str, Entry]]:
        """The ledger, to be changed; written when the block has ended well, or has not."""
        from filelock import FileLock

        self._path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self._path.with_suffix(".lock")):
            kept = self._read()
            try:
                yield kept
            finally:
                self._write(kept)

    def _read(self) -> dict[str, Entry]:
        try:
            found: dict[str, Entry] = parse_json(self._path.read_bytes())
        except FileNotFoundError:
            return {}
        except InvalidJSON as error:
            raise WorkbenchError(
                f"{self._path}, the list of what a stream has fetched, is damaged ({error}): "
                "remove it; what it lists then stays on the disk."
            ) from None
        return found

    def _write(self, kept: dict[str, Entry]) -> None:
        kept = {root: entry for root, entry in kept.items() if any(entry.values())}
        if not kept:
            self._path.unlink(missing_ok=True)
            return
        written = self._path.with_suffix(".tmp")
        written.write_text(json.dumps(kept, indent=1), encoding="utf-8")
        written.replace(self._path)


def ledger_of(suite: Suite, home: Home) -> Ledger:
    return Ledger(home.root / "stream" / f"{suite.name}.json")


def _entry(kept: dict[str, Entry], root: Path) -> Entry:
    return kept.setdefault(str(root), {"blobs": {}, "files": {}, "refs": {}})


def _key(plan: PullPlan, name: str) -> str:
    return f"{plan.listing.commit_sha}/{name}"


def _linked(root: Path) -> set[str]:
    """The blobs that some snapshot of the repository links to."""
    links: Iterator[Path] = (root / "snapshots").rglob("*")
    return {path.readlink().name for path in links if path.is_symlink()}


def _restore(root: Path, revision: str, commit: str | None) -> None:
    """Let the revision's name say what it said before: that commit, "" for nothing at all."""
    ref = root / "refs" / revision
    if commit:
        ref.write_text(commit, encoding="utf-8")
    elif commit is not None:
        ref.unlink(missing_ok=True)


def _remove_empty_folders(root: Path) -> None:
    below = sorted((p for p in root.rglob("*") if p.is_dir()), key=lambda p: -len(p.parts))
    for folder in [*below, root]:
        with suppress(OSError):  # not empty
            folder.rmdir()
