"""What a stream has brought to the disk, so that it removes this and nothing else.

Kept in a file: after a kill the next stream still knows which blobs are its own.
"""

import json
import os
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from workbench.hub.cache import CONFIG
from workbench.hub.fetch import Partial
from workbench.hub.pull import PullPlan, remove


class Ledger:
    """By repository folder: blobs with their sizes, files of snapshots, names of revisions.

    A revision stands with the commit that it named before, "" for none.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._repositories: dict[str, dict[str, dict[str, Any]]] = {}
        if path.is_file():
            self._repositories = json.loads(path.read_text(encoding="utf-8"))

    @property
    def bytes(self) -> int:
        """Of all blobs that are ours, those still on their way counted whole."""
        return sum(sum(kept["blobs"].values()) for kept in self._repositories.values())

    def to_come(self, plan: PullPlan) -> int:
        """Bytes that the plan adds to what is on disk or claimed."""
        ours = self._entry(plan.root)["blobs"]
        return sum(
            file.size - plan.held_of(file) for file in plan.contents if file.etag not in ours
        )

    def claim(self, plan: PullPlan) -> None:
        """Write down what the plan will bring and was not there before, not even in part."""
        entry = self._entry(plan.root)
        for file in plan.files:
            if not os.path.lexists(plan.folder / file.name):
                entry["files"][_key(plan, file.name)] = True
            if plan.cached(file) is None and not plan.held_of(file):
                entry["blobs"][file.etag] = file.size
        ref = plan.root / "refs" / plan.phase.revision
        before = ref.read_text(encoding="utf-8") if ref.exists() else ""
        if before != plan.listing.commit_sha:
            entry["refs"].setdefault(plan.phase.revision, before)
        self._save()

    def drop(self, plan: PullPlan, needed: Collection[PullPlan] = ()) -> None:
        """Remove what was brought for the plan and is of use to none of those ``needed``."""
        entry = self._entry(plan.root)
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
        self._save()

    def drop_others(self, plans: Collection[PullPlan]) -> None:
        """Remove what a former stream left that none of the plans can use."""
        for root, entry in self._repositories.items():
            folder = Path(root)
            here = [plan for plan in plans if plan.root == folder]
            files = {_key(plan, file.name) for plan in here for file in plan.files}
            blobs = {file.etag for plan in here for file in plan.files}
            for name in [name for name in entry["files"] if name not in files]:
                (folder / "snapshots" / name).unlink(missing_ok=True)
                del entry["files"][name]
            for etag in [etag for etag in entry["blobs"] if etag not in blobs | _linked(folder)]:
                remove(folder / "blobs" / etag)
                Partial(folder / "blobs" / etag, 0).forget()
                del entry["blobs"][etag]
            revisions = {plan.phase.revision for plan in here}
            for revision in [name for name in entry["refs"] if name not in revisions]:
                _restore(folder, revision, entry["refs"].pop(revision))
            _remove_empty_folders(folder)
        self._save()

    def _entry(self, root: Path) -> dict[str, dict[str, Any]]:
        return self._repositories.setdefault(str(root), {"blobs": {}, "files": {}, "refs": {}})

    def _save(self) -> None:
        kept = {root: entry for root, entry in self._repositories.items() if any(entry.values())}
        if not kept:
            self._path.unlink(missing_ok=True)
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        written = self._path.with_suffix(".tmp")
        written.write_text(json.dumps(kept, indent=1), encoding="utf-8")
        written.replace(self._path)


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
