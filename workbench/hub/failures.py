"""What can go wrong with a pull, each in one sentence that names the phase and the remedy."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from workbench.errors import WorkbenchError
from workbench.hub.cache import cache_folder
from workbench.hub.transfer import Damaged, FileFault
from workbench.suites import Phase, Suite

if TYPE_CHECKING:
    import httpx2


class HubError(WorkbenchError):
    """A checkpoint could not be fetched; the message names the phase and the remedy."""


def phase_name(suite: Suite, phase: Phase) -> str:
    return f"{phase.label[:1].upper()}{phase.label[1:]} of suite {suite.name}"


def elsewhere(suite: Suite) -> str:
    """How the user moves the suite's checkpoints to another disk."""
    variable = "HF_HUB_CACHE" if suite.cache_dir is None else "WORKBENCH_HOME"
    return f"set {variable} to a folder on another disk"


@contextmanager
def explained(suite: Suite, phase: Phase) -> Iterator[None]:
    """Turn the exceptions of the Hub's client, and of the disk, into HubError."""
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

    name, repo_id = phase_name(suite, phase), phase.repo_id
    try:
        yield
    except GatedRepoError:
        raise HubError(
            f"{name}: {repo_id} is gated: accept its terms on the Hub and set HF_TOKEN."
        ) from None
    except RepositoryNotFoundError:
        raise HubError(
            f"{name}: the Hub has no public repository {repo_id}: leave the phase out, or "
            "set HF_TOKEN if it is private."
        ) from None
    except RevisionNotFoundError:
        raise HubError(
            f"{name}: {repo_id} has no revision {phase.revision}: correct it in the suite or, if "
            "it was there a moment ago, pull again."
        ) from None
    except EntryNotFoundError as error:
        raise HubError(
            f"{name}: a file that {repo_id} lists is not there ({_asked_for(error)}): pull again; "
            "if it stays so, the repository is incomplete."
        ) from None
    except HFValidationError:
        raise HubError(
            f"{name}: {repo_id!r} cannot be a repository's name: correct it in the suite."
        ) from None
    except OfflineModeIsEnabled:
        raise HubError(
            f"{name} cannot be pulled while HF_HUB_OFFLINE is set: unset it and pull again."
        ) from None
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status == 403 and not error.response.history:
            raise HubError(
                f"{name}: the Hub does not let you read {_asked_for(error)} of {repo_id} (403): "
                "accept its terms on the Hub, and set HF_TOKEN to a token that may read it."
            ) from None
        if status == 416:
            raise HubError(
                f"{name}: the Hub has less of {_asked_for(error)} than it lists (416): audit the "
                "phase, and pull again later."
            ) from None
        if status == 401:
            raise HubError(
                f"{name}: the Hub does not know who asks for {repo_id} (401): set HF_TOKEN to a "
                "token that is valid."
            ) from None
        raise HubError(
            f"{name}: the Hub refused ({_first_line(error)}): pull again later."
        ) from None
    except Damaged as error:
        raise HubError(
            f"{name}: {error} arrived damaged twice (not the hash that the Hub states) and was "
            "removed: pull again, or set HF_ENDPOINT to another mirror."
        ) from None
    except FileFault as error:
        raise HubError(
            f"{name}: {error.name} was cut off again and again ({_first_line(error.fault)}): pull "
            "again, it goes on where it was."
        ) from None
    except ValueError as error:  # no JSON: a login page of the network, say
        raise HubError(
            f"{name}: what answered is not a Hub ({_first_line(error)}): check the network and "
            "HF_ENDPOINT, then pull again."
        ) from None
    except httpx.HTTPError as error:
        raise HubError(
            f"{name}: the Hub cannot be reached ({_first_line(error)}): check the network and "
            "HF_ENDPOINT, then pull again."
        ) from None
    except OSError as error:
        raise HubError(
            f"{name}: {cache_folder(suite)} cannot be written ({error.strerror}): free some space "
            f"or mend its permissions, or {elsewhere(suite)}, then pull again."
        ) from None


def _asked_for(error: Exception) -> str:
    """The file that a refusal is about; the answer may have come from another address."""
    response: httpx2.Response | None = getattr(error, "response", None)
    if response is None:
        return _first_line(error)
    asked = (response.history or [response])[0].request.url.path
    return asked.rpartition("/")[2]


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
