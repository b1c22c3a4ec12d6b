"""The benchmarks probe: rows as lm-eval reports them, offline and quiet."""

import socket

import pytest

from probes.base import Measuring
from probes.benchmark_groups import shipped_tasks
from probes.benchmarks import BenchmarksProbe
from workbench.errors import UsageError


def measured(checkpoint, **settings):
    chosen = BenchmarksProbe.Settings(**{"limit": 6, "max_length": 512, **settings})
    return BenchmarksProbe().measure(checkpoint, chosen, Measuring())


def test_rows_carry_errors_counts_hashes_and_versions(llama, monkeypatch, capfd, tmp_path):
    def refuse(*args):
        raise AssertionError("a benchmark opened a network connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    rows = {(r["task"], r["metric"]): r for r in measured(llama).benchmarks}
    assert set(rows) == {
        ("continuation_choice", "acc"),
        ("continuation_choice", "acc_norm"),
        ("last_word", "acc"),
        ("last_word", "perplexity"),
    }
    for row in rows.values():
        assert row["n"] == 6
        assert row["shots"] == 0
        assert row["stderr"] >= 0
        assert len(row["task_hash"]) == 64
        assert row["task_version"] == "1.0"
        assert row["harness_version"]
    assert rows["last_word", "perplexity"]["higher_is_better"] is False
    assert rows["last_word", "acc"]["higher_is_better"] is True
    assert rows["last_word", "acc"]["task_hash"] != rows["continuation_choice", "acc"]["task_hash"]
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")


def test_accuracy_is_that_of_ranking_the_choices_by_their_likelihood(llama):
    import json
    from importlib.resources import files

    import torch

    model, tokenizer = llama.load_model(), llama.load_tokenizer()
    text = files("probes").joinpath("benchmark_tasks/continuation_choice.jsonl").read_text("utf-8")
    right = 0
    for line in text.splitlines()[:6]:
        item = json.loads(line)
        # lm-eval counts a space at the end of the context to the continuation.
        context = tokenizer.encode(item["context"].rstrip(), add_special_tokens=False)
        scores = []
        for choice in item["choices"]:
            whole = tokenizer.encode(item["context"] + choice)
            ids = torch.tensor([context + whole[len(context) :]])
            with torch.no_grad():
                logp = model(ids[:, :-1]).logits.log_softmax(-1)
            gold = logp.gather(-1, ids[:, 1:, None])[0, len(context) - 1 :]
            scores.append(float(gold.double().sum()))
        right += scores.index(max(scores)) == item["answer"]
    found = measured(llama, tasks=("continuation_choice",)).benchmarks
    assert next(r["value"] for r in found if r["metric"] == "acc") == pytest.approx(right / 6)


def test_a_longer_context_than_the_checkpoint_has_is_refused(llama):
    with pytest.raises(UsageError, match=r"max_length 1024 is more .* set max_length to 512 or"):
        measured(llama, max_length=1024)


def test_requests_that_were_cut_are_counted_and_told(llama):
    assert measured(llama, tasks=("last_word",)).notes == {}
    cut = measured(llama, tasks=("last_word",), max_length=24)
    assert cut.notes["warning"].startswith("the model sees 24 tokens, and 6 requests were longer")


def test_an_unknown_task_is_refused_with_what_is_near():
    with pytest.raises(UsageError, match=r"no benchmark task 'helaswag': did you mean hellaswag"):
        BenchmarksProbe.parts(BenchmarksProbe.Settings(tasks="shipped,helaswag"))


def test_both_kinds_of_task_ship():
    assert shipped_tasks() == ["continuation_choice", "last_word"]
