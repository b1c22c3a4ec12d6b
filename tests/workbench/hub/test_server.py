"""The local Hub, asked by the Hub's own client and, for the letter of HTTP, by http.client."""

import hashlib
import http.client
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest
from huggingface_hub import HfApi, HfFileSystem, snapshot_download
from huggingface_hub.errors import (
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from tests.workbench.hub.conftest import REPO_ID
from workbench.hub.repository import LFS_SIZE
from workbench.hub.server import LocalHub

WEIGHTS = "model.safetensors"


@pytest.fixture
def connection(hub: LocalHub) -> Iterator[http.client.HTTPConnection]:
    connection = http.client.HTTPConnection(urlsplit(hub.endpoint).netloc, timeout=5)
    yield connection
    connection.close()


def ask(
    connection: http.client.HTTPConnection, method: str, path: str, span: str = ""
) -> tuple[int, dict[str, str], bytes]:
    connection.request(method, path, headers={"Range": span} if span else {})
    answer = connection.getresponse()
    return answer.status, dict(answer.getheaders()), answer.read()


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def git_blob_id(path: Path) -> str:
    """What git itself calls the file's content."""
    command = ["git", "hash-object", "--no-filters", str(path)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_model_info_states_size_and_hashes(hub: LocalHub, repository: Path) -> None:
    info = HfApi(endpoint=hub.endpoint).model_info(REPO_ID, files_metadata=True)
    files = {f.rfilename: f for f in info.siblings or []}
    weights, config = files[WEIGHTS], files["config.json"]
    assert weights.size == (repository / WEIGHTS).stat().st_size
    assert weights.lfs is not None
    assert weights.lfs.sha256 == sha256(repository / WEIGHTS)
    assert config.lfs is None
    assert config.blob_id == git_blob_id(repository / "config.json")
    plain = HfApi(endpoint=hub.endpoint).model_info(REPO_ID, revision=info.sha)
    assert plain.sha == info.sha
    assert {f.size for f in plain.siblings or []} == {None}


def test_tree_of_a_folder_and_of_everything_below(hub: LocalHub, repository: Path) -> None:
    api = HfApi(endpoint=hub.endpoint)
    everything = {f.path: f for f in api.list_repo_tree(REPO_ID, recursive=True, expand=True)}
    inner = "global_step7_universal/zero/norm/fp32.pt"
    assert {"global_step7_universal/zero", inner, WEIGHTS} <= everything.keys()
    assert everything[WEIGHTS].lfs.sha256 == sha256(repository / WEIGHTS)
    top = {f.path for f in api.list_repo_tree(REPO_ID)}
    assert top == {path for path in everything if "/" not in path}
    below = [f.path for f in api.list_repo_tree(REPO_ID, "global_step7_universal/zero/norm")]
    assert below == [inner]
    with pytest.raises(RemoteEntryNotFoundError):
        list(api.list_repo_tree(REPO_ID, "nowhere"))


def test_safetensors_header_and_ranged_reads(hub: LocalHub, repository: Path) -> None:
    meta = HfApi(endpoint=hub.endpoint).get_safetensors_metadata(REPO_ID)
    assert meta.files_metadata[WEIGHTS].tensors["weight"].shape == [512, 1024]
    content = (repository / WEIGHTS).read_bytes()
    files = HfFileSystem(endpoint=hub.endpoint)
    assert files.info(f"{REPO_ID}/{WEIGHTS}")["size"] == len(content)
    with files.open(f"{REPO_ID}/{WEIGHTS}", "rb", block_size=1000) as remote:
        remote.seek(1_000_000)
        assert remote.read(5000) == content[1_000_000:1_005_000]


def test_a_whole_snapshot_passes_the_clients_own_check(hub: LocalHub, tmp_path: Path) -> None:
    snapshot_download(REPO_ID, endpoint=hub.endpoint, cache_dir=tmp_path / "other")
    checked = HfApi(endpoint=hub.endpoint).verify_repo_checksums(
        REPO_ID, cache_dir=tmp_path / "other"
    )
    assert checked.checked_count == 9
    assert not checked.mismatches


@pytest.mark.parametrize(
    ("span", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=10-19", 10, 20),
        ("bytes=100-", 100, None),
        ("bytes=-100", -100, None),
        ("bytes=5-999999999", 5, None),
        ("bytes=-999999999", 0, None),
    ],
)
def test_range(
    connection: http.client.HTTPConnection,
    repository: Path,
    span: str,
    start: int,
    stop: int | None,
) -> None:
    content = (repository / WEIGHTS).read_bytes()
    status, headers, body = ask(connection, "GET", f"/{REPO_ID}/resolve/main/{WEIGHTS}", span)
    first, last, _ = slice(start, stop).indices(len(content))
    assert status == 206
    assert body == content[start:stop]
    assert headers["Content-Range"] == f"bytes {first}-{last - 1}/{len(content)}"
    assert headers["Content-Length"] == str(len(body))


@pytest.mark.parametrize("span", ["bytes=99999999-", "bytes=-0"])
def test_range_outside_the_file(
    connection: http.client.HTTPConnection, repository: Path, span: str
) -> None:
    status, headers, body = ask(connection, "GET", f"/{REPO_ID}/resolve/main/{WEIGHTS}", span)
    size = (repository / WEIGHTS).stat().st_size
    assert (status, headers["Content-Range"], body) == (416, f"bytes */{size}", b"")


@pytest.mark.parametrize("span", ["bytes=5-3", "bytes=-", "lines=1-2", "bytes=0-1,4-5"])
def test_range_that_makes_no_sense_gives_the_whole_file(
    connection: http.client.HTTPConnection, repository: Path, span: str
) -> None:
    status, _, body = ask(connection, "GET", f"/{REPO_ID}/resolve/main/config.json", span)
    assert (status, body) == (200, (repository / "config.json").read_bytes())


def test_head_then_get_on_one_connection(
    connection: http.client.HTTPConnection, repository: Path
) -> None:
    path = f"/{REPO_ID}/resolve/main/{WEIGHTS}"
    status, head, nothing = ask(connection, "HEAD", path, "bytes=0-9")
    opened = connection.sock
    _, headers, body = ask(connection, "GET", path)
    assert connection.sock is opened  # kept alive
    assert (status, nothing) == (200, b"")
    assert len(body) == int(head["Content-Length"]) == int(head["X-Linked-Size"])
    assert head["ETag"] == head["X-Linked-Etag"] == f'"{sha256(repository / WEIGHTS)}"'
    assert head["Accept-Ranges"] == "bytes"
    dated = {"Date"}
    assert head.keys() == headers.keys()
    assert {k: v for k, v in head.items() if k not in dated} == {
        k: v for k, v in headers.items() if k not in dated
    }


def test_what_is_absent_is_named_as_the_hub_names_it(hub: LocalHub) -> None:
    api = HfApi(endpoint=hub.endpoint)
    with pytest.raises(RepositoryNotFoundError):
        api.model_info("owner/none")
    with pytest.raises(RevisionNotFoundError):
        api.model_info(REPO_ID, revision="none")
    assert not api.file_exists(REPO_ID, "模型.txt")


@pytest.mark.parametrize(
    "path",
    [
        f"/{REPO_ID}/resolve/main/../../../secret.txt",
        f"/{REPO_ID}/resolve/main/..%2F..%2F..%2Fsecret.txt",
        "/../hub2/resolve/main/secret.txt",
        "/%2e%2e/hub2/resolve/main/secret.txt",
        "/./owner/resolve/main/Model-Phase1%2Fconfig.json",
        "/owner/%00/resolve/main/secret.txt",
        "/api/models/owner/Model-Phase1@step1000",
        "/api/models/%2e%2e/hub2",
        "/secret.txt",
        "/",
    ],
)
def test_nothing_outside_the_repositories_is_served(
    connection: http.client.HTTPConnection, tmp_path: Path, path: str
) -> None:
    (tmp_path / "secret.txt").write_text("out of bounds")
    (tmp_path / "hub2").mkdir()
    (tmp_path / "hub2" / "secret.txt").write_text("out of bounds")
    status, _, body = ask(connection, "GET", path)
    assert status == 404
    assert b"out of bounds" not in body
    assert "error" in json.loads(body)


def test_only_this_machine_is_served(hub: LocalHub) -> None:
    assert urlsplit(hub.endpoint).hostname == "127.0.0.1"
    assert hub._server.socket.getsockname()[0] == "127.0.0.1"


def test_the_commit_follows_the_content(hub: LocalHub, repository: Path) -> None:
    api = HfApi(endpoint=hub.endpoint)
    before = api.model_info(REPO_ID).sha
    text = (repository / "config.json").read_text()
    (repository / "config.json").write_text(text + "\n")
    after = api.model_info(REPO_ID).sha
    assert after != before
    # The old commit is gone at once, also for a file of it that did not change.
    with pytest.raises(RevisionNotFoundError):
        api.model_info(REPO_ID, revision=before)
    assert not api.file_exists(REPO_ID, WEIGHTS, revision=before)
    (repository / "config.json").write_text(text)
    assert api.model_info(REPO_ID).sha == before


def test_a_file_changed_after_listing_is_not_served_under_the_old_commit(
    hub: LocalHub, repository: Path
) -> None:
    api = HfApi(endpoint=hub.endpoint)
    listed = api.model_info(REPO_ID).sha
    (repository / WEIGHTS).write_bytes(b"other weights")
    assert not api.file_exists(REPO_ID, WEIGHTS, revision=listed)
    assert api.file_exists(REPO_ID, WEIGHTS)


def test_a_pointer_is_announced_as_what_it_points_to(hub: LocalHub, repository: Path) -> None:
    text = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'a' * 64}\nsize {10**15}\n"
    (repository / WEIGHTS).write_text(text)
    info = HfApi(endpoint=hub.endpoint).model_info(REPO_ID, files_metadata=True)
    weights = next(f for f in info.siblings or [] if f.rfilename == WEIGHTS)
    assert weights.lfs is not None
    assert (weights.size, weights.lfs.sha256) == (10**15, "a" * 64)
    assert weights.blob_id == git_blob_id(repository / WEIGHTS)


def test_a_big_file_is_lfs_whatever_its_name(hub: LocalHub, repository: Path) -> None:
    (repository / "tokenizer.json").write_bytes(b" " * (LFS_SIZE + 1))
    info = HfApi(endpoint=hub.endpoint).model_info(REPO_ID, files_metadata=True)
    tokenizer = next(f for f in info.siblings or [] if f.rfilename == "tokenizer.json")
    assert tokenizer.lfs is not None


def test_leaving_the_hub_ends_kept_connections(repository: Path, tmp_path: Path) -> None:
    with LocalHub(tmp_path / "hub") as hub:
        connection = http.client.HTTPConnection(urlsplit(hub.endpoint).netloc, timeout=5)
        assert ask(connection, "GET", f"/api/models/{REPO_ID}")[0] == 200
    with pytest.raises((ConnectionError, http.client.HTTPException)):
        ask(connection, "GET", f"/api/models/{REPO_ID}")
    connection.close()


@pytest.fixture
def branches(repository: Path) -> dict[str, Path]:
    """Two further branches of the repository: one with a slash in its name, one trained less."""
    folders = {"main": repository}
    for name, text in (("step1000", "less"), ("feature/step2", "more")):
        folders[name] = repository.parent / f"{repository.name}@{quote(name, safe='')}"
        shutil.copytree(repository, folders[name])
        (folders[name] / "config.json").write_text(text)
    return folders


def test_refs_name_branches_and_their_commits(hub: LocalHub, branches: dict[str, Path]) -> None:
    api = HfApi(endpoint=hub.endpoint)
    refs = api.list_repo_refs(REPO_ID, include_pull_requests=True)
    assert [ref.name for ref in refs.branches] == ["main", "feature/step2", "step1000"]
    assert [ref.ref for ref in refs.branches][1] == "refs/heads/feature/step2"
    assert (refs.tags, refs.converts, refs.pull_requests) == ([], [], [])
    commits = {ref.name: ref.target_commit for ref in refs.branches}
    assert len(set(commits.values())) == 3
    for name, commit in commits.items():
        assert api.model_info(REPO_ID, revision=name).sha == commit
        assert api.model_info(REPO_ID, revision=commit).sha == commit
    with pytest.raises(RepositoryNotFoundError):
        api.list_repo_refs("owner/none")
    with pytest.raises(RevisionNotFoundError):
        api.model_info(REPO_ID, revision="step2000")
    with pytest.raises(RevisionNotFoundError):
        api.model_info(REPO_ID, revision="f" * 40)


def test_the_same_file_has_one_address_in_all_branches(
    hub: LocalHub, branches: dict[str, Path]
) -> None:
    api = HfApi(endpoint=hub.endpoint)
    listed = [{f.path: f for f in api.list_repo_tree(REPO_ID, revision=name)} for name in branches]
    assert len({files[WEIGHTS].lfs.sha256 for files in listed}) == 1
    assert len({files["config.json"].blob_id for files in listed}) == 3


@pytest.mark.parametrize("name", ["main", "step1000", "feature/step2"])
def test_a_branch_is_fetched_by_name_and_by_commit(
    hub: LocalHub, branches: dict[str, Path], tmp_path: Path, name: str
) -> None:
    commit = HfApi(endpoint=hub.endpoint).model_info(REPO_ID, revision=name).sha
    for revision in (name, commit):
        fetched = snapshot_download(
            REPO_ID, revision=revision, endpoint=hub.endpoint, cache_dir=tmp_path / "other"
        )
        there = (Path(fetched) / "config.json").read_text()
        assert there == (branches[name] / "config.json").read_text()
    refs = tmp_path / "other" / f"models--{REPO_ID.replace('/', '--')}" / "refs"
    assert (refs / name).read_text() == commit


def test_a_repository_may_have_branches_alone(hub: LocalHub, branches: dict[str, Path]) -> None:
    shutil.rmtree(branches["main"])
    api = HfApi(endpoint=hub.endpoint)
    assert [r.name for r in api.list_repo_refs(REPO_ID).branches] == ["feature/step2", "step1000"]
    with pytest.raises(RevisionNotFoundError):
        api.model_info(REPO_ID)
    assert api.file_exists(REPO_ID, WEIGHTS, revision="step1000")
