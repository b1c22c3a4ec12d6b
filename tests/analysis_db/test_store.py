"""Runs go in whole, and come out through the views."""

import subprocess
import sys
from functools import partial
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from analysis_db import Store, StoreBusy, StoreError
from probes.base import Measurements
from tests.analysis_db.conftest import put_suite
from tests.analysis_db.rows import measurements, run

# The public views as promised; what they have beyond that comes after these columns.
CONTRACT = {
    "phases": "suite phase label stage repo_id revision step tokens_b context_length form "
    "has_optimizer on_disk",
    "phase_metrics": "suite phase label step tokens_b probe metric view layer module head domain "
    "value run_id",
    "scoped_metrics": "suite phase label step tokens_b probe metric view layer module head domain "
    "value run_id scope",
    "pair_metrics": "suite phase_a phase_b metric layer module value run_id",
    "pair_runs": "run_id suite phase_a phase_b kind exact identical reason computed_at",
    "sketches": "suite phase probe kind view layer module values n norm digest run_id",
    "identity_alarms": "suite phase_a phase_b label_a label_b run_id",
    "histograms": "suite phase probe metric view layer module edges counts run_id",
    "runs": "run_id suite phase probe probe_version settings status started_at seconds device "
    "dtype commit_sha code_version error",
    "coverage": "suite phase probe status reason",
    "benchmark_tasks": "benchmark task_group task shots metric reason",
    "benchmarks": "suite phase model task metric value stderr n shots source",
    "data_mix": "suite phase run source source_group category bucket tokens_b",
    "data_mix_share": "suite phase run source_group category bucket tokens_b share",
    "training_runs": "run recipe seed status",
    "training_steps": "run step tokens metric layer module value",
    "spikes": "series detector start_step end_step peak_step peak_value score recovered_at "
    "run kind severity recovery_steps agreement judges attempt superseded_from note",
    "spike_leads": "series detector start_step attempt leader lead_steps left_at direction "
    "strength look_back quiet_look_backs false_lead_rate p_value q_value run",
    "spike_scores": "series detector run metric module layer n eligible flags falls "
    "spike_score_all spike_score_eligible nonfinite restarts gaps",
    "metrics": "metric probe version formula unit source",
    "missing_values": "suite phase probe metric view layer module head domain reason run_id",
    "scoped_missing_values": "suite phase probe metric view layer module head domain reason run_id "
    "scope",
    "suites": "suite title about licence",
    "findings": "suite phase repo_id commit_sha severity check_id message evidence found_at",
    "metric_changes": "suite phase_a phase_b phases_apart probe metric view layer module head "
    "domain value_a value_b change relative_change change_per_btoken same_way run_id_a run_id_b",
    "mix_changes": "suite phase_a run_a phase_b run_b phases_apart main_line part_of part share_a "
    "share_b change",
    "score_changes": "suite phase_a phase_b phases_apart source task metric n shots setting "
    "model_a model_b value_a value_b change stderr_of_independent unit",
    "published_and_measured": "suite phase benchmark published_as published_model "
    "published_setting published_shots published_percent measured_task measured_source "
    "measured_metric measured_shots measured_percent measured_stderr measured_n difference "
    "same_shots run_id imported_from",
    "audits": "suite phase repo_id revision commit_sha errors warnings notes bytes_read audited_at",
}


def test_public_views_are_those_promised(store):
    found = store.table(
        "SELECT view_name FROM duckdb_views() WHERE schema_name = 'main' AND NOT internal"
    )
    assert set(found["view_name"].to_pylist()) == set(CONTRACT)


@pytest.mark.parametrize("view", CONTRACT)
def test_view_has_the_promised_columns_in_order(store, view):
    promised = CONTRACT[view].split()
    assert store.table(f"SELECT * FROM {view}").column_names[: len(promised)] == promised


def test_phase_metrics_shows_the_newest_complete_run(store):
    store.write_run(run("newer", minutes=2), measurements(0.5, 0.6))
    store.write_run(run("older", minutes=1), measurements(0.1, 0.2, 0.3))
    store.write_run(run("failed", minutes=3, status="failed"), {})
    rows = store.table("SELECT * FROM phase_metrics ORDER BY layer").to_pylist()
    expected = {
        "suite": "s", "phase": 1, "label": "phase 1", "step": 10, "tokens_b": 0.5,
        "probe": "loss", "metric": "nll", "view": None, "layer": 0, "module": None, "head": None,
        "domain": None, "value": 0.5, "run_id": "newer",
    }  # fmt: skip
    assert rows == [expected, expected | {"layer": 1, "value": 0.6}]
    assert store.table("SELECT run_id FROM runs").num_rows == 3


def test_value_that_does_not_exist_is_kept_with_its_reason(store):
    store.write_run(run("a"), measurements(None, 0.5))
    assert store.table("SELECT layer FROM phase_metrics")["layer"].to_pylist() == [1]
    missing = store.table("SELECT layer, reason FROM missing_values").to_pylist()
    assert missing == [{"layer": 0, "reason": "no tokens"}]


def test_values_of_a_run_lie_in_order_of_what_is_asked_for(store):
    found = Measurements()
    for layer, metric in ((1, "rms"), (0, "rms"), (0, "mean")):
        found.add(metric, 0.5, layer=layer)
    store.write_run(run("a"), found.tables())
    rows = store.table("SELECT metric, layer FROM data.measurement ORDER BY rowid").to_pylist()
    expected = [("mean", 0), ("rms", 0), ("rms", 1)]
    assert [(row["metric"], row["layer"]) for row in rows] == expected


def test_reads_of_a_session_share_a_connection(store):
    with store.session() as session:
        with session.read() as first:
            pass
        with session.read() as second:
            assert first is second
        assert session.table("SELECT suite FROM suites").num_rows == 1
        with pytest.raises(StoreError):  # a page asks something that does not exist
            Store(store.path.with_name("none")).table("SELECT 1")
    with pytest.raises(duckdb.ConnectionException):
        first.execute("SELECT 1")
    store.write_run(run("a"), measurements(0.5))  # nothing is held any more


def test_a_session_holds_off_writers_from_its_first_read_on(store, monkeypatch):
    monkeypatch.setattr("analysis_db.store.PATIENCE_S", 0.05)
    with store.session() as session:
        store.write_run(run("a"), measurements(0.5))
        assert session.table("SELECT * FROM phase_metrics").num_rows == 1
        with pytest.raises(StoreBusy):
            store.write_run(run("b"), measurements(0.5))


def test_coverage_has_a_row_for_every_phase_and_probe(store):
    store.write_run(run("a", minutes=1), measurements(0.5))
    store.write_run(run("b", minutes=2, status="failed"), {})
    store.write_run(run("c", phase=2, probe="weights", status="failed"), {})
    rows = store.table("SELECT * FROM coverage").to_pylist()
    assert {(r["phase"], r["probe"]): r["status"] for r in rows} == {
        (1, "loss"): "measured",  # the later failure does not undo it
        (1, "weights"): "missing",
        (2, "loss"): "missing",
        (2, "weights"): "failed",
        (3, "weights"): "absent",
        (3, "loss"): "absent",
    }
    assert len(rows) == 6


def test_sketches_of_a_run_come_back_as_they_were(store):
    found = Measurements()
    found.add_sketch(
        "weight", np.array([0.1, -2.0]), view="effective", layer=3, module="q_proj", n=6, norm=2.5,
        digest="d",
    )  # fmt: skip
    store.write_run(run("a"), found.tables())
    (sketch,) = store.table("SELECT * FROM sketches").to_pylist()
    assert sketch == {
        "suite": "s", "phase": 1, "probe": "loss", "kind": "weight", "view": "effective",
        "layer": 3, "module": "q_proj", "values": [np.float32(0.1), -2.0], "n": 6, "norm": 2.5,
        "digest": "d", "run_id": "a",
    }  # fmt: skip


def test_benchmarks_and_histograms_of_a_run(store):
    tables = {
        "benchmarks": pa.table(
            {"task": ["cloze", "cloze"], "metric": ["acc", "bleu"], "value": [0.25, None],
             "n": [100, 100], "shots": [0, 0]}
        ),
        "histograms": pa.table(
            {"metric": ["log10_abs"], "edges": [[0.0, 1.0, 2.0]], "counts": [[3, 4]]}
        ),
    }  # fmt: skip
    store.write_run(run("a", probe="benchmarks"), tables)
    (score,) = store.table("SELECT * FROM benchmarks").to_pylist()  # bleu has no value: no row
    assert (score["model"], score["value"], score["source"]) == ("Suite S", 0.25, "measured")
    (histogram,) = store.table("SELECT edges, counts FROM histograms").to_pylist()
    assert histogram == {"edges": [0.0, 1.0, 2.0], "counts": [3, 4]}


def scored(*tasks, n=100):
    columns = {"task": list(tasks), "metric": ["acc"] * len(tasks), "value": [0.5] * len(tasks)}
    return {"benchmarks": pa.table({**columns, "n": [n] * len(tasks), "shots": [0] * len(tasks)})}


def test_parts_of_a_probe_are_shown_side_by_side_and_a_newer_one_takes_its_place(store):
    write = partial(run, probe="benchmarks")
    store.write_run(write("a"), scored("cloze"))  # as before there were parts
    store.write_run(write("b", minutes=1, part="word"), scored("word"))
    store.write_run(write("c", minutes=2, part="group"), scored("cloze", "law"))
    store.write_run(write("d", minutes=3, part="word limit 10"), scored("word", n=10))
    store.write_run(write("e", minutes=4, part="law", status="failed"), {})
    found = store.table("SELECT task, n, run_id FROM benchmarks ORDER BY ALL").to_pylist()
    assert [tuple(row.values()) for row in found] == [
        ("cloze", 100, "c"), ("law", 100, "c"), ("word", 10, "d"), ("word", 100, "b"),
    ]  # fmt: skip
    store.write_run(write("f", minutes=5, part="word"), scored("word", n=90))
    found = store.table("SELECT n, run_id FROM benchmarks WHERE task = 'word' ORDER BY ALL")
    assert found.to_pylist() == [{"n": 10, "run_id": "d"}, {"n": 90, "run_id": "f"}]


def test_run_whose_last_table_is_wrong_leaves_nothing(store):
    tables = measurements(0.5, 0.6) | {"histograms": pa.table({"no_such_column": [1]})}
    with pytest.raises(Exception, match="no_such_column"):
        store.write_run(run("a"), tables)
    assert store.table("SELECT * FROM data.run").num_rows == 0
    assert store.table("SELECT * FROM data.measurement").num_rows == 0


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None])
def test_no_nan_and_no_gap_without_a_reason(store, value):
    table = measurements(0.5)["measurements"]
    column = table.column_names.index("value")
    tables = {"measurements": table.set_column(column, "value", pa.array([value], "double"))}
    with pytest.raises(StoreError, match="The probe loss returned a row for phase 1"):
        store.write_run(run("a"), tables)
    assert store.table("SELECT * FROM data.run").num_rows == 0


def test_error_inside_a_write_undoes_it(store):
    def half() -> None:
        with store.write() as connection:
            connection.execute("DELETE FROM data.phase")
            raise KeyError

    with pytest.raises(KeyError):
        half()
    assert store.table("SELECT * FROM phases").num_rows == 3


def test_jobs_of_complete_runs_only(store, tmp_path):
    store.write_run(run("a"), measurements(0.5))
    store.write_run(run("b", status="failed"), {})
    store.write_run(run("c", suite="other"), {})
    assert store.complete_jobs("s") == {(1, "", "print of a")}
    assert Store(tmp_path / "none.duckdb").complete_jobs("s") == set()


def test_suite_and_probes_are_replaced_not_doubled(store):
    put_suite(store)
    assert store.table("SELECT * FROM suites").num_rows == 1
    assert store.table("SELECT * FROM phases").num_rows == 3
    assert store.table("SELECT * FROM metrics").num_rows == 1


def test_parameters_have_names(store):
    frame = store.frame("SELECT phase FROM phases WHERE step > $step", {"step": 15})
    assert frame["phase"].tolist() == [2, 3]


def test_times_are_utc_wherever_the_user_is(store):
    store.write_run(run("a"), measurements(0.5))
    code = (
        "import sys, pathlib, analysis_db\n"
        "store = analysis_db.Store(pathlib.Path(sys.argv[1]))\n"
        "print(store.table('SELECT started_at::VARCHAR AS t FROM runs')['t'][0])\n"
        "print(store.frame('SELECT started_at FROM runs')['started_at'][0])\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(store.path)],
        env={"TZ": "Asia/Shanghai", "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines() == [
        "2026-11-24 00:00:00+00",
        "2026-11-24 00:00:00+00:00",
        "False",
    ]
