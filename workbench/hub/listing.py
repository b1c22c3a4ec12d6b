"""What the Hub states of a revision: its commit, and size and hash of every file."""

from dataclasses import dataclass
from pathlib import PurePosixPath

from workbench.hub import cache
from workbench.hub.transfer import patiently


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
    """Ask the Hub; raises what its client raises, after faults that pass have been waited for."""
    from huggingface_hub import HfApi, constants

    api = HfApi(endpoint=endpoint)
    info = patiently(
        lambda: api.model_info(
            repo_id,
            revision=revision,
            files_metadata=True,
            timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT,
        )
    )
    files = [
        HubFile(file.rfilename, file.size or 0, str(file.lfs.sha256 if file.lfs else file.blob_id))
        for file in info.siblings or []
        if ".." not in PurePosixPath(file.rfilename).parts  # no name leads out of the snapshot
    ]
    return Listing(repo_id, str(info.sha), tuple(files))
