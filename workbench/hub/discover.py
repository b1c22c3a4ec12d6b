"""Which branches and tags a repository has: where the revisions of a suite are found."""

import re
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from workbench.hub.endpoint import reach_directly
from workbench.hub.failures import HubError
from workbench.hub.transfer import patiently

Refs = dict[str, dict[str, str]]
"""The commit of every branch and tag, by repository and name."""

_COMMIT = re.compile(r"[0-9a-f]{40}")


def list_refs(repositories: Iterable[str], local_hub: Path | None = None) -> Refs:
    """Ask the Hub (or the folder that a suite serves instead); a request for each repository.

    Raises HubError, one sentence, when it cannot be asked or has no such repository.
    """
    with ExitStack() as stack:
        endpoint = None
        if local_hub is not None:
            from workbench.hub.server import LocalHub

            endpoint = stack.enter_context(LocalHub(local_hub)).endpoint
            reach_directly(endpoint)
        return {repo_id: _refs_of(repo_id, endpoint) for repo_id in repositories}


def _refs_of(repo_id: str, endpoint: str | None) -> dict[str, str]:
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )
    from huggingface_hub.utils import httpx

    try:
        return patiently(lambda: _ask(repo_id, endpoint), first=True)
    except GatedRepoError:
        what = f"{repo_id} is gated: accept its terms on the Hub and set HF_TOKEN"
    except RepositoryNotFoundError:
        what = f"the Hub has no public repository {repo_id}: correct the suite"
    except HFValidationError:
        what = "that cannot be a repository's name: correct the suite"
    except OfflineModeIsEnabled:
        what = "HF_HUB_OFFLINE is set: unset it for this once, the list is kept"
    except HfHubHTTPError as error:
        remedy = (
            "set HF_TOKEN to a token that is valid" if error.response.status_code == 401 else ""
        )
        what = f"the Hub refused ({_first_line(error)}): {remedy or 'try again later'}"
    except (httpx.HTTPError, OSError) as error:
        cause = _first_line(error)
        what = f"the Hub cannot be reached ({cause}): check the network and HF_ENDPOINT"
    except (ValueError, LookupError, TypeError) as error:  # no JSON, say: a network's login page
        cause = _first_line(error)
        what = f"what answered is not a Hub ({cause}): check the network and HF_ENDPOINT"
    raise HubError(f"The revisions of {repo_id} cannot be listed: {what}.")


def _ask(repo_id: str, endpoint: str | None) -> dict[str, str]:
    """What ``HfApi.list_repo_refs`` asks, on the client's session, but never waiting for ever."""
    from huggingface_hub import constants
    from huggingface_hub.utils import (
        build_hf_headers,
        get_session,
        hf_raise_for_status,
        validate_repo_id,
    )

    validate_repo_id(repo_id)
    response = get_session().get(
        f"{endpoint or constants.ENDPOINT}/api/models/{repo_id}/refs",
        headers=build_hf_headers(),
        timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT,
    )
    hf_raise_for_status(response)
    return _commits(response.json())


def _commits(answer: Any) -> dict[str, str]:
    """The commit by name; a branch goes before a tag of its name."""
    refs: dict[str, str] = {}
    for ref in [*answer["tags"], *answer["branches"]]:
        name, commit = ref["name"], ref["targetCommit"]
        if not isinstance(name, str) or ".." in name or name.startswith("/"):
            raise ValueError(f"it names a revision {name!r}")  # git allows none of these
        if not _COMMIT.fullmatch(commit):
            raise ValueError(f"it names a commit {commit!r}")
        refs[name] = commit
    return refs


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
