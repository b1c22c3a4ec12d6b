"""`workbench import`, every kind of file, from the command line into the views."""

import json

import pytest
from typer.testing import CliRunner

from analysis_db import Store, StoreError
from workbench.cli import (
    app,
    export,  # noqa: F401
    imports,  # noqa: F401
)
from workbench.errors import UsageError

SUITE = """\
name = "tiny"
title = "Tiny"

[[phases]]
repo_id = "org/tiny"
revision = "step{step}"
steps = [10, 20]
tokens_per_step = 1000
model_type = "llama"
context_length = 64
evidence = "made up"
"""


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home whose only suite has checkpoints at steps 10 and 20; the files lie beside it."""
    (tmp_path / "home/suites").mkdir(parents=True)
    (tmp_path / "home/suites/tiny.toml").write_text(SUITE)
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*words):
    done = CliRunner().invoke(app, ["import", *words])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done


def said(*words):
    return json.loads(run(*words, "--json").stdout)


def query(home, sql):
    return [tuple(row.values()) for row in store(home).table(sql).to_pylist()]


def store(home):
    return Store(home / "home/metrics.duckdb")


def failing(*words):
    with pytest.raises((StoreError, UsageError)) as failed:
        run(*words)
    return str(failed.value), failed.value.exit_code


def test_scores_results_and_mix_are_seen_with_their_suite(home):
    header = "model,phase,benchmark,setting,score,footnote,source\n"
    (home / "scores.csv").write_text(f"{header}Tiny,2,ARC,acc 0-shot,40,,table\n")
    assert said("scores", "scores.csv", "--suite", "tiny")["stored"] == [
        {"suite": "tiny", "scores": 1}
    ]
    (home / "evals").mkdir()
    for step in (10, 20, 30):
        result = {"results": {"arc": {"acc": step / 100, "acc_stderr": 0.01}}, "versions": {}}
        (home / f"evals/tiny_step{step}.json").write_text(json.dumps(result))
    done = run("lm-eval", "evals", "--suite", "tiny")
    assert "step 30 (tiny_step30.json)" in " ".join(done.stderr.split())
    assert query(home, "SELECT phase, model, task, metric, value, source FROM benchmarks "
                       "ORDER BY source, phase") == [
        (1, "Tiny", "arc", "acc", 0.1, "imported"),
        (2, "Tiny", "arc", "acc", 0.2, "imported"),
        (2, "Tiny", "ARC", "acc", 40.0, "published"),
    ]  # fmt: skip
    mix = {"Total Tokens(B)": 3, "Number of Selected Tokens(B)": {"web": 2, "code": 1}}
    (home / "02_mix.json").write_text(json.dumps(mix))
    run("data-mix", "02_mix.json", "--suite", "tiny")
    assert query(home, "SELECT phase, source, tokens_b FROM data_mix ORDER BY 3") == [
        (2, "code", 1.0),
        (2, "web", 2.0),
    ]
    assert query(home, "SELECT phase, step FROM phases") == [(1, 10), (2, 20)]


@pytest.mark.parametrize(
    ("kind", "content", "options"),
    [
        ("csv", "step,n,l\n1,8,2.5\n2,16,2.0\n", ["--metric", "loss=l", "--tokens", "n"]),
        ("jsonl", '{"i": 1, "n": 8, "loss": 2.5}\n{"i": 2, "n": 16, "loss": 2}\n',
         ["--step", "i", "--tokens", "n"]),
        ("wandb", '"Step","mine - l","mine - n"\n1,2.5,8\n2,2,16\n',
         ["--metric", "loss=l", "--tokens", "mine - n"]),
        ("log", "step:1 n 8 loss:2.5\nstep:2 n 16 loss:2.0\n",
         ["--pattern", r"step:(?P<step>\d+) n (?P<tokens>\d+) loss:(?P<loss>\S+)"]),
        ("trainer-state", '{"log_history": [{"step": 1, "num_input_tokens_seen": 8, "loss": 2.5},'
         '{"step": 2, "num_input_tokens_seen": 16, "loss": 2}]}', []),
    ],
)  # fmt: skip
def test_a_log_of_each_kind(home, kind, content, options):
    (home / "file").write_text(content)
    run(kind, "file", "--run", "mine", "--suite", "tiny", *options)
    assert query(home, "SELECT run, step, tokens, metric, value FROM training_steps") == [
        ("mine", 1, 8, "loss", 2.5),
        ("mine", 2, 16, "loss", 2.0),
    ]
    assert query(home, "SELECT run, suite, imported_from, status FROM training_runs") == [
        ("mine", "tiny", "file", None)
    ]


def test_tensorboard(home):
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(home / "runs/a") as writer:
        for step in (1, 2):
            writer.add_scalar("train/loss", 0.5 * step, step)
    run("tensorboard", "runs", "--run", "a", "--metric", "loss=train/loss")
    assert query(home, "SELECT step, metric, value FROM training_steps") == [
        (1, "loss", 0.5),
        (2, "loss", 1.0),
    ]


def test_a_store_from_its_export(home, monkeypatch):
    (home / "log.csv").write_text("step,loss\n1,2.5\n")
    run("csv", "log.csv", "--run", "a")
    exported = CliRunner().invoke(app, ["export", "--all", "exported"])
    assert exported.exit_code == 0
    monkeypatch.setenv("WORKBENCH_HOME", str(home / "other"))
    rows = {
        row["table"]: row["rows"] for row in json.loads(run("store", "exported", "--json").stdout)
    }
    assert (rows["training_run"], rows["training_step"]) == (1, 1)
    other = Store(home / "other/metrics.duckdb")
    assert other.table("FROM training_runs").equals(store(home).table("FROM training_runs"))
    assert "There is a metrics store" in failing("store", "exported")[0]


def test_wrong_files_and_wrong_use_leave_no_store(home):
    (home / "log.csv").write_text("step,loss\n1,2.5\n2,high\n")
    message, code = failing("csv", "log.csv", "--run", "a", "--suite", "tiny")
    assert message == ("log.csv, line 3: field loss is 'high', not a number; nothing was imported.")
    assert code == 1
    for pattern, says in [
        ("loss:(?P<loss>.*)", "has no group named step"),
        (r"(?P<step>\d+)", "names no metric"),
        ("(", "is no regular expression"),
    ]:
        message, code = failing("log", "log.csv", "--run", "a", "--pattern", pattern)
        assert says in message
        assert code == 2
    assert "There is no suite named 'big'" in failing("scores", "log.csv", "--suite", "big")[0]
    assert "lacks the column model" in failing("scores", "log.csv", "--suite", "tiny")[0]
    assert not store(home).path.exists()
