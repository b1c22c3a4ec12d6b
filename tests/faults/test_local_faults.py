"""Faults of this machine: its disks, permissions and clock, and what dead downloads left."""

import os
import re
import time
from pathlib import Path

import pytest
from huggingface_hub import scan_cache_dir, snapshot_download

from tests.faults import puller
from tests.faults.counting import sent_of
from tests.faults.faults import cut
from tests.faults.faulty_hub import Rule
from tests.faults.stage import BIG, REPO_ID, SEGMENT, Stage, content_address, faulty
from workbench.hub.cache import find_snapshot
from workbench.hub.failures import HubError
from workbench.hub.pull import pull_phase

pytestmark = pytest.mark.usefixtures("_small")


def root_in(cache: Path) -> Path:
    return cache / f"models--{REPO_ID.replace('/', '--')}"


SENTENCES = {
    "small-disk": "No space left on device",
    "small-files": "File too large",
    "read-only": "Permission denied",
}


@pytest.mark.parametrize("how", SENTENCES)
def test_a_disk_that_refuses(how: str, stage: Stage) -> None:
    """The system's own refusal, in another process; then the same pull where nothing refuses."""
    with puller.public_folder() as folder:
        said, how = puller.run(stage.hub.endpoint, folder / "cache", how)
    sentence = rf"^Phase 1 of suite tiny: .*cache cannot be written \({SENTENCES[how]}\): free some"
    assert len(said) == 2
    assert re.search(sentence, said[0])
    assert said[1] == "None"


def test_the_cache_lies_on_another_file_system(stage: Stage, tmp_path: Path) -> None:
    """Than everything temporary: nothing may be moved from there by renaming."""
    shared = Path("/dev/shm")
    assert os.stat(shared).st_dev != os.stat(tmp_path).st_dev
    with puller.public_folder(shared) as folder:
        suite, phase = stage.suite(folder / "cache")
        assert stage.wrong_with(pull_phase(suite, phase, endpoint=stage.hub.endpoint)) == []


def test_files_from_the_future(stage: Stage, tmp_path: Path) -> None:
    suite, phase = stage.suite(tmp_path)
    broken = Rule(cut(reset=True), at=700_000, times=None)
    with faulty(stage.hub.endpoint, broken) as hub, pytest.raises(HubError):
        pull_phase(suite, phase, endpoint=hub.endpoint)
    later = time.time() + 40 * 365 * 86_400
    for path in root_in(tmp_path).rglob("*"):
        os.utime(path, (later, later))
    with faulty(stage.hub.endpoint) as hub:
        assert stage.wrong_with(pull_phase(suite, phase, endpoint=hub.endpoint)) == []
        assert sum(sent_of(hub.settled()).values()) < stage.size


@pytest.mark.parametrize("at", [1, 65_537, 100_000, 500_000])
def test_the_next_pull_goes_on_at_the_byte(at: int, stage: Stage, tmp_path: Path) -> None:
    suite, phase = stage.suite(tmp_path)
    broken = Rule(cut(reset=True), path=f"*/{BIG}", at=at, times=None)
    with faulty(stage.hub.endpoint, broken) as hub, pytest.raises(HubError):
        pull_phase(suite, phase, endpoint=hub.endpoint)
    with faulty(stage.hub.endpoint) as hub:
        pull_phase(suite, phase, endpoint=hub.endpoint)
        starts = [r.start or 0 for r in hub.requests if r.file == BIG]
    assert [start for start in starts if start < SEGMENT] == [at]


@pytest.mark.parametrize("damage", ["flipped", "short", "empty", "long"])
def test_a_corrupted_blob_is_found_and_fetched_again(
    damage: str, stage: Stage, tmp_path: Path
) -> None:
    suite, phase = stage.suite(tmp_path)
    snapshot = pull_phase(suite, phase, endpoint=stage.hub.endpoint)
    blob = (snapshot.path / BIG).resolve()
    content = bytearray(blob.read_bytes())
    content[1_000_000] ^= 1
    whole = len(content)
    damaged = {
        "flipped": bytes(content),
        "short": bytes(content[: whole // 2]),
        "empty": b"",
        "long": blob.read_bytes() + b"x",
    }
    blob.write_bytes(damaged[damage])
    with faulty(stage.hub.endpoint) as hub:
        assert stage.wrong_with(pull_phase(suite, phase, endpoint=hub.endpoint)) == []
        assert sent_of(hub.settled()) == {BIG: whole}


@pytest.mark.parametrize("damage", ["flipped", "short", "long", "no journal", "nonsense in it"])
def test_a_damaged_partial_costs_bytes_only(damage: str, stage: Stage, tmp_path: Path) -> None:
    suite, phase = stage.suite(tmp_path)
    broken = Rule(cut(reset=True), path=f"*/{BIG}", at=400_000, times=None)
    with faulty(stage.hub.endpoint, broken) as hub, pytest.raises(HubError):
        pull_phase(suite, phase, endpoint=hub.endpoint)
    (part,) = root_in(tmp_path).glob("blobs/*.part")
    (journal,) = root_in(tmp_path).glob("blobs/*.part.done")
    content = bytearray(part.read_bytes())
    match damage:
        case "flipped":
            content[200_000] ^= 1
            part.write_bytes(content)
        case "short":
            part.write_bytes(content[:200_000])
        case "long":
            part.write_bytes(content + b"x")
        case "no journal":
            journal.unlink()
        case "nonsense in it":
            journal.write_bytes(b"\xff" * journal.stat().st_size)
    assert stage.wrong_with(pull_phase(suite, phase, endpoint=stage.hub.endpoint)) == []


def test_leftovers_of_dead_downloads_are_cleaned(stage: Stage, tmp_path: Path) -> None:
    """Of the client's, and parts of ours of files that the revision no longer has."""
    suite, phase = stage.suite(tmp_path)
    blobs = root_in(tmp_path) / "blobs"
    blobs.mkdir(parents=True)
    etag = content_address(stage.repository / BIG)
    dead = [f"{etag}.0123abcd.incomplete", f"{'e' * 64}.89abcdef.incomplete"]
    dead += [f"{'e' * 64}.part", f"{'e' * 64}.part.done"]
    for name in dead:
        (blobs / name).write_bytes(b"half a file")
    assert stage.wrong_with(pull_phase(suite, phase, endpoint=stage.hub.endpoint)) == []


def test_a_complete_cache_is_cleaned_as_well(stage: Stage, tmp_path: Path) -> None:
    suite, phase = stage.suite(tmp_path)
    snapshot = pull_phase(suite, phase, endpoint=stage.hub.endpoint)
    (root_in(tmp_path) / "blobs" / f"{'e' * 64}.0123abcd.incomplete").write_bytes(b"half a file")
    assert stage.wrong_with(snapshot) != []
    assert stage.wrong_with(pull_phase(suite, phase, endpoint=stage.hub.endpoint)) == []


def test_the_client_takes_the_result_for_its_own(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite, phase = stage.suite(tmp_path)
    with faulty(stage.hub.endpoint, Rule(cut(reset=True), at=300_000)) as hub:
        snapshot = pull_phase(suite, phase, endpoint=hub.endpoint)
        scanned = scan_cache_dir(tmp_path)
        assert not scanned.warnings
        (repository,) = scanned.repos
        assert repository.size_on_disk == stage.size
        fetched = len(hub.requests)
        found = snapshot_download(REPO_ID, endpoint=hub.endpoint, cache_dir=tmp_path)
        assert found == str(snapshot.path)
        assert {r.kind for r in hub.requests[fetched:]} <= {"info", "tree", "head"}


def test_what_the_client_has_fetched_is_taken(stage: Stage, tmp_path: Path) -> None:
    suite, phase = stage.suite(tmp_path)
    with faulty(stage.hub.endpoint) as hub:
        snapshot_download(REPO_ID, endpoint=hub.endpoint, cache_dir=tmp_path)
        before = len(hub.settled())
        assert stage.wrong_with(pull_phase(suite, phase, endpoint=hub.endpoint)) == []
        assert {r.kind for r in hub.requests[before:]} == {"info"}


def test_nobody_listens(stage: Stage, tmp_path: Path) -> None:
    suite, phase = stage.suite(tmp_path)
    with faulty(stage.hub.endpoint) as hub:
        gone = hub.endpoint
    with pytest.raises(
        HubError, match=r"^Phase 1 of suite tiny: the Hub cannot be reached \(.*ref"
    ):
        pull_phase(suite, phase, endpoint=gone)
    assert find_snapshot(suite, phase) is None
