"""The page of training runs: restarts, gaps, values that are not finite, spikes, thinning."""

import json

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from analysis_db import queries
from analysis_db.detectors import configured
from analysis_db.imports.csv_log import read_csv_log
from analysis_db.imports.runs import Columns, StepRows, store_imported_runs
from analysis_db.spikes import find_spikes, write_spikes
from analysis_db.store import Store
from app.figures.runs import broken, gap_spans, restart_steps
from app.options import MAIN
from tests.app.reading import shown

LENGTH = 6000


def import_run(store, folder, run, steps, values):
    path = folder / f"{run}.csv"
    path.write_text(
        "step,loss\n" + "\n".join(f"{s},{v}" for s, v in zip(steps, values, strict=True))
    )
    rows = StepRows()
    read_csv_log(path, Columns(None, None, {}), rows)
    store_imported_runs(store, {run: rows}, [path])


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Runs without a suite: ``spiky`` with a spike, ``hurt`` with a restart, a gap and a NaN."""
    folder = tmp_path_factory.mktemp("home")
    store = Store(folder / "metrics.duckdb")
    random = np.random.default_rng(0)
    values = 3 + 0.01 * random.standard_normal(LENGTH)
    values[4000] = 9.0
    import_run(store, folder, "spiky", range(1, LENGTH + 1), values)
    write_spikes(store, find_spikes(store, "spiky"))
    steps = [*range(1, 101), *range(81, 161), *range(1001, 1101)]
    import_run(store, folder, "hurt", steps, ["nan" if s == 1050 else 2.0 for s in steps])
    return folder


@pytest.fixture
def page(home, monkeypatch):
    monkeypatch.setenv("WORKBENCH_HOME", str(home))
    app = AppTest.from_file(str(MAIN), default_timeout=60).run()
    return app.switch_page("screens/training.py").run()


def said(app):
    return " ".join(shown(element.value) for element in app.caption)


def figure(app):
    return json.loads(app.get("plotly_chart")[0].proto.spec)


def test_history_says_what_holds(home):
    history = queries.training_history(Store(home / "metrics.duckdb"), "hurt", "loss", None, None)
    assert len(history) == 280
    overridden = history[~history["holds"]]
    assert overridden["step"].tolist() == list(range(81, 101))
    assert set(overridden["attempt"]) == {1}
    assert restart_steps(history) == [81]
    assert gap_spans(history) == [(160, 1001)]
    x, y = broken(history[history["holds"]].sort_values("step"))
    assert [step for step, value in zip(x, y, strict=True) if value is None] == [1001, 1050]


def test_restart_gap_and_nan_are_said(page):
    page.multiselect("training_runs").set_value(["hurt"]).run()
    assert not page.exception
    text = said(page)
    assert "taken up again from step 81; 20 values were overridden" in text
    assert "steps without a value: 161 to 1,000." in text
    assert "1 values are not finite" in text
    assert "**hurt**: not searched for spikes: loss." in text
    names = [trace.get("name") for trace in figure(page)["data"]]
    assert names == ["hurt", "overridden"]


def test_spikes_are_marked_and_thinning_is_said(page):
    page.multiselect("training_runs").set_value(["spiky"]).run()
    assert not page.exception
    assert "the lowest and the highest value of 2,000 stretches" in said(page)
    assert "not searched" not in said(page)
    line, spike = figure(page)["data"]
    assert len(line["x"]) <= 4000
    assert 9.0 in line["y"]
    assert (spike["x"], spike["y"]) == ([4001], [9.0])


def test_download_has_every_value(page):
    page.multiselect("training_runs").set_value(["spiky", "hurt"]).run()
    labels = [button.label for button in page.get("download_button")]
    assert f"Data (CSV, {LENGTH + 280:,} rows)" in labels


def test_store_without_suite_or_run_names_the_command(tmp_path, monkeypatch):
    with Store(tmp_path / "metrics.duckdb").write():
        pass
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path))
    app = AppTest.from_file(str(MAIN), default_timeout=60).run()
    app.switch_page("screens/training.py").run()
    assert not app.exception
    assert "workbench import trainer-state" in app.code[0].value


def events_table(page):
    return next(frame.value for frame in page.dataframe if "severity_score" in frame.value)


def test_events_are_ranked_and_their_settings_are_said(page):
    page.multiselect("training_runs").set_value(["spiky"]).run()
    assert not page.exception
    table = events_table(page)
    assert table["severity_score"].is_monotonic_decreasing
    assert set(table["start_step"]) == {4001}
    assert set(table["attempt"]) == {1}
    assert "mad window 128 values, threshold 7; olmo2 window 1,000 values" in said(page)


def test_a_search_with_other_settings_shows_what_it_finds_and_stores_nothing(page, home):
    page.multiselect("training_runs").set_value(["spiky", "hurt"]).run()
    page.selectbox("spike_search").set_value("mad").run()
    page.number_input("spike_window_mad").set_value(32).run()
    page.number_input("spike_threshold_mad").set_value(4.0).run()
    assert not page.exception
    text = said(page)
    assert "Found now by mad, window 32 values, threshold 4; not stored." in text
    assert "`workbench spikes RUN --detector mad --window 32 --threshold 4`" in text
    assert "not searched for spikes" not in text
    table = events_table(page)
    assert table.iloc[0][["run", "kind"]].tolist() == ["hurt", "nonfinite"]
    spikes = table[table["kind"] == "spike"]
    assert len(spikes) > 1  # 4 spreads are reached by noise now and then
    assert set(zip(spikes["window_values"], spikes["threshold"], strict=True)) == {(32, 4.0)}
    marks = next(t for t in figure(page)["data"] if t.get("name") == "spike")
    assert len(marks["x"]) == len(spikes)
    stored = Store(home / "metrics.duckdb").table("SELECT DISTINCT window_values FROM spikes")
    assert 32 not in stored["window_values"].to_pylist()
    page.selectbox("spike_search").set_value("as stored").run()
    assert set(events_table(page)["start_step"]) == {4001}


def test_stored_settings_other_than_the_default_are_said(home, monkeypatch, tmp_path):
    store = Store(tmp_path / "metrics.duckdb")
    import_run(store, tmp_path, "r", range(1, 301), [3 + 0.01 * (s % 7) for s in range(1, 301)])
    write_spikes(store, find_spikes(store, "r", detectors=configured({"mad": 40}, {"mad": 9.5})))
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path))
    page = AppTest.from_file(str(MAIN), default_timeout=60).run()
    page = page.switch_page("screens/training.py").run()
    assert not page.exception
    assert "mad window 40 values, threshold 9.5" in said(page)
    assert "No events in the series shown." in said(page)
