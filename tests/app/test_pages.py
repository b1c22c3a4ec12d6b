"""Every page runs without an exception, on a full store, a bare suite, and no store at all."""

import json
import shutil
from dataclasses import replace
from datetime import timedelta

import duckdb
import pytest
from streamlit.testing.v1 import AppTest

from analysis_db.store import Store
from app.options import MAIN
from probes.base import Measurements
from tests.app import synthetic
from tests.app.reading import shown

SCRIPTS = (
    "overview.py", "weights.py", "activations.py", "loss.py", "benchmarks.py", "data_mix.py",
    "moved.py", "probe.py", "training.py", "changes.py", "sql.py",
)  # fmt: skip


def open_page(script, suite=None):
    app = AppTest.from_file(str(MAIN), default_timeout=30).run()
    app.switch_page(f"screens/{script}").run()
    return app.selectbox("suite").select(suite).run() if suite else app


def said(app):
    return " ".join(shown(element.value) for element in (*app.markdown, *app.caption, *app.info))


@pytest.fixture
def full(home, monkeypatch):
    monkeypatch.setenv("WORKBENCH_HOME", str(home))


@pytest.mark.parametrize("suite", ["small", "bare"])
@pytest.mark.parametrize("script", SCRIPTS)
def test_page_runs(full, script, suite):
    app = open_page(script, suite)
    assert not app.exception, app.exception
    assert script == "changes.py" or not app.error, app.error
    assert app.header


@pytest.mark.parametrize("script", ["overview.py", "sql.py"])
def test_without_a_store_a_page_names_the_command(tmp_path, monkeypatch, script):
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path))
    app = open_page(script)
    assert not app.exception
    assert "workbench demo" in [block.value for block in app.code]
    assert not (tmp_path / "metrics.duckdb").exists()


def test_empty_store_names_the_command(tmp_path, monkeypatch):
    with Store(tmp_path / "metrics.duckdb").write():
        pass
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path))
    app = open_page("weights.py")
    assert not app.exception
    assert "workbench demo" in [block.value for block in app.code]


def test_file_that_is_no_store_is_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "metrics.duckdb").write_text("no database")
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path))
    app = open_page("overview.py")
    assert not app.exception
    assert "cannot be opened as a metrics store" in app.error[0].value


def test_a_page_opens_the_store_once_and_lets_go_of_it(home, tmp_path, monkeypatch):
    shutil.copy(home / "metrics.duckdb", tmp_path)
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path))
    monkeypatch.setattr("analysis_db.store.PATIENCE_S", 0.05)
    opened, connect = [], duckdb.connect

    def count(*args, **kwargs):
        opened.append(args)
        return connect(*args, **kwargs)

    monkeypatch.setattr("analysis_db.store.duckdb.connect", count)
    app = AppTest.from_file(str(MAIN), default_timeout=30).run()
    assert not app.exception
    assert len(opened) == 1
    with Store(tmp_path / "metrics.duckdb").write():
        pass


def test_overview_says_what_to_do_next(full):
    app = open_page("overview.py")
    commands = [block.value for block in app.code]
    every = "activations,attention,benchmarks,loss,weights"
    assert f"workbench probe small --phases 12 --probes {every}" in commands
    assert "workbench probe small --phases 9 --probes loss" in commands
    assert "workbench pull small --phases 12" in commands
    assert "ValueError: the tokenizer has no start token" in commands


def test_the_optimizer_is_on_the_page_of_the_weights(home, tmp_path, monkeypatch):
    shutil.copytree(home, tmp_path / "home")
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path / "home"))
    store = Store(tmp_path / "home" / "metrics.duckdb")
    store.register_probes(
        [{"probe": "optimizer", "version": 1, "title": "o", "needs": "optimizer"}], []
    )
    values = [("update_rms", None, layer, "q_proj", None, None, 0.1) for layer in (None, 0, 1)]
    record = synthetic._run(20, "optimizer", failed=False)
    store.write_run(record, {"measurements": synthetic._rows(values)})
    app = open_page("weights.py")
    app.segmented_control("weights_probe").set_value("optimizer").run()
    assert not app.exception, app.exception
    assert "**Phase 1-19,21-24,27**: no optimizer state." in said(app)
    assert "**Phase 26**: not published." in said(app)
    assert "**Phase 25**: not measured." in said(app)


def test_overview_says_what_the_audit_found(full):
    app = open_page("overview.py")
    assert "**Audit of phases 1-3,5** (2026-11-24 12:00 UTC): 2 errors, 1 note." in said(app)
    table = app.table[0].value
    assert [shown(cell) for cell in table.index] == ["1-2", "5"]
    assert [shown(cell) for cell in table["finding"]] == [
        "Phases 1-2 have the same weights.",
        "Stored twice.",
    ]


def test_suite_that_was_never_audited_names_the_command(full):
    app = open_page("overview.py", "bare")
    assert "`workbench audit bare`" in said(app)
    assert not app.table


@pytest.mark.parametrize(
    "script", ["overview.py", "weights.py", "activations.py", "loss.py", "benchmarks.py"]
)
def test_page_explains_phase_26(full, script):
    assert "**Phase 26**: not published" in said(open_page(script))


def test_unknown_step_is_named_on_the_step_axis(full):
    app = open_page("weights.py")
    app.button_group(key="w_x").set_value("step").run()
    assert not app.exception
    assert "**Phase 14**: the step of the checkpoint is not known" in said(app)


def test_metric_picker_changes_definition(full):
    app = open_page("weights.py")
    assert "sqrt(mean w^2)" in said(app)
    app.selectbox("w_metric").select("alpha").run()
    assert not app.exception
    assert "the learnable scale" in said(app)


def test_value_that_does_not_exist_is_explained(full):
    app = open_page("activations.py")
    app.selectbox("activations_metric").select("residual_growth").run()
    assert "No value in 1 places (phase 3): made up." in said(app)


def test_largest_activations_are_shown_with_their_places(full):
    app = open_page("activations.py")
    assert app.dataframe[-1].value["text"].tolist() == ["<s>"] * len(app.dataframe[-1].value)
    app.selectbox("activations_module").select("mlp").run()
    assert not app.exception
    assert not app.dataframe


@pytest.fixture
def scoped(home, tmp_path, monkeypatch):
    """The full store, phase 20 measured again by a probe that knows scopes."""
    shutil.copytree(home, tmp_path / "home")
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path / "home"))
    found = Measurements()
    for layer in range(2):
        place = {"module": "residual", "layer": layer}
        found.add("variance_mean", 3000.0, **place)
        found.add("variance_mean", 52.0, scope="no_start", **place)
        found.add("variance_mean", 50.0, scope="no_massive", **place)
        found.add("kurtosis_excess", 1.0, **place)
        found.add("kurtosis_excess", 2.0, scope="no_start", **place)
        found.add("kurtosis_excess", None, scope="no_massive", reason="all are equal", **place)
        found.add("variance_median", 49.0, **place)
    record = synthetic._run(20, "activations", failed=False)
    later = record.started_at + timedelta(days=1)
    record = replace(record, run_id="again", fingerprint="again", started_at=later)
    Store(tmp_path / "home" / "metrics.duckdb").write_run(record, found.tables())


def drawn_in(app):
    """The values that the lines of the page are drawn from, and the titles of its charts."""
    drawn = [json.loads(chart.proto.spec) for chart in app.get("plotly_chart")]
    return drawn, [figure["layout"]["title"]["text"] for figure in drawn]


def test_the_median_is_drawn_first_and_the_page_says_why(scoped):
    app = open_page("activations.py")
    assert not app.exception, app.exception
    assert app.selectbox("activations_metric").value == "variance_median"
    assert "a single massive element of the start token" in said(app)
    assert not [box for box in app.selectbox if box.key == "activations_scope"]


def test_a_mean_is_drawn_without_massive_tokens_unless_the_reader_chooses(scoped):
    app = open_page("activations.py")
    app.selectbox("activations_metric").select("variance_mean").run()
    scope = app.selectbox("activations_scope")
    assert scope.value == "no_massive"
    assert scope.options == ["all tokens", "without start tokens", "without massive tokens"]
    assert "the statistic without massive tokens" in said(app)
    assert "variance_mean of residual · without massive tokens" in drawn_in(app)[1][0]
    app.selectbox("activations_scope").select("all").run()
    assert not app.exception, app.exception
    assert "variance_mean of residual · all tokens" in drawn_in(app)[1][0]
    names = [button.proto.id for button in app.get("download_button")]
    assert any("all-tokens" in name for name in names), names


def test_downloads_carry_the_scope(scoped, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        "app.explorer.chart", lambda fig, shown, name, alt: drawn.append((name, shown))
    )
    app = open_page("activations.py")
    app.selectbox("activations_metric").select("variance_mean").run()
    assert not app.exception, app.exception
    for name, shown_rows in drawn[-2:]:
        assert "without massive tokens" in name
        assert set(shown_rows["scope"]) == {"no_massive"}
        assert set(shown_rows["value"]) == {50.0}


def test_a_value_that_a_scope_lacks_is_explained(scoped):
    app = open_page("activations.py")
    app.selectbox("activations_metric").select("kurtosis_excess").run()
    assert not app.exception, app.exception
    assert app.selectbox("activations_scope").value == "no_massive"
    assert "No value in 2 places (phase 20): all are equal." in said(app)
    app.selectbox("activations_scope").select("no_start").run()
    assert "No value" not in said(app)


def test_a_store_without_scopes_draws_what_it_has(full):
    app = open_page("activations.py")
    assert app.selectbox("activations_metric").value == "variance_mean"
    assert not [box for box in app.selectbox if box.key == "activations_scope"]


def test_attention_heads_can_be_told_apart(full):
    app = open_page("activations.py")
    app.button_group(key="probe").set_value("attention").run()
    app.selectbox("attention_head").select("head 1").run()
    assert not app.exception


def test_moved_warns_before_it_shows_numbers(full):
    app = open_page("moved.py")
    warning = shown(app.warning[0].value)
    assert "22 changes between phases are few" in warning
    assert "Left out, over another number of phases than most: 11 to 13, 25 to 27." in warning
    table = app.dataframe[0].value
    assert {"Spearman", "Pearson", "n", "p (permutation)", "p adjusted"} <= set(table.columns)
    assert set(table["n"]) == {22}
    app.toggle("moved_gaps").set_value(True).run()
    assert set(app.dataframe[0].value["n"]) == {24}
    app.toggle("moved_gaps").set_value(False).run()
    app.selectbox("moved_with").select("benchmark scores").run()
    assert not app.exception
    assert "measured cloze acc 0-shot n=200" in app.dataframe[0].value["companion"].tolist()
    app.selectbox("moved_probe").select("loss").run()
    app.button_group(key="moved_layers").set_value("each").run()
    assert not app.exception
    assert set(app.dataframe[0].value["of"]) == {"chinese", "code", "maths", "web"}


def test_moved_says_what_is_missing(full):
    app = open_page("moved.py", "bare")
    assert "workbench probe bare" in [block.value for block in app.code]


def test_sql_runs_refuses_and_limits(full):
    app = open_page("sql.py")
    app.text_area("q").set_value("SELECT 41 + 1 AS answer").run()
    assert app.dataframe[0].value["answer"].tolist() == [42]
    app.text_area("q").set_value("SELECT * FROM read_csv('/etc/passwd')").run()
    assert not app.exception
    assert len(app.error) == 1
    assert "disabled" in app.code[0].value
    app.text_area("q").set_value("SELECT * FROM training_steps").run()
    app.number_input("rows").set_value(100).run()
    assert len(app.dataframe[0].value) == 100
    assert "there are more" in said(app)


def open_sql(**address):
    app = AppTest.from_file(str(MAIN), default_timeout=60)
    app.query_params.update(address)
    app.switch_page("screens/sql.py")
    return app.run()


def test_sql_limits_in_the_address_are_applied(full):
    app = open_sql(q="FROM training_steps WHERE step > $n", params="n=1", rows="7", seconds="33")
    assert not app.error
    assert len(app.dataframe[0].value) == 7
    assert [app.number_input(k).value for k in ("rows", "seconds", "memory")] == [7, 33, 2]
    assert (app.query_params["rows"], app.query_params["seconds"]) == ("7", "33")
    app = open_sql(q="SELECT sleep_ms(60000)", seconds="1")
    assert "stopped after 1 s" in app.code[0].value


@pytest.mark.parametrize(
    "limit", [{"rows": "0"}, {"rows": "100001"}, {"seconds": "1e9"}, {"memory": "x`*"}]
)
def test_sql_limit_in_the_address_that_cannot_be_used_is_refused(full, limit):
    ((name, value),) = limit.items()
    app = open_sql(q="SELECT 1", **limit)
    assert "The query was not run." in app.error[0].value
    assert f"{name}={value}, which is not a whole number from 1 to" in app.code[0].value
    assert "rows" not in " ".join(c.value for c in app.caption)
    app.run()
    assert not app.error


def test_sql_example_fills_the_editor(full):
    app = open_page("sql.py")
    app.selectbox("example").select("Slowest runs").run()
    assert "ORDER BY seconds DESC" in app.text_area("q").value
    assert "Which measurements took longest" in said(app)
    assert not app.error


def test_sql_takes_parameters(full):
    app = open_page("sql.py")
    app.text_area("q").set_value("SELECT phase FROM phases WHERE suite = $s AND phase > $p").run()
    assert "$p" in app.code[0].value
    app.text_area("params").set_value("s=small\np=25").run()
    assert not app.error
    assert app.dataframe[0].value["phase"].tolist() == [26, 27]


def test_sql_saves_and_deletes_a_query(home, full):
    app = open_page("sql.py")
    app.text_area("q").set_value("SELECT 7 AS seven").run()
    app.text_input("save_name").set_value("../mine")
    save = next(b for b in app.button if b.label == "Save this query")
    save.click().run()
    assert "A name has" in app.error[0].value
    app.text_input("save_name").set_value("my seven")
    next(b for b in app.button if b.label == "Save this query").click().run()
    assert (home / "queries/my seven.sql").read_text() == "SELECT 7 AS seven"
    app.text_area("q").set_value("SELECT 8 AS eight").run()
    app.selectbox("example").select("saved: my seven").run()
    assert app.text_area("q").value == "SELECT 7 AS seven"
    app.button("delete").click().run()
    assert not app.exception
    assert list((home / "queries").iterdir()) == []


def reduced():
    import pandas as pd
    import streamlit as st

    from app.explorer import Choice, _reduce

    at = {"phase": 1, "label": "phase 1", "step": 10, "tokens_b": 0.5, "layer": 0, "domain": None}
    values = pd.DataFrame(
        [at | {"head": head, "value": v} for head, v in ((None, 10.0), (0, 1.0), (1, 3.0))]
    )
    row = pd.Series({"by_domain": False, "by_head": True})
    choice = Choice("spectra", "effective_rank", "stored", "q_proj", row, "phase", log=False)
    st.dataframe(_reduce(values, choice, "k")[0])


@pytest.mark.parametrize(
    ("how", "value"), [("as a whole", 10.0), ("mean over heads", 2.0), ("head 1", 3.0)]
)
def test_a_matrix_as_a_whole_is_none_of_its_heads(how, value):
    app = AppTest.from_function(reduced).run()
    assert app.selectbox("k_head").value == "as a whole"
    app.selectbox("k_head").select(how).run()
    assert app.dataframe[0].value["value"].tolist() == [value]


def test_any_probe_offers_those_with_values_and_shows_them(full):
    app = open_page("probe.py")
    assert app.selectbox("any_probe").options == ["activations", "attention", "loss", "weights"]
    app.selectbox("any_probe").select("loss").run()
    app.selectbox("any_loss_metric").select("nll").run()
    modules = app.selectbox("any_loss_module")
    assert modules.value == "as a whole"
    assert modules.options[1:4] == ["position 1-15", "position 16-31", "position 32-63"]
    assert modules.options[-2:] == ["position 128-255", "position 256-511"]
    modules.select("position 256-511").run()
    assert not app.exception
    assert "**nll** [nats/token]" in said(app)


def test_loss_by_position_follows_domain_and_phases(full):
    app = open_page("loss.py")
    assert app.selectbox("loss_domain").value == "web"
    assert app.multiselect("loss_phases").value[0] == 1
    assert app.multiselect("loss_phases").value[-1] == 27
    assert "in the same windows: phase 1-8,10-11,13-25 · phase 27." in said(app)
    app.selectbox("loss_domain").select("code").run()
    app.multiselect("loss_phases").set_value([2, 27]).run()
    assert not app.exception
    app.multiselect("loss_phases").set_value([]).run()
    assert "Choose at least one phase." in said(app)


def test_benchmarks_stand_by_group_and_beside_the_published(full):
    app = open_page("benchmarks.py")
    assert app.selectbox("beside_benchmark").options == ["LAMBADA"]
    assert app.selectbox("bench_group").options == ["published", "shipped"]
    assert "It is not the error over seeds." in said(app)
    assert "compare trends, not digits" in said(app)
    drawn = json.loads(app.get("plotly_chart")[0].proto.spec)["data"]
    of_imported = [t for t in drawn if str(t.get("name")).startswith("imported") and "text" in t]
    assert [(t["x"], t["y"]) for t in of_imported] == [([5], [40.0])]  # the suite's own alone
    (imported,) = (f.value for f in app.dataframe if "imported_from" in f.value)
    assert sorted(map(tuple, imported[["of", "value"]].values)) == [
        ("an unknown model", 0.8), ("another model", 0.9), ("the suite", 0.4),
    ]  # fmt: skip
    assert "Scores of another model, or of an unknown one, appear in this table alone" in said(app)
    app.selectbox("bench_group").select("shipped").run()
    assert not app.exception
    assert app.multiselect("tasks_shipped_acc").value == ["cloze", "next_word"]
