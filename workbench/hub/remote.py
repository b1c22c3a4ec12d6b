"""A phase's checkpoint on the Hub, read from there in ranges: nothing is written to disk."""

import hashlib

from workbench.hub.cache import CONFIG, FORMS
from workbench.hub.failures import HubError, explained_phase, phase_name
from workbench.hub.listing import HubFile, Listing, list_files
from workbench.hub.ranges import RemoteFile
from workbench.json_text import LONGEST
from workbench.suites import Phase, Suite

_TRIES = 3


class RemoteSnapshot:
    """What ``hub.cache.Snapshot`` is for a checkpoint on disk, for one on the Hub.

    Every file is read at the commit that was listed, so that a revision that moves meanwhile
    does not mix two checkpoints.
    """

    remedy = "audit the phase, its files on the Hub are not sound"

    def __init__(self, listing: Listing, endpoint: str | None) -> None:
        wanted = listing.wanted()
        self.repo_id = listing.repo_id
        self.commit_sha = listing.commit_sha
        self.files = {file.name: file.etag for file in wanted}
        """Content address by name, as ``Snapshot.files`` has it of the pulled phase."""
        self.optimizer: dict[str, str] = {}
        """Optimizer states are read from disk only."""
        self.bytes = sum(file.size for file in wanted)
        """Of the files a pull would fetch."""
        self._listed: dict[str, HubFile] = {file.name: file for file in wanted}
        self._endpoint = endpoint
        self._opened: dict[str, RemoteFile] = {}

    def __str__(self) -> str:
        return f"{self.repo_id} at {self.commit_sha[:8]}"

    @property
    def moved(self) -> int:
        """Bytes of content received so far."""
        return sum(file.moved for file in self._opened.values())

    @property
    def requests(self) -> int:
        """Requests for content made so far."""
        return sum(file.requests for file in self._opened.values())

    def has(self, name: str) -> bool:
        return name in self._listed

    def file(self, name: str) -> RemoteFile:
        """One of ``files``, to be read in ranges."""
        if name not in self._opened:
            size = self._listed[name].size
            self._opened[name] = RemoteFile(
                self.repo_id, name, self.commit_sha, size, self._endpoint
            )
        return self._opened[name]

    def content(self, name: str) -> bytes:
        """A whole small file, with the hash that the Hub states for it. Raises HubError."""
        file, etag = self.file(name), self._listed[name].etag
        if file.size > LONGEST:
            raise HubError(
                f"{file} has {file.size:,} bytes, and at most {LONGEST:,} of a text are read: "
                "audit the phase."
            )
        for _ in range(_TRIES):
            content = file.read(0, file.size)
            if etag in (hashlib.sha256(content).hexdigest(), _git_blob_id(content)):
                return content
        raise HubError(
            f"{file} arrived damaged {_TRIES} times (not the hash that the Hub states): start "
            "again later, or pull the phase."
        )


def remote_snapshot(suite: Suite, phase: Phase, endpoint: str | None) -> RemoteSnapshot:
    """List the phase's checkpoint on the Hub; one request, no content.

    ``endpoint`` is what ``hub_of(suite)`` gives, and has to be up for as long as the snapshot is
    read. Raises HubError: no published checkpoint, what ``pull_phase`` raises when the Hub cannot
    be asked, or weights that cannot be read in ranges.
    """
    name = phase_name(suite, phase)
    if phase.repo_id is None:
        raise HubError(f"{name} has no published checkpoint: leave it out of --phases.")
    with explained_phase(suite, phase, again="start again"):
        listing = list_files(phase.repo_id, phase.revision, endpoint)
    snapshot = RemoteSnapshot(listing, endpoint)
    weights = (FORMS[0], f"{FORMS[0]}.index.json")
    if not snapshot.has(CONFIG) or not any(map(snapshot.has, weights)):
        raise HubError(
            f"{name}: {phase.repo_id} has no config.json with weights in safetensors form, which "
            "alone can be read from the Hub: leave the phase out, or try without --remote."
        )
    return snapshot


def _git_blob_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\x00" % len(content) + content).hexdigest()
