"""Imports: data mix, published scores, training log. A wrong row leaves what was there."""

import json
import math

import pytest

from analysis_db.errors import StoreError
from analysis_db.imports.tables import import_data_mix, import_published_scores
from analysis_db.imports.training_log import import_training_log
from analysis_db.store import Store

MIX = (
    "phase,run,mix_id,source,group,category,bucket,tokens_b\n"
    "1,1,m,a/b,a,code,Code-Pretrain,3\n"
    "1,1,m,a/c,a,code,Code-Pretrain,1\n"
    "1,1,m,d,d,math,Math-Pretrain,4\n"
    "26,26-4k,m,d,d,math,Math-Pretrain,2\n"
    "26,26-28k,m,d,d,math,Math-Pretrain,0.7\n"
    "26,26-28k,m,e,e,chinese,Chinese,0.1\n"
)
SCORES = (
    "model,phase,benchmark,setting,score,footnote,source\n"
    "Mini-5,5,GSM8K,maj@1 4-shot CoT,12.5,,table\n"
    "Other,,GSM8K,8 shot,40,*,table\n"
    "Other,,MMLU,not stated,,,table\n"
)


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "metrics.duckdb")


@pytest.fixture
def write(tmp_path):
    def write(text, name="facts.csv"):
        (tmp_path / name).write_text(text, encoding="utf-8")
        return tmp_path / name

    return write


def test_data_mix_and_its_shares(store, write):
    assert import_data_mix(store, "s", write(MIX)) == 6
    sums = store.table(
        "SELECT phase, run, sum(share) AS total FROM data_mix_share GROUP BY ALL ORDER BY ALL"
    ).to_pylist()
    assert [(r["phase"], r["run"]) for r in sums] == [(1, "1"), (26, "26-28k"), (26, "26-4k")]
    assert all(math.isclose(r["total"], 1) for r in sums)
    code = store.table("SELECT tokens_b, share FROM data_mix_share WHERE category = 'code'")
    assert code.to_pylist() == [{"tokens_b": 4.0, "share": 0.5}]


def test_importing_again_replaces_that_suite_only(store, write):
    import_data_mix(store, "s", write(MIX))
    import_data_mix(store, "other", write(MIX))
    import_data_mix(
        store, "s", write(MIX.replace("a/b,a,code,Code-Pretrain,3\n", "a/b,a,code,,9\n"))
    )
    rows = store.table(
        "SELECT suite, sum(tokens_b) AS b FROM data_mix GROUP BY suite ORDER BY suite"
    )
    assert [round(r["b"], 6) for r in rows.to_pylist()] == [10.8, 16.8]


def test_published_scores(store, write):
    assert import_published_scores(store, "s", write(SCORES)) == 3
    shown = store.table(
        "SELECT model, phase, task, value, shots, source FROM benchmarks ORDER BY model"
    ).to_pylist()
    common = {"task": "GSM8K", "source": "published"}
    # A cell that was left blank is kept, but it is no score.
    assert shown == [
        common | {"model": "Mini-5", "phase": 5, "value": 12.5, "shots": 4},
        common | {"model": "Other", "phase": None, "value": 40.0, "shots": 8},
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (MIX + "2,2,m,d,d,math,Math,much\n", "line 8: field tokens_b is 'much'"),
        (MIX + "\n\n2,2,m,d,d,math,Math,nan\n", "line 10: field tokens_b is 'nan'"),
        (MIX + "two,2,m,d,d,math,Math,1\n", "line 8: field phase is 'two'"),
        (MIX + "2,2,m,d\n", "line 8: .*fewer cells"),
        (MIX.replace(",bucket", ",bin"), "lacks the column bucket"),
    ],
)
def test_a_wrong_mix_is_named_and_nothing_imported(store, write, text, says):
    import_data_mix(store, "s", write(MIX))
    with pytest.raises(StoreError, match=says) as wrong:
        import_data_mix(store, "s", write(text, "wrong.csv"))
    assert "wrong.csv" in str(wrong.value)
    assert store.table("SELECT count(*) AS n FROM data_mix")["n"].to_pylist() == [6]


def test_wrong_scores_and_files_that_cannot_be_read(store, write, tmp_path):
    with pytest.raises(StoreError, match="line 5: field score is 'high'"):
        import_published_scores(store, "s", write(SCORES + "A,1,B,c,high,,t\n"))
    with pytest.raises(StoreError, match=r"none\.csv cannot be read"):
        import_published_scores(store, "s", tmp_path / "none.csv")
    (tmp_path / "latin.csv").write_bytes(b"phase,run\n\xe9\xe8,1\n")
    with pytest.raises(StoreError, match=r"latin\.csv cannot be read"):
        import_data_mix(store, "s", tmp_path / "latin.csv")
    assert not store.path.exists()


def log_line(step, loss=2.5):
    values = {"loss": loss, "lr": 0.1}
    layers = {"hidden_variance": {"residual": [0.5, 1.5]}}
    record = {"step": step, "tokens": 8 * step, "phase": 1, "values": values, "layers": layers}
    return json.dumps(record) + "\n"


@pytest.fixture
def run_folder(tmp_path):
    def make(log, **changes):
        run = {
            "run": "r",
            "suite": "s",
            "recipe": "tiny",
            "recipe_json": {"lr": 0.1},
            "seed": 3,
            "status": "complete",
            "started_at": "2026-11-24T08:00:00+00:00",
            "finished_at": None,
            "parameters": 10,
            "code_version": "0",
        }
        folder = tmp_path / "run"
        folder.mkdir(exist_ok=True)
        (folder / "run.json").write_text(json.dumps(run | changes))
        (folder / "log.jsonl").write_text(log)
        return folder

    return make


def test_training_log(store, run_folder):
    assert import_training_log(store, run_folder(log_line(1) + log_line(2, math.nan))) == 8
    runs = store.table(
        "SELECT run, recipe, seed, status, started_at FROM training_runs"
    ).to_pylist()
    assert (runs[0]["run"], runs[0]["seed"], runs[0]["status"]) == ("r", 3, "complete")
    assert runs[0]["started_at"].isoformat() == "2026-11-24T08:00:00+00:00"
    steps = store.table("SELECT step, tokens, value FROM training_steps WHERE metric = 'loss'")
    assert steps.to_pylist() == [
        {"step": 1, "tokens": 8, "value": 2.5},
        {"step": 2, "tokens": 16, "value": None},  # a diverged step
    ]
    layers = store.table(
        "SELECT layer, module, value FROM training_steps WHERE step = 1 AND layer IS NOT NULL"
    )
    assert [tuple(r.values()) for r in layers.to_pylist()] == [
        (0, "residual", 0.5),
        (1, "residual", 1.5),
    ]
    assert import_training_log(store, run_folder("", status="running")) == 0
    assert store.table("SELECT status FROM training_runs")["status"].to_pylist() == ["running"]
    assert store.table("SELECT * FROM training_steps").num_rows == 0


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ('{"step": 2, "tok', "line 2: not valid JSON"),
        ("[1, 2]", "line 2: not a JSON object"),
        ('{"step": 2, "values": {}}', "line 2: 'tokens' is missing"),
        ('{"step": "two", "tokens": 1, "values": {}}', "line 2: .* wrong kind"),
        ('{"step": 2, "tokens": 1, "values": {"loss": "low"}}', "line 2: .* wrong kind"),
        ('{"step": 2, "tokens": 1, "values": [1]}', "line 2: .* wrong kind"),
    ],
)
def test_a_bad_line_of_a_log_is_named_and_nothing_stored(store, run_folder, bad, says):
    import_training_log(store, run_folder(log_line(1)))
    with pytest.raises(StoreError, match=says) as wrong:
        import_training_log(store, run_folder(log_line(1) + bad + "\n" + log_line(3), seed=4))
    assert "log.jsonl" in str(wrong.value)
    assert store.table("SELECT seed FROM training_runs")["seed"].to_pylist() == [3]
    assert store.table("SELECT * FROM training_steps").num_rows == 4


def test_a_run_folder_that_is_none_is_named(store, tmp_path, run_folder):
    with pytest.raises(StoreError, match=r"cannot be read .*run\.json"):
        import_training_log(store, tmp_path / "nowhere")
    with pytest.raises(StoreError, match=r"run\.json has no name"):
        import_training_log(store, run_folder(log_line(1), run=None))
