"""Which branches and tags a repository has: where the revisions of a suite are found."""

import re
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from workbench.hub.api import OddAnswer, ask
from workbench.hub.endpoint import reach_directly
from workbench.hub.failures import explained
from workbench.text import printable

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
    what = f"The revisions of {repo_id} cannot be listed"
    with explained(what, repo_id, again="try again"):
        return _commits(ask(repo_id, "refs", endpoint))


def _commits(answer: Any) -> dict[str, str]:
    """The commit by name; a branch goes before a tag of its name."""
    refs: dict[str, str] = {}
    for kind in ("tags", "branches"):
        listed = answer.get(kind) if isinstance(answer, dict) else None
        if not isinstance(listed, list) or not all(isinstance(ref, dict) for ref in listed):
            raise OddAnswer(f"it lists no {kind}")
        for ref in listed:
            name, commit = ref.get("name"), ref.get("targetCommit")
            if not isinstance(name, str) or not _is_ref(name):  # git allows no other either
                raise OddAnswer(f"it names a revision {printable(repr(name))}")
            if not isinstance(commit, str) or not _COMMIT.fullmatch(commit):
                raise OddAnswer(f"it names a commit {printable(repr(commit))}")
            refs[name] = commit
    return refs


def _is_ref(name: str) -> bool:
    controls = any(ord(character) < 32 or ord(character) == 127 for character in name)
    return bool(name) and not controls and ".." not in name and not name.startswith("/")
