"""Ranged reads: a checkpoint on the Hub is, bit for bit, the one that a pull would bring."""

import json
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from probes.base import Measuring
from probes.weights import WeightsProbe
from tests.fixtures.tiny_checkpoint import write_llama, write_neox, write_olmo2, write_yulan
from tests.workbench.hub.conftest import REPO_ID
from tests.workbench.hub.relay import Answer, Relay
from workbench.checkpoints import Checkpoint, tensors
from workbench.errors import CheckpointError
from workbench.hub import transfer
from workbench.hub.failures import HubError
from workbench.hub.pull import pull_phase
from workbench.hub.ranges import RemoteFile
from workbench.hub.remote import RemoteSnapshot, remote_snapshot
from workbench.hub.server import LocalHub
from workbench.suites import Phase

WEIGHTS = "model.safetensors"
HEAD = "lm_head.weight"


def shard(folder: Path) -> None:
    """Three files that take tensors in turn, so that neighbours lie far apart."""
    state = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    weight_map = {}
    for number in range(3):
        file = f"model-{number + 1:05}-of-00003.safetensors"
        names = sorted(state)[number::3]
        save_file({name: state[name] for name in names}, folder / file, {"format": "pt"})
        weight_map |= dict.fromkeys(names, file)
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps({"weight_map": weight_map}))


def change(folder: Path, **tensors_by_name: torch.Tensor | None) -> None:
    state = load_file(folder / WEIGHTS) | tensors_by_name
    kept = {name: tensor for name, tensor in state.items() if tensor is not None}
    save_file(kept, folder / WEIGHTS, {"format": "pt"})


def mixed_dtypes(folder: Path) -> None:
    state = load_file(folder / WEIGHTS)
    dtypes = (torch.float16, torch.float64, torch.bfloat16, torch.float32)
    mixed = {n: t.to(dtypes[i % 4]) for i, (n, t) in enumerate(sorted(state.items()))}
    save_file(mixed, folder / WEIGHTS, {"format": "pt"})


LAYOUTS = {
    "float32, head stored twice": lambda folder: write_yulan(folder),
    "bfloat16": lambda folder: write_yulan(folder, dtype=torch.bfloat16),
    "mixed dtypes": lambda folder: mixed_dtypes(write_yulan(folder)),
    "sharded": lambda folder: shard(write_yulan(folder, dtype=torch.bfloat16)),
    "head stored once": lambda folder: change(write_yulan(folder), **{HEAD: None}),
    "head that differs": lambda folder: change(
        write_yulan(folder), **{HEAD: torch.randn(1000, 48)}
    ),
    "scales of one element": lambda folder: change(
        write_yulan(folder), **{"model.norm_alpha": torch.ones(1)}
    ),
    "llama": lambda folder: write_llama(folder),
    "GPT-NeoX": lambda folder: write_neox(folder),
    "OLMo 2": lambda folder: write_olmo2(folder),
}


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "hub" / REPO_ID


@pytest.fixture
def relay(folder, tmp_path, monkeypatch) -> Iterator[Relay]:
    """A checkpoint behind a server whose answers can be changed."""
    monkeypatch.setattr(transfer, "WAITS", (0.01,) * 4)
    write_yulan(folder, dtype=torch.bfloat16)
    with LocalHub(tmp_path / "hub") as hub, Relay(hub.endpoint) as relay:
        yield relay


@pytest.fixture
def narrow(monkeypatch) -> None:
    """Windows and ranges of kilobytes, so that a tiny checkpoint has many of each."""
    for name, size in {
        "RANGE": 3_001, "WINDOW": 9_000, "LARGEST_WINDOW": 20_000, "AHEAD": 30_000, "GAP": 64,
    }.items():  # fmt: skip
        monkeypatch.setattr(tensors, name, size)


def measured(checkpoint: Checkpoint) -> dict[str, list]:
    found = WeightsProbe().measure(checkpoint, WeightsProbe.Settings(), Measuring())
    return {name: table.to_pylist() for name, table in found.tables().items()}


def same(one: torch.Tensor, two: torch.Tensor) -> bool:
    return one.dtype == two.dtype and one.shape == two.shape and torch.equal(one, two)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.usefixtures("narrow")
def test_equal_to_the_local_one_bit_for_bit(layout, folder, suite, phase, tmp_path):
    LAYOUTS[layout](folder)
    with LocalHub(tmp_path / "hub") as hub:
        snapshot = remote_snapshot(suite, phase, hub.endpoint)
        remote, local = Checkpoint.open_remote(snapshot), Checkpoint.open(folder)
        assert remote.tensor_names() == local.tensor_names()
        assert all(same(remote.tensor(n), local.tensor(n)) for n in local.tensor_names())
        for view in ("stored", "effective"):
            pairs = list(zip(remote.weights(view), local.weights(view), strict=True))
            for one, two in pairs:
                assert (one.name, one.module, one.layer) == (two.name, two.module, two.layer)
                assert one.scale == two.scale
                assert same(one.stored, two.stored)
        assert (remote.tied, remote.form) == (local.tied, local.form)
        assert Checkpoint.open_remote(snapshot).alphas() == local.alphas()
        assert measured(Checkpoint.open_remote(snapshot)) == measured(local)
        assert not (tmp_path / "cache").exists()


def test_the_same_job_as_after_a_pull(relay, suite, phase):
    remote = remote_snapshot(suite, phase, relay.endpoint)
    pulled = pull_phase(suite, phase, endpoint=relay.route(""))
    assert remote.files == pulled.files
    assert (remote.repo_id, remote.commit_sha) == (pulled.repo_id, pulled.commit_sha)
    assert remote.bytes == pulled.bytes


@pytest.mark.parametrize("sharded", [False, True])
def test_every_byte_is_moved_once_in_few_requests(sharded, folder, suite, phase, tmp_path):
    write_yulan(
        folder, dtype=torch.bfloat16, hidden_size=384, intermediate_size=960, vocab_size=8000,
        num_hidden_layers=12,
    )  # fmt: skip
    if sharded:
        shard(folder)
    needed = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    assert needed > 30e6
    with LocalHub(tmp_path / "hub") as hub:
        snapshot = remote_snapshot(suite, phase, hub.endpoint)
        measured(Checkpoint.open_remote(snapshot))
    assert needed <= snapshot.moved <= 1.05 * needed
    assert snapshot.requests <= (15 if sharded else 8)


def test_scales_do_not_cost_a_request_each(relay, suite, phase):
    snapshot = remote_snapshot(suite, phase, relay.endpoint)
    checkpoint = Checkpoint.open_remote(snapshot)
    before = snapshot.requests
    assert len(checkpoint.alphas()) == 26
    assert snapshot.requests - before <= 8
    list(checkpoint.both_views())
    before = snapshot.requests
    checkpoint.alphas()
    assert snapshot.requests == before


def test_a_walk_that_is_left_early_leaves_no_thread(relay, suite, phase, narrow):
    checkpoint = Checkpoint.open_remote(remote_snapshot(suite, phase, relay.endpoint))
    walk = checkpoint.both_views()
    next(walk)
    walk.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ranges")]


def test_model_and_tokenizer_want_a_pull(relay, suite, phase):
    checkpoint = Checkpoint.open_remote(
        remote_snapshot(suite, phase, relay.endpoint), label="phase 1"
    )
    for load in (checkpoint.load_model, checkpoint.load_tokenizer):
        with pytest.raises(CheckpointError, match=r"^phase 1 .* from disk only; pull it first\.$"):
            load()


def test_overrides_reach_the_config(relay, suite, phase):
    snapshot = remote_snapshot(suite, phase, relay.endpoint)
    checkpoint = Checkpoint.open_remote(snapshot, overrides={"rope_theta": 77.0})
    assert checkpoint.config["rope_theta"] == 77.0
    assert checkpoint.stored_config == json.loads(snapshot.content("config.json"))


def weights_only(change):
    """A rule for the answers that hold weights."""
    return lambda asked, answer: change(answer) if "/resolve/" in asked.path else answer


def once(fault):
    """Every other answer that holds content is spoilt."""
    count = iter(range(10**6))
    return weights_only(lambda answer: answer if next(count) % 2 else fault(answer))


def cut(answer: Answer) -> Answer:
    promised = answer.headers | {"Content-Length": str(len(answer.body))}
    return Answer(answer.status, promised, answer.body[: len(answer.body) // 2])


PASSING = {
    "503": lambda answer: Answer(503),
    "500": lambda answer: Answer(500),
    "429": lambda answer: Answer(429, {"Retry-After": "0"}),
    "cut off": cut,
    "another range": lambda answer: Answer(
        answer.status, answer.headers | {"Content-Range": "bytes 1-2/3"}, answer.body
    ),
    "longer": lambda answer: Answer(
        answer.status,
        {k: v for k, v in answer.headers.items() if k != "Content-Length"},
        answer.body + b"surplus",
    ),
}


@pytest.mark.parametrize("fault", PASSING)
def test_a_fault_that_passes_is_waited_for(fault, relay, suite, phase, folder):
    relay.rule = once(PASSING[fault])
    snapshot = remote_snapshot(suite, phase, relay.endpoint)
    assert measured(Checkpoint.open_remote(snapshot)) == measured(Checkpoint.open(folder))


def test_a_stall_is_cut_off_and_asked_again(relay, suite, phase, folder, monkeypatch):
    from huggingface_hub import constants

    def late(answer: Answer) -> Answer:
        time.sleep(0.5)
        return answer

    snapshot = remote_snapshot(suite, phase, relay.endpoint)
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.1)
    relay.rule = once(late)
    file = snapshot.file(WEIGHTS)
    assert file.read(0, 100) == (folder / WEIGHTS).read_bytes()[:100]
    assert file.requests == 2


def test_only_the_rest_is_asked_for_after_a_cut(relay, suite, phase, folder):
    snapshot = remote_snapshot(suite, phase, relay.endpoint)
    relay.rule = once(cut)
    size = (folder / WEIGHTS).stat().st_size
    file = snapshot.file(WEIGHTS)
    assert file.read(0, size) == (folder / WEIGHTS).read_bytes()
    assert (file.moved, file.requests) == (size, 2)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (lambda answer: Answer(503), "the Hub refused .503 .* start again later"),
        (lambda answer: Answer(401), ".401.: set HF_TOKEN"),
        (lambda answer: Answer(404), "a file that .* lists is not there"),
        (lambda answer: Answer(416), "the Hub has less of .* than it lists .416."),
        (lambda answer: Answer(200, {}, answer.body), "cannot be read in ranges"),
        (lambda answer: Answer(302, {"Location": "/loop/resolve/x"}), "redirects"),
        (
            lambda answer: Answer(206, answer.headers | {"Content-Range": "bytes 0-1/99"}),
            "the answer holds bytes 0-1/99, not bytes 0-99/",
        ),
        (lambda answer: Answer(206, answer.headers | {"Content-Length": "7"}), "7 bytes, not 100"),
    ],
)
def test_what_does_not_pass_is_one_sentence_that_names_the_file(fault, said, relay, suite, phase):
    snapshot = remote_snapshot(suite, phase, relay.endpoint)
    relay.rule = weights_only(fault)
    with pytest.raises(HubError, match=said) as caught:
        snapshot.file(WEIGHTS).read(0, 100)
    message = str(caught.value)
    assert message.startswith(f"{WEIGHTS} of {REPO_ID} at {snapshot.commit_sha[:8]} ")
    assert "\n" not in message
    assert message.endswith(".")


def test_a_server_that_ignores_ranges_is_not_read_whole_again_and_again(relay, suite, phase):
    relay.rule = lambda asked, answer: (
        Answer(200, {}, answer.body) if "Range" in asked.headers else answer
    )
    snapshot = remote_snapshot(suite, phase, relay.endpoint)
    with pytest.raises(HubError, match="cannot be read in ranges"):
        Checkpoint.open_remote(snapshot)
    assert snapshot.requests == 2
    assert snapshot.moved == snapshot.file("config.json").size


def test_a_hub_that_is_gone_is_one_sentence(folder, suite, phase, tmp_path):
    write_yulan(folder)
    with LocalHub(tmp_path / "hub") as hub:
        snapshot = remote_snapshot(suite, phase, hub.endpoint)
    with pytest.raises(HubError, match=r"model\.safetensors .* cannot be read from the Hub"):
        snapshot.file(WEIGHTS).read(0, 10)


def test_offline_is_one_sentence(relay, suite, phase, monkeypatch):
    from huggingface_hub import constants

    snapshot = remote_snapshot(suite, phase, relay.endpoint)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match="HF_HUB_OFFLINE is set"):
        snapshot.file(WEIGHTS).read(0, 10)


def test_the_token_stays_with_the_hub(relay, suite, phase, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    snapshot = remote_snapshot(suite, phase, relay.endpoint)
    with Relay(relay.route("")) as elsewhere:
        relay.rule = lambda asked, answer: Answer(
            302, {"Location": elsewhere.endpoint + asked.path}
        )
        assert len(snapshot.file(WEIGHTS).read(5, 15)) == 10
    assert relay.asked[-1].headers["authorization"] == "Bearer hf_secret"
    assert "authorization" not in {name.lower() for name in elsewhere.asked[-1].headers}
    assert elsewhere.asked[-1].headers["Range"] == "bytes=5-14"


def flipped(answer: Answer) -> Answer:
    return Answer(answer.status, answer.headers, bytes([answer.body[0] ^ 1]) + answer.body[1:])


def test_a_config_that_arrives_damaged_is_fetched_again(relay, suite, phase):
    relay.rule = once(flipped)
    snapshot = remote_snapshot(suite, phase, relay.endpoint)
    assert json.loads(snapshot.content("config.json"))["model_type"] == "miniyulan"
    relay.rule = weights_only(flipped)
    with pytest.raises(HubError, match=r"config\.json .* arrived damaged 3 times"):
        snapshot.content("config.json")


def test_a_revision_that_moves_does_not_mix_two_checkpoints(
    relay, suite, phase, folder, tmp_path, narrow
):
    before = shutil.copytree(tmp_path / "hub", tmp_path / "before") / REPO_ID
    expected = measured(Checkpoint.open(before))
    with LocalHub(tmp_path / "before") as old:
        new, commit = relay.route(""), remote_snapshot(suite, phase, old.endpoint).commit_sha
        relay.route = lambda path: old.endpoint if commit in path else new
        checkpoint = Checkpoint.open_remote(remote_snapshot(suite, phase, relay.endpoint))
        shutil.rmtree(folder)
        write_yulan(folder, dtype=torch.bfloat16, seed=1)
        assert remote_snapshot(suite, phase, relay.endpoint).commit_sha != commit
        assert measured(checkpoint) == expected


def test_a_file_that_vanishes_is_one_sentence(relay, suite, phase, folder):
    checkpoint = Checkpoint.open_remote(remote_snapshot(suite, phase, relay.endpoint))
    (folder / WEIGHTS).unlink()
    with pytest.raises(HubError, match=r"model\.safetensors .* start again"):
        measured(checkpoint)


def test_what_cannot_be_read_in_ranges_is_said_before(suite, phase, folder, tmp_path):
    write_yulan(folder)
    torch.save(load_file(folder / WEIGHTS), folder / "pytorch_model.bin")
    (folder / WEIGHTS).unlink()
    with LocalHub(tmp_path / "hub") as hub:
        with pytest.raises(HubError, match=r"Phase 1 of suite tiny: .* in safetensors form"):
            remote_snapshot(suite, phase, hub.endpoint)
        shutil.rmtree(folder)
        with pytest.raises(HubError, match="no public repository"):
            remote_snapshot(suite, phase, hub.endpoint)
        absent = Phase(phase=26)
        with pytest.raises(HubError, match="no published checkpoint"):
            remote_snapshot(suite, absent, hub.endpoint)


def test_a_missing_shard_is_said(suite, phase, folder, tmp_path):
    shard(write_yulan(folder))
    (folder / "model-00002-of-00003.safetensors").unlink()
    with LocalHub(tmp_path / "hub") as hub:
        snapshot = remote_snapshot(suite, phase, hub.endpoint)
        with pytest.raises(CheckpointError, match="lacks the weight file model-00002"):
            Checkpoint.open_remote(snapshot)


def test_a_broken_file_on_the_hub_is_said(suite, phase, folder, tmp_path):
    write_yulan(folder)
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-1000])
    with LocalHub(tmp_path / "hub") as hub:
        snapshot: RemoteSnapshot = remote_snapshot(suite, phase, hub.endpoint)
        with pytest.raises(
            CheckpointError, match=r"model\.safetensors is broken or truncated .*; audit the phase"
        ):
            Checkpoint.open_remote(snapshot)
        with pytest.raises(HubError, match="was asked for"):
            snapshot.file(WEIGHTS).read(0, 10**9)


def test_a_remote_file_counts_what_it_moves(relay, suite, phase, folder):
    listed = remote_snapshot(suite, phase, relay.endpoint)
    size = (folder / WEIGHTS).stat().st_size
    file = RemoteFile(REPO_ID, WEIGHTS, listed.commit_sha, size, relay.endpoint)
    assert file.read(3, 3) == b""
    assert file.read(8, 20) == (folder / WEIGHTS).read_bytes()[8:20]
    assert (file.moved, file.requests) == (12, 1)
