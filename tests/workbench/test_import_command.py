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
        (1, None, "arc", "acc", 0.1, "imported"),
        (2, None, "arc", "acc", 0.2, "imported"),
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


def results(folder, model, step, value=0.25, shots=0):
    """A results file as lm-eval writes it, of a model at the branch of a step."""
    path = folder / f"{model.replace('/', '__')}_step{step}.json"
    content = {
        "results": {"arc_easy": {"alias": "arc_easy", "acc,none": value, "acc_stderr,none": 0.01}},
        "n-shot": {"arc_easy": shots},
        "n-samples": {"arc_easy": {"original": 2376, "effective": 2376}},
        "config": {"model": "hf", "model_args": {"pretrained": model, "revision": f"step{step}"}},
        "model_name": model,
    }
    folder.mkdir(exist_ok=True)
    path.write_text(json.dumps(content))
    return str(path)


OF_MODELS = "SELECT phase, model, own, value FROM benchmarks WHERE source = 'imported' ORDER BY ALL"


def test_results_of_another_model_are_refused_unless_the_model_is_stated(home):
    (home / "scores.csv").write_text(
        "model,phase,benchmark,setting,score,footnote,source\n"
        "Tiny,2,ARC easy,acc 0-shot,40,,table\n"
    )
    run("scores", "scores.csv", "--suite", "tiny")
    for step in (10, 20):
        run("lm-eval", results(home / "own", "org/tiny", step, step / 100), "--suite", "tiny")
    before = query(home, OF_MODELS)
    assert before == [(1, "org/tiny", True, 0.1), (2, "org/tiny", True, 0.2)]
    for model in ("org/tiny-deduped", "bigscience/bloom-560m", "EleutherAI/pythia-410m"):
        said_, code = failing("lm-eval", results(home / "x", model, 10, 0.9), "--suite", "tiny")
        assert f"is of the model {model}, not of the suite's, org/tiny: leave it out" in said_
        assert code == 1
    folder = str(home / "x")
    assert "(so are 2 more files" in failing("lm-eval", folder, "--suite", "tiny")[0]
    assert query(home, OF_MODELS) == before
    foreign = "EleutherAI/pythia-410m"
    for step in (10, 20):
        path = results(home / "y", foreign, step, 1 - step / 100)
        done = said("lm-eval", path, "--suite", "tiny", "--model", foreign)
        assert (done["stored"][0]["scores"], done["remarks"]) == (1, [])
    assert query(home, OF_MODELS) == [
        (1, foreign, False, 0.9), (1, "org/tiny", True, 0.1),
        (2, foreign, False, 0.8), (2, "org/tiny", True, 0.2),
    ]  # fmt: skip
    changes = "SELECT model_a, model_b, round(change, 6) FROM score_changes ORDER BY ALL"
    assert query(home, changes) == [(foreign, foreign, -10.0), ("org/tiny", "org/tiny", 10.0)]
    beside = "SELECT phase, measured_percent, difference FROM published_and_measured ORDER BY ALL"
    assert query(home, beside) == [(1, 10.0, None), (2, 20.0, -20.0)]


def test_an_import_says_what_it_replaced(home):
    own, other = results(home / "a", "org/tiny", 10), results(home / "b", "org/tiny", 10, 0.5)
    assert said("lm-eval", own, "--suite", "tiny")["remarks"] == []
    replaced = f"Replaced 1 scores imported before: {own} (1 of org/tiny)."
    assert said("lm-eval", other, "--suite", "tiny")["remarks"] == [replaced]
    assert query(home, OF_MODELS) == [(1, "org/tiny", True, 0.5)]
    for name in ("one", "two"):
        (home / name).mkdir()
        (home / name / "step10.json").write_text(f'{{"results": {{"arc": {{"{name}": 0.5}}}}}}')
        done = run("lm-eval", name, "--suite", "tiny")
        assert "No model is named" in done.stderr
    done = run("lm-eval", "one", "--suite", "tiny")
    assert "Replaced 1 scores imported before: one/step10.json (1 of an unknown model)." in (
        done.stderr
    )
    assert query(home, OF_MODELS)[1:] == [(1, None, None, 0.5)] * 2


def test_a_stated_model_needs_a_name(home):
    path = results(home / "a", "org/tiny", 10)
    said_, code = failing("lm-eval", path, "--suite", "tiny", "--model", " ")
    assert (said_, code) == ("--model is empty: name the model that the files are of.", 2)


@pytest.mark.parametrize(
    ("suite", "model", "own"),
    [
        ("pythia-160m", "EleutherAI/pythia-160m", True),
        ("pythia-160m", "EleutherAI/pythia-v1.1-160m", True),
        ("pythia-1b", "EleutherAI/pythia-v1.1-1b-bf16", True),
        ("pythia-1.4b-deduped", "EleutherAI/pythia-v1.1-1.4b-deduped", True),
        ("pythia-160m", "EleutherAI/pythia-v1.1-160m-deduped", False),
        ("pythia-160m-deduped", "EleutherAI/pythia-v1.1-160m", False),
        ("pythia-1.4b-deduped", "EleutherAI/intervention-pythia-v1.1-1.4b-deduped", False),
        ("pythia-1b", "EleutherAI/pythia-v1.1-1.4b", False),
        ("pythia-14m", "EleutherAI/pythia-v1.1-1.4b", False),
        ("pythia-160m", "EleutherAI/pythia-160m-seed1", False),
        ("pythia-160m-seed1", "EleutherAI/pythia-160m", False),
        ("pythia-160m", "bigscience/bloom-560m-intermediate", False),
    ],
)
def test_the_published_names_of_pythia(home, suite, model, own):
    path = results(home / "evals", model, 1000)
    if not own:
        assert f"is of the model {model}, not of" in failing("lm-eval", path, "--suite", suite)[0]
        return
    assert said("lm-eval", path, "--suite", suite)["remarks"] == []
    assert query(
        home, "SELECT step, model, own FROM benchmarks JOIN phases USING (suite, phase)"
    ) == [(1000, f"EleutherAI/{suite}", True)]


def test_a_folder_named_after_a_model_of_the_catalogue(home):
    (home / "pythia-410m").mkdir()
    (home / "pythia-410m/410m_step1000.json").write_text('{"results": {"arc": {"acc": 0.5}}}')
    said_, _ = failing("lm-eval", "pythia-410m", "--suite", "pythia-160m")
    assert "is of the model pythia-410m, not of the suite's, EleutherAI/pythia-160m" in said_
    done = run("lm-eval", "pythia-410m", "--suite", "pythia-410m")
    assert "The model is inferred from the name of a folder alone" in done.stderr
    assert query(home, "SELECT model, own FROM benchmarks") == [("EleutherAI/pythia-410m", True)]


def test_the_aliases_of_a_family(home):
    family = SUITE.replace('name = "tiny"', 'name = "fam-{size}"').replace(
        "org/tiny", "org/f-{size}"
    )
    aliases = (
        'aliases = ["old-{size}", "other/f-{size}"]\n\n[family]\nsize = ["1b", "2b"]\n\n[[phases]]'
    )
    (home / "home/suites/fam.toml").write_text(family.replace("[[phases]]", aliases))
    for model in ("org/old-1b", "old-1b", "other/f-1b", "org/f-1b"):
        run("lm-eval", results(home / "a", model, 10), "--suite", "fam-1b")
        assert query(home, OF_MODELS) == [(1, "org/f-1b", True, 0.25)]
        said_, _ = failing("lm-eval", results(home / "a", model, 10), "--suite", "fam-2b")
        assert f"is of the model {model}, not of the suite's, org/f-2b" in said_


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
