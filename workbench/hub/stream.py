"""Checkpoints that come and go, so that a suite of any size is measured on a small disk.

The next phase is fetched while the present one is measured, and a phase is removed when it has
been. What this stream has on disk never exceeds its budget, and what was there before stays.
"""

import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from enum import Enum
from functools import partial
from shutil import disk_usage
from typing import Self

from workbench.hub.cache import Snapshot
from workbench.hub.failures import HubError, phase_name
from workbench.hub.hashes import Damage, FileHashes
from workbench.hub.ledger import Ledger
from workbench.hub.pull import PullPlan, carry_out
from workbench.hub.transfer import Stopped
from workbench.suites import Phase


class _State(Enum):
    coming = "on its way, or here and not yet asked for"
    measuring = "in use"
    before = "measured; kept beside its successor for what compares the two"
    over = "measured, of no more use"
    failed = "kept for another try as long as there is room"


class Stream:
    """Used as a context manager by one thread, which asks for the phases in their order."""

    def __init__(
        self,
        plans: Sequence[PullPlan],
        ledger: Ledger,
        *,
        endpoint: str | None,
        budget: int | None,
        hashes: FileHashes,
        on_bytes: Callable[[Phase, int, int], None] = lambda phase, done, total: None,
        on_damaged: Callable[[Phase, str, Damage], None] = lambda phase, name, damage: None,
    ) -> None:
        """``budget`` in bytes; None leaves it to the room on the disk.

        ``on_damaged`` is called, from other threads, for a file that was here and damaged.
        """
        self._plans = {plan.phase.phase: plan for plan in plans}
        self._ledger = ledger
        self._endpoint = endpoint
        self._budget = budget
        self._hashes = hashes
        self._on_bytes = on_bytes
        self._on_damaged = on_damaged
        self._states: dict[int, _State] = {}
        self._results: dict[int, Snapshot | BaseException] = {}
        self._foreign = 0
        """Bytes added to files of which a part was there before."""
        self._asked: int | None = None
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._fetching = threading.Thread(target=self._fetch_all, name="stream")

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self._ledger.held())
            self._ledger.drop_others(self._plans.values())
            self._fetching.start()
            self._life = stack.pop_all()  # from here on it is __exit__ that lets go
        return self

    def __exit__(self, *error: object) -> None:
        """Stops fetching; removes what was measured, leaves what failed for another try."""
        self._stop.set()
        with self._changed:
            self._changed.notify_all()
        self._fetching.join()
        for phase, state in list(self._states.items()):
            if state in (_State.before, _State.over):
                self._drop(phase)
        self._life.close()

    def get(self, phase: Phase) -> Snapshot:
        """The phase's checkpoint, once it is here; its predecessor, if asked for, still is.

        Raises HubError when it could not be fetched, or is larger than the budget.
        """
        with self._changed:
            self._asked = phase.phase
            self._changed.notify_all()
            while phase.phase not in self._results:
                self._changed.wait()
            self._asked = None
            result = self._results[phase.phase]
            failed = isinstance(result, BaseException)
            self._states[phase.phase] = _State.failed if failed else _State.measuring
            self._changed.notify_all()
        if isinstance(result, BaseException):
            raise result
        return result

    def kept_before(self, phase: Phase) -> tuple[int, Snapshot] | None:
        """Number and checkpoint of the last phase before this one that is still here."""
        with self._changed:
            kept = [n for n, state in self._states.items() if state is _State.before]
            number = max((n for n in kept if n < phase.phase), default=None)
            result = None if number is None else self._results[number]
        return (number, result) if number is not None and isinstance(result, Snapshot) else None

    def release_before(self, phase: Phase) -> None:
        """The phases before this one are of no more use."""
        with self._changed:
            for number, state in self._states.items():
                if number < phase.phase and state is _State.before:
                    self._states[number] = _State.over
            self._changed.notify_all()

    def done(self, phase: Phase, *, succeeded: bool) -> None:
        """All jobs of the phase have ended."""
        with self._changed:
            self._states[phase.phase] = _State.before if succeeded else _State.failed
            self._changed.notify_all()

    def _fetch_all(self) -> None:
        for number, plan in self._plans.items():
            result: Snapshot | BaseException
            try:
                self._wait_for_room(plan)
                result = carry_out(
                    plan,
                    endpoint=self._endpoint,
                    hashes=self._hashes,
                    progress=partial(self._on_bytes, plan.phase),
                    on_damaged=partial(self._on_damaged, plan.phase),
                    stop=self._stop,
                )
            except Stopped:
                return
            except BaseException as error:  # raised where the phase is asked for
                result = error
            with self._changed:
                self._results[number] = result
                self._changed.notify_all()
                # One ahead and no more: with room for all, all would come at once.
                while self._states[number] is _State.coming and not self._stop.is_set():
                    self._changed.wait()

    def _wait_for_room(self, plan: PullPlan) -> None:
        """Wait, and remove what is of no more use, until the plan fits; then claim the room."""
        with self._changed:
            self._states[plan.phase.phase] = _State.coming
            while self._used() + self._ledger.to_come(plan) > self._limit(plan):
                victim = self._victim()
                if victim is not None:
                    self._drop(victim)
                elif self._asked == plan.phase.phase:  # nothing is in use, so nothing will go
                    raise HubError(
                        f"{phase_name(plan.suite, plan.phase)} needs "
                        f"{self._ledger.to_come(plan) / 1e9:,.2f} GB and there is room for "
                        f"{(self._limit(plan) - self._used()) / 1e9:,.2f} GB: raise --max-disk or "
                        "free some space."
                    )
                else:
                    self._changed.wait()
                if self._stop.is_set():
                    raise Stopped
            before = self._ledger.bytes()
            adds = self._ledger.to_come(plan)
            self._ledger.claim(plan)
            self._foreign += adds - (self._ledger.bytes() - before)

    def _used(self) -> int:
        return self._ledger.bytes() + self._foreign

    def _limit(self, plan: PullPlan) -> int:
        cache = plan.root.parent
        cache.mkdir(parents=True, exist_ok=True)
        room = self._used() + disk_usage(cache).free
        return room if self._budget is None else min(self._budget, room)

    def _victim(self) -> int | None:
        """The phase to be removed first, if any may be."""
        order = [_State.over, _State.failed]
        if self._asked is not None:  # nobody measures: what was kept for a comparison goes, too
            order.append(_State.before)
        for state in order:
            for number, found in self._states.items():
                if found is state:
                    return number
        return None

    def _drop(self, number: int) -> None:
        del self._states[number]
        needed = [self._plans[other] for other in self._states]
        self._ledger.drop(self._plans[number], needed)
