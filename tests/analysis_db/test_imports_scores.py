"""Scores and mixes from elsewhere: lm-eval's files of every age, tables of checkpoints, JSON mixes.

The files here are written for these tests in the layouts that lm-eval, EleutherAI/pythia,
bigscience-workshop/bigscience and RUC-GSAI/YuLan-Mini use.
"""

import json
import math
import re

import pytest

from analysis_db import Store, StoreError
from analysis_db.imports.data_mix import read_mixes, store_mixes
from analysis_db.imports.lm_eval import Place, read_results, store_results
from analysis_db.imports.tables import (
    import_data_mix,
    import_published_scores,
    read_mix,
    read_scores,
    store_scores,
)

PLACES = [
    Place(1, 1, "org/pythia-160m", "step1"),
    Place(2, 1000, "org/pythia-160m", "step1000"),
    Place(3, 2000, "org/pythia-160m", "step2000"),
    Place(4, None, "org/own", "main"),
]
OLD = {
    "results": {
        "lambada_openai": {"ppl": 20.5, "ppl_stderr": 0.5, "acc": 0.25, "acc_stderr": 0.01},
        "wsc": {"acc": 0.5, "acc_stderr": 0.04},
    },
    "versions": {"lambada_openai": 0, "wsc": 1},
    "config": {
        "model": "hf-causal",
        "model_args": "pretrained=org/pythia-160m,revision=step1000",
        "num_fewshot": 5,
        "limit": None,
    },
}
CURRENT = {
    "results": {
        "arc": {
            "alias": "arc",
            "acc,none": 0.5,
            "acc_stderr,none": 0.05,
            "acc_norm,none": 0.25,
            "acc_norm_stderr,none": "N/A",
        },
        "gsm": {
            "alias": " - gsm",
            "exact_match,strict": 0.125,
            "exact_match_stderr,strict": 0.01,
            "exact_match,flexible": math.nan,
        },
        "group": {" ": " ", "alias": "group"},
    },
    "versions": {"arc": 1.0, "gsm": "3.1"},
    "n-shot": {"arc": 0, "gsm": 5},
    "higher_is_better": {"arc": {"acc": True, "acc_norm": True}, "gsm": {"exact_match": None}},
    "n-samples": {"arc": {"original": 100, "effective": 40}},
    "task_hashes": {"arc": "abc", "gsm": ""},
    "lm_eval_version": "0.4.13",
    "git_hash": "0123abc",
    "model_name": "org/own",
}
TABLE = {
    "tokens": [10, 20, 30],
    "checkpoints": [1000, 1500, 2000],
    "results": {"arc": {"acc": [0.25, 0.3, None], "acc_stderr": [0.01, 0.02, None]}},
    "versions": {"arc": 0},
}


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "metrics.duckdb")


@pytest.fixture
def write(tmp_path):
    def write(content, name):
        path = tmp_path / "files" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content, indent=2))
        return path

    return write


def at(step, content=OLD):
    """The file of the checkpoint of a step."""
    args = f"pretrained=org/pythia-160m,revision=step{step}"
    return content | {"config": content["config"] | {"model_args": args}}


def put(store, *paths, **options):
    rows, remarks = read_results(paths, PLACES, **options)
    done = store_results(store, "s", rows)
    return done.stored[0], remarks + done.remarks


def shown(store, *columns):
    table = store.table(
        f"SELECT {', '.join(columns)} FROM benchmarks WHERE source = 'imported' ORDER BY ALL"
    )
    return [tuple(row.values()) for row in table.to_pylist()]


def test_a_folder_of_old_files_whose_names_carry_the_step(store, write, tmp_path):
    zero_shot = OLD | {"config": OLD["config"] | {"num_fewshot": 0}}
    write(OLD, "five-shot/160m-5shot_step1000.json")
    write(zero_shot, "zero-shot/160m_step1000.json")
    write(at(1, zero_shot), "zero-shot/160m_step1.json")
    write(at(3000, zero_shot), "zero-shot/160m_step3000.json")
    done, remarks = put(store, tmp_path / "files")
    assert done == {"suite": "s", "phases": 2, "tasks": 2, "scores": 9}
    assert remarks == ["Left out, of no phase of the suite: step 3000 (160m_step3000.json)."]
    assert [row for row in shown(store, "task", "phase", "shots", "metric", "value", "stderr")
            if row[0] == "lambada_openai" and row[3] == "acc"] == [
        ("lambada_openai", 1, 0, "acc", 0.25, 0.01),
        ("lambada_openai", 2, 0, "acc", 0.25, 0.01),
        ("lambada_openai", 2, 5, "acc", 0.25, 0.01),
    ]  # fmt: skip
    about = "DISTINCT model, task, n, higher_is_better, task_version, task_hash, harness_version"
    assert shown(store, about) == [
        ("org/pythia-160m", "lambada_openai", None, None, "0", None, None),
        ("org/pythia-160m", "wsc", None, None, "1", None, None),
    ]


def test_a_current_file_says_all_that_it_knows(store, write):
    done, remarks = put(store, write(CURRENT, "results_2026-11-24T13-00-00.000001.json"))
    # It is of the checkpoint whose repository it names.
    assert shown(
        store, "phase", "task", "metric", "value", "stderr", "n", "shots", "higher_is_better",
        "task_version", "task_hash", "harness_version",
    ) == [
        (4, "arc", "acc", 0.5, 0.05, 40, 0, True, "1.0", "abc", "0.4.13"),
        (4, "arc", "acc_norm", 0.25, None, 40, 0, True, "1.0", "abc", "0.4.13"),
        (4, "gsm", "exact_match,strict", 0.125, 0.01, None, 5, None, "3.1", None, "0.4.13"),
    ]  # fmt: skip
    assert done["scores"] == 3
    assert remarks == ["1 scores are not finite; they are kept without a value."]


def test_a_table_of_checkpoints(store, write):
    done, remarks = put(store, write(TABLE, "tr_agg.json"))
    assert shown(store, "phase", "value", "stderr", "task_version") == [(2, 0.25, 0.01, "0")]
    assert remarks[0] == "Left out, of no phase of the suite: step 1500 (tr_agg.json)."
    other = {key: value for key, value in TABLE.items() if key != "checkpoints"}
    put(store, write(other | {"checkpoint_steps": [1, 1000, 2000]}, "tr_agg.json"))
    assert shown(store, "phase", "value") == [(1, 0.25), (2, 0.3)]
    assert done["phases"] == 2


def test_importing_again_changes_nothing_and_a_better_score_replaces_its_like(store, write):
    path = write(OLD, "160m_step1000.json")
    put(store, path)
    before = store.table("FROM data.imported_score ORDER BY ALL")
    put(store, path)
    assert store.table("FROM data.imported_score ORDER BY ALL").equals(before)
    put(store, write({**OLD, "results": {"wsc": {"acc": 0.75}}}, "new_step1000.json"))
    assert shown(store, "task", "metric", "value", "stderr") == [
        ("lambada_openai", "acc", 0.25, 0.01),
        ("lambada_openai", "ppl", 20.5, 0.5),
        ("wsc", "acc", 0.75, None),
    ]


def test_the_phase_is_given_found_by_a_pattern_or_by_the_model(store, write):
    path = write(OLD, "run2_at1_final.json")
    assert put(store, path)[0]["phases"] == 1  # by its model and revision
    assert shown(store, "DISTINCT phase") == [(2,)]
    put(store, write(at(1), "run2_at1_final.json"), pattern=re.compile(r"at(?P<step>\d+)"))
    assert shown(store, "DISTINCT phase") == [(1,), (2,)]
    nameless = CURRENT | {"model_name": None, "config": {"limit": 9}}
    put(store, write(nameless, "org__step1000/results_2026-11-24.json"), phase=3)
    put(store, write(nameless, "org__step1/results_2026-11-24.json"))
    assert shown(store, "DISTINCT phase") == [(1,), (2,), (3,)]
    with pytest.raises(StoreError, match="The suite has no phase 9"):
        put(store, path, phase=9)
    with pytest.raises(StoreError, match="finds 'final' as the step in the name of"):
        put(store, path, pattern=re.compile(r"_(?P<step>[a-z]+)\."))
    with pytest.raises(StoreError, match=r"holds the steps \[1, 1000\]: say with --pattern"):
        put(store, write(OLD, "step1_step1000.json"))
    both = [Place(1, 7, None, "main"), Place(2, 7, None, "main")]
    with pytest.raises(StoreError, match=r"step 7, which the phases \[1, 2\] of the suite share"):
        read_results([write({"results": OLD["results"]}, "step7.json")], both)


OF_160M = CURRENT | {"model_name": "org/pythia-160m"}


def wrong_file(kind, keys, value):
    content = json.loads(json.dumps(kind))
    at = content
    for key in keys[:-1]:
        at = at[key]
    at[keys[-1]] = value
    return content


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (wrong_file(OLD, ["results", "wsc", "acc"], "high"),
         "line 10: field results.wsc.acc is 'high', not a number"),
        (wrong_file(OLD, ["results", "wsc", "acc_stderr"], [1]),
         "line 11: field results.wsc.acc_stderr is [1], not a number"),
        (wrong_file(OLD, ["results", "wsc"], 0.5), "line 9: field results.wsc is not an object"),
        (wrong_file(OF_160M, ["results", "arc", "acc,none"], True),
         "line 5: field results.arc.acc,none is True, not a number"),
        ({"metrics": {}}, "line 1: the file has no 'results'"),
        ({"results": [{"task_name": "a", "acc": 1}]}, "line 2: field results is not an object"),
        ([1], "line 1: the file is not an object"),
        (wrong_file(TABLE, ["checkpoints"], ["a"]), "field checkpoints is not a list of whole"),
        (wrong_file(TABLE, ["results", "arc", "acc"], [0.5]),
         "field results.arc.acc is not a list of 3 values, one for each of checkpoints"),
        (wrong_file(TABLE, ["results", "arc", "acc"], [0.5, "x", 1]),
         "line 16: field results.arc.acc.1 is 'x', not a number"),
        (wrong_file(TABLE, ["results", "arc", "acc_stderr"], 0.5),
         "field results.arc.acc_stderr is not a list of 3 values"),
        ('{"results": {"a": {"acc": 1}, "a": {"acc": 2}}}', "line 1: the key 'a' is there twice"),
        ('{"results": \n{', "line 2: not valid JSON"),
    ],
)  # fmt: skip
def test_a_wrong_results_file_is_named_and_nothing_stored(store, write, tmp_path, content, says):
    write(at(1), "160m_step1.json")
    write(content, "wrong_step1000.json")
    with pytest.raises(StoreError, match=re.escape(says)) as wrong:
        put(store, tmp_path / "files")
    assert "wrong_step1000.json" in str(wrong.value)
    assert not store.path.exists()


def test_what_belongs_to_no_phase_and_what_is_there_twice(store, write, tmp_path):
    path = write(at(3000), "160m_step3000.json")
    with pytest.raises(StoreError, match=r"None of it belongs .*step 3000 \(160m_step3000.json\)"):
        put(store, path)
    other = {**OLD, "config": {"model_args": "pretrained=org/else"}}
    with pytest.raises(StoreError, match=r"final.json is of the model org/else, not of the suite"):
        put(store, write(other, "final.json"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(StoreError, match=r"holds no \.json file"):
        put(store, tmp_path / "empty")
    one, two = write(at(1), "a/step1.json"), write(at(1), "b/step1.json")
    with pytest.raises(StoreError, match="both hold ppl of lambada_openai for phase 1: import one"):
        put(store, one, two)
    assert not store.path.exists()


def test_a_file_that_lm_eval_wrote(store, tmp_path):
    """Evaluated, collected and saved by lm-eval itself."""
    from lm_eval import simple_evaluate
    from lm_eval.loggers import EvaluationTracker
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    from probes.benchmark_groups import shipped_tasks
    from probes.benchmark_models import quiet
    from probes.benchmark_sources import shipped
    from tests.fixtures.tiny_checkpoint import write_llama
    from workbench.checkpoints import Checkpoint

    checkpoint = Checkpoint.open(write_llama(tmp_path / "checkpoint"))
    tracker = EvaluationTracker(output_path=str(tmp_path / "evals/step1000"))
    with quiet():
        found = simple_evaluate(
            HFLM(pretrained=checkpoint.load_model(), tokenizer=checkpoint.load_tokenizer(),
                 batch_size=4, max_length=128),
            tasks=[shipped(name) for name in shipped_tasks()],
            task_manager=TaskManager(include_defaults=False),
            limit=4, bootstrap_iters=10, evaluation_tracker=tracker,
        )  # fmt: skip
        samples = found.pop("samples")
        tracker.save_results_aggregated(found, samples)
    model = str(tmp_path / "checkpoint")  # lm-eval was given an object, and made up a model_name
    with pytest.raises(StoreError, match=f"is of the model {model}, not of the suite's"):
        put(store, tmp_path / "evals")
    places = [Place(2, 1000, None, "main", tmp_path / "checkpoint")]
    rows, remarks = read_results([tmp_path / "evals"], places)
    done = store_results(store, "s", rows).stored[0]
    assert (done["tasks"], done["scores"]) == (2, 4)
    assert len(remarks) == 1
    assert remarks[0].startswith("Measured on a part of the documents only (limit): results_")
    assert shown(store, "DISTINCT model, own") == [(model, True)]
    expected = found["results"]["last_word"]
    rows = shown(
        store, "task", "metric", "phase", "value", "stderr", "n", "shots", "higher_is_better",
        "task_version", "harness_version",
    )  # fmt: skip
    assert rows[-1] == (
        "last_word", "perplexity", 2, expected["perplexity,none"],
        expected["perplexity_stderr,none"], 4, 0, False, "1.0", "0.4.13",
    )  # fmt: skip
    hashes = shown(store, "DISTINCT task, task_hash")
    assert hashes == sorted(found["task_hashes"].items())


SCORES = "model,phase,benchmark,setting,score,footnote,source\nM,1,A,acc 0-shot,{},,t\n"


def test_imported_published_scores_stay_when_the_suite_is_recorded_again(store, write):
    own, mine = write(SCORES.format(40), "own.csv"), write(SCORES.format(50), "mine.csv")
    import_published_scores(store, "s", own)
    for _ in range(2):
        store_scores(store, "s", [r | {"imported_from": "mine.csv"} for r in read_scores(mine)])
        import_published_scores(store, "s", own)
    sql = "SELECT value, imported_from FROM benchmarks WHERE source = 'published' ORDER BY value"
    assert [tuple(row.values()) for row in store.table(sql).to_pylist()] == [
        (40.0, None),
        (50.0, "mine.csv"),
    ]
    with pytest.raises(StoreError, match="line 2: field phase is 1, which the suite does not have"):
        read_scores(mine, phases={2, 3})


MIX = (
    "phase,run,mix_id,source,group,category,bucket,tokens_b\n"
    "1,1,m,web/a,web,english-web,Web,30\n"
    "1,1,m,code/b,code,code,Code-Pretrain,10\n"
    "2,2,m,web/a,web,english-web,Web,20\n"
)
JSON_MIX = {
    "Total Tokens(B)": 40.5,
    "Total Huggingface Datasets Directory": "02_20241017_013401",
    "Number of Selected Tokens(B)": {"web/a": 25.25, "new/c": 15.25},
    "Manual Selected Tokens(B)": {"web/a": [25.0, ""], "new/c": 15.0},
    "Token ID Files Information": {"web/a": [{"token num(B)": 25.25}]},
}


def put_mix(store, *paths, phases=(1, 2, 3), **options):
    rows, remarks = read_mixes(paths, phases, **options)
    done = store_mixes(store, "s", rows)
    return done.stored, remarks + done.remarks


def mix(store):
    table = store.table("SELECT phase, run, source, category, tokens_b FROM data_mix ORDER BY ALL")
    return [tuple(row.values()) for row in table.to_pylist()]


def test_a_json_mix_takes_the_place_of_its_phase_and_the_classes_of_the_suite(store, write):
    own = write(MIX, "own.csv")
    import_data_mix(store, "s", own)
    path = write(JSON_MIX, "02_20241017_013401.json")
    for _ in range(2):
        stored, remarks = put_mix(store, path)
        import_data_mix(store, "s", own)  # the suite is recorded again
        assert mix(store) == [
            (1, "1", "code/b", "code", 10.0),
            (1, "1", "web/a", "english-web", 30.0),
            (2, "2", "new/c", None, 15.25),
            (2, "2", "web/a", "english-web", 25.25),
        ]
    assert stored == [{"suite": "s", "phase": 2, "sources": 2, "tokens_b": 40.5}]
    assert remarks == ["1 of 2 sources have no category, as the suite's mix does not know them."]
    origin = store.table("SELECT DISTINCT imported_from FROM data_mix WHERE phase = 2")
    assert origin["imported_from"].to_pylist() == [str(path)]
    put_mix(store, write(MIX, "mine.csv"))
    assert len(mix(store)) == 3


def test_two_mixes_of_one_phase_are_two_runs_and_a_wrong_total_is_said(store, write):
    total = JSON_MIX | {"Total Tokens(B)": 41}
    paths = [write(JSON_MIX, "03_20241127.json"), write(total, "03_20241211.json")]
    _, remarks = put_mix(store, *paths)
    assert {row[1] for row in mix(store)} == {"3-20241127", "3-20241211"}
    assert remarks[0].endswith("states 41 B tokens, its sources sum to 40.5 B: the sum is shown.")
    put_mix(store, write(JSON_MIX, "mix.json"), phase=3)
    assert {row[:2] for row in mix(store)} == {(3, "3")}


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("02_a.json", wrong_file(JSON_MIX, ["Number of Selected Tokens(B)", "new/c"], "many"),
         "line 6: field Number of Selected Tokens(B).new/c is 'many', not a number of tokens"),
        ("02_a.json", wrong_file(JSON_MIX, ["Number of Selected Tokens(B)", "new/c"], -1),
         "line 6: field Number of Selected Tokens(B).new/c is -1, not a number of tokens"),
        ("02_a.json", {"Number of Selected Tokens(B)": {}}, "names no source"),
        ("02_a.json", {"sources": {}}, "the file has no 'Number of Selected Tokens(B)'"),
        ("02_a.json", '{"Number of Selected Tokens(B)": {"a": 1,\n "a": 2}}',
         "line 2: the key 'a' is there twice"),
        ("02_a.json", "{", "line 1: not valid JSON"),
        ("mix.json", JSON_MIX, "does not begin with its phase, as 05_mix.json would"),
        ("09_a.json", JSON_MIX, "is of phase 9, which the suite does not have"),
        ("mix.csv", MIX + "2,2,m,x,x,code,Code,much\n", "line 5: field tokens_b is 'much'"),
        ("mix.csv", MIX + "8,2,m,x,x,code,Code,1\n", "line 5: field phase is 8, which the suite"),
    ],
)  # fmt: skip
def test_a_wrong_mix_is_named_and_nothing_stored(store, write, name, content, says):
    import_data_mix(store, "s", write(MIX, "own.csv"))
    before = mix(store)
    with pytest.raises(StoreError, match=re.escape(says)) as wrong:
        put_mix(store, write(JSON_MIX, "01_a.json"), write(content, name))
    assert name in str(wrong.value)
    assert mix(store) == before


def test_files_that_hold_the_same_source_of_a_run(store, write):
    again = write(MIX, "again.csv")
    with pytest.raises(StoreError, match="both hold web/a of phase 1: import one of them"):
        put_mix(store, write(MIX, "mix.csv"), again)
    assert len(read_mix(again)) == 3
