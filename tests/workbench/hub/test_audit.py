"""Every published trap, planted in a sound suite and audited with the real client over HTTP."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from tests.workbench.hub.audited import (
    HEAD,
    INDEX,
    SHARDS,
    TAG,
    WEIGHTS,
    edit_config,
    edit_json,
    edit_tensors,
    repo,
    write_home,
)
from tests.workbench.hub.relay import Answer, Asked, Relay
from workbench.hub import headers, transfer
from workbench.hub.audit import Audit, Finding, audit_phases, gather
from workbench.hub.endpoint import hub_of
from workbench.hub.failures import HubError
from workbench.hub.server import LocalHub
from workbench.settings import Home
from workbench.suites import Phase, Suite, load_suite


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The suite as it ought to be; tests copy it."""
    home = tmp_path_factory.mktemp("sound")
    write_home(home)
    return home


@pytest.fixture
def home(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "home"))


def changed(suite: Suite, number: int, **fields: object) -> Suite:
    """The suite with other facts of one phase."""
    phases = [p.model_copy(update=fields) if p.phase == number else p for p in suite.phases]
    return suite.model_copy(update={"phases": tuple(phases)})


def audit(home: Path, change: Callable[[Suite], Suite] = lambda suite: suite) -> Audit:
    suite = change(load_suite("small", Home(home)))
    with hub_of(suite) as endpoint:
        return audit_phases(suite, suite.phases, endpoint)


def serious(found: Audit) -> list[tuple[int, str, str]]:
    """(phase, severity, check) of everything that is no note."""
    return [(f.phase, f.severity, f.check) for f in found.findings if f.severity != "note"]


def test_sound_suite_has_notes_alone(home: Path) -> None:
    found = audit(home)
    assert serious(found) == []
    notes = {(f.phase, f.check) for f in found.findings}
    assert notes == {
        *((phase, "tied-stored-twice") for phase in (1, 2, 3, 4)),
        (5, "not-published"),
        (6, "config-change"),
    }


Plant = Callable[[Path], object]


def unlink(*names: str, phase: int) -> Plant:
    return lambda home: [(repo(home, phase) / name).unlink() for name in names]


def copy(name: str, *, phase: int, to: int) -> Plant:
    return lambda home: shutil.copy(repo(home, phase) / name, repo(home, to) / name)


def config(phase: int, **fields: object) -> Plant:
    return lambda home: edit_config(repo(home, phase), **fields)


def tensor(phase: int, name: str, value: torch.Tensor | None, file: str = WEIGHTS) -> Plant:
    return lambda home: edit_tensors(repo(home, phase), file, **{name: value})


def write(name: str, content: bytes, *, phase: int) -> Plant:
    return lambda home: (repo(home, phase) / name).write_bytes(content)


def cut(name: str, *, phase: int, keep: float = 0.5) -> Plant:
    def plant(home: Path) -> None:
        path = repo(home, phase) / name
        path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])

    return plant


def index(phase: int, change: Callable[[dict[str, str]], object]) -> Plant:
    return lambda home: edit_json(repo(home, phase) / INDEX, lambda i: change(i["weight_map"]))


def every(*plants: Plant) -> Plant:
    return lambda home: [plant(home) for plant in plants]


def pickled(**by_phase: bytes) -> Plant:
    return every(*(write("pytorch_model.bin", b, phase=int(p[1:])) for p, b in by_phase.items()))


def of_optimizer(name: str) -> str:
    return f"{TAG}/zero/{name}"


NORM = "model.layers.0.input_layernorm.weight"
UP = "model.layers.0.mlp.up_proj.weight"


def same(suite: Suite) -> Suite:
    return suite


@dataclass(frozen=True)
class Trap:
    plant: Plant
    found: list[tuple[int, str, str]]
    """All that is found beyond notes: (phase, severity, check)."""
    says: str = ""
    """Stands in the first sentence."""
    change: Callable[[Suite], Suite] = same
    notes: tuple[tuple[int, str], ...] = ()
    """Notes that must be there too."""


def nothing(home: Path) -> None:
    """The trap lies in the catalogue."""


TRAPS = {
    "repository that is not there": Trap(
        lambda home: shutil.rmtree(repo(home, 2)),
        [(2, "error", "missing-repository")],
        "no public repository org/Phase2",
    ),
    "doubtful repository that is not there": Trap(
        lambda home: shutil.rmtree(repo(home, 1)),
        [(1, "error", "missing-repository")],
        "The catalogue was in doubt: no page seen.",
        lambda suite: changed(suite, 1, confirmed=False, evidence="no page seen"),
    ),
    "revision that is not there": Trap(
        nothing,
        [(3, "error", "missing-revision")],
        "org/Phase3 has no revision step7",
        lambda suite: changed(suite, 3, revision="step7"),
    ),
    "no config": Trap(unlink("config.json", phase=1), [(1, "error", "missing-file")], "config"),
    "no weights": Trap(unlink(WEIGHTS, phase=1), [(1, "error", "missing-file")], "no weights"),
    "shards without an index": Trap(
        unlink(INDEX, phase=3), [(3, "error", "missing-file")], "2 shards without"
    ),
    "no tokenizer": Trap(
        unlink("tokenizer.json", phase=1), [(1, "warning", "missing-file")], "no tokenizer"
    ),
    "config that is no JSON": Trap(
        write("config.json", b"<html>", phase=1), [(1, "error", "broken-file")], "config.json"
    ),
    "index that is a list": Trap(
        write(INDEX, b"[]", phase=3), [(3, "error", "broken-file")], "no JSON object"
    ),
    "index of nothing": Trap(
        write(INDEX, b"{}", phase=3), [(3, "error", "broken-file")], "no weight_map"
    ),
    "weights cut in an upload": Trap(
        cut(WEIGHTS, phase=1), [(1, "error", "broken-weights")], "truncated"
    ),
    "shard cut in an upload": Trap(
        cut(SHARDS[1], phase=3, keep=0.99), [(3, "error", "broken-weights")], SHARDS[1]
    ),
    "weights of no bytes": Trap(
        write(WEIGHTS, b"", phase=1), [(1, "error", "broken-weights")], "0"
    ),
    "shard that is not there": Trap(
        unlink(SHARDS[0], phase=4), [(4, "error", "missing-shard")], SHARDS[0]
    ),
    "shard that the index does not name": Trap(
        lambda home: shutil.copy(
            repo(home, 3) / SHARDS[0], repo(home, 3) / "model-00003-of-00002.safetensors"
        ),
        [(3, "warning", "unnamed-shard")],
        "model-00003-of-00002.safetensors is there",
    ),
    "tensor that its shard does not hold": Trap(
        index(3, lambda names: names.update({NORM: SHARDS[0], "a.weight": SHARDS[1]})),
        [(3, "error", "index-mismatch")],
        "a.weight",
    ),
    "tensor that the index does not name": Trap(
        index(3, lambda names: names.pop(NORM)), [(3, "error", "index-mismatch")], NORM
    ),
    "the weights of another phase": Trap(
        copy(WEIGHTS, phase=1, to=2),
        [(1, "error", "identical-weights"), (2, "error", "identical-weights")],
        "Phases 1-2 have the same safetensors byte for byte",
    ),
    "one shard of another phase": Trap(
        copy(SHARDS[1], phase=3, to=4),
        [(3, "error", "identical-weights"), (4, "error", "identical-weights")],
        f"Phases 3-4 have {SHARDS[1]} in common",
    ),
    "safetensors of another phase beside pickles of this one": Trap(
        every(copy(WEIGHTS, phase=1, to=2), pickled(p1=b"one", p2=b"two")),
        [(1, "error", "stale-safetensors"), (2, "error", "stale-safetensors")],
        "at most one phase has its own safetensors",
    ),
    "pickles of another phase beside safetensors of this one": Trap(
        pickled(p1=b"one", p2=b"one"),
        [(1, "warning", "identical-weights"), (2, "warning", "identical-weights")],
        "Phases 1-2 have the same pickled weights",
    ),
    "pickles that are all there is": Trap(
        every(unlink(WEIGHTS, phase=1), unlink(WEIGHTS, phase=2), pickled(p1=b"one", p2=b"one")),
        [(1, "error", "identical-weights"), (2, "error", "identical-weights")],
        notes=((1, "pickled-only"), (2, "pickled-only")),
    ),
    "tensor that is missing": Trap(
        tensor(1, UP, None), [(1, "error", "missing-tensor")], f"lack {UP}"
    ),
    "tensor too many": Trap(
        tensor(1, "model.layers.1.mlp.up_proj.weight", torch.ones(80, 48)),
        [(1, "error", "unexpected-tensor")],
        "model.layers.1.mlp",
    ),
    "config of a wider model": Trap(
        config(1, intermediate_size=96),
        [(1, "error", "wrong-shape")],
        "config.json asks for",
    ),
    "scale of two numbers": Trap(
        tensor(1, "model.norm_alpha", torch.ones(2)),
        [(1, "error", "wrong-shape")],
        "model.norm_alpha has the shape [2]",
    ),
    "scale of one number with a dimension": Trap(
        every(
            tensor(1, "model.norm_alpha", torch.ones(1)),
            tensor(2, "model.norm_alpha", torch.ones(())),
        ),
        [],
    ),
    "head that is stored once": Trap(tensor(1, HEAD, None), []),
    "weights of another dtype than the config says": Trap(
        tensor(1, UP, torch.ones(80, 48, dtype=torch.bfloat16)),
        [(1, "warning", "dtype-differs")],
        "1 in BF16",
    ),
    "architecture that nobody knows": Trap(
        config(1, model_type="secretlm"),
        [(1, "error", "config-value")],
        "model_type secretlm",
        notes=((1, "unknown-architecture"),),
    ),
    "config that would have code and kernels fetched": Trap(
        config(1, auto_map={"AutoConfig": "evil.Config"}, _attn_implementation="hub/kernel"),
        [],
        notes=((2, "config-change"),),
    ),
    "config that makes no model": Trap(
        config(1, embedding_ln=True), [(1, "error", "broken-config")], "embedding_ln"
    ),
    "wrong theta": Trap(
        config(1, rope_parameters={"rope_type": "default", "rope_theta": 490000.0}),
        [(1, "error", "config-value")],
        "rope_theta 490,000 where the catalogue has 10,000",
    ),
    "wrong theta as transformers 4 wrote it": Trap(
        config(1, rope_parameters=None, rope_theta=490000.0),
        [(1, "error", "config-value")],
        "rope_theta 490,000 where the catalogue has 10,000",
    ),
    "wrong theta that the catalogue corrects": Trap(
        config(1, rope_theta=490000.0, rope_parameters=None),
        [],
        change=lambda suite: changed(suite, 1, overrides={"rope_theta": 10000.0}),
        notes=((1, "config-value"),),
    ),
    "wrong length": Trap(
        config(1, max_position_embeddings=28672),
        [(1, "error", "config-value")],
        "max_position_embeddings 28,672 where the catalogue has 512",
    ),
    "step of another phase": Trap(
        config(2, num_steps_trained_before_this_epoch=40),
        [(2, "error", "config-value")],
        "num_steps_trained_before_this_epoch 40",
    ),
    "step that the catalogue only estimates": Trap(
        config(2, num_steps_trained_before_this_epoch=9),
        [(2, "warning", "config-value")],
        "which is an estimate",
        lambda suite: changed(suite, 1, end_step_basis="estimated"),
    ),
    "number of another phase": Trap(
        config(2, num_epochs_trained_before_this_epoch=2),
        [(2, "error", "config-value")],
        "num_epochs_trained_before_this_epoch 2",
    ),
    "config that changes": Trap(config(2, z_loss=0.5), [], notes=((2, "config-change"),)),
    "tied embeddings that differ": Trap(
        tensor(1, HEAD, torch.ones(1000, 48)), [(1, "error", "tied-copies-differ")], "different"
    ),
    "tied embeddings of two dtypes": Trap(
        tensor(1, HEAD, torch.ones(1000, 48, dtype=torch.bfloat16)),
        [(1, "error", "tied-copies-differ"), (1, "warning", "dtype-differs")],
        "not even of one shape and dtype",
    ),
    "another tokenizer": Trap(
        write("tokenizer.json", b"{}", phase=3),
        [(3, "warning", "tokenizer-differs")],
        "not that of phases 1-2,4,6",
    ),
    "another tokenizer in the merged model": Trap(
        write("tokenizer.json", b"{}", phase=6), [], notes=((6, "tokenizer-differs"),)
    ),
    "no optimizer where one is promised": Trap(
        every(
            unlink("latest_universal", phase=2),
            lambda home: shutil.rmtree(repo(home, 2) / TAG),
        ),
        [(2, "error", "optimizer-missing")],
    ),
    "optimizer without its pointer": Trap(
        unlink("latest_universal", phase=2),
        [(2, "error", "optimizer-incomplete")],
        "without the file latest_universal",
    ),
    "pointer to another folder": Trap(
        write("latest_universal", b"global_step30_universal", phase=2),
        [(2, "error", "optimizer-incomplete")],
        "names global_step30_universal",
    ),
    "optimizer that lacks a part": Trap(
        unlink(f"{of_optimizer(UP)}/exp_avg_sq.pt", phase=2),
        [(2, "error", "optimizer-incomplete")],
        "exp_avg_sq.pt",
    ),
    "optimizer that lacks a parameter": Trap(
        lambda home: shutil.rmtree(repo(home, 2) / of_optimizer(NORM)),
        [(2, "error", "optimizer-incomplete")],
        "4 files of",
    ),
    "optimizer cut in an upload": Trap(
        cut(f"{of_optimizer(UP)}/fp32.pt", phase=2),
        [(2, "error", "optimizer-incomplete")],
        "fewer bytes",
    ),
    "optimizer of another step": Trap(
        nothing,
        [(2, "error", "optimizer-step")],
        "is of step 20",
        lambda suite: changed(suite, 2, end_step=21),
    ),
    "optimizer that the catalogue does not know": Trap(
        nothing,
        [],
        change=lambda suite: changed(suite, 2, has_optimizer=False),
        notes=((2, "optimizer-unlisted"),),
    ),
    "optimizer of the Trainer": Trap(
        write("optimizer.pt", b"state", phase=3),
        [],
        change=lambda suite: changed(suite, 3, has_optimizer=True),
    ),
    "optimizer of accelerate": Trap(
        write("optimizer.bin", b"state", phase=3),
        [],
        change=lambda suite: changed(suite, 3, has_optimizer=True),
    ),
    "optimizer in a distributed checkpoint": Trap(
        write(".metadata", b"state", phase=3),
        [],
        change=lambda suite: changed(suite, 3, has_optimizer=True),
    ),
    "optimizer of the Trainer without a byte": Trap(
        write("optimizer.pt", b"", phase=3),
        [(3, "error", "optimizer-missing")],
        change=lambda suite: changed(suite, 3, has_optimizer=True),
    ),
}


@pytest.mark.parametrize("name", TRAPS)
def test_trap_is_found(home: Path, name: str) -> None:
    trap = TRAPS[name]
    trap.plant(home)
    found = audit(home, trap.change)
    assert serious(found) == trap.found, [f.message for f in found.findings]
    first: list[Finding] = [f for f in found.findings if f.severity != "note"]
    assert trap.says in (first[0].message if first else "")
    assert set(trap.notes) <= {(f.phase, f.check) for f in found.findings if f.severity == "note"}
    for finding in found.findings:
        assert finding.message.endswith(".")
        assert "\n" not in finding.message
        json.dumps(finding.evidence)


def test_large_embeddings_are_compared_in_samples(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gather, "WHOLE", 1000)
    monkeypatch.setattr(gather, "BLOCK", 100)
    found = audit(home)
    (note,) = [f for f in found.findings if f.phase == 1]
    config = (repo(home, 1) / "config.json").stat().st_size
    assert found.facts[0].moved == config + headers.GUESS + 2 * 16 * 100
    assert "equal (in 16 samples of 100 bytes, 0.83 % of the bytes)" in note.message
    head = torch.zeros(1000, 48)
    edit_tensors(repo(home, 1), **{HEAD: head})
    assert serious(audit(home)) == [(1, "error", "tied-copies-differ")]


def test_samples_reach_from_the_first_byte_to_the_last() -> None:
    size = gather.WHOLE + 12345
    blocks = gather._blocks(size)
    assert blocks[0][0] == 0
    assert blocks[-1][1] == size
    assert len(set(blocks)) == gather.SAMPLES
    assert {stop - start for start, stop in blocks} == {gather.BLOCK}


# One repository with many revisions, as Pythia has it.


@pytest.fixture
def revisions(sound: Path, tmp_path: Path) -> Suite:
    """Four revisions of one repository; the second serves the weights of the last."""
    hub = tmp_path / "hub"
    for step, phase in (("step1", 1), ("step2", 6), ("step3", 2), ("main", 6)):
        name = "Model" if step == "main" else f"Model@{step}"
        shutil.copytree(repo(sound, phase), hub / "org" / name)
    phases = [
        Phase(phase=number, repo_id="org/Model", revision=revision, label=revision)
        for number, revision in enumerate(("step1", "step2", "step3", "main", "main"), 1)
    ]
    return Suite(name="many", title="", phases=tuple(phases), local_hub=hub)


def test_revision_that_serves_the_final_weights(revisions: Suite) -> None:
    with LocalHub(revisions.local_hub or Path()) as hub, Relay(hub.endpoint) as relay:
        found = audit_phases(revisions, revisions.phases, relay.endpoint)
        paths = [asked.path for asked in relay.asked]
    same = [f for f in found.findings if f.check == "identical-weights"]
    assert [f.phase for f in same] == [2, 4, 5]
    assert "Phases 2,4-5, the last one among them, have the same safetensors" in same[0].message
    listings = [path for path in paths if path.startswith("/api/")]
    assert len(listings) == 4  # phases 4 and 5 name the same revision
    # Contents that revisions share are read once.
    assert len([p for p in paths if p.endswith("config.json")]) == 3
    assert len({f.commit_sha for f in found.findings if f.phase in (2, 4)}) == 1


def test_one_phase_alone_is_compared_with_all(revisions: Suite) -> None:
    with hub_of(revisions) as endpoint:
        found = audit_phases(revisions, revisions.select("2"), endpoint)
    assert [(f.phase, f.check) for f in found.findings if f.severity == "error"] == [
        (2, "identical-weights")
    ]
    assert [facts.phase.phase for facts in found.facts] == [2]


# A Hub that refuses, or is not there.


@pytest.fixture
def relay(home: Path) -> Iterator[Relay]:
    with LocalHub(home / "suites/small/hub") as hub, Relay(hub.endpoint) as relay:
        yield relay


def test_gated_contents_are_one_finding(home: Path, relay: Relay) -> None:
    def rule(asked: Asked, answer: Answer) -> Answer:
        if "/org/Phase1/resolve/" in asked.path:
            return Answer(403, {"X-Error-Code": "GatedRepo"})
        return answer

    relay.rule = rule
    suite = load_suite("small", Home(home))
    found = audit_phases(suite, suite.phases, relay.endpoint)
    assert serious(found) == [(1, "error", "gated")]
    assert len(found.reached) == 6


def test_file_that_is_listed_and_not_there(home: Path, relay: Relay) -> None:
    def rule(asked: Asked, answer: Answer) -> Answer:
        if asked.path.endswith(WEIGHTS) and "/Phase1/" in asked.path:
            return Answer(404, {"X-Error-Code": "EntryNotFound"})
        return answer

    relay.rule = rule
    suite = load_suite("small", Home(home))
    found = audit_phases(suite, suite.phases, relay.endpoint)
    assert serious(found) == [(1, "error", "missing-file")]


@pytest.mark.parametrize("part", ["/api/models/org/Phase3/", "/org/Phase3/resolve/"])
def test_phase_that_cannot_be_reached_stops_no_other(
    home: Path, relay: Relay, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    monkeypatch.setattr(transfer, "WAITS", (0.01, 0.01))

    def rule(asked: Asked, answer: Answer) -> Answer:
        return Answer(503) if asked.path.startswith(part) else answer

    relay.rule = rule
    suite = load_suite("small", Home(home))
    found = audit_phases(suite, suite.phases, relay.endpoint)
    assert serious(found) == [(3, "error", "unreachable")]
    assert [facts.phase.phase for facts in found.reached] == [1, 2, 4, 5, 6]
    with pytest.raises(HubError, match=r"^Phase 3 of suite small: "):
        audit_phases(suite, suite.select("3"), relay.endpoint)


def test_busy_hub_is_asked_again(home: Path, relay: Relay) -> None:
    refused: set[str] = set()

    def rule(asked: Asked, answer: Answer) -> Answer:
        if asked.path in refused:
            return answer
        refused.add(asked.path)
        return Answer(429, {"Retry-After": "0"})

    relay.rule = rule
    suite = load_suite("small", Home(home))
    assert serious(audit_phases(suite, suite.phases, relay.endpoint)) == []
    assert {asked.path for asked in relay.asked} == refused


def test_progress_ends_at_its_total(home: Path) -> None:
    told: list[tuple[int, int]] = []
    suite = load_suite("small", Home(home))
    with hub_of(suite) as endpoint:
        audit_phases(suite, suite.phases, endpoint, lambda *at: told.append(at))
    assert [done for done, _ in told] == list(range(1, len(told) + 1))
    assert told[-1][0] == told[-1][1]
