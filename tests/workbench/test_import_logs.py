"""`workbench import` of training logs: restarts, second runs, dialects, folders, patterns."""

import json

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from analysis_db import Store, StoreError
from workbench.cli import app, spikes  # noqa: F401
from workbench.cli import imports as _imports  # noqa: F401
from workbench.errors import UsageError


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def remarks(*words):
    done = CliRunner().invoke(app, ["import", *map(str, words), "--json"])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)["remarks"]


def query(home, sql, **params):
    rows = Store(home / "home/metrics.duckdb").table(sql, params).to_pylist()
    return [tuple(row.values()) for row in rows]


def steps(home, run, metric="loss"):
    sql = "SELECT step FROM data.training_step WHERE run = $run AND metric = $m ORDER BY rowid"
    return [step for (step,) in query(home, sql, run=run, m=metric)]


def runs(home):
    return [run for (run,) in query(home, "SELECT run FROM training_runs ORDER BY run")]


def refused(home, *words):
    with pytest.raises(StoreError) as failed:
        remarks(*words)
    assert not (home / "home/metrics.duckdb").exists()
    return str(failed.value)


MEGATRON = (
    " [2026-01-01 00:00:00] iteration {step:8d}/  500000 | consumed samples: 256 | elapsed time "
    "per iteration (ms): 500.1 | learning rate: 1.500E-05 | global batch size:   256 | "
    "lm loss: {loss:.6E} | loss scale: 1.0 | grad norm: 2.250 | number of nan iterations: 0 |\n"
)


def test_a_megatron_log_with_two_restarts(home):
    lines = ["> initializing torch distributed ...\n"]
    for first, last in ((100, 5000), (4100, 6000), (5600, 7000)):
        lines += [
            MEGATRON.format(step=step, loss=9 - step / 1000)
            for step in range(first, last + 1, 100)
        ]  # fmt: skip
    (home / "train.log").write_text("".join(lines))
    said = remarks("log", "train.log", "--run", "a", "--pattern", "megatron")
    assert said == [
        "train.log: 85 of 86 lines match the pattern.",
        "train.log, line 52: restart, the step goes back from 5,000 to 4,100; 30 values logged "
        "before are superseded (lr, loss, grad_norm).",
        "train.log, line 72: restart, the step goes back from 6,000 to 5,600; 15 values logged "
        "before are superseded (lr, loss, grad_norm).",
    ]
    # a restart is no run: there is nothing to split
    said = remarks("log", "train.log", "--run", "a", "--pattern", "megatron", "--split")
    assert "The log of a holds only one run, there is nothing to split." in said
    assert runs(home) == ["a"]


def nanogpt(run, last):
    lines = [f"run {run}\n"]
    for step in range(0, last + 1, 10):
        if step % 100 == 0:
            lines.append(f"step {step}: train loss 4.{run}, val loss 4.{run}5\n")
        lines.append(f"iter {step}: loss 3.{run}, time 99.12ms, mfu 12.3%\n")
    return "".join(lines)


NAME = "*a*[red]$x"


def test_a_log_of_two_runs_is_reported_and_split(home):
    (home / "train.txt").write_text(nanogpt(1, 300) + nanogpt(2, 200))
    words = ["log", "train.txt", "--run", NAME, "--pattern", "nanogpt"]
    said = remarks(*words)
    begins = 1 + 31 + 4 + 2
    assert said[1:] == [
        f"train.txt, line {begins}: the step goes back from 300 to 0, the beginning: a second run "
        "or an attempt from the beginning.",
        f"The log holds 2 runs that are stored as one, {NAME}, in which the last one at a step "
        f"supersedes the others: --split stores {NAME}-1 to {NAME}-2.",
    ]
    assert runs(home) == [NAME]
    said = remarks(*words, "--split")
    assert f"The log of {NAME} holds 2 runs: {NAME}-1, {NAME}-2." in said
    assert f"The run {NAME} of an earlier import is replaced by these." in said
    assert runs(home) == [f"{NAME}-1", f"{NAME}-2"]
    assert steps(home, f"{NAME}-1") == list(range(0, 301, 10))
    assert steps(home, f"{NAME}-2", "val_loss") == [0, 100, 200]
    sql = "SELECT DISTINCT value FROM training_steps WHERE metric = 'loss' AND run = $run"
    values = query(home, sql, run=f"{NAME}-2")
    assert values == [(3.2,)]
    # imported again, it replaces what it brought, split or not
    (home / "train.txt").write_text(nanogpt(1, 300) + nanogpt(2, 200) + nanogpt(3, 50))
    remarks(*words, "--split")
    assert runs(home) == [f"{NAME}-{i}" for i in (1, 2, 3)]
    remarks(*words)
    assert runs(home) == [NAME]


def test_a_part_of_a_split_never_replaces_a_run_of_another_import(home):
    (home / "one.csv").write_text("step,loss\n1,1\n")
    (home / "two.csv").write_text("step,loss\n1,2\n2,2\n1,3\n2,3\n")
    remarks("csv", "one.csv", "--run", "a-2")
    with pytest.raises(StoreError, match=r"a run a-2 that was imported from one.csv as a-2"):
        remarks("csv", "two.csv", "--run", "a", "--split")
    assert runs(home) == ["a-2"]
    remarks("csv", "two.csv", "--run", "b", "--split")
    with pytest.raises(StoreError, match=r"a run b-1 that was imported from two.csv as b"):
        remarks("csv", "one.csv", "--run", "b-1")
    assert steps(home, "b-2") == [1, 2]


def write_jsonl(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def test_a_restart_of_a_log_that_begins_late_and_shows_it_in_some_series_later(home):
    """Evaluations every 100 steps go back only at 600; the log begins at step 401."""
    records = []
    for first, last in ((401, 650), (501, 700)):
        for step in range(first, last + 1):
            record = {"step": step, "loss": 1.0}
            if step % 100 == 0:
                write = {"step": step, "eval_loss": 2.0}
                records.append(write)
            records.append(record)
    write_jsonl(home / "log.jsonl", records)
    said = remarks("jsonl", "log.jsonl", "--run", "a")
    assert said[0].startswith(
        "log.jsonl, line 253: restart, the step goes back from 650 to 501; 150 values logged "
        "before are superseded (loss)."
    )
    assert not [line for line in said if "second run" in line]


def test_a_restart_whose_first_record_is_a_sparse_one_is_no_second_run(home):
    """nanoGPT resumes at 100 and evaluates first: 100 is no beginning, though evals go by 100."""
    (home / "log.txt").write_text(
        "".join(f"iter {step}: loss 3.0, time 1ms\n" for step in range(0, 160, 10))
        .replace("iter 100:", "step 100: train loss 3, val loss 3\niter 100:")
        + "step 100: train loss 3, val loss 3\n"
        + "".join(f"iter {step}: loss 3.0, time 1ms\n" for step in range(100, 200, 10))
    )  # fmt: skip
    said = remarks("log", "log.txt", "--run", "a", "--pattern", "nanogpt")
    assert "restart, the step goes back from 150 to 100" in " ".join(said)
    assert "second run" not in " ".join(said)


def test_results_that_arrive_late_are_no_restart_of_the_run(home):
    records = [{"step": step, "loss": 1.0} for step in range(1, 301)]
    records.insert(250, {"step": 200, "eval": 1.0})
    records.insert(280, {"step": 100, "eval": 1.0})
    write_jsonl(home / "log.jsonl", records)
    said = remarks("jsonl", "log.jsonl", "--run", "a", "--split")
    assert said[:2] == [
        "The log of a holds only one run, there is nothing to split.",
        "log.jsonl, line 281: eval alone goes back from 200 to 100 while other series continue: "
        "its values from step 100 on, 1, are superseded.",
    ]


def test_restarts_over_files_in_the_order_of_their_numbers(home):
    (home / "logs").mkdir()
    parts = [range(1, 51), range(51, 101), range(81, 131)]
    for number, part in zip((1, 2, 10), parts, strict=True):
        write_jsonl(home / f"logs/l-{number}.jsonl", [{"step": s, "loss": 1.0} for s in part])
    said = remarks("jsonl", "logs/l-*.jsonl", "--run", "a")
    assert said == [
        "logs/l-*.jsonl matches 3 files, read in this order: logs/l-1.jsonl, logs/l-2.jsonl, "
        "logs/l-10.jsonl.",
        "logs/l-10.jsonl, line 1: restart, the step goes back from 100 to 81; 20 values logged "
        "before are superseded (loss).",
    ]
    assert steps(home, "a") == [*range(1, 101), *range(81, 131)]


def test_a_pattern_of_names_without_a_file_and_one_of_several_where_one_is_meant(home):
    assert refused(home, "csv", "logs/*.csv", "--run", "a") == (
        "No file matches logs/*.csv; nothing was imported."
    )
    for number in (1, 2):
        (home / f"w{number}.csv").write_text("Step,a - loss\n1,2\n")
    says = refused(home, "wandb", "w?.csv")
    assert says.startswith("w?.csv matches 2 files, from w1.csv to w2.csv: name one of them")
    assert remarks("wandb", "w1*.csv") == []
    (home / "log[1].csv").write_text("step,loss\n1,2\n")  # such a file is no pattern
    remarks("csv", "log[1].csv", "--run", "b")
    assert runs(home) == ["a", "b"]


def test_what_a_pattern_missed(home):
    (home / "train.txt").write_text("begin\nstep 1 loss 2\nstep 2 loss 1 | step 3 loss 1\n")
    pattern = r"step (?P<step>\d+) loss (?P<loss>\S+)(?: lr (?P<lr>\S+))?"
    assert remarks("log", "train.txt", "--run", "a", "--pattern", pattern) == [
        "train.txt: 2 of 3 lines match the pattern.",
        "train.txt: the group lr of the pattern never matched: nothing was imported for it.",
        "train.txt: 1 lines match the pattern more than once; the first match of each was "
        "imported.",
    ]
    assert steps(home, "a") == [1, 2]


def put_states(folder, *steps):
    for step in steps:
        where = folder / f"checkpoint-{step}"
        where.mkdir(parents=True)
        history = [{"step": s, "loss": 1.0} for s in range(10, step + 1, 10)]
        state = {"global_step": step, "log_history": history}
        (where / "trainer_state.json").write_text(json.dumps(state))


def test_a_folder_of_trainer_states(home):
    put_states(home / "out", 90, 100, 1000)
    (home / "out/checkpoint-last").mkdir()
    said = remarks("trainer-state", "out", "--run", "a")
    assert said == [
        "Read out/checkpoint-1000/trainer_state.json, the newest, of step 1,000; left out those in "
        "out/checkpoint-90, out/checkpoint-100."
    ]
    assert steps(home, "a") == list(range(10, 1001, 10))
    origin = query(home, "SELECT imported_from FROM training_runs")
    assert origin == [("out/checkpoint-1000/trainer_state.json",)]
    # what the trainer saved at the end, beside its checkpoints, is newer
    state = {"global_step": 1005, "log_history": [{"step": 1005, "loss": 0.5}]}
    (home / "out/trainer_state.json").write_text(json.dumps(state))
    assert "Read out/trainer_state.json, the newest" in remarks("trainer-state", "out", "--run",
                                                                "a")[0]  # fmt: skip
    # a damaged newest state is an error, never an older one in its place
    (home / "out/trainer_state.json").unlink()
    (home / "out/checkpoint-1000/trainer_state.json").write_text("{")
    with pytest.raises(StoreError, match=r"checkpoint-1000/trainer_state.json, line 1: not valid"):
        remarks("trainer-state", "out", "--run", "a")
    assert steps(home, "a") == [1005]


def test_a_folder_without_a_trainer_state(home):
    (home / "out/checkpoint-10").mkdir(parents=True)
    assert refused(home, "trainer-state", "out", "--run", "a") == (
        "out holds no trainer_state.json, nor does a folder checkpoint-N in it; nothing was "
        "imported."
    )


def test_a_second_run_in_a_trainer_state(home):
    history = [{"step": s, "loss": 1.0} for s in (*range(10, 101, 10), *range(10, 61, 10))]
    (home / "s.json").write_text(json.dumps({"global_step": 60, "log_history": history}))
    said = remarks("trainer-state", "s.json", "--run", "a")
    assert said[0].startswith("s.json, entry of log_history 11: the step goes back from 100 to 10")
    remarks("trainer-state", "s.json", "--run", "a", "--split")
    assert (steps(home, "a-1")[-1], steps(home, "a-2")) == (100, list(range(10, 61, 10)))


def test_tensorboard_with_add_scalars_is_one_run(home):
    from torch.utils.tensorboard import SummaryWriter

    for steps_logged in (range(20), range(10, 30)):
        with SummaryWriter(home / "tb/run", purge_step=steps_logged[0] or None) as writer:
            for step in steps_logged:
                writer.add_scalar("lr", 0.1, step)
                pair = {"train": 1.0 * step, "val/a": 2.0 * step}
                writer.add_scalars("loss/all", pair, step)
    said = remarks("tensorboard", "tb", "--run", "a")
    assert "Of add_scalars, each key a series: loss/all/train, loss/all/val/a." in said
    assert "restart, the step goes back from 19 to 10; 30 values" in " ".join(said)
    assert "the writer began again at step 10 (purge_step)" in " ".join(said)
    for metric in ("lr", "loss/all/train", "loss/all/val/a"):
        assert steps(home, "a", metric) == [*range(20), *range(10, 30)]
    values = query(home, "SELECT max(value) FROM training_steps WHERE metric = 'loss/all/val/a'")
    assert values == [(58.0,)]
    remarks("tensorboard", "tb", "--run", "a", "--metric", "loss=loss/all/train")
    assert steps(home, "a") == [*range(20), *range(10, 30)]
    with SummaryWriter(home / "tb/run/other") as writer:
        writer.add_scalar("lr", 1.0, 1)
    with pytest.raises(StoreError, match=r"holds the runs tb/run, tb/run/other: import one"):
        remarks("tensorboard", "tb", "--run", "a")


def test_two_runs_of_one_writer_with_add_scalars_are_split(home):
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(home / "tb") as writer:
        for number, last in enumerate((20, 15)):
            for step in range(last):
                writer.add_scalar("lr", 0.1, step)
                writer.add_scalars("loss", {"train": 1.0 * number}, step)
    remarks("tensorboard", "tb", "--run", "a", "--split")
    assert runs(home) == ["a-1", "a-2"]
    for metric in ("lr", "loss/train"):
        assert steps(home, "a-1", metric) == list(range(20))
        assert steps(home, "a-2", metric) == list(range(15))
    assert query(home, "SELECT DISTINCT value FROM training_steps WHERE run = 'a-2' AND metric = "
                       "'loss/train'") == [(1.0,)]  # fmt: skip


def test_a_series_of_add_scalar_and_of_add_scalars_is_not_mixed(home):
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(home / "tb") as writer:
        writer.add_scalar("loss/train", 0.1, 1)
        writer.add_scalars("loss", {"train": 1.0}, 1)
    assert "both wrote the series loss/train" in refused(home, "tensorboard", "tb", "--run", "a")


FRAME = pd.DataFrame(
    {
        "step": [1, 2, 3],
        "tokens_seen": [1000, 2000, 3000],
        "loss": [3.25, np.nan, 2.125],
        "lr": [1e-05, 2e-05, 3e-05],
        "note": ["a; b", "c\td", "e, f"],
    }
)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"sep": ";", "decimal": ","}, "cells separated by semicolons, decimal commas (3,25 is "
         "3.25)"),
        ({"sep": ";"}, "cells separated by semicolons"),
        ({"sep": "\t"}, "cells separated by tabs"),
        ({"sep": "\t", "decimal": ",", "encoding": "utf-16"},
         "cells separated by tabs, decimal commas (3,25 is 3.25), UTF-16"),
        ({"sep": ";", "encoding": "utf-8-sig", "quoting": 1}, "cells separated by semicolons"),
        ({"encoding": "utf-16"}, "UTF-16"),
        ({}, None),
    ],
)  # fmt: skip
def test_dialects_of_csv(home, options, says):
    FRAME.to_csv(home / "log.csv", index=False, **options)
    said = remarks("csv", "log.csv", "--run", "a")
    read = [f"log.csv: read with {says}."] if says else []
    assert said == [*read, "Left out, no numbers: note."]
    assert query(home, "SELECT step, tokens, value FROM training_steps WHERE metric = 'loss'") == [
        (1, 1000, 3.25), (3, 3000, 2.125),
    ]  # fmt: skip
    assert query(home, "SELECT value FROM training_steps WHERE metric = 'lr'") == [
        (1e-5,), (2e-5,), (3e-5,),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("step;loss\n1;2,5\n2;1.5\n", "log.csv, line 3: field loss is '1.5', and '2,5' has another "
         "decimal mark"),
        ("step;loss\n1;2,5\n2;1.234,5\n", "is '1.234,5', and '2,5' has another decimal mark"),
        ('step,loss\n1,"2,5"\n', "line 2: field loss is '2,5': a decimal comma cannot be told from "
         "a separator of thousands"),
        ("step;loss\n1.000;2,5\n", "line 2: field step is '1.000': write whole numbers without"),
        ('step,loss\n"1,000",2\n', "line 2: field step is '1,000': write whole numbers without"),
        ("step;loss\n1;2,5,1\n", "line 2: field loss is '2,5,1', not a number"),
        ("step;loss,step\n1;2,5\n", "line 1: cells may be separated by commas or semicolons"),
        ('step,loss\n1,"2\n2,3\n', "cannot be read as CSV"),
        ("step|loss\n1|2\n", "none of step|loss may hold the step"),
    ],
)  # fmt: skip
def test_a_csv_that_could_be_read_in_two_ways_is_refused(home, text, says):
    (home / "log.csv").write_text(text)
    words = ["csv", "log.csv", "--run", "a", "--metric", "loss"]
    if "step;loss,step" in text or "|" in text:
        words = words[:-2]
    message = refused(home, *words)
    assert says in message
    assert message.endswith("nothing was imported.")


def test_a_decimal_mark_that_changes_in_the_last_row_of_many(home):
    rows = "".join(f"{i};{i},5\n" for i in range(1, 60_001))
    (home / "log.csv").write_text(f"step;loss\n{rows}60001;1.5\n")
    assert "line 60002: field loss is '1.5'" in refused(home, "csv", "log.csv", "--run", "a")


def test_a_wandb_history_says_what_it_left_out(home):
    history = pd.DataFrame({"_step": [*range(5), *range(3, 8)], "_runtime": 1.5,
                            "_timestamp": 1.7e9, "train/loss": 2.5, "empty": np.nan})  # fmt: skip
    history.to_csv(home / "history.csv")
    said = remarks("wandb", "history.csv", "--run", "<b>mine")
    assert said == [
        "history.csv: left out empty, without any value.",
        "history.csv: left out _runtime, _timestamp: extremes of drawn points, and what wandb "
        "records by itself.",
        "history.csv, line 7: restart, the step goes back from 4 to 3; 2 values logged before are "
        "superseded (train/loss).",
    ]


def test_a_jsonl_with_a_key_twice_or_always_null(home):
    (home / "log.jsonl").write_text('{"step": 1, "loss": 2, "loss": 3}\n')
    assert "line 1: field loss is there twice" in refused(home, "jsonl", "log.jsonl", "--run", "a")
    (home / "log.jsonl").write_text('{"step": 1, "a/b": 2, "a": {"b": 3}}\n')
    assert "field a/b is there twice, once as an object" in refused(
        home, "jsonl", "log.jsonl", "--run", "a"
    )
    (home / "log.jsonl").write_text('{"step": 1, "loss": 2, "lr": null}\n')
    assert remarks("jsonl", "log.jsonl", "--run", "a") == [
        "log.jsonl: left out lr, always null."
    ]  # fmt: skip


def test_a_utf16_log_as_powershell_writes_it(home):
    (home / "train.txt").write_text("step:1/9 train_loss:2.5\n", encoding="utf-16")
    remarks("log", "train.txt", "--run", "a", "--pattern", "modded-nanogpt")
    assert steps(home, "a") == [1]


def test_restarts_of_several_runs_of_a_chart_name_their_run(home):
    rows = "".join(f"{step},1,{2 if step < 3 else ''}\n" for step in (1, 2, 3, 4, 3, 5))
    (home / "chart.csv").write_text(f"Step,a - loss,b - loss\n{rows}")
    said = remarks("wandb", "chart.csv")
    assert said == [
        "a: chart.csv, line 6: restart, the step goes back from 4 to 3; 2 values logged before are "
        "superseded (loss)."
    ]


@pytest.mark.parametrize(
    ("metrics", "says"),
    [
        (["loss=a", "loss=b"], "--metric has the name loss twice"),
        (["x=a", "y=a"], "--metric has the column a twice"),
    ],
)
def test_two_columns_never_become_one_series(home, metrics, says):
    (home / "log.csv").write_text("step,a,b\n1,2,3\n")
    with pytest.raises(UsageError, match=says):
        remarks("csv", "log.csv", "--run", "r", "--metric", metrics[0], "--metric", metrics[1])
    remarks("csv", "log.csv", "--run", "r", "--metric", "loss=a", "--metric", "b")
    assert steps(home, "r", "b") == [1]
