"""Content addresses of files on disk, checked once for each version of a file.

A file in the Hub cache is named by its content address, but nothing keeps a disk from damaging the
content afterwards. So a file is hashed when it is first read, and the result is remembered together
with the file's size, times and inode: one pass over each file, however often it is measured.
"""

import hashlib
import json
import os
import threading
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from workbench.errors import CheckpointError

_BLOCK = 4 << 20
_SHA256 = 64
"""Hex digits of a sha256, the content address of an LFS file; a git blob id has 40."""


@dataclass(frozen=True)
class FileState:
    """What changes on disk whenever the content of a file does."""

    size: int
    mtime_ns: int
    ctime_ns: int
    """Unlike mtime, no program can set it back."""
    inode: int


@dataclass(frozen=True)
class _Entry:
    address: str
    state: FileState
    at: datetime
    """When the content was compared with the address."""


class Damage(Exception):
    """The content of a file differs from its content address."""

    def __init__(self, path: Path, address: str, since: datetime | None) -> None:
        super().__init__(path, address, since)
        self.path = path
        self.address = address
        self.since = since
        """Runs that started earlier read sound content; None: no run is known to have done so."""


class DamagedFile(CheckpointError):
    """A file of a checkpoint is damaged; the message names the phase and the remedy."""

    def __init__(self, message: str, name: str, damage: Damage) -> None:
        super().__init__(message)
        self.name = name
        """Of the file, within its snapshot."""
        self.damage = damage


class Interrupted(Exception):
    """Hashing was stopped before the end of the file."""


class FileHashes:
    """Hashes files and remembers what it found, in ``memo`` if given, else in memory.

    ``memo`` is a file of JSON lines that several processes may append to. A line that cannot be
    read is ignored: the file it belongs to is hashed again.
    """

    def __init__(self, memo: Path | None = None) -> None:
        self._memo = memo
        self._entries: dict[tuple[str, int], _Entry] | None = None
        self._lock = threading.Lock()

    def address(self, path: Path) -> str:
        """The sha256 of a file."""
        state = file_state(path)
        entry = self._entry(path, _SHA256)
        if entry is not None and entry.state == state:
            return entry.address
        address = digest_of(path, _SHA256)
        self.record(path, address, state)
        return address

    def verify(self, path: Path, address: str, stop: threading.Event | None = None) -> FileState:
        """Compare the content with the address, unless that was done for this version of the file.

        Returns the state in which the content is right. Raises Damage, OSError, and Interrupted
        once ``stop`` is set.
        """
        state = file_state(path)
        entry = self._entry(path, len(address))
        if entry is not None and (entry.state, entry.address) == (state, address):
            return state
        return self.verify_anew(path, address, stop)

    def verify_anew(
        self, path: Path, address: str, stop: threading.Event | None = None
    ) -> FileState:
        """As ``verify``, but hash the content whatever is remembered."""
        state = file_state(path)
        if digest_of(path, len(address), stop) != address:
            raise Damage(path, address, self._sound_until(path, address, state))
        self.record(path, address, state)
        return state

    def record(self, path: Path, address: str, state: FileState | None = None) -> None:
        """Remember that the content was found to have this address."""
        entry = _Entry(address, state or file_state(path), datetime.now(UTC))
        key = (os.path.realpath(path), len(address))
        with self._lock:
            self._loaded()[key] = entry
        if self._memo is None:
            return
        line = {"path": key[0], "address": address, **asdict(entry.state)}
        self._memo.parent.mkdir(parents=True, exist_ok=True)
        with self._memo.open("ab", buffering=0) as memo:  # one write: lines of others stay whole
            memo.write(json.dumps(line | {"at": entry.at.isoformat()}).encode() + b"\n")

    def _sound_until(self, path: Path, address: str, state: FileState) -> datetime | None:
        """Until when the damaged file is known to have been sound."""
        entry = self._entry(path, len(address))
        if entry is None or entry.address != address:
            return None
        # A file that changed since is hashed before any run of it is stored: none rests on it.
        return entry.at if entry.state == state else datetime.now(UTC)

    def _entry(self, path: Path, digits: int) -> _Entry | None:
        with self._lock:
            return self._loaded().get((os.path.realpath(path), digits))

    def _loaded(self) -> dict[tuple[str, int], _Entry]:
        if self._entries is None:
            lines = self._memo.read_bytes() if self._memo and self._memo.exists() else b""
            self._entries = dict(filter(None, map(_entry_of, lines.splitlines())))
        return self._entries


def _entry_of(line: bytes) -> tuple[tuple[str, int], _Entry] | None:
    try:
        read = json.loads(line)
        path, address, at = read.pop("path"), read.pop("address"), read.pop("at")
        return (path, len(address)), _Entry(address, FileState(**read), datetime.fromisoformat(at))
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def file_state(path: Path) -> FileState:
    """Of the file that ``path`` leads to."""
    stat = path.stat()
    return FileState(stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)


def new_digest(digits: int, size: int) -> "hashlib._Hash":
    """The hash of a content address: sha256 (64 digits) or git's blob id (40) of a file."""
    return hashlib.sha256() if digits == _SHA256 else hashlib.sha1(b"blob %d\x00" % size)


def digest_of(path: Path, digits: int, stop: threading.Event | None = None) -> str:
    """Hash a file. Raises OSError, and Interrupted once ``stop`` is set."""
    buffer = memoryview(bytearray(_BLOCK))
    with path.open("rb", buffering=0) as content:
        digest = new_digest(digits, os.fstat(content.fileno()).st_size)
        while read := content.readinto(buffer):
            if stop is not None and stop.is_set():
                raise Interrupted
            digest.update(buffer[:read])
    return digest.hexdigest()


class Verification:
    """Verifies the files of one snapshot in a thread, while they are read for other purposes."""

    def __init__(self, folder: Path, addresses: Mapping[str, str], hashes: FileHashes) -> None:
        self.folder = folder
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(1, "hashes")
        self._states: dict[str, Future[FileState]] = {
            name: self._pool.submit(hashes.verify, folder / name, address, self._stop)
            for name, address in addresses.items()
        }

    def wait(self, names: Mapping[str, str]) -> None:
        """Wait until these files are verified.

        Raises Damage, and CheckpointError for a file that changed after it was verified.
        """
        for name in names:
            try:
                unchanged = self._states[name].result() == file_state(self.folder / name)
            except OSError:
                unchanged = False
            if not unchanged:
                raise CheckpointError(
                    f"{self.folder / name} changed while it was measured: repeat the command "
                    "when nothing writes to it."
                )

    def close(self) -> None:
        """Stop hashing."""
        self._stop.set()
        self._pool.shutdown(cancel_futures=True)
