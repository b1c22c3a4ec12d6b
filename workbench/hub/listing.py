"""What the Hub states of a revision: its commit, and size and hash of every file."""

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from workbench.hub import cache
from workbench.hub.transfer import patiently

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_COMMIT = re.compile(r"[0-9a-f]{40}")
_HASH = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")


@dataclass(frozen=True)
class HubFile:
    """One file of a commit."""

    name: str
    size: int
    """Bytes."""
    etag: str
    """Its content address, the name of its blob in the cache: the sha256 (64 hex digits) of an
    LFS file, the git blob id (40) of another."""


@dataclass(frozen=True)
class Listing:
    """All files of one commit of a repository."""

    repo_id: str
    commit_sha: str
    files: tuple[HubFile, ...]

    def wanted(self, *, with_optimizer: bool = False) -> list[HubFile]:
        """Those that a probe reads, see ``cache.wanted``."""
        by_name = {file.name: file for file in self.files}
        return [by_name[name] for name in cache.wanted(by_name, with_optimizer=with_optimizer)]


def list_files(repo_id: str, revision: str, endpoint: str | None) -> Listing:
    """Ask the Hub; raises what its client raises, after faults that pass have been waited for.

    Raises ValueError for an answer that no Hub gives; nothing in it can lead out of the cache.
    """
    from huggingface_hub import HfApi, constants

    api = HfApi(endpoint=endpoint)
    try:
        info = patiently(
            lambda: api.model_info(
                repo_id,
                revision=revision,
                files_metadata=True,
                timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT,
            ),
            first=True,
        )
    except (KeyError, TypeError, AttributeError):  # the client takes any JSON for a model
        raise ValueError("it describes no model") from None
    commit = str(info.sha)
    if not _COMMIT.fullmatch(commit):
        raise ValueError(f"it names {commit} as the commit")
    siblings = info.siblings or []
    files = [
        HubFile(f.rfilename, f.size or 0, str(f.lfs.sha256 if f.lfs else f.blob_id))
        for f in siblings
    ]
    if siblings and all(f.blob_id is None for f in siblings):  # as some mirrors answer
        files = _in_tree(api, repo_id, commit)
    for file in files:
        path = PurePosixPath(file.name)
        if path.is_absolute() or ".." in path.parts or not _HASH.fullmatch(file.etag):
            raise ValueError(f"it lists a file {file.name} with the hash {file.etag}")
    return Listing(repo_id, commit, tuple(files))


def _in_tree(api: "HfApi", repo_id: str, commit: str) -> list[HubFile]:
    """From the one call that the client itself tries again, and talks of on stderr."""
    from huggingface_hub.hf_api import RepoFile
    from huggingface_hub.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        return [
            HubFile(entry.path, entry.size, entry.lfs.sha256 if entry.lfs else entry.blob_id)
            for entry in api.list_repo_tree(repo_id, revision=commit, recursive=True)
            if isinstance(entry, RepoFile)
        ]
    finally:
        logging.set_verbosity(verbosity)
