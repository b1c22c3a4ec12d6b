"""What can go wrong with the Hub: one classifier, and sentences that name phase and remedy."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from workbench.errors import WorkbenchError
from workbench.hub.api import OddAnswer
from workbench.hub.cache import cache_folder, find_flaw
from workbench.hub.transfer import (
    LONGEST_WAIT,
    Damaged,
    FileFault,
    NoRanges,
    Unsteady,
    asked_wait,
)
from workbench.suites import Phase, Suite
from workbench.text import first_line, printable, spans

if TYPE_CHECKING:
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError

Kind = Literal[
    "gated", "repository", "revision", "file", "name", "offline", "forbidden", "shorter", "token",
    "refused", "damaged", "cut", "odd", "ranges", "unreachable",
]  # fmt: skip


@dataclass(frozen=True)
class Failure:
    """Why the Hub did not give what it was asked for."""

    kind: Kind
    reason: str
    """What failed and why, as the middle of a sentence."""
    remedy: str
    """What to do, as its end."""


class HubError(WorkbenchError):
    """A checkpoint could not be fetched; the message names the phase and the remedy."""

    def __init__(self, message: str, failure: Failure | None = None) -> None:
        super().__init__(message)
        self.failure = failure
        """What the sentence was made of; None where the Hub answered and it was of no use."""


def phase_name(suite: Suite, phase: Phase) -> str:
    return f"{phase.label[:1].upper()}{phase.label[1:]} of suite {suite.name}"


def elsewhere(suite: Suite) -> str:
    """How the user moves the suite's checkpoints to another disk."""
    variable = "HF_HUB_CACHE" if suite.cache_dir is None else "WORKBENCH_HOME"
    return f"set {variable} to a folder on another disk"


def unusable(suite: Suite, phase: Phase) -> str | None:
    """Why what is on disk of the phase cannot be used, as a sentence; None for anything else."""
    flaw = find_flaw(suite, phase)
    return useless(suite, phase, flaw) if flaw is not None else None


def useless(suite: Suite, phase: Phase, flaw: str) -> str:
    """A sentence of what ``cache.find_flaw`` returns."""
    remedy = "correct the index" if phase.folder is not None else "audit the phase"
    return f"{phase_name(suite, phase)}: {flaw}: {remedy}."


def classify(error: Exception, repo_id: str, revision: str, again: str) -> Failure | None:
    """What an exception of the Hub's client or of ours means; None for what the Hub has no part in.

    ``again`` says how the user repeats what failed, such as ``pull again``.
    """
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )
    from huggingface_hub.utils import httpx

    network = f"check the network and HF_ENDPOINT, then {again}"
    match error:
        case GatedRepoError():
            remedy = "accept its terms on the Hub and set HF_TOKEN"
            return Failure("gated", f"{repo_id} is gated", remedy)
        case RepositoryNotFoundError():
            remedy = "leave it out, correct the suite, or set HF_TOKEN if it is private"
            return Failure("repository", f"the Hub has no public repository {repo_id}", remedy)
        case RevisionNotFoundError():
            remedy = f"correct it in the suite or, if it was there a moment ago, {again}"
            return Failure("revision", f"{repo_id} has no revision {revision}", remedy)
        case EntryNotFoundError():
            return _vanished(_asked_for(error), repo_id, again)
        case HFValidationError():
            reason = f"{repo_id!r} cannot be a repository's name"
            return Failure("name", reason, "correct it in the suite")
        case OfflineModeIsEnabled():
            reason = "the Hub cannot be asked while HF_HUB_OFFLINE is set"
            return Failure("offline", reason, f"unset it and {again}")
        case HfHubHTTPError():
            return _refusal(error, repo_id, again)
        case Damaged():
            return Failure(
                "damaged",
                f"{error} arrived damaged twice (not the hash that the Hub states) and was removed",
                f"{again}, or set HF_ENDPOINT to another mirror",
            )
        case FileFault():
            reason = f"{error.name} kept disconnecting ({first_line(error.fault)})"
            return Failure("cut", reason, f"{again} to resume")
        case OddAnswer() | httpx.InvalidURL():
            return Failure("odd", f"what answered is not a Hub ({first_line(error)})", network)
        case NoRanges():
            reason = f"it cannot be read in ranges, the server {first_line(error)}"
            remedy = "pull the phase, or set HF_ENDPOINT to a server that knows ranges"
            return Failure("ranges", reason, remedy)
        case httpx.HTTPError() | Unsteady():
            reason = f"the Hub cannot be reached ({first_line(error)})"
            return Failure("unreachable", reason, network)
    return None


def _refusal(error: "HfHubHTTPError", repo_id: str, again: str) -> Failure:
    status = error.response.status_code
    if status == 403 and not error.response.history:
        return Failure(
            "forbidden",
            f"the Hub does not let you read {_asked_for(error)} of {repo_id} (403)",
            "accept its terms on the Hub, and set HF_TOKEN to a token that may read it",
        )
    if status == 416:
        reason = f"the Hub has less of {_asked_for(error)} than it lists (416)"
        return Failure("shorter", reason, f"audit the phase, and {again} later")
    if status == 401:
        reason = f"the Hub does not know who asks for {repo_id} (401)"
        return Failure("token", reason, "set HF_TOKEN to a token that is valid")
    answer = f"{status} {printable(error.response.reason_phrase)}".strip()
    if "/resolve/" in _first(error.response).request.url.path:
        if status == 404:
            return _vanished(_asked_for(error), repo_id, again)
        answer += f" for {_asked_for(error)}"
    wait = asked_wait(error)
    if wait is not None and wait > LONGEST_WAIT:
        reason = f"the Hub asks to wait {_spoken(wait)} ({answer})"
        return Failure("refused", reason, f"{again} after that")
    return Failure("refused", f"the Hub refused ({answer})", f"{again} later")


def _vanished(file: str, repo_id: str, again: str) -> Failure:
    reason = f"a file that {repo_id} lists is not there ({file})"
    return Failure("file", reason, f"{again}; if it stays so, the repository is incomplete")


def _spoken(seconds: float) -> str:
    """A time of minutes or more, such as 1 day or 1.5 hours."""
    unit, size = next(
        (unit, size)
        for unit, size in (("day", 86_400.0), ("hour", 3600.0), ("minute", 60.0))
        if seconds >= size or unit == "minute"
    )
    number = f"{min(seconds / size, 1e6):,.3g}"
    return f"{number} {unit}{'' if number == '1' else 's'}"


@contextmanager
def explained(what: str, repo_id: str, revision: str = "", *, again: str) -> Iterator[None]:
    """Turn the exceptions that ``classify`` knows into HubError, ``what`` at its beginning."""
    try:
        yield
    except HubError:
        raise
    except Exception as error:
        failure = classify(error, repo_id, revision, again)
        if failure is None:
            raise
        raise HubError(f"{what}: {failure.reason}: {failure.remedy}.", failure) from None


@contextmanager
def explained_phase(suite: Suite, phase: Phase, *, again: str = "pull again") -> Iterator[None]:
    """As ``explained``, and of the cache's disk."""
    name = phase_name(suite, phase)
    try:
        with explained(name, str(phase.repo_id), phase.revision, again=again):
            yield
    except OSError as error:
        raise HubError(
            f"{name}: {cache_folder(suite)} cannot be written "
            f"({error.strerror or first_line(error)}): free some space or fix its permissions, or "
            f"{elsewhere(suite)}, then {again}."
        ) from None


def by_reason(suite: str, failed: Iterable[tuple[int, str, str]]) -> list[str]:
    """The sentences of phases that failed, one for all phases that failed for the same reason.

    ``failed`` holds number, label and sentence, which begins as ``phase_name`` has it.
    """
    grouped: dict[str, list[tuple[int, str]]] = {}
    for number, label, sentence in failed:
        name = f"{label[:1].upper()}{label[1:]} of suite {suite}"
        same = sentence.removeprefix(name) if sentence.startswith(name) else sentence
        grouped.setdefault(same, []).append((number, sentence))
    return [
        phases[0][1]
        if len(phases) == 1 or same == phases[0][1]
        else f"Phases {spans(number for number, _ in phases)} of suite {suite}{same}"
        for same, phases in grouped.items()
    ]


def _asked_for(error: Exception) -> str:
    """The file that a refusal is about; the answer may have come from another address."""
    response: httpx2.Response | None = getattr(error, "response", None)
    if response is None:
        return first_line(error)
    return printable(_first(response).request.url.path.rpartition("/")[2])


def _first(response: "httpx2.Response") -> "httpx2.Response":
    """The answer to what we asked, which may have led to this one."""
    return (response.history or [response])[0]
