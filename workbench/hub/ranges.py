"""Byte ranges of one file of the Hub, pinned to a commit: nothing is written to disk."""

import threading

from workbench.hub.failures import HubError, explained
from workbench.hub.transfer import Stopped, patiently, stream_range

_PROGRESS = 1 << 20
"""Bytes that a try must have brought for the count of tries to start anew."""


class RemoteFile:
    """One file at one commit; safe to read from several threads at once.

    ``endpoint`` None is the Hub that the client uses by itself. ``requests`` and ``moved`` count
    the requests made and the bytes of content received, those of failed tries too.
    """

    def __init__(
        self, repo_id: str, name: str, commit_sha: str, size: int, endpoint: str | None
    ) -> None:
        from huggingface_hub import hf_hub_url

        self.repo_id = repo_id
        self.name = name
        self.size = size
        """Bytes, as the Hub lists the file."""
        self.requests = 0
        self.moved = 0
        self._url = hf_hub_url(repo_id, name, revision=commit_sha, endpoint=endpoint)
        self._commit = commit_sha
        self._counting = threading.Lock()

    def __str__(self) -> str:
        return f"{self.name} of {self.repo_id} at {self._commit[:8]}"

    def read(self, start: int, stop: int) -> bytes:
        """The bytes ``start`` to ``stop``, exclusive. Raises HubError."""
        self._check_span(start, stop)
        content = bytearray(stop - start)
        self.read_into(start, memoryview(content))
        return bytes(content)

    def read_into(
        self, start: int, buffer: memoryview, stop: threading.Event | None = None
    ) -> None:
        """Fill ``buffer`` with the bytes from ``start`` on.

        What a cut connection has brought is kept; the next try asks for the rest alone. Raises
        HubError, one sentence that names the file: refused, out of reach after several tries,
        other bytes than asked for, or a server that cannot send ranges. Once ``stop`` is set it
        gives up and raises ``transfer.Stopped``.
        """
        self._check_span(start, start + len(buffer))
        done = counted = 0

        def rest() -> None:
            nonlocal done
            with self._counting:
                self.requests += 1
            for chunk in stream_range(self._url, start + done, start + len(buffer), self.size):
                with self._counting:
                    self.moved += len(chunk)
                buffer[done : done + len(chunk)] = chunk
                done += len(chunk)
                if stop is not None and stop.is_set():
                    raise Stopped

        def gone_on() -> bool:
            nonlocal counted
            before, counted = counted, done
            return done - before >= _PROGRESS

        if len(buffer):
            what = f"{self} cannot be read from the Hub"
            with explained(what, self.repo_id, self._commit, again="start again"):
                patiently(rest, gone_on=gone_on, stop=stop)

    def _check_span(self, start: int, stop: int) -> None:
        if not 0 <= start <= stop <= self.size:
            raise HubError(
                f"{self} has {self.size:,} bytes and was asked for {start:,} to {stop:,}: what it "
                "says of itself is wrong; audit the phase."
            )
