"""From the steps in the store to events in the store and on the command line."""

import json
import os
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest

from analysis_db import Store, StoreError
from analysis_db.series import SeriesKey, list_series, read_series, resolve
from analysis_db.spikes import (
    find_spikes,
    incidents,
    spike_events,
    spike_leads,
    spike_scores,
    write_spikes,
)
from analysis_db.store import insert
from bench.simulated_runs import led_run

CONTRACT = [
    "series", "detector", "start_step", "end_step", "peak_step", "peak_value", "score",
    "recovered_at",
]  # fmt: skip


def put_run(store, run, columns, steps=None):
    """``columns``: {(metric, module, layer): values}, NaN stored as NULL; step by step."""
    first = next(iter(columns.values()))
    steps = np.arange(1, len(first) + 1) if steps is None else steps
    n, k = len(steps), len(columns)
    metrics, modules, layers = (
        [key[i] for key in columns] * n for i in range(3)
    )  # fmt: skip
    values = np.stack(list(columns.values()), axis=1).reshape(-1)
    table = pa.table(
        {
            "run": pa.array([run] * n * k),
            "step": pa.array(np.repeat(steps, k)),
            "metric": metrics,
            "module": pa.array(modules, pa.string()),
            "layer": pa.array(layers, pa.int16()),
            "value": pa.array(values, from_pandas=True),
        }
    )
    with store.write() as connection:
        insert(connection, "training_run", [{"run": run, "status": "complete"}])
        insert(connection, "training_step", table)


LOSS, GRAD = ("loss", None, None), ("grad_norm", None, None)
VARIANCE, IDLE = ("hidden_variance", "residual", 3), ("lr", None, None)


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """A store with a run whose variance leads its loss."""
    store = Store(tmp_path_factory.mktemp("spikes") / "metrics.duckdb")
    curves, starts = led_run(0, {"variance": 40}, ("grad_norm", "idle"), count=6000, events=3)
    curves["loss"][5500] = np.nan
    columns = {LOSS: curves["loss"], GRAD: curves["grad_norm"], VARIANCE: curves["variance"],
               IDLE: curves["idle"]}  # fmt: skip
    put_run(store, "a/run", columns)
    return store, starts


def test_series_of_a_run_are_named_and_read_in_the_order_of_the_log(filled):
    store, _ = filled
    names = [key.name for key in list_series(store, "a/run")]
    assert names == ["a/run/grad_norm", "a/run/hidden_variance/residual/3", "a/run/loss",
                     "a/run/lr"]  # fmt: skip
    assert resolve(store, "a/run") == ("a/run", None)
    key = SeriesKey("a/run", "hidden_variance", "residual", 3)
    assert resolve(store, "a/run/hidden_variance/residual/3") == ("a/run", key)
    loss = read_series(store, SeriesKey("a/run", "loss"))
    assert loss.steps.tolist() == list(range(1, 6001))
    assert np.isnan(loss.values).sum() == 1


def test_found_stored_and_read_again(filled):
    store, starts = filled
    found = find_spikes(store, "a/run")
    write_spikes(store, found)
    events = spike_events(store, "a/run")
    assert events.columns.tolist()[:8] == CONTRACT
    loss = events[events["series"] == "a/run/loss"]
    for name in ("olmo_core", "mad"):
        assert loss[loss["detector"] == name]["start_step"].tolist() == starts
    assert loss[loss["kind"] == "nonfinite"]["start_step"].tolist() == [5501]
    computed = found.frames()[0].sort_values(["series", "start_step", "attempt", "detector"])
    assert events["score"].fillna(0).tolist() == computed["score"].fillna(0).tolist()
    leads = spike_leads(store, "a/run", "a/run/loss")
    best = leads[(leads["detector"] == "mad") & leads["lead_steps"].notna()].iloc[0]
    assert best["leader"] == "a/run/hidden_variance/residual/3"
    assert 33 <= best["lead_steps"] <= 41
    assert set(leads["leader"]) == {"a/run/hidden_variance/residual/3", "a/run/grad_norm",
                                    "a/run/lr"}  # fmt: skip
    scores = spike_scores(store, "a/run").set_index(["series", "detector"])
    row = scores.loc[("a/run/loss", "olmo2")]
    assert (row["n"], row["eligible"], row["nonfinite"]) == (5999, 4999, 1)
    assert row["spike_score_eligible"] == pytest.approx(100 * row["flags"] / 4999)
    assert spike_events(store, "a/run", "a/run/lr").empty


def test_writing_again_replaces_the_same_series_and_detector_only(filled):
    store, starts = filled
    write_spikes(store, find_spikes(store, "a/run"))
    before = spike_events(store, "a/run"), spike_leads(store, "a/run"), spike_scores(store, "a/run")
    write_spikes(store, find_spikes(store, "a/run"))
    for old, new in zip(
        before,
        (spike_events(store, "a/run"), spike_leads(store, "a/run"), spike_scores(store, "a/run")),
        strict=True,
    ):
        assert old.astype(str).equals(new.astype(str))
    with store.write() as connection:  # the second spike is gone from the log
        connection.execute(
            "UPDATE data.training_step SET value = 2 + 0.01 * random() "
            "WHERE metric = 'loss' AND step BETWEEN $a AND $a + 20", {"a": starts[1]}
        )  # fmt: skip
    write_spikes(store, find_spikes(store, "a/run/loss", detector="mad"))
    events = spike_events(store, "a/run", "a/run/loss").query("kind == 'spike'")
    by_detector = events.groupby("detector")["start_step"].agg(list)
    assert starts[1] not in by_detector["mad"]
    assert starts[1] in by_detector["olmo_core"]
    leads = spike_leads(store, "a/run", "a/run/loss").query("detector == 'mad'")
    assert starts[1] not in set(leads["start_step"])


def test_nothing_is_replaced_when_writing_fails(filled):
    store, _ = filled
    found = find_spikes(store, "a/run", detector="mad")
    write_spikes(store, found)
    count = len(spike_events(store, "a/run"))
    found.leads[0] = found.leads[0].__class__(**{**vars(found.leads[0]), "leader": None})
    with pytest.raises(Exception, match="NOT NULL"):
        write_spikes(store, found)
    assert len(spike_events(store, "a/run")) == count


def test_incidents_join_what_the_detectors_found(filled):
    store, starts = filled
    found = find_spikes(store, "a/run/hidden_variance/residual/3", detector="mad")
    assert {e.series for e in found.events} == {"a/run/hidden_variance/residual/3"}
    found = find_spikes(store, "a/run", metrics=["loss"])
    events, leads, _ = found.frames()
    rows = incidents(events, leads)
    spikes = rows[rows["kind"] == "spike"]
    assert spikes["start_step"].tolist()[0] == starts[0]
    first = spikes.iloc[0]
    assert {"mad", "olmo_core"} <= set(first["found_by"].split(", "))
    assert [lead["leader"] for lead in first["led_by"]] == ["a/run/hidden_variance/residual/3"]
    assert rows[rows["kind"] == "nonfinite"]["severity"].tolist() == ["severe"]
    empty = incidents(events.iloc[:0], leads.iloc[:0])
    assert empty.empty
    assert empty.columns.tolist() == rows.columns.tolist()


def test_restarts_survive_the_store(tmp_path):
    store = Store(tmp_path / "metrics.duckdb")
    values = np.random.default_rng(0).normal(2, 0.01, 900)
    values[590:600] += 1
    put_run(store, "r", {LOSS: values, GRAD: values}, np.r_[1:601, 501:801])
    found = find_spikes(store, "r", metrics=["loss"], detector="mad")
    assert [(e.start_step, e.superseded_from) for e in found.events] == [(591, 501)]
    assert found.scores[0].restarts == [{"from_step": 600, "to_step": 501}]


def test_what_the_store_does_not_know_is_said_in_a_sentence(tmp_path):
    store = Store(tmp_path / "metrics.duckdb")
    put_run(store, "r", {("lr", None, None): np.ones(5)})
    with pytest.raises(StoreError, match="no training run or series q: name a run"):
        find_spikes(store, "q")
    with pytest.raises(StoreError, match="no training run or series r/loss"):
        find_spikes(store, "r/loss")
    with pytest.raises(StoreError, match="neither loss nor grad_norm"):
        find_spikes(store, "r")
    with pytest.raises(StoreError, match=r"no metric entropy: it has lr\."):
        find_spikes(store, "r", metrics=["entropy"])
    found = find_spikes(store, "r", every=True)
    assert found.events == found.leads == []
    assert any("more than 1,000 values" in remark for remark in found.remarks())


def command(home, *arguments):
    code = "import workbench.cli.spikes; from workbench.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, "spikes", *arguments],
        capture_output=True, text=True, timeout=60,
        env={**os.environ, "WORKBENCH_HOME": str(home), "COLUMNS": "120"},
    )  # fmt: skip


def test_the_command_prints_and_stores(filled):
    store, starts = filled
    home = store.path.parent
    done = command(home, "a/run", "--detector", "olmo_core")
    assert done.returncode == 0, done.stderr
    assert f"{starts[0]}-" in done.stdout
    assert "hidden_variance/residual/3 -" in done.stdout
    assert "Spike scores" in done.stdout
    told = json.loads(command(home, "a/run/loss", "--detector", "mad", "--json").stdout)
    assert {event["detector"] for event in told["events"]} == {"mad", "nonfinite"}
    assert all(isinstance(event["start_step"], int) for event in told["events"])
    assert told["lead_summary"][0]["leader"] == "a/run/hidden_variance/residual/3"
    assert told["scores"][0]["detector"] == "mad"
    assert set(spike_events(store, "a/run")["detector"]) >= {"mad", "olmo_core"}


def test_the_command_says_what_is_wrong(filled):
    home = filled[0].path.parent
    done = command(home, "nothing")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("Error: The store has no training run or series nothing")
    assert command(home, "a/run", "--detector", "best").returncode == 2
