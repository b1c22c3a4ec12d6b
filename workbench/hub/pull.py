"""Pull a phase's checkpoint into a Hub cache with the Hub's own client, and check what came.

The client does not compare a download with the hash that the Hub states, so this does. The result
has the standard cache layout: whatever else uses the Hub's cache finds it, offline too.
"""

import errno
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from workbench.errors import WorkbenchError
from workbench.suites import Phase, Suite

WANTED = (
    "config.json", "generation_config.json", "*.safetensors", "*.safetensors.index.json",
    "tokenizer*", "special_tokens_map.json", "vocab.json", "merges.txt", "added_tokens.json",
)  # fmt: skip
OPTIMIZER = ("latest_universal", "*_universal/*")


class HubError(WorkbenchError):
    """A checkpoint could not be fetched; the message names the phase and the remedy."""


@dataclass(frozen=True)
class Snapshot:
    """A phase's files on disk."""

    path: Path
    repo_id: str
    commit_sha: str
    files: dict[str, str]
    """Content address by file name: the sha256 of an LFS file, the git blob id of another."""
    bytes: int


def cache_folder(suite: Suite) -> Path:
    """The Hub cache that the suite's checkpoints live in."""
    if suite.cache_dir is not None:
        return suite.cache_dir
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def find_snapshot(suite: Suite, phase: Phase) -> Snapshot | None:
    """The phase's checkpoint if its weights are complete on disk; asks no network."""
    if phase.repo_id is None:
        return None
    root = cache_folder(suite) / f"models--{phase.repo_id.replace('/', '--')}"
    ref = root / "refs" / phase.revision
    commit = ref.read_text(encoding="utf-8").strip() if ref.is_file() else phase.revision
    folder = root / "snapshots" / commit
    if not _complete(folder):
        return None
    paths = [p for p in sorted(folder.rglob("*")) if p.is_file()]
    return Snapshot(
        folder,
        phase.repo_id,
        commit,
        {p.relative_to(folder).as_posix(): p.resolve().name for p in paths},
        sum(p.stat().st_size for p in paths),
    )


def _complete(folder: Path) -> bool:
    """Whether config and every weight file are there (a dangling link is not)."""
    if not (folder / "config.json").is_file():
        return False
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return (folder / "model.safetensors").is_file()
    shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    return all((folder / shard).is_file() for shard in shards)


def pull_phase(
    suite: Suite,
    phase: Phase,
    *,
    endpoint: str | None = None,
    with_optimizer: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Snapshot:
    """Fetch weights, config and tokenizer of a phase; code and ``.bin`` files never.

    ``progress`` is told (bytes done, bytes in all). Raises HubError: no repository, no connection,
    no room on the disk, or a file whose hash is not the Hub's (it is removed).
    """
    from huggingface_hub import HfApi, snapshot_download

    if phase.repo_id is None:
        raise HubError(
            f"{_name(suite, phase)} has no published checkpoint: leave it out of --phases."
        )
    cache = cache_folder(suite)
    with _explained(suite, phase, cache):
        info = HfApi(endpoint=endpoint).model_info(
            phase.repo_id, revision=phase.revision, files_metadata=True
        )
        patterns = WANTED + (OPTIMIZER if with_optimizer else ())
        wanted = [f for f in info.siblings or [] if any(fnmatch(f.rfilename, p) for p in patterns)]
        root = cache / f"models--{phase.repo_id.replace('/', '--')}"
        folder = root / "snapshots" / str(info.sha)
        missing = [f for f in wanted if not (folder / f.rfilename).is_file()]
        need = sum(f.size or 0 for f in missing)
        cache.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(cache).free
        if need > free:
            raise HubError(
                f"{_name(suite, phase)} needs {need / 1e9:.1f} GB and the disk of {cache} has "
                f"{free / 1e9:.1f} GB free: free some space, or set HF_HUB_CACHE to another disk."
            )
        if missing:
            snapshot_download(
                phase.repo_id,
                revision=phase.revision,
                cache_dir=cache,
                endpoint=endpoint,
                allow_patterns=[f.rfilename for f in wanted],
                tqdm_class=_reporter(progress, need),
            )
            for file in missing:
                if file.lfs is not None:
                    _verify(folder / file.rfilename, file.lfs.sha256, _name(suite, phase))
    snapshot = find_snapshot(suite, phase)
    if snapshot is None:
        raise HubError(
            f"{_name(suite, phase)}: repository {phase.repo_id} has no complete weights in "
            "safetensors form; its page on the Hub shows what it holds."
        )
    return snapshot


def _verify(path: Path, sha256: str, name: str) -> None:
    with path.open("rb") as content:
        found = hashlib.file_digest(content, "sha256").hexdigest()
    if found != sha256:
        path.resolve().unlink()
        path.unlink()
        raise HubError(
            f"{name}: {path.name} arrived damaged (sha256 {found[:12]}, the Hub says "
            f"{sha256[:12]}) and was removed: pull again."
        )


@contextmanager
def _explained(suite: Suite, phase: Phase, cache: Path) -> Iterator[None]:
    """Turn the client's exceptions into one sentence each."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )
    from huggingface_hub.utils import httpx

    name = _name(suite, phase)
    try:
        yield
    except GatedRepoError:
        raise HubError(
            f"{name}: {phase.repo_id} is gated: accept its terms on the Hub and set HF_TOKEN."
        ) from None
    except RepositoryNotFoundError:
        raise HubError(
            f"{name}: the Hub has no public repository {phase.repo_id}: leave the phase out, or "
            "set HF_TOKEN if it is private."
        ) from None
    except RevisionNotFoundError:
        raise HubError(f"{name}: {phase.repo_id} has no revision {phase.revision}.") from None
    except OfflineModeIsEnabled:
        raise HubError(
            f"{name} is not on disk and HF_HUB_OFFLINE forbids to fetch it: unset it."
        ) from None
    except HfHubHTTPError as error:
        raise HubError(f"{name}: the Hub refused: {str(error).splitlines()[0]}") from None
    except httpx.HTTPError as error:
        raise HubError(
            f"{name}: the Hub cannot be reached ({error}): check the network and HF_ENDPOINT, "
            "then pull again."
        ) from None
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise HubError(
            f"{name}: the disk of {cache} is full: free some space and pull again."
        ) from None


def _name(suite: Suite, phase: Phase) -> str:
    return f"{phase.label.capitalize()} of suite {suite.name}"


def _reporter(progress: Callable[[int, int], None], total: int) -> type:
    """A bar class for the Hub's client that draws nothing and reports the bytes."""
    from huggingface_hub.utils import tqdm

    state = {"done": 0}

    class Reporter(tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self._bytes = kwargs.get("unit") == "B"
            super().__init__(*args, **(kwargs | {"disable": True}))

        def update(self, n: float | None = 1) -> None:
            if self._bytes and n:
                state["done"] += int(n)
                progress(min(state["done"], total), total)

    return Reporter
