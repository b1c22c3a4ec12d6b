"""Pulling with the Hub's own client over HTTP from the local Hub, and what failures say."""

import errno
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi, close_session, constants
from huggingface_hub.utils import httpx
from safetensors.numpy import load_file
from transformers import AutoConfig

from tests.workbench.hub.conftest import REPO_ID, SHARDS, shard
from workbench.hub.cache import Snapshot, find_snapshot
from workbench.hub.endpoint import reach_directly
from workbench.hub.failures import HubError
from workbench.hub.pull import plan_pull, pull_phase
from workbench.hub.server import LocalHub
from workbench.suites import Phase, Suite

PULLED = {"config.json", "model.safetensors", "tokenizer.json"}
OPTIMIZER = {"latest_universal", "global_step7_universal/zero/norm/fp32.pt"}


def on_disk(snapshot: Snapshot) -> set[str]:
    paths = (p for p in snapshot.path.rglob("*") if p.is_file())
    return {p.relative_to(snapshot.path).as_posix() for p in paths}


def blobs(suite: Suite) -> set[str]:
    assert suite.cache_dir is not None
    return {p.name for p in suite.cache_dir.glob("models--*/blobs/*")}


def damage_unseen(path: Path) -> None:
    """Flip a byte and put the time back: the Hub goes on stating the hash it took before."""
    stat = path.stat()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def test_pull_brings_what_a_probe_reads_and_nothing_else(
    hub: LocalHub, suite: Suite, phase: Phase, repository: Path
) -> None:
    assert find_snapshot(suite, phase) is None
    snapshot = pull_phase(suite, phase, endpoint=hub.endpoint)
    assert on_disk(snapshot) == PULLED == snapshot.files.keys()
    weights = (repository / "model.safetensors").read_bytes()
    assert snapshot.files["model.safetensors"] == hashlib.sha256(weights).hexdigest()
    assert (snapshot.path / "model.safetensors").read_bytes() == weights
    assert snapshot.bytes == sum((repository / name).stat().st_size for name in PULLED)
    assert find_snapshot(suite, phase) == snapshot


def test_plain_from_pretrained_finds_it_offline(
    hub: LocalHub, suite: Suite, phase: Phase, monkeypatch: pytest.MonkeyPatch
) -> None:
    pull_phase(suite, phase, endpoint=hub.endpoint)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    config = AutoConfig.from_pretrained(REPO_ID, cache_dir=suite.cache_dir)
    assert (config.model_type, config.hidden_size) == ("llama", 8)
    snapshot = pull_phase(suite, phase, endpoint="http://127.0.0.1:9")
    assert load_file(snapshot.path / "model.safetensors")["weight"].shape == (512, 1024)


def test_the_optimizer_comes_when_asked_for_and_changes_no_identity(
    hub: LocalHub, suite: Suite, phase: Phase
) -> None:
    plain = pull_phase(suite, phase, endpoint=hub.endpoint)
    full = pull_phase(suite, phase, endpoint=hub.endpoint, with_optimizer=True)
    assert on_disk(full) == PULLED | OPTIMIZER
    assert full.files == plain.files


def test_a_second_pull_fetches_nothing(hub: LocalHub, suite: Suite, phase: Phase) -> None:
    first = pull_phase(suite, phase, endpoint=hub.endpoint)
    written = {p: p.stat().st_mtime_ns for p in first.path.parents[1].rglob("*") if p.is_file()}
    assert plan_pull(suite, phase, endpoint=hub.endpoint).to_fetch == 0
    assert pull_phase(suite, phase, endpoint=hub.endpoint) == first
    after = {p: p.stat().st_mtime_ns for p in first.path.parents[1].rglob("*") if p.is_file()}
    assert after == written


def test_progress_counts_every_byte_once(
    hub: LocalHub, suite: Suite, phase: Phase, repository: Path
) -> None:
    told: list[tuple[int, int]] = []
    snapshot = pull_phase(
        suite, phase, endpoint=hub.endpoint, progress=lambda *bytes_: told.append(bytes_)
    )
    assert told[-1] == (snapshot.bytes, snapshot.bytes)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_what_makes_it_complete_is_written_last(hub: LocalHub, suite: Suite, phase: Phase) -> None:
    """So that a pull killed at any moment, its check included, leaves nothing to trust."""
    cache = suite.cache_dir
    assert cache is not None
    seen: list[bool] = []

    def look(done: int, total: int) -> None:
        config = any(cache.glob("models--*/snapshots/*/config.json"))
        seen.append(config or any(cache.glob("models--*/refs/*")))

    pull_phase(suite, phase, endpoint=hub.endpoint, progress=look)
    assert len(seen) > 2
    assert not any(seen)


def test_a_new_revision_fetches_only_what_changed(
    hub: LocalHub, suite: Suite, phase: Phase, repository: Path
) -> None:
    first = pull_phase(suite, phase, endpoint=hub.endpoint)
    changed = '{"version": "2.0"}'
    (repository / "tokenizer.json").write_text(changed)
    assert plan_pull(suite, phase, endpoint=hub.endpoint).to_fetch == len(changed)
    second = pull_phase(suite, phase, endpoint=hub.endpoint)
    assert second.commit_sha != first.commit_sha
    pinned = phase.model_copy(update={"revision": first.commit_sha})
    assert find_snapshot(suite, pinned) == first


def test_shards(hub: LocalHub, suite: Suite, phase: Phase, repository: Path) -> None:
    shard(repository)
    snapshot = pull_phase(suite, phase, endpoint=hub.endpoint)
    assert set(SHARDS) < snapshot.files.keys()
    (snapshot.path / SHARDS[1]).resolve().unlink()  # the link stays and leads nowhere
    assert find_snapshot(suite, phase) is None
    assert pull_phase(suite, phase, endpoint=hub.endpoint) == snapshot


@pytest.mark.parametrize("index", ["{", "[]", '{"weight_map": {}}', '{"weight_map": ["a"]}'])
def test_a_broken_index_is_no_checkpoint(
    hub: LocalHub, suite: Suite, phase: Phase, repository: Path, index: str
) -> None:
    (repository / "model.safetensors.index.json").write_text(index)
    says = r"^Phase 1 of suite tiny: model.safetensors.index.json (is not|has no) .*audit the phase"
    with pytest.raises(HubError, match=says):
        pull_phase(suite, phase, endpoint=hub.endpoint)


def test_pickled_weights_where_there_are_no_safetensors(
    hub: LocalHub, suite: Suite, phase: Phase, repository: Path
) -> None:
    (repository / "model.safetensors").unlink()
    pulled = on_disk(pull_phase(suite, phase, endpoint=hub.endpoint))
    assert pulled == PULLED - {"model.safetensors"} | {"pytorch_model.bin"}


def test_a_repository_without_weights(
    hub: LocalHub, suite: Suite, phase: Phase, repository: Path
) -> None:
    (repository / "model.safetensors").unlink()
    (repository / "pytorch_model.bin").unlink()
    with pytest.raises(HubError, match="holds no weights at revision main"):
        pull_phase(suite, phase, endpoint=hub.endpoint)
    assert find_snapshot(suite, phase) is None


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_damaged_file_is_refused_and_the_next_pull_mends_it(
    suite: Suite, phase: Phase, repository: Path, tmp_path: Path, name: str
) -> None:
    whole = (repository / name).read_bytes()
    stat = (repository / name).stat()
    with LocalHub(tmp_path / "hub") as hub:
        assert hub.repository(REPO_ID) is not None  # the hashes are taken
        damage_unseen(repository / name)
        sentence = rf"^Phase 1 of suite tiny: {name} arrived damaged twice .* pull again"
        with pytest.raises(HubError, match=sentence):
            pull_phase(suite, phase, endpoint=hub.endpoint)
        assert find_snapshot(suite, phase) is None
        assert suite.cache_dir is not None
        left = [p for p in suite.cache_dir.rglob("*") if p.is_file() or p.is_symlink()]
        assert name not in {p.name for p in left}
        assert (repository / name).read_bytes() not in {p.read_bytes() for p in left}
        (repository / name).write_bytes(whole)
        os.utime(repository / name, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        mended = pull_phase(suite, phase, endpoint=hub.endpoint)
    assert (mended.path / name).read_bytes() == whole


def test_weights_that_were_never_checked_are_checked(
    hub: LocalHub, suite: Suite, phase: Phase, repository: Path
) -> None:
    """As a kill leaves them: the weights have their name, the check had not come to them."""
    snapshot = pull_phase(suite, phase, endpoint=hub.endpoint)
    (snapshot.path / "config.json").unlink()
    (snapshot.path / "model.safetensors").resolve().write_bytes(b"half a file")
    assert find_snapshot(suite, phase) is None
    mended = pull_phase(suite, phase, endpoint=hub.endpoint)
    whole = (repository / "model.safetensors").read_bytes()
    assert (mended.path / "model.safetensors").read_bytes() == whole


def test_a_blob_shared_between_repositories(hub: LocalHub, suite: Suite, phase: Phase) -> None:
    """The client's Xet downloads: the blob is a link into a store that knows another hash."""
    snapshot = pull_phase(suite, phase, endpoint=hub.endpoint)
    blob = (snapshot.path / "model.safetensors").resolve()
    assert suite.cache_dir is not None
    stored = suite.cache_dir / "blobs" / "ee" / ("e" * 64)
    stored.parent.mkdir(parents=True)
    blob.rename(stored)
    blob.symlink_to(os.path.relpath(stored, blob.parent))
    assert find_snapshot(suite, phase) == snapshot
    (snapshot.path / "config.json").unlink()
    stored.write_bytes(b"damaged")
    pull_phase(suite, phase, endpoint=hub.endpoint)
    assert not stored.exists()
    assert find_snapshot(suite, phase) == snapshot


def test_a_cache_without_links_is_hashed(hub: LocalHub, suite: Suite, phase: Phase) -> None:
    snapshot = pull_phase(suite, phase, endpoint=hub.endpoint)
    weights = snapshot.path / "model.safetensors"
    content = weights.read_bytes()
    weights.unlink()
    weights.write_bytes(content)
    assert find_snapshot(suite, phase) == snapshot


def test_a_checkpoint_that_no_disk_holds(
    hub: LocalHub, suite: Suite, phase: Phase, repository: Path
) -> None:
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'a' * 64}\nsize {10**15}\n"
    (repository / "model.safetensors").write_text(pointer)
    sentence = r"^Phase 1 of suite tiny needs 1,000,000\.0 GB .* GB free: .*WORKBENCH_HOME"
    with pytest.raises(HubError, match=sentence):
        pull_phase(suite, phase, endpoint=hub.endpoint)
    assert blobs(suite) == set()


def test_the_disk_fills_up_in_mid_file(hub: LocalHub, suite: Suite, phase: Phase) -> None:
    """The report of progress stands between the client's writes: there the disk is full."""

    def full(done: int, total: int) -> None:
        if done > 1 << 19:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    sentence = r"^Phase 1 of suite tiny: .*cache cannot be written \(No space left on device\)"
    with pytest.raises(HubError, match=sentence):
        pull_phase(suite, phase, endpoint=hub.endpoint, progress=full)
    assert find_snapshot(suite, phase) is None
    assert not any(name.endswith(".incomplete") for name in blobs(suite))
    assert pull_phase(suite, phase, endpoint=hub.endpoint).files.keys() == PULLED


WITH_SMALL_FILES = """
import resource, signal, sys
from pathlib import Path
from workbench.hub.failures import HubError
from workbench.hub.pull import pull_phase
from workbench.suites import Phase, Suite

endpoint, repo_id, cache = sys.argv[1:]
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
phase = Phase(phase=1, repo_id=repo_id)
suite = Suite(name="tiny", title="Tiny", phases=(phase,), cache_dir=Path(cache))
try:
    pull_phase(suite, phase, endpoint=endpoint)
except HubError as error:
    print(error)
"""


def test_a_write_that_the_system_refuses(hub: LocalHub, suite: Suite, phase: Phase) -> None:
    """The system's own refusal in mid-file, by a limit on the size of files."""
    command = [sys.executable, "-c", WITH_SMALL_FILES, hub.endpoint, REPO_ID, str(suite.cache_dir)]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert said.startswith("Phase 1 of suite tiny: ")
    assert "cannot be written (File too large)" in said
    assert said.count("\n") == 1
    assert find_snapshot(suite, phase) is None
    assert not any(name.endswith(".incomplete") for name in blobs(suite))


def test_a_cache_that_is_a_file(hub: LocalHub, suite: Suite, phase: Phase, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("in the way")
    with pytest.raises(HubError, match=r"^Phase 1 of suite tiny: .*cache cannot be written"):
        pull_phase(suite, phase, endpoint=hub.endpoint)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"repo_id": None}, "has no published checkpoint: leave it out"),
        ({"repo_id": "owner/none"}, "the Hub has no public repository owner/none: leave"),
        ({"revision": "none"}, "has no revision none: correct it in the suite"),
        ({"repo_id": "a//b"}, "cannot be a repository's name: correct it in the suite"),
    ],
)
def test_what_does_not_exist(
    hub: LocalHub, suite: Suite, phase: Phase, fields: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(HubError, match=rf"^Phase 1 of suite tiny.* ?{sentence}") as caught:
        pull_phase(suite, phase.model_copy(update=fields), endpoint=hub.endpoint)
    assert "\n" not in str(caught.value)


def test_nobody_answers(repository: Path, suite: Suite, phase: Phase, tmp_path: Path) -> None:
    with LocalHub(tmp_path / "hub") as hub:
        pulled = pull_phase(suite, phase, endpoint=hub.endpoint)
    sentence = r"^Phase 1 of suite tiny: the Hub cannot be reached \(.*refused.*HF_ENDPOINT"
    with pytest.raises(HubError, match=sentence):
        pull_phase(suite, phase, endpoint=hub.endpoint)
    assert find_snapshot(suite, phase) == pulled


def test_offline_with_nothing_on_disk(
    hub: LocalHub, suite: Suite, phase: Phase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert find_snapshot(suite, phase) is None
    with pytest.raises(HubError, match="HF_HUB_OFFLINE is set: unset it"):
        pull_phase(suite, phase, endpoint=hub.endpoint)


def test_a_local_hub_is_reached_past_a_proxy(
    hub: LocalHub, suite: Suite, phase: Phase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "example.org")
    close_session()
    with pytest.raises(httpx.ConnectError):  # and the client keeps the session it has opened
        HfApi(endpoint=hub.endpoint).model_info(REPO_ID)
    reach_directly(hub.endpoint)
    assert pull_phase(suite, phase, endpoint=hub.endpoint).files.keys() == PULLED
    assert os.environ["no_proxy"] == "example.org,127.0.0.1"
    close_session()


def test_the_users_own_cache_is_looked_into(
    hub: LocalHub, suite: Suite, phase: Phase, monkeypatch: pytest.MonkeyPatch
) -> None:
    pulled = pull_phase(suite, phase, endpoint=hub.endpoint)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(suite.cache_dir))
    assert find_snapshot(suite.model_copy(update={"cache_dir": None}), phase) == pulled


def test_looking_on_disk_loads_no_torch() -> None:
    code = "import json, sys, workbench.hub.cache; print(json.dumps(sorted(sys.modules)))"
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert not {"torch", "transformers", "huggingface_hub"} & set(json.loads(said.stdout))
