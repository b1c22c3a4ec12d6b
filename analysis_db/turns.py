"""Who may open the store next: a writer that waits is let in before more readers are.

DuckDB's lock alone starves writers: where readers ask in a tight loop, one of them always has the
file. So a writer holds a lock on the store's folder from when it begins to wait until it is done;
a reader only looks whether that lock is free, and comes in as long as it is. The kernel lets go of
the lock of a process that is killed.
"""

import fcntl
import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FIRST_PAUSE_S, PAUSE_GROWTH, LONGEST_PAUSE_S = 0.005, 1.6, 0.05


def is_free(folder: Path) -> bool:
    """Whether no writer waits or writes."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        return _take(descriptor, fcntl.LOCK_SH)
    finally:
        os.close(descriptor)


@contextmanager
def writers_turn(folder: Path, deadline: float) -> Iterator[bool]:
    """Hold off readers; whether the turn came before the ``deadline`` (of the monotonic clock)."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        waits = pauses(deadline)
        taken = _take(descriptor, fcntl.LOCK_EX)
        while not taken and next(waits, None) is not None:
            taken = _take(descriptor, fcntl.LOCK_EX)
        yield taken
    finally:
        os.close(descriptor)


def pauses(deadline: float) -> Iterator[float]:
    """Sleep a little longer each time, with jitter; ends at the deadline."""
    pause = FIRST_PAUSE_S
    while time.monotonic() < deadline:
        time.sleep(pause * random.uniform(0.5, 1.5))
        yield pause
        pause = min(pause * PAUSE_GROWTH, LONGEST_PAUSE_S)


def _take(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
