"""Training logs from elsewhere: CSV, wandb, JSONL, text. A wrong line leaves what was there."""

import csv
import json
import math
import re

import numpy as np
import pytest

from analysis_db import Store, StoreError
from analysis_db.imports.csv_log import read_csv_log, read_wandb
from analysis_db.imports.runs import Columns, StepRows, store_imported_runs
from analysis_db.imports.text_logs import PATTERNS, read_jsonl, read_text_log, read_trainer_state
from analysis_db.imports.training_log import import_training_log
from analysis_db.series import SeriesKey, read_series
from analysis_db.spikes import find_spikes, spike_events, spike_scores, write_spikes


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "metrics.duckdb")


@pytest.fixture
def write(tmp_path):
    def write(text, name="log.csv"):
        (tmp_path / name).write_text(text, encoding="utf-8")
        return tmp_path / name

    return write


def put(store, read, *paths, run="r", columns=None):
    rows = StepRows()
    for path in paths:
        read(path, columns or Columns(), rows)
    return store_imported_runs(store, {run: rows}, paths)


def values(store, metric, run="r"):
    """[(step, tokens, value)] in the order of the log."""
    table = store.table(
        "SELECT step, tokens, value FROM data.training_step WHERE run = $run AND metric = $metric "
        "ORDER BY rowid",
        {"run": run, "metric": metric},
    )
    return [tuple(row.values()) for row in table.to_pylist()]


def metrics(store, run="r"):
    table = store.table("SELECT DISTINCT metric FROM training_steps WHERE run = $r", {"r": run})
    return set(table["metric"].to_pylist())


LOG = (
    "step,tokens_seen,loss,host,eval_loss\n"
    "1,10,2.5,a,\n"
    "2,20,nan,b,\n"
    "\n"
    "3,30, 2e0 ,c,1.5\n"
    "2,20,2.25,d,\n"
)


def test_csv_keeps_the_order_of_the_log_and_what_was_not_finite(store, write):
    done = put(store, read_csv_log, write(LOG))
    # The run went back to step 2: both values are kept, in order.
    assert values(store, "loss") == [(1, 10, 2.5), (2, 20, None), (3, 30, 2.0), (2, 20, 2.25)]
    assert values(store, "eval_loss") == [(3, 30, 1.5)]  # not logged is no row
    assert metrics(store) == {"loss", "eval_loss"}
    assert done.stored == [{"run": "r", "metrics": "eval_loss, loss", "last_step": 3, "values": 5}]
    assert done.remarks == ["Left out, no numbers: host.", "1 values are not finite: NULL in the "
                            "store."]  # fmt: skip
    series = read_series(store, SeriesKey("r", "loss"))
    assert series.restarts == [(3, 2)]
    assert np.isnan(series.values[1])
    assert series.current.values.tolist() == [2.5, 2.25]


def test_importing_again_changes_nothing_and_another_run_stays(store, write):
    put(store, read_csv_log, write(LOG))
    put(store, read_csv_log, write(LOG), run="other")
    before = store.table("FROM training_steps ORDER BY ALL"), store.table("FROM training_runs")
    put(store, read_csv_log, write(LOG))
    assert store.table("FROM training_steps ORDER BY ALL").equals(before[0])
    assert store.table("FROM training_runs ORDER BY run").equals(before[1].sort_by("run"))
    put(store, read_csv_log, write("step,loss\n7,1\n"))
    assert values(store, "loss") == [(7, None, 1.0)]
    assert len(values(store, "loss", "other")) == 4


def test_columns_are_chosen_named_and_found_by_name_only_when_one_fits(store, write):
    path = write("iter,step,n,train/loss,lr\n1,10,5,2.5,0.1\n2,20,6,2.0,0.2\n")
    with pytest.raises(StoreError, match=r"line 1: 'step' and 'iter' may hold the step"):
        put(store, read_csv_log, path)
    put(
        store, read_csv_log, path,
        columns=Columns("step", "n", {"train/loss": "loss"}),
    )  # fmt: skip
    assert metrics(store) == {"loss"}
    assert values(store, "loss") == [(10, 5, 2.5), (20, 6, 2.0)]
    with pytest.raises(StoreError, match=r"line 1: there is no column 'loss' among iter, step"):
        put(store, read_csv_log, path, columns=Columns("step", None, {"loss": "loss"}))
    with pytest.raises(StoreError, match=r"line 1: none of x, loss may hold the step"):
        put(store, read_csv_log, write("x,loss\n1,2\n"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("step,loss\n1,2\n2,high\n", "line 3: field loss is 'high', not a number"),
        ("step,loss\n1,2\n\n\n2,1_0\n", "line 5: field loss is '1_0', not a number"),
        ('step,loss,about\n1,2,"two\nlines"\n2,x,y\n', "line 4: field loss is 'x'"),
        ("step,loss\n1,2\n,3\n", "line 3: field step is empty"),
        ("step,loss\n1,2\n-1,3\n", "line 3: field step is '-1', not a whole number from 0 on"),
        ("step,loss\n1,2\n1.5,3\n", "line 3: field step is '1.5', not a whole number"),
        ("step,loss\n1,2\nnan,3\n", "line 3: field step is 'nan', not a whole number"),
        ("step,loss\n1,2\ntwo,3\n", "line 3: field step is 'two', not a number"),
        ("step,tokens_seen,loss\n1,,2\n2,-5,2\n", "line 3: field tokens_seen is '-5', not a whole"),
        ("step,loss\n1,2\n2\n", "line 3: the row has 1 cells, the header 2"),
        ("step,loss,loss\n1,2,3\n", "line 1: field loss is the name of two columns"),
        ("step,host\n1,a\n", "holds no value of any metric"),
        ("step,loss\n", "holds no value of any metric"),
        ("", "line 1: none of  may hold the step"),
    ],
)
def test_a_bad_row_of_a_csv_is_named_and_nothing_stored(store, write, text, says):
    put(store, read_csv_log, write(LOG))
    with pytest.raises(StoreError, match=says) as wrong:
        put(store, read_csv_log, write(text, "wrong.csv"))
    assert "wrong.csv" in str(wrong.value)
    assert len(values(store, "loss")) == 4


def test_text_in_a_column_that_was_asked_for_is_no_text_column(store, write):
    with pytest.raises(StoreError, match="line 2: field host is 'a', not a number"):
        put(store, read_csv_log, write(LOG), columns=Columns(metrics={"host": "host"}))


def test_files_that_cannot_be_read(store, tmp_path):
    (tmp_path / "latin.csv").write_bytes(b"step,loss\n1,\xe9\n")
    (tmp_path / "latin.jsonl").write_bytes(b'{"step": 1, "loss": "\xe9"}\n')
    for read in (read_csv_log, read_jsonl):
        with pytest.raises(StoreError, match=r"latin.* cannot be read"):
            put(store, read, tmp_path / f"latin.{'csv' if read is read_csv_log else 'jsonl'}")
        with pytest.raises(StoreError, match=r"none.* cannot be read"):
            put(store, read, tmp_path / "none")
    assert not store.path.exists()


def test_a_hundred_thousand_rows_over_several_blocks(store, tmp_path):
    path = tmp_path / "long.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["step", "loss", "late"])
        writer.writerows((i, i / 2, i if i > 70_000 else "") for i in range(120_000))
    assert put(store, read_csv_log, path).stored[0]["values"] == 120_000 + 49_999
    steps = read_series(store, SeriesKey("r", "loss"))
    assert np.array_equal(steps.values, np.arange(120_000) / 2)
    assert read_series(store, SeriesKey("r", "late")).steps[0] == 70_001
    with path.open("a") as file:
        file.write("120000,low,1\n")
    with pytest.raises(StoreError, match="line 120002: field loss is 'low'"):
        put(store, read_csv_log, path)


CHART = (
    '"Step","calm-sea-1 - train/loss","calm-sea-1 - train/loss__MIN","calm-sea-1 - train/loss__MAX"'
    ',"wild-sun-2 - train/loss","wild-sun-2 - train/loss__MIN","wild-sun-2 - train/loss__MAX"\n'
    '"1","2.5","2.4","2.6","","",""\n'
    '"2","2.0","1.9","2.1","3.5","3.5","3.5"\n'
)


def put_wandb(store, path, run=None, columns=None):
    runs, _ = read_wandb(path, columns or Columns(), run)
    return store_imported_runs(store, runs, [path])


def test_wandb_chart_holds_a_run_each_and_its_envelopes_are_left_out(store, write):
    done = put_wandb(store, write(CHART))
    assert [row["run"] for row in done.stored] == ["calm-sea-1", "wild-sun-2"]
    assert metrics(store, "calm-sea-1") == {"train/loss"}
    assert values(store, "train/loss", "calm-sea-1") == [(1, None, 2.5), (2, None, 2.0)]
    assert values(store, "train/loss", "wild-sun-2") == [(2, None, 3.5)]
    put_wandb(store, write(CHART), columns=Columns(metrics={"train/loss": "loss"}))
    assert metrics(store, "wild-sun-2") == {"loss"}
    with pytest.raises(StoreError, match="the runs calm-sea-1, wild-sun-2: leave out --run"):
        put_wandb(store, write(CHART), run="one")
    one = {"calm-sea-1 - train/loss": "loss"}
    put_wandb(store, write(CHART), run="one", columns=Columns(metrics=one))
    assert values(store, "loss", "one") == [(1, None, 2.5), (2, None, 2.0)]
    with pytest.raises(StoreError, match="line 1: field lr is not there"):
        put_wandb(store, write(CHART), columns=Columns(metrics={"lr": "lr"}))


def test_wandb_history_of_one_run(store, write):
    text = ",_step,_runtime,_timestamp,train/loss\n0,0,1.5,1.7e9,2.5\n1,1,2.5,1.7e9,\n2,2,3,4,NaN\n"
    with pytest.raises(StoreError, match="no column names a run: name it with --run"):
        put_wandb(store, write(text))
    put_wandb(store, write(text), run="mine")
    assert metrics(store, "mine") == {"train/loss"}
    assert values(store, "train/loss", "mine") == [(0, None, 2.5), (2, None, None)]
    both = text.replace("_runtime", "train/global_step")
    with pytest.raises(StoreError, match="'_step' and 'train/global_step' may hold the step"):
        put_wandb(store, write(both), run="mine")


def test_a_chart_with_one_bad_cell_stores_no_run_of_it(store, write):
    with pytest.raises(StoreError, match=r"line 3: field wild-sun-2 - train/loss is 'x'"):
        put_wandb(store, write(CHART.replace('"2.1","3.5"', '"2.1","x"').replace(
            '"2.6",""', '"2.6","3"')))  # fmt: skip
    assert not store.path.exists()


def test_jsonl_with_objects_in_it(store, write):
    lines = [
        {"step": 1, "train": {"loss": 2.5, "lr": 0.1}, "note": "x", "done": False},
        {"step": 2, "train": {"loss": math.inf, "lr": None}, "tokens": 20},
        {"step": 3, "train": {"loss": 2.0}, "note": "y", "late": 1},
    ]
    path = write("\n".join(map(json.dumps, lines)) + "\n\n", "log.jsonl")
    done = put(store, read_jsonl, path)
    assert values(store, "train/loss") == [(1, None, 2.5), (2, None, None), (3, None, 2.0)]
    assert values(store, "train/lr") == [(1, None, 0.1)]
    assert metrics(store) == {"train/loss", "train/lr", "tokens", "late"}
    assert done.remarks[0] == "Left out, no numbers: note, done."
    columns = Columns("step", "tokens", {"train/loss": "loss", "late": "late"})
    put(store, read_jsonl, path, columns=columns)
    assert values(store, "loss") == [(1, None, 2.5), (2, 20, None), (3, None, 2.0)]
    assert values(store, "late") == [(3, None, 1.0)]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"step": 2, "lo', "line 2: not valid JSON"),
        ("[2]", "line 2: not a JSON object"),
        ('{"loss": 2}', "line 2: field step is missing"),
        ('{"step": "2", "loss": 2}', "line 2: field step is '2', not a whole number"),
        ('{"step": 2.5, "loss": 2}', "line 2: field step is 2.5, not a whole number"),
        ('{"step": true, "loss": 2}', "line 2: field step is True, not a whole number"),
        ('{"step": 2, "loss": "low"}', "line 2: field loss is 'low', not a number"),
        ('{"step": 2, "loss": [1]}', r"line 2: field loss is \[1\], not a number"),
        ('{"step": 2, "tokens_seen": -1, "loss": 2}', "line 2: field tokens_seen is -1"),
    ],
)
def test_a_bad_line_of_jsonl_is_named_and_nothing_stored(store, write, line, says):
    put(store, read_csv_log, write(LOG))
    path = write(f'{{"step": 1, "loss": 2, "tokens_seen": 4}}\n{line}\n', "wrong.jsonl")
    with pytest.raises(StoreError, match=says) as wrong:
        put(store, read_jsonl, path)
    assert "wrong.jsonl" in str(wrong.value)
    assert len(values(store, "loss")) == 4


def test_a_metric_that_was_asked_for_and_never_logged(store, write):
    path = write('{"step": 1, "loss": 2}\n', "log.jsonl")
    with pytest.raises(StoreError, match="has no value of 'grad_norm'"):
        put(store, read_jsonl, path, columns=Columns(metrics={"loss": "l", "grad_norm": "g"}))


def put_text(store, pattern, *paths):
    compiled = re.compile(PATTERNS.get(pattern, pattern))
    rows = StepRows()
    for path in paths:
        read_text_log(path, compiled, rows)
    return store_imported_runs(store, {"r": rows}, paths)


TEXT = """\
torch 2.13, 8 workers
step:0/1000 train_loss:10.8258 train_time:0ms
step:1/1000 train_loss:nan train_time:12ms
checkpoint written
step:2/1000 val_loss:9.5 train_time:20ms
"""


def test_text_by_a_pattern_and_a_restart_in_a_second_file(store, write):
    pattern = r"step:(?P<step>\d+)/\d+ train_loss:(?P<loss>[\d.naif-]+)"
    second = write("step:1/1000 train_loss:8.5\n", "again.txt")
    put_text(store, pattern, write(TEXT, "log.txt"), second)
    assert values(store, "loss") == [(0, None, 10.8258), (1, None, None), (1, None, 8.5)]
    origin = store.table("SELECT imported_from FROM training_runs")["imported_from"].to_pylist()
    assert [name.split("/")[-1] for name in origin[0].split(", ")] == ["log.txt", "again.txt"]
    put_text(store, r"step:(?P<step>\d+)/(?P<tokens>\d+) train_loss:(?P<x>\S+)", second)
    assert values(store, "x") == [(1, 1000, 8.5)]


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("modded-nanogpt", TEXT, {"loss": [(0, 10.8258), (1, None)], "val_loss": [(2, 9.5)]}),
        (
            "nanogpt",
            "step 0: train loss 4.28, val loss 4.27\niter 0: loss 4.26, time 99.1ms, mfu -100%\n",
            {"train_loss": [(0, 4.28)], "val_loss": [(0, 4.27)], "loss": [(0, 4.26)]},
        ),
        (
            "megatron",
            " iteration      100/  500000 | consumed samples:        25600 | elapsed time per "
            "iteration (ms): 500.1 | learning rate: 1.500E-05 | global batch size:   256 | "
            "lm loss: 9.125E+00 | loss scale: 1.0 | grad norm: 2.250 | skipped: 0 |\n",
            {"loss": [(100, 9.125)], "lr": [(100, 1.5e-5)], "grad_norm": [(100, 2.25)]},
        ),
    ],
)
def test_well_known_logs(store, write, name, text, expected):
    put_text(store, name, write(text, "log.txt"))
    assert metrics(store) == set(expected)
    for metric, rows in expected.items():
        assert [(step, value) for step, _, value in values(store, metric)] == rows


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        (r"step:(?P<step>\d+).*loss:(?P<loss>\S+ )", "line 2: field loss is '10.8258 t"),
        (r"(?P<step>[\d.]+), (?P<loss>\d+) workers", "line 1: field step is '2.13'"),
        (r"(?:step:(?P<step>x))?(?P<loss>\d)", "line 1: field step took no part in the match"),
        (r"(?P<step>\d+) nothing (?P<loss>\d+)", "No line of .*log.txt matches the pattern"),
    ],
)
def test_text_that_a_pattern_reads_wrongly(store, write, pattern, says):
    pattern = pattern.replace(r"\S+ )", r"\S+ t)")
    with pytest.raises(StoreError, match=says):
        put_text(store, pattern, write(TEXT, "log.txt"))
    assert not store.path.exists()


STATE = """\
{
  "global_step": 3,
  "log_history": [
    {
      "epoch": 0.1,
      "grad_norm": NaN,
      "learning_rate": 5e-05,
      "loss": 4.5,
      "step": 1
    },
    {
      "eval_loss": 4.25,
      "eval_runtime": 1,
      "step": 1
    },
    {
      "loss": 4.0,
      "step": 2,
      "note": "text"
    }
  ],
  "max_steps": 3
}
"""


def test_trainer_state(store, write):
    put(store, read_trainer_state, write(STATE, "trainer_state.json"))
    assert values(store, "loss") == [(1, None, 4.5), (2, None, 4.0)]
    assert values(store, "eval_loss") == [(1, None, 4.25)]
    assert values(store, "grad_norm") == [(1, None, None)]
    seen = STATE.replace('"eval_runtime": 1', '"num_input_tokens_seen": 64')
    put(store, read_trainer_state, write(seen, "trainer_state.json"))
    assert values(store, "eval_loss") == [(1, 64, 4.25)]
    assert "num_input_tokens_seen" not in metrics(store)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (
            '"loss": 4.0',
            '"loss": "low"',
            "line 17: field log_history.2.loss is 'low', not a number",
        ),
        ('"step": 2', '"step": -2', "line 18: field log_history.2.step is -2, not a whole"),
        ('"step": 2', '"stop": 2', "line 16: field log_history.2 lacks 'step'"),
        ('"log_history"', '"history"', "line 1: the file has no 'log_history'"),
        ('"max_steps": 3', '"max_steps": ', "line 23: not valid JSON"),
        ('"note": "text"', '"loss": 3', "line 19: the key 'loss' is there twice"),
    ],
)
def test_a_wrong_trainer_state_is_named(store, write, old, new, says):
    with pytest.raises(StoreError, match=re.escape(says)):
        put(store, read_trainer_state, write(STATE.replace(old, new), "trainer_state.json"))
    assert not store.path.exists()


def test_a_state_that_the_trainer_of_transformers_wrote(store, tmp_path):
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=64,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
        )
    )
    ids = torch.arange(24 * 16).remainder(64).view(24, 16)
    data = [{"input_ids": row, "labels": row} for row in ids]
    arguments = TrainingArguments(
        output_dir=str(tmp_path), max_steps=6, logging_steps=1, eval_strategy="steps", eval_steps=3,
        save_steps=6, per_device_train_batch_size=4, report_to=[], use_cpu=True, disable_tqdm=True,
        include_num_input_tokens_seen="all",
    )  # fmt: skip
    Trainer(model=model, args=arguments, train_dataset=data, eval_dataset=data[:4]).train()
    path = tmp_path / "checkpoint-6/trainer_state.json"
    put(store, read_trainer_state, path)
    logged = json.loads(path.read_text())["log_history"]
    assert values(store, "loss") == [
        (r["step"], r["num_input_tokens_seen"], r["loss"]) for r in logged if "loss" in r
    ]
    assert [step for step, _, _ in values(store, "loss")] == [1, 2, 3, 4, 5, 6]
    assert [(step, n) for step, n, _ in values(store, "eval_loss")] == [(3, 192), (6, 384)]
    assert {"grad_norm", "learning_rate", "epoch"} < metrics(store)


def test_what_was_found_in_a_run_goes_with_its_rows(store, tmp_path):
    path = tmp_path / "log.csv"
    loss = 2 + 0.01 * np.sin(np.arange(400.0))
    loss[300] = 9
    np.savetxt(path, np.c_[np.arange(400), loss], "%g", ",", header="step,loss", comments="")
    for run in ("r", "other"):
        put(store, read_csv_log, path, run=run)
        write_spikes(store, find_spikes(store, run))
    assert set(spike_events(store, "r")["start_step"]) == {300}
    done = put(store, read_csv_log, path)
    assert "`workbench spikes r` searches again" in done.remarks[0]
    assert spike_events(store, "r").empty
    assert spike_scores(store, "r").empty
    assert len(spike_events(store, "other"))


def test_a_run_that_was_trained_here_is_not_replaced(store, write, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "run.json").write_text('{"run": "r", "status": "complete"}')
    line = {"step": 1, "tokens": 8, "values": {"loss": 2.5}}
    (folder / "log.jsonl").write_text(json.dumps(line) + "\n")
    import_training_log(store, folder)
    with pytest.raises(StoreError, match="a run r that was not imported but trained here"):
        put(store, read_csv_log, write(LOG))
    assert values(store, "loss") == [(1, 8, 2.5)]
    # Recorded again unchanged, what was found in it stays; changed, it goes.
    write_spikes(store, find_spikes(store, "r"))
    assert import_training_log(store, folder) == 1
    assert len(spike_scores(store, "r"))
    (folder / "log.jsonl").write_text(json.dumps(line | {"step": 2}) + "\n")
    assert import_training_log(store, folder) == 1
    assert values(store, "loss") == [(2, 8, 2.5)]
    assert spike_scores(store, "r").empty
