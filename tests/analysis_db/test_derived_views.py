"""The views of derived questions, and the notebook's methods on them."""

import csv

import pyarrow as pa
import pytest

import analysis_db
from analysis_db import Store
from analysis_db.errors import QueryError
from analysis_db.imports.tables import import_data_mix, import_published_scores
from probes.base import Measurements
from tests.analysis_db.rows import SUITE, phase, run

MIX = ("phase", "run", "mix_id", "source", "group", "category", "bucket", "tokens_b")
SCORES = ("model", "phase", "benchmark", "setting", "score", "footnote", "source")


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "metrics.duckdb")
    store.put_suite(SUITE, [phase(number) for number in range(1, 7)])  # 0.5 B tokens each
    return store


def measure(store, number, value, **fields):
    found = Measurements()
    found.add("rms", value, view="effective", layer=0, module="q_proj")
    found.add("rms", -value, view="effective", layer=1, module="q_proj")
    record = run(f"weights {number}", phase=number, probe="weights", **fields)
    store.write_run(record, found.tables())


def score(store, number, value, task="LAMBADA", metric="acc", n=200):
    row = {"task": task, "metric": metric, "value": value, "stderr": 0.03, "n": n, "shots": 0}
    record = run(f"{task} {number}", phase=number, probe="benchmarks")
    store.write_run(record, {"benchmarks": pa.Table.from_pylist([row])})


def write(path, columns, rows):
    with path.open("w", newline="") as out:
        csv.writer(out).writerows([columns, *rows])
    return path


def put_mix(store, tmp_path, *rows):
    """Rows of phase, run, source, category, tokens_b."""
    full = [(p, r, "m", s, s, c, s, t) for p, r, s, c, t in rows]
    import_data_mix(store, "s", write(tmp_path / "mix.csv", MIX, full))


def put_scores(store, tmp_path, *rows):
    full = [(*row, "", "table") for row in rows]
    import_published_scores(store, "s", write(tmp_path / "scores.csv", SCORES, full))


def test_change_from_phase_to_phase_and_over_a_gap(store):
    measure(store, 1, 2.0)
    measure(store, 2, 3.0)
    measure(store, 4, 1.5, settings_hash="1")
    rows = store.table("FROM metric_changes WHERE layer = 0 ORDER BY phase_a").to_pylist()
    assert [(r["phase_a"], r["phase_b"], r["phases_apart"]) for r in rows] == [(1, 2, 1), (2, 4, 2)]
    assert [(r["change"], r["relative_change"]) for r in rows] == [(1.0, 0.5), (-1.5, -0.5)]
    assert [r["change_per_btoken"] for r in rows] == [2.0, -1.5]
    assert [r["same_way"] for r in rows] == [True, False]  # other settings
    assert (rows[1]["run_id_a"], rows[1]["run_id_b"]) == ("weights 2", "weights 4")
    relative = "SELECT relative_change AS r FROM metric_changes WHERE layer = 1 ORDER BY phase_a"
    assert store.table(relative)["r"].to_pylist() == [-0.5, 0.5]  # -2 to -3 is a fall


def test_superseded_run_is_not_the_phase_before(store):
    measure(store, 1, 2.0)
    measure(store, 2, 3.0)
    found = Measurements()
    found.add("rms", 5.0, view="effective", layer=0, module="q_proj")
    store.write_run(run("again", phase=2, probe="weights", minutes=9), found.tables())
    rows = store.table("SELECT phase_a, change FROM metric_changes WHERE layer = 0").to_pylist()
    assert rows == [{"phase_a": 1, "change": 3.0}]


def test_change_from_zero_has_no_relative_change(store):
    measure(store, 1, 0.0)
    measure(store, 2, 3.0)
    rows = store.table("FROM metric_changes").to_pylist()
    assert [row["relative_change"] for row in rows] == [None, None]


def test_mix_of_a_phase_with_two_runs(store, tmp_path):
    put_mix(
        store, tmp_path,
        (1, "1", "web", "english-web", 0.4), (1, "1", "books", "english-general", 0.1),
        (2, "2-long", "web", "english-web", 0.3), (2, "2-long", "sums", "math", 0.2),
        (2, "2-short", "web", "english-web", 0.42),
        (4, "4", "web", "english-web", 0.5),
    )  # fmt: skip
    rows = store.table(
        "FROM mix_changes WHERE part_of = 'category' AND part = 'math' ORDER BY ALL"
    ).to_pylist()
    found = [(r["run_a"], r["run_b"], r["phases_apart"], r["main_line"], r["change"]) for r in rows]
    assert found == [
        ("1", "2-long", 1, True, pytest.approx(0.4)),  # its 0.5 B tokens are those of the phase
        ("1", "2-short", 1, False, 0.0),
        ("2-long", "4", 2, True, pytest.approx(-0.4)),
        ("2-short", "4", 2, False, 0.0),
    ]
    total = store.table("SELECT sum(change) AS t FROM mix_changes GROUP BY part_of, run_a, run_b")
    assert total["t"].to_pylist() == pytest.approx([0.0] * 8)


def test_no_run_is_chosen_where_none_fits_alone(store, tmp_path):
    for tokens in (0.5, 0.4):
        put_mix(
            store, tmp_path, (1, "1", "web", "english-web", 0.5),
            (2, "a", "web", "english-web", tokens), (2, "b", "sums", "math", tokens),
        )  # fmt: skip
        lines = store.table("SELECT DISTINCT main_line FROM mix_changes")["main_line"].to_pylist()
        assert lines == [False]


def test_published_mix_of_yulan_mini_goes_on_with_the_28k_run(tmp_path):
    from workbench.catalogue import record_suite
    from workbench.settings import Home
    from workbench.suites import load_suite

    store = Store(tmp_path / "metrics.duckdb")
    record_suite(load_suite("yulan-mini", Home(tmp_path)), store)
    rows = store.table(
        "SELECT DISTINCT phase_a, run_a, phase_b, run_b FROM mix_changes "
        "WHERE main_line AND phase_b > 25 ORDER BY phase_a"
    ).to_pylist()
    assert rows == [
        {"phase_a": 25, "run_a": "25", "phase_b": 26, "run_b": "26-28k"},
        {"phase_a": 26, "run_a": "26-28k", "phase_b": 27, "run_b": "27"},
    ]
    models = store.table(
        "SELECT DISTINCT model_a, model_b FROM score_changes "
        "WHERE task = 'GSM8K' AND setting = 'acc' AND phase_b = 27"
    ).to_pylist()
    assert models == [{"model_a": "YuLan-Mini-4K", "model_b": "YuLan-Mini"}]


def test_score_changes_keep_sources_and_settings_apart(store, tmp_path):
    score(store, 1, 0.30)
    score(store, 3, 0.35)
    score(store, 4, 0.90, n=10)  # of a few documents: not the next of the series
    put_scores(
        store, tmp_path,
        ("M-1", 1, "LAMBADA", "acc 0-shot", "40.0"), ("M-2", 2, "LAMBADA", "acc 0-shot", "43.0"),
        ("M-3", 3, "LAMBADA", "acc 5-shot", "50.0"), ("Other", "", "LAMBADA", "acc 0-shot", "9.0"),
    )  # fmt: skip
    rows = store.table("FROM score_changes ORDER BY source").to_pylist()
    found = [(r["source"], r["phase_a"], r["phase_b"], r["change"], r["unit"]) for r in rows]
    assert found == [
        ("measured", 1, 3, pytest.approx(5.0), "percent"),
        ("published", 1, 2, 3.0, "percent"),
    ]
    assert rows[0]["stderr_of_independent"] == pytest.approx(3.0 * 2**0.5)
    assert rows[1]["stderr_of_independent"] is None
    assert (rows[1]["model_a"], rows[1]["model_b"]) == ("M-1", "M-2")


def test_published_beside_measured_on_one_scale(store, tmp_path):
    score(store, 1, 0.30, task="lambada_openai")
    score(store, 2, 0.50, task="hellaswag", metric="acc_norm")
    score(store, 3, 12.0, task="lambada_openai", metric="perplexity")  # no rate: not comparable
    put_scores(
        store, tmp_path,
        ("M-1", 1, "LAMBADA", "acc 0-shot", "40.0"), ("M-4", 4, "LAMBADA", "acc", "44.0"),
    )  # fmt: skip
    rows = analysis_db.open(store.path).published_and_measured("s")
    shown = rows[["phase", "benchmark", "published_percent", "measured_percent", "difference"]]
    assert shown.fillna(-1).values.tolist() == [
        [2, "hellaswag", -1, 50.0, -1],
        [1, "lambada", 40.0, 30.0, -10.0],
        [4, "lambada", 44.0, -1, -1],
    ]
    beside = rows[rows["phase"] == 1].iloc[0]
    assert (beside["published_as"], beside["measured_task"]) == ("LAMBADA", "lambada_openai")
    assert (beside["measured_source"], beside["measured_stderr"]) == ("measured", 3.0)
    assert bool(beside["same_shots"])


def test_published_beside_the_tasks_that_a_group_names(store, tmp_path):
    names = [("HumanEval", "humaneval"), ("HUMANEVAL@1", "humaneval"), ("MMLU", "offline_mmlu")]
    store.put_benchmark_tasks(
        [{"benchmark": b, "task_group": "g", "task": t, "shots": 0, "metric": "acc",
          "reason": None} for b, t in names]
    )  # fmt: skip
    score(store, 1, 0.30, task="humaneval", metric="pass@1")
    score(store, 2, 0.40, task="offline_mmlu")
    put_scores(
        store, tmp_path,
        ("M-1", 1, "HUMANEVAL@1", "pass@1", "40.0"), ("M-2", 2, "MMLU", "acc", "44.0"),
    )  # fmt: skip
    rows = analysis_db.open(store.path).published_and_measured("s")
    shown = rows[["phase", "benchmark", "published_as", "measured_task", "difference"]]
    assert shown.sort_values("phase").values.tolist() == [
        [1, "humaneval", "HUMANEVAL@1", "humaneval", pytest.approx(-10.0)],
        [2, "mmlu", "MMLU", "offline_mmlu", pytest.approx(-4.0)],
    ]


def test_every_column_has_a_comment(store):
    bare = store.table(
        "SELECT view_name FROM duckdb_views() v JOIN duckdb_columns() c "
        "ON c.table_name = v.view_name AND c.schema_name = v.schema_name "
        "WHERE v.schema_name = 'main' AND v.view_name IN ('metric_changes', 'mix_changes', "
        "'score_changes', 'published_and_measured') AND (v.comment IS NULL OR c.comment IS NULL)"
    )
    assert bare.num_rows == 0


@pytest.fixture(scope="module")
def notebook(tmp_path_factory):
    """27 phases in which q_proj follows the share of maths, phase 26 absent; only read."""
    tmp_path = tmp_path_factory.mktemp("derived")
    store = Store(tmp_path / "metrics.duckdb")
    store.put_suite(SUITE, [phase(number) for number in range(1, 28)])
    shares = [0.1 + 0.02 * ((number * number) % 7) for number in range(1, 28)]
    put_mix(
        store, tmp_path,
        *((n, str(n), "web", "english-web", 0.5 * (1 - s)) for n, s in enumerate(shares, 1)),
        *((n, str(n), "sums", "math", 0.5 * s) for n, s in enumerate(shares, 1)),
    )  # fmt: skip
    for number, share in enumerate(shares, 1):
        if number != 26:
            measure(store, number, 2.0 + share + (3.0 if number > 15 else 0.0))
            score(store, number, share)
    return analysis_db.open(store.path)


def test_notebook_changes(notebook):
    frame = notebook.changes("rms")
    assert frame.columns.tolist() == [
        "phase_a", "phase_b", "phases_apart", "layer", "value_a", "value_b", "change",
        "relative_change", "change_per_btoken", "same_way",
    ]  # fmt: skip
    assert len(frame) == 50
    assert frame.loc[frame["phases_apart"] == 2, "phase_a"].tolist() == [25, 25]


def test_notebook_change_points(notebook):
    frame = notebook.change_points("rms")
    assert frame[["layer", "phase_a", "phase_b"]].values.tolist() == [[0, 15, 16], [1, 15, 16]]
    assert frame["size"].tolist() == pytest.approx([3.0, -3.0], abs=0.1)
    assert frame.equals(notebook.change_points("rms"))  # seeds are fixed
    assert notebook.change_points("rms", of="changes").empty


def test_notebook_correlate(notebook):
    found = notebook.correlate("rms")
    best = found.table.iloc[0]
    assert (best["n"], best["tried"]) == (24, 4)
    assert abs(best["spearman"]) > 0.8
    assert best["p_adjusted"] < 0.01
    assert "24 changes between phases are few" in found.warning
    scores = notebook.correlate("rms", with_="scores", layers="mean")
    assert scores.table["companion"].tolist() == ["measured LAMBADA acc 0-shot n=200"]
    assert scores.table["layer"].tolist() == ["mean"]


@pytest.mark.parametrize(
    ("ask", "says"),
    [
        (lambda n: n.changes("rsm"), "no value of rsm"),
        (lambda n: n.change_points("rms", of="slope"), "change points of slope: choose levels"),
        (lambda n: n.change_points("rms", layers="some"), "taken as some: choose each or mean"),
        (lambda n: n.correlate("rms", with_="weather"), "correlate by weather: choose mix"),
        (lambda n: n.correlate("rms", by="source"), "parts by source: choose category or bucket"),
        (lambda n: n.correlate("rms", module="k_proj"), "no value of rms, module k_proj"),
    ],
)
def test_what_is_asked_badly_is_one_sentence(notebook, ask, says):
    with pytest.raises(QueryError, match=says) as caught:
        ask(notebook)
    assert "\n" not in str(caught.value)


def test_suite_without_mix_or_scores(store):
    for number in range(1, 7):
        measure(store, number, float(number))
    notebook = analysis_db.open(store.path)
    with pytest.raises(QueryError, match="no data mix of s"):
        notebook.correlate("rms")
    with pytest.raises(QueryError, match="no score of a phase of s"):
        notebook.correlate("rms", with_="scores")
