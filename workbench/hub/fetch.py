"""One file of the Hub into the cache.

It comes in segments over several connections, any later process goes on where a dead one was, and
its hash is compared with the Hub's before it gets its name.
"""

import errno
import os
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from workbench.hub.hashes import new_digest
from workbench.hub.listing import HubFile
from workbench.hub.transfer import Damaged, FileFault, Stopped, Unsteady, patiently, stream_range

SEGMENT = 256 << 20
"""Bytes of a file that one connection fetches in order."""
CONNECTIONS = 4
"""For one file."""
_WRITE = 1 << 20
"""Bytes that are gathered for one write: what a kill costs, on each connection."""
_HASH = 4 << 20


class Partial:
    """What has come of a blob: ``<etag>.part``, and how far each segment is, ``<etag>.part.done``.

    The data is written before the count, so that the count of a process that was killed is true.
    Used by one process at a time, the one that holds the blob's lock.
    """

    def __init__(self, blob: Path, size: int) -> None:
        self.path = blob.with_name(f"{blob.name}.part")
        self._counts = blob.with_name(f"{blob.name}.part.done")
        self._size = size
        self._segments = range(0, size, SEGMENT)
        self._done = [0] * len(self._segments)
        self.changed = threading.Condition()

    def __enter__(self) -> Self:
        self._done = self._read_counts() or self._done
        self.file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        self._journal = os.open(self._counts, os.O_RDWR | os.O_CREAT, 0o666)
        os.ftruncate(self.file, self._size)
        os.pwrite(self._journal, struct.pack(f"<{len(self._done) + 1}Q", SEGMENT, *self._done), 0)
        return self

    def __exit__(self, *error: object) -> None:
        os.close(self.file)
        os.close(self._journal)

    def _read_counts(self) -> list[int] | None:
        """Those of a former process; None when there are none that fit this file."""
        try:
            written = self._counts.read_bytes()
            if self.path.stat().st_size != self._size:
                return None
        except FileNotFoundError:
            return None
        if len(written) != 8 * (len(self._done) + 1):
            return None
        segment, *done = struct.unpack(f"<{len(self._done) + 1}Q", written)
        lengths = [self._end(i) - start for i, start in enumerate(self._segments)]
        fits = all(count <= length for count, length in zip(done, lengths, strict=True))
        return done if segment == SEGMENT and fits else None

    def held(self) -> int:
        """Bytes that are here; asked before the partial is opened, those of a former process."""
        return sum(self._read_counts() or self._done)

    def forget(self) -> None:
        """Remove both files."""
        self._counts.unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)

    def missing(self) -> list[int]:
        """The segments that are not complete."""
        return [i for i in range(len(self._segments)) if len(self.rest(i))]

    def rest(self, segment: int) -> range:
        """The bytes of the segment that have not come."""
        return range(self._segments[segment] + self._done[segment], self._end(segment))

    def _end(self, segment: int) -> int:
        return min(self._segments[segment] + SEGMENT, self._size)

    def write(self, segment: int, data: bytes | bytearray) -> None:
        """Append to the segment."""
        at = self.rest(segment).start
        view = memoryview(data)
        while view:
            written = os.pwrite(self.file, view, at)
            view, at = view[written:], at + written
        done = at - self._segments[segment]
        os.pwrite(self._journal, struct.pack("<Q", done), 8 * (segment + 1))
        with self.changed:
            self._done[segment] = done
            self.changed.notify_all()

    def frontier(self) -> int:
        """Up to where everything is here."""
        missing = self.missing()
        return self.rest(missing[0]).start if missing else self._size


class Fetcher:
    """Fetches files of one pull; setting ``stop`` ends all of them."""

    def __init__(
        self, connections: int, report: Callable[[int], None], stop: threading.Event
    ) -> None:
        self.stop = stop
        self._permits = threading.Semaphore(connections)
        self.report = report

    def fetch(self, url: str, file: HubFile, blob: Path) -> None:
        """Bring ``blob``; the caller holds its lock.

        Raises Damaged when the content has another hash than the Hub states, twice in a row;
        what came with it is removed. Raises FileFault, or what the client raises for a refusal,
        when tries are used up; what came stays for the next pull.
        """
        for _ in range(2):
            partial = Partial(blob, file.size)
            with partial:
                self.report(partial.held())
                digest = self._receive(url, file, partial)
            if digest == file.etag:
                os.replace(partial.path, blob)
                partial.forget()
                return
            partial.forget()
            self.report(-file.size)
        raise Damaged(file.name)

    def _receive(self, url: str, file: HubFile, partial: Partial) -> str:
        """Fetch what is missing while hashing what is here; returns the hash of the whole."""
        missing = partial.missing()
        with ThreadPoolExecutor(max_workers=min(CONNECTIONS, len(missing)) or 1) as pool:
            jobs = [pool.submit(self._segment, url, file, partial, i) for i in missing]
            try:
                return _hash_as_it_comes(file, partial, jobs)
            except BaseException:
                self.stop.set()
                raise

    def _segment(self, url: str, file: HubFile, partial: Partial, segment: int) -> None:
        before = partial.rest(segment)

        def gone_on() -> bool:
            nonlocal before
            came = len(before) - len(partial.rest(segment))
            before = partial.rest(segment)
            return came >= _WRITE

        def some() -> None:
            with self._permit():
                self._stream(url, file, partial, segment)

        from huggingface_hub.utils import httpx

        try:
            patiently(some, gone_on=gone_on, stop=self.stop)
        except (httpx.TransportError, Unsteady) as fault:
            raise FileFault(file.name, fault) from fault
        finally:
            with partial.changed:  # whoever waits for bytes sees that none will come
                partial.changed.notify_all()

    @contextmanager
    def _permit(self) -> Iterator[None]:
        while not self._permits.acquire(timeout=0.2):
            if self.stop.is_set():
                raise Stopped
        try:
            yield
        finally:
            self._permits.release()

    def _stream(self, url: str, file: HubFile, partial: Partial, segment: int) -> None:
        rest = partial.rest(segment)
        came = bytearray()
        try:
            for chunk in stream_range(url, rest.start, rest.stop, file.size, read_past=True):
                came += chunk
                if len(came) >= _WRITE:
                    self._keep(partial, segment, came)
                    came = bytearray()
                if self.stop.is_set():
                    raise Stopped
        finally:
            if came:
                self._keep(partial, segment, came)

    def _keep(self, partial: Partial, segment: int, data: bytearray) -> None:
        partial.write(segment, data)
        self.report(len(data))


def _hash_as_it_comes(file: HubFile, partial: Partial, jobs: list[Future[None]]) -> str:
    digest = new_digest(len(file.etag), file.size)
    buffer = memoryview(bytearray(min(_HASH, file.size)))
    at = 0

    def more_or_over() -> bool:
        return partial.frontier() - at >= len(buffer) or all(job.done() for job in jobs)

    while at < file.size:
        with partial.changed:
            # With a time limit: a job counts as done only after its last notice.
            while not (more_or_over() or any(job.done() and job.exception() for job in jobs)):
                partial.changed.wait(0.1)
        for job in jobs:
            if job.done():
                job.result()
        until = partial.frontier()
        while at < until:
            read = os.preadv(partial.file, [buffer[: until - at]], at)
            if not read:
                raise OSError(errno.EIO, "the part of a file became shorter while it came")
            digest.update(buffer[:read])
            at += read
    return digest.hexdigest()
