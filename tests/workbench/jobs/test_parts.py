"""A probe whose work comes in parts: each is a job that fails, and is repeated, on its own."""

import json
import shutil

import pytest

from analysis_db import queries
from analysis_db.store import Store
from tests.fixtures.tiny_checkpoint import write_llama
from workbench.downloads import pull_suite
from workbench.jobs import ProbeRequest, coverage, failed_runs, probe_suite
from workbench.settings import Home

TOML = (
    'name = "small"\ntitle = "Small"\nphases = "small/phases.csv"\n'
    'local_hub = "small/hub"\ncache_dir = "../hub"\n'
)
PHASES = "phase,stage,repo_id,model_type,has_optimizer\n1,stable,o/one,llama,false\n"
YAML = """\
task: own
dataset_path: json
dataset_kwargs:
  data_files:
    test: {documents}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: [" yes", " no"]
doc_to_target: answer
metric_list: [{{metric: acc}}]
"""


@pytest.fixture(scope="module")
def pulled(tmp_path_factory):
    home = Home(tmp_path_factory.mktemp("parts") / "home")
    (home.suites / "small").mkdir(parents=True)
    (home.suites / "small.toml").write_text(TOML)
    (home.suites / "small" / "phases.csv").write_text(PHASES)
    write_llama(home.suites / "small" / "hub" / "o" / "one")
    assert [row["status"] for row in pull_suite("small", "1", home)] == ["on disk"]
    return home


@pytest.fixture
def home(pulled, tmp_path):
    shutil.copytree(pulled.root, tmp_path / "home", symlinks=True)
    return Home(tmp_path / "home")


def asked(tasks, *more):
    settings = (f"benchmarks.tasks={tasks}", "benchmarks.limit=4", *more)
    return ProbeRequest("small", probes="benchmarks", settings=settings)


def jobs(result):
    return [job.part for job in result.plan.jobs]


def scores(home):
    sql = "SELECT task, n, shots FROM benchmarks GROUP BY ALL ORDER BY ALL"
    return [tuple(row.values()) for row in Store(home.store).table(sql).to_pylist()]


def test_one_task_fails_alone_and_alone_is_repeated(home, tmp_path):
    documents, task = tmp_path / "documents.jsonl", tmp_path / "own.yaml"
    task.write_text(YAML.format(documents=documents))
    request = asked(f"shipped,{task}")
    result = probe_suite(request, home)
    assert jobs(result) == [
        "continuation_choice limit 4", "last_word limit 4", f"{task} limit 4",
    ]  # fmt: skip
    (failed,) = result.failed
    assert failed.job.name == f"phase 1, benchmarks {task} limit 4"
    assert failed.error.startswith(f"The benchmark task {task} cannot be loaded (FileNotFound")
    assert result.retry_command().startswith("workbench probe small --phases 1 --probes bench")
    assert scores(home) == [("continuation_choice", 4, 0), ("last_word", 4, 0)]
    assert coverage("small", home)[0]["benchmarks"] == "measured, failed in part"
    (row,) = failed_runs("small", home)
    assert (row["part"], "FileNotFoundError" in row["error"]) == (f"{task} limit 4", True)

    again = probe_suite(request, home)
    assert jobs(again) == [f"{task} limit 4"]
    documents.write_text("\n".join(json.dumps({"question": "?", "answer": i}) for i in (0, 1)))
    assert not probe_suite(request, home).failed
    assert scores(home)[-1] == ("own", 2, 0)
    assert failed_runs("small", home) == []
    assert jobs(probe_suite(request, home)) == []

    # The content of the user's file, and of what it names, is part of what makes a job another.
    documents.write_text(json.dumps({"question": "!", "answer": 0}))
    assert jobs(probe_suite(request, home)) == [f"{task} limit 4"]
    assert [row for row in scores(home) if row[0] == "own"] == [("own", 1, 0)]


def test_tasks_asked_for_later_do_not_hide_earlier_ones(home):
    probe_suite(asked("last_word"), home)
    probe_suite(asked("continuation_choice@1"), home)
    probe_suite(asked("continuation_choice", "benchmarks.limit=5"), home)
    assert scores(home) == [
        ("continuation_choice", 4, 1), ("continuation_choice", 5, 0), ("last_word", 4, 0),
    ]  # fmt: skip
    assert jobs(probe_suite(asked("last_word"), home)) == []
    sql = (
        "SELECT DISTINCT r.commit_sha, r.part, r.file_hashes FROM benchmarks b "
        "JOIN runs r USING (run_id) WHERE b.task = 'last_word'"
    )
    (run,) = Store(home.store).table(sql).to_pylist()
    assert (len(run["commit_sha"]), run["part"]) == (40, "last_word limit 4")
    assert "model.safetensors" in json.loads(run["file_hashes"])


def test_what_a_probe_says_of_its_values_is_told_and_kept(home):
    result = probe_suite(asked("last_word", "benchmarks.max_length=24"), home)
    (told,) = result.warnings()
    assert told.startswith("benchmarks last_word limit 4, phase 1: the model sees 24 tokens, and 4")
    (kept,) = queries.warnings(Store(home.store), "small").to_dict("records")
    assert (kept["phase"], kept["part"]) == (1, "last_word limit 4")
    assert f"benchmarks {kept['part']}, phase 1: {kept['warning']}." == told


def test_what_is_not_run_is_said(home):
    result = probe_suite(asked("humaneval,last_word"), home)
    assert jobs(result) == ["last_word limit 4"]
    said = "Not run: benchmarks humaneval: it executes code that the model writes, on this machine"
    assert said in result.summary()
    rows = Store(home.store).table("SELECT * FROM benchmark_tasks").to_pylist()
    reasons = {row["benchmark"]: row["reason"] for row in rows if row["task"] is None}
    assert reasons == {"RACE-middle": "the harness has RACE of high schools only"}
