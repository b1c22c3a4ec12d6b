"""The store as a notebook sees it."""

import subprocess
import sys

import pytest

import analysis_db
from analysis_db.errors import QueryError
from probes.base import Measurements
from tests.analysis_db.rows import run


@pytest.fixture
def notebook(store):
    for phase in (1, 2):
        found = Measurements()
        for layer in range(3):
            for module in ("q_proj", "k_proj"):
                found.add("rms", phase + layer / 10, view="stored", layer=layer, module=module)
        for head in range(2):
            found.add("rms", -1.0, view="stored", layer=0, module="q_proj", head=head)
        found.add("rms", 9.0, view="stored", module="total")
        store.write_run(run(f"weights {phase}", phase=phase, probe="weights"), found.tables())
    found = Measurements()
    found.add("nll", 2.5, domain="web")
    store.write_run(run("loss 2", phase=2, minutes=1), found.tables())
    return analysis_db.open(store.path)


def test_a_metric_is_phases_by_layers(notebook):
    frame = notebook.metric("rms", module="q_proj")
    assert (frame.index.name, list(frame.index)) == ("phase", [1, 2])
    assert (frame.columns.name, list(frame.columns)) == ("layer", [0, 1, 2])
    assert frame.loc[2].tolist() == [2.0, 2.1, 2.2]
    assert notebook.metric("rms", module="q_proj", head=1).loc[1].tolist() == [-1.0]


def test_a_metric_of_no_layer_has_one_column_and_a_gap_has_no_row(notebook):
    assert notebook.metric("nll")["value"].to_dict() == {2: 2.5}
    assert notebook.metric("rms", module="total")["value"].to_dict() == {1: 9.0, 2: 9.0}


@pytest.mark.parametrize(
    ("metric", "where", "says"),
    [
        ("rms", {}, "more than one module: choose k_proj, q_proj, total"),
        ("rms", {"module": "o_proj"}, "no value of rms, module o_proj"),
        ("rsm", {}, "no value of rsm"),
        ("rms", {"layer": 1}, "layer tells no values apart: choose by suite"),
    ],
)
def test_what_is_asked_badly(notebook, metric, where, says):
    with pytest.raises(QueryError, match=says) as caught:
        notebook.metric(metric, **where)
    assert "\n" not in str(caught.value)


def test_sql_frames_and_arrow(notebook):
    query = "SELECT value FROM phase_metrics WHERE metric = $m"
    assert notebook.sql(query, {"m": "nll"})["value"].tolist() == [2.5]
    assert notebook.arrow(query, {"m": "nll"})["value"].to_pylist() == [2.5]
    with pytest.raises(QueryError, match="nowhere does not exist"):
        notebook.sql("FROM nowhere")


def test_coverage_and_runs(notebook):
    coverage = notebook.coverage()
    assert coverage.loc[("s", 2)].to_dict() == {"loss": "measured", "weights": "measured"}
    assert coverage.loc[("s", 3)].to_dict() == {"loss": "absent", "weights": "absent"}
    assert notebook.runs()["run_id"].tolist()[0] == "loss 2"


def test_it_loads_no_torch():
    code = "import sys, analysis_db; analysis_db.open('x'); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
