"""Asks the Hub for the facts of an audit: listings, small texts, headers, a few sampled blocks."""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from itertools import pairwise
from typing import Any, TypeVar

from workbench.hub.audit.architecture import architecture_of
from workbench.hub.audit.facts import GATED, UNREACHABLE, Copies, Facts, Fault
from workbench.hub.cache import CONFIG, FORMS
from workbench.hub.failures import Failure, HubError, Kind, classify
from workbench.hub.headers import HeaderError, TensorEntry, read_header
from workbench.hub.listing import Listing, list_files
from workbench.hub.ranges import RemoteFile
from workbench.hub.remote import RemoteSnapshot
from workbench.json_text import InvalidJSON, parse_json
from workbench.suites import Phase, Suite

REQUESTS = 8
"""Requests at once."""
POINTER = "latest_universal"
"""The file that names the folder of an optimizer's state in DeepSpeed's universal layout."""
WHOLE = 8 * 2**20
"""Two copies of a tensor are compared whole up to this many bytes each."""
SAMPLES, BLOCK = 16, 64 * 2**10
"""Larger ones in so many blocks of so many bytes, spread evenly from the first byte to the last."""
_LONGEST_POINTER = 4096
_INDEXES = tuple(f"{single}.index.json" for single in FORMS)

T = TypeVar("T")
Key = TypeVar("Key", bound=Hashable)


def gather_facts(
    suite: Suite,
    chosen: Sequence[Phase],
    endpoint: str | None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Facts]:
    """The facts of every phase of the suite, in order; contents of the ``chosen`` ones alone.

    All are listed, because it takes all to see that two are the same. No revision is asked for
    twice, and no content of a repository read twice. ``progress`` is told (requests done,
    requests known of). Raises HubError while HF_HUB_OFFLINE is set.
    """
    every = [Facts(phase) for phase in suite.phases]
    with _Work(progress) as work:
        _list(work, [facts for facts in every if facts.phase.repo_id is not None], endpoint)
        listed = [facts for facts in every if facts.listing is not None]
        wanted = {phase.phase for phase in chosen}
        read = [facts for facts in listed if facts.phase.phase in wanted]
        # The config of the phase before a chosen one is compared with it.
        before = [a for a, b in pairwise(listed) if b.phase.phase in wanted]
        sources = {facts.phase.phase: _Source(facts, endpoint) for facts in listed}
        _read_texts(work, read, [f for f in before if f not in read], sources)
        _read_headers(work, read, sources)
        _compare_copies(work, read, sources)
        for facts in read:
            facts.moved = sources[facts.phase.phase].moved
    return every


class _Work:
    """The pool of requests, and the count of those that are done."""

    def __init__(self, progress: Callable[[int, int], None]) -> None:
        self._pool = ThreadPoolExecutor(REQUESTS, "audit")
        self._progress = progress
        self._done = self._total = 0

    def __enter__(self) -> "_Work":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def results(self, tasks: Mapping[Key, Callable[[], T]]) -> dict[Key, T]:
        """Each task's result by key."""
        self._total += len(tasks)
        futures = {self._pool.submit(task): key for key, task in tasks.items()}
        found: dict[Key, T] = {}
        for future in as_completed(futures):
            found[futures[future]] = future.result()
            self._done += 1
            self._progress(self._done, self._total)
        return found


def _list(work: _Work, published: Iterable[Facts], endpoint: str | None) -> None:
    keys = {f.phase.phase: (str(f.phase.repo_id), f.phase.revision) for f in published}
    found = work.results({key: partial(_listing, *key, endpoint) for key in keys.values()})
    for facts in published:
        result = found[keys[facts.phase.phase]]
        if isinstance(result, Fault):
            facts.fault = result
        else:
            facts.listing = result


def _listing(repo_id: str, revision: str, endpoint: str | None) -> Listing | Fault:
    try:
        return list_files(repo_id, revision, endpoint)
    except Exception as error:
        failure = classify(error, repo_id, revision, "audit again")
        if failure is None:
            raise
        if failure.kind == "offline":
            raise HubError(f"{failure.reason}: {failure.remedy}.", failure) from None
        return _as_fault(failure, repo_id)


_CHECKS: dict[Kind, str] = {
    "gated": GATED,
    "repository": "missing-repository",
    "name": "missing-repository",
    "revision": "missing-revision",
}
"""What the Hub itself states of the repository; after anything else nothing is known of it."""


def _as_fault(failure: Failure, repo_id: str) -> Fault:
    sentence = f"{failure.reason}: {failure.remedy}."
    if not sentence.startswith(repo_id):
        sentence = f"{sentence[:1].upper()}{sentence[1:]}"
    return Fault(_CHECKS.get(failure.kind, UNREACHABLE), sentence)


class _Source:
    """The contents of one phase on the Hub; what cannot be had comes back as a Fault."""

    def __init__(self, facts: Facts, endpoint: str | None) -> None:
        assert facts.listing is not None
        self._repo_id = facts.listing.repo_id
        self._snapshot = RemoteSnapshot(facts.listing, endpoint)
        self._pointer: RemoteFile | None = None
        if POINTER in facts.sizes:
            size = facts.sizes[POINTER]
            self._pointer = RemoteFile(self._repo_id, POINTER, facts.commit_sha, size, endpoint)

    @property
    def moved(self) -> int:
        return self._snapshot.moved + (self._pointer.moved if self._pointer else 0)

    def has(self, name: str) -> bool:
        return self._snapshot.has(name)

    def json(self, name: str) -> dict[str, Any] | Fault:
        try:
            parsed = parse_json(self._snapshot.content(name))
        except HubError as error:
            return self._fault(name, error)
        except InvalidJSON as error:
            return Fault(
                "broken-file", f"{name} is not valid JSON ({error}), so that nothing can use it."
            )
        if not isinstance(parsed, dict):
            return Fault("broken-file", f"{name} holds no JSON object, so that nothing can use it.")
        return parsed

    def pointer(self) -> str | Fault:
        assert self._pointer is not None
        try:
            content = self._pointer.read(0, min(self._pointer.size, _LONGEST_POINTER))
        except HubError as error:
            return self._fault(POINTER, error)
        return content.decode(errors="replace").strip()

    def header(self, name: str) -> dict[str, TensorEntry] | Fault:
        try:
            return read_header(self._snapshot.file(name))
        except HubError as error:
            return self._fault(name, error)
        except HeaderError as error:
            return Fault(
                "broken-weights",
                f"{name} is truncated or broken ({error}): it was not uploaded whole, and nothing "
                "can read it.",
            )

    def copies(self, one: tuple[str, TensorEntry], two: tuple[str, TensorEntry]) -> Copies | Fault:
        """Compare two tensors, each given as its file and its place in it."""
        size = one[1].stop - one[1].start
        blocks = _blocks(size)
        equal = True
        try:
            for start, stop in blocks:
                a, b = (
                    self._snapshot.file(name).read(entry.start + start, entry.start + stop)
                    for name, entry in (one, two)
                )
                equal = equal and a == b
        except HubError as error:
            return self._fault(one[0], error)
        compared = sum(stop - start for start, stop in blocks)
        return Copies(equal, compared, size, 0 if compared == size else len(blocks))

    def _fault(self, name: str, error: HubError) -> Fault:
        failure = error.failure
        if failure is None:  # it came, and is not what the Hub lists
            return Fault("broken-file", str(error))
        if failure.kind in ("gated", "forbidden", "token"):
            return Fault(
                GATED,
                f"{self._repo_id} is gated, so that its contents were not looked at: accept its "
                "terms on the Hub and set HF_TOKEN.",
            )
        if failure.kind in ("file", "shorter", "repository", "revision"):
            return Fault("missing-file", f"{name} is listed and cannot be read: {failure.reason}.")
        return Fault(UNREACHABLE, str(error))


def _blocks(size: int) -> list[tuple[int, int]]:
    """(start, stop) of what is compared of a tensor of so many bytes."""
    if size <= WHOLE:
        return [(0, size)]
    last = size - BLOCK
    starts = [last * number // (SAMPLES - 1) for number in range(SAMPLES)]
    return [(start, start + BLOCK) for start in starts]


Sources = Mapping[int, _Source]


def _once(
    work: _Work,
    wanted: Iterable[tuple[Facts, str]],
    do: Callable[[Facts, str], T],
    keep: Callable[[Facts, str, T], None],
) -> None:
    """``do`` for each file of each phase, once for the same content in the same repository."""
    shared: dict[tuple[str, str], list[tuple[Facts, str]]] = {}
    for facts, name in wanted:
        key = str(facts.phase.repo_id), facts.etags[name]
        shared.setdefault(key, []).append((facts, name))
    found = work.results({key: partial(do, *using[0]) for key, using in shared.items()})
    for key, using in shared.items():
        for facts, name in using:
            result = found[key]
            keep(facts, name, result)
            if isinstance(result, Fault) and result.check in (GATED, UNREACHABLE):
                facts.fault = result


def _read_texts(
    work: _Work, read: Sequence[Facts], before: Sequence[Facts], sources: Sources
) -> None:
    def do(facts: Facts, name: str) -> dict[str, Any] | str | Fault:
        source = sources[facts.phase.phase]
        return source.pointer() if name == POINTER else source.json(name)

    def keep(facts: Facts, name: str, result: dict[str, Any] | str | Fault) -> None:
        if name == POINTER:
            assert not isinstance(result, dict)
            facts.latest_universal = result
        else:
            assert not isinstance(result, str)
            facts.texts[name] = result

    wanted = [(facts, name) for facts in read for name in (CONFIG, *_INDEXES, POINTER)]
    wanted += [(facts, CONFIG) for facts in before]
    _once(work, [(f, name) for f, name in wanted if name in f.sizes], do, keep)


def _read_headers(work: _Work, read: Sequence[Facts], sources: Sources) -> None:
    def do(facts: Facts, name: str) -> dict[str, TensorEntry] | Fault:
        return sources[facts.phase.phase].header(name)

    def keep(facts: Facts, name: str, result: dict[str, TensorEntry] | Fault) -> None:
        facts.headers[name] = result

    wanted = [
        (facts, name)
        for facts in read
        if facts.fault is None
        for name in facts.sizes
        if name.endswith(".safetensors") and sources[facts.phase.phase].has(name)
    ]
    _once(work, wanted, do, keep)


def _compare_copies(work: _Work, read: Sequence[Facts], sources: Sources) -> None:
    """Compare embedding and head where the config ties them and both are stored."""
    tasks: dict[tuple[str, str, str], Callable[[], Copies | Fault]] = {}
    users: dict[tuple[str, str, str], list[Facts]] = {}
    for facts in read:
        pair = tied_pair(facts)
        if pair is None or facts.fault is not None:
            continue
        (one, a), (two, b) = pair
        if (a.dtype, a.shape) != (b.dtype, b.shape):
            continue
        key = str(facts.phase.repo_id), facts.etags[one], facts.etags[two]
        users.setdefault(key, []).append(facts)
        tasks.setdefault(key, partial(sources[facts.phase.phase].copies, *pair))
    for key, result in work.results(tasks).items():
        for facts in users[key]:
            if isinstance(result, Fault):
                facts.fault = result
            else:
                facts.copies = result


def tied_pair(facts: Facts) -> tuple[tuple[str, TensorEntry], tuple[str, TensorEntry]] | None:
    """(file, place) of embedding and head, where the config ties them and both are stored."""
    model = architecture_of(facts.config) if facts.config is not None else None
    if model is None or isinstance(model, Fault) or not model.tied:
        return None
    found: dict[str, tuple[str, TensorEntry]] = {}
    for file, held in facts.weights.items():
        if isinstance(held, dict):
            found |= {model.name_of(name)[0]: (file, entry) for name, entry in held.items()}
    if model.embedding in found and model.head in found:
        return found[model.embedding], found[model.head]
    return None
