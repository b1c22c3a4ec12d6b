"""Which model a results file is of: the suite's own, another, or one that no file names.

The layouts are those of lm-eval 0.2 to 0.4.13 and of GPT-NeoX, as in EleutherAI/pythia.
"""

import json
import re
from pathlib import Path

import pytest

from analysis_db import Store, StoreError
from analysis_db.companions import score_levels
from analysis_db.errors import QueryError
from analysis_db.imports.documents import Document
from analysis_db.imports.evaluated import Place, named_model
from analysis_db.imports.lm_eval import read_results, store_results
from analysis_db.imports.tables import import_published_scores
from tests.analysis_db.rows import SUITE, phase

PYTHIA = [
    Place(1, 1, "EleutherAI/pythia-160m", "step1"),
    Place(2, 1000, "EleutherAI/pythia-160m", "step1000"),
    Place(3, 2000, "EleutherAI/pythia-160m", "step2000"),
]
YULAN = [
    Place(n, 100 * n if n != 3 else None, f"yulan-team/YuLan-Mini-Phase{n}", "main")
    for n in (1, 2, 3)
]
FOLDERS = [
    Place(n, step, None, "main", Path(f"/data/mine/checkpoints/step{step}"))
    for n, step in ((1, 500), (2, 1000))
]
TWO_STAGES = [
    Place(1, 1000, "org/olmo", "stage1-step1000"),
    Place(2, 2000, "org/olmo", "stage1-step2000"),
    Place(3, 3000, "org/olmo", "stage2-step1000"),  # counted on from the end of stage 1
]
WITH_MAIN = [*PYTHIA, Place(4, 3000, "EleutherAI/pythia-160m", "main")]
OTHERS = ["EleutherAI/pythia-410m", "EleutherAI/pythia-160m-deduped", "pythia-v1.1-410m"]
RESULTS = {"results": {"arc": {"acc": 0.25, "acc_stderr": 0.01}}}
TABLE = {"checkpoints": [1, 1000, 2000], "results": {"arc": {"acc": [0.25, 0.5, 0.75]}}}


def args(text, **config):
    return RESULTS | {"config": {"model": "hf", "model_args": text, "limit": None} | config}


def named(text):
    return RESULTS | {"model_name": text}


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "metrics.duckdb")


@pytest.fixture
def write(tmp_path):
    def write(content, name="results_2026-11-24.json"):
        path = tmp_path / "files" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
        return path

    return write


def read(path, places=PYTHIA, **options):
    """(phase, model, own) of the file's only score, and the remarks."""
    options = {"others": OTHERS, "titles": ("pythia-160m", "Pythia 160m")} | options
    (row, *more), remarks = read_results([path], places, **options)
    assert not more
    return (row["phase"], row["model"], row["own"]), remarks


OWN = (2, "EleutherAI/pythia-160m", True)


@pytest.mark.parametrize(
    "content",
    [
        args("pretrained=EleutherAI/pythia-160m,revision=step1000"),
        args("use_accelerate=True, pretrained=EleutherAI/pythia-160m ,revision=step1000"),
        args('pretrained="EleutherAI/pythia-160m",dtype="float",revision=step1000'),
        args({"pretrained": "EleutherAI/pythia-160m", "revision": "step1000", "dtype": "float"}),
        args("model=EleutherAI/pythia-160m,base_url=http://localhost,revision=step1000"),
        args("pretrained=EleutherAI/pythia-v1.1-160m,revision=step1000"),
        args("pretrained=eleutherai/Pythia-160M,revision=step1000"),
        # Given as an object, lm-eval writes its own name here and makes up a model_name.
        args("", model="EleutherAI/pythia-160m", model_revision="step1000")
        | {"model_name": "i82qcls7"},
        named("EleutherAI/pythia-160m"),
        RESULTS | {"model_name_sanitized": "EleutherAI__pythia-160m"},
        RESULTS | {"config": {"model_name": "EleutherAI/pythia-160m"}},
    ],
)
@pytest.mark.parametrize("name", ["160m_step1000.json", "step1000/results_2026.json"])
def test_the_suites_model_in_every_layout(write, content, name):
    assert read(write(content, name), aliases=["pythia-v1.1-160m"]) == (OWN, [])


@pytest.mark.parametrize(
    "model",
    [
        "EleutherAI/pythia-410m", "EleutherAI/pythia-160m-deduped", "EleutherAI/pythia-16m",
        "EleutherAI/pythia-1160m", "EleutherAI/pythia-160", "someone/pythia-160m",
        "someone/pythia-v1.1-160m", "EleutherAI/intervention-pythia-v1.1-160m",
        "EleutherAI/pythia-v1.1-160m-deduped", "bigscience/bloom-560m", "gpt2",
        "/scratch/pythia-160m-finetuned/step1000", "/scratch/pythia-160m/finetuned",
        "./checkpoints/step1000",
    ],
)  # fmt: skip
def test_another_model_is_refused_with_its_name(store, write, model):
    contents = [
        args(f"pretrained={model},revision=step1000"), args({"pretrained": model}), named(model),
        args("pretrained=EleutherAI/pythia-160m,revision=step1000") | {"model_name": model},
        args(f"pretrained=EleutherAI/pythia-160m,peft={model},revision=step1000"),
    ]  # fmt: skip
    for content in contents:
        path = write(content, "pythia-160m/160m_step1000.json")
        with pytest.raises(StoreError, match=r"nothing was imported\.$") as refused:
            read(path, aliases=["pythia-v1.1-160m"])
        said = f"{path} is of the model {model}, not of the suite's, EleutherAI/pythia-160m: "
        assert str(refused.value).startswith(said)
        assert f"--model {model}" in str(refused.value)


def test_the_checkpoint_folder_of_gpt_neox_is_the_model(write):
    content = args({"load": "/fsx/pythia/ckpts/800M", "save": "/fsx/pythia/ckpts/800M"})
    path = write(content, "pythia-160m/pythia-160m-0shot-global_step1000_eval_results.json")
    with pytest.raises(StoreError, match="is of the model /fsx/pythia/ckpts/800M, not of"):
        read(path)


def test_one_foreign_file_among_many_refuses_them_all(write, tmp_path):
    write(args("pretrained=EleutherAI/pythia-160m,revision=step1"), "160m_step1.json")
    for step in (1000, 2000, 3000):
        content = args(f"pretrained=EleutherAI/pythia-410m,revision=step{step}")
        write(content, f"other/410m_step{step}.json")
    with pytest.raises(StoreError, match=r"410m_step1000.json is of .*\(so are 2 more files of"):
        read_results([tmp_path / "files"], PYTHIA)


def test_a_stated_model_is_kept_under_that_name(write):
    path = write(args("pretrained=EleutherAI/pythia-410m,revision=step1000"), "410m_step1000.json")
    found, remarks = read(path, model="EleutherAI/pythia-410m")
    assert (found, remarks) == ((2, "EleutherAI/pythia-410m", False), [])
    found, remarks = read(path, model="mine")
    assert found == (2, "mine", False)
    assert remarks == ["Imported as mine, although the file names another model: "
                       "410m_step1000.json (EleutherAI/pythia-410m)."]  # fmt: skip
    path = write(args("pretrained=/scratch/a,revision=step1000"), "160m_step1000.json")
    for own in ("EleutherAI/pythia-160m", "pythia-160m", "Pythia 160m"):
        found, remarks = read(path, model=own)
        assert found == OWN
        assert remarks[0].endswith(
            "although the file names another model: 160m_step1000.json (/scratch/a)."
        )
    path = write(RESULTS, "160m_step1000.json")
    assert read(path, model="EleutherAI/pythia-160m") == (OWN, [])
    assert read(path, model="bloom") == ((2, "bloom", False), [])


def test_a_file_that_names_no_model(write):
    made_up = args("") | {"model_name": "i82qcls7"}
    for content in (RESULTS, made_up, args(None, model="HFLM"), RESULTS | {"model_name": 5}):
        found, remarks = read(write(content, "160m_step1000.json"))
        assert found == (2, None, None)
        assert remarks == ["No model is named, so these scores are not compared with others "
                           "(state it with --model): 160m_step1000.json."]  # fmt: skip


@pytest.mark.parametrize("folder", ["pythia-160m", "EleutherAI__pythia-160m", "pythia-v1.1-160m"])
def test_the_name_of_a_folder_is_that_of_a_file_that_names_none(write, folder):
    path = write(RESULTS, f"pythia-410m/{folder}/zero-shot/160m_step1000.json")
    found, remarks = read(path, aliases=["pythia-v1.1-160m"])
    assert found == OWN
    assert remarks == ["The model is inferred from the name of a folder alone: "
                       f"160m_step1000.json ({folder})."]  # fmt: skip


@pytest.mark.parametrize(
    "folder", ["pythia-410m", "EleutherAI__pythia-160m-deduped", "pythia-v1.1-410m"]
)
def test_the_folder_of_another_known_model_is_refused(write, folder):
    path = write(RESULTS, f"pythia-160m/{folder}/zero-shot/160m_step1000.json")
    with pytest.raises(StoreError, match=f"is of the model {folder}, not of the suite's"):
        read(path)
    assert read(path, others=[])[0] == OWN  # only a known name is one


@pytest.mark.parametrize(
    ("model", "loosely"),
    [
        ("/data/models/pythia-160m", True),
        ("../pythia-160m/", True),
        ("pythia-160m", True),
        ("C:\\models\\pythia-160m", True),
        ("/data/pythia-160m/step1000", True),
        ("EleutherAI/pythia-160m/step1000", False),
        ("/x/hub/models--EleutherAI--pythia-160m/snapshots/step1000", False),
    ],
)
def test_a_path_is_the_suites_by_its_last_folder(write, model, loosely):
    found, remarks = read(write(args({"pretrained": model}), "160m_step1000.json"))
    assert found == OWN
    assert len(remarks) == loosely
    with pytest.raises(StoreError, match="not of the suite's"):
        read(write(args({"pretrained": model.replace("160m", "1.60m")}), "160m_step1000.json"))


@pytest.mark.parametrize(
    "model", ["/data/mine/checkpoints/step1000", "./checkpoints/step1000", "step1000",
              "mine/checkpoints/step1000/", "/data/mine/x/../checkpoints/step1000"],
)  # fmt: skip
def test_a_suite_of_folders_knows_its_own(write, model):
    found = (2, "/data/mine/checkpoints/step1000", True)
    assert read(write(args({"pretrained": model}), "step1000.json"), FOLDERS) == (found, [])
    assert read(write(args({"pretrained": model})), FOLDERS) == (found, [])
    for wrong in ("step500.json", "checkpoint_step500.json"):
        with pytest.raises(StoreError, match=r"phase 2 of the suite\), but its name says step 500"):
            read(write(args({"pretrained": model}), wrong), FOLDERS)
    with pytest.raises(StoreError, match="not of the suite's"):
        read(write(args({"pretrained": "/other/checkpoints/step1000"}), "step1000.json"), FOLDERS)
    with pytest.raises(StoreError, match="not of the suite's"):
        read(write(args({"pretrained": "points/step1000"}), "step1000.json"), FOLDERS)


def test_a_repository_for_each_phase_names_the_phase(write):
    content = args("pretrained=yulan-team/YuLan-Mini-Phase2")
    found = (2, "yulan-team/YuLan-Mini-Phase2", True)
    assert read(write(content), YULAN) == (found, [])
    assert read(write(content, "step200.json"), YULAN) == (found, [])
    assert read(write(content), YULAN, phase=2) == (found, [])
    sha = args(f"pretrained=yulan-team/YuLan-Mini-Phase2,revision={'0a' * 20}")
    assert read(write(sha), YULAN) == (found, [])
    cached = f"/x/models--yulan-team--YuLan-Mini-Phase2/snapshots/{'0a' * 20}"
    assert read(write(args({"pretrained": cached})), YULAN) == (found, [])
    assert read(write(named("YuLan-Mini-Phase3"), "step77.json"), YULAN)[0][0] == 3
    with pytest.raises(StoreError, match=r"Phase2 at main \(phase 2 .*but its name says step 100"):
        read(write(content, "step100.json"), YULAN)
    with pytest.raises(StoreError, match=r"\(phase 2 of the suite\), but --phase says 3"):
        read(write(content), YULAN, phase=3)
    with pytest.raises(StoreError, match=r"Phase3 at main \(phase 3 .* but its name says step 100"):
        read(write(args("pretrained=yulan-team/YuLan-Mini-Phase3"), "step100.json"), YULAN)
    with pytest.raises(StoreError, match=r"the model yulan-team/YuLan-Mini-Phase22, not of"):
        read(write(args("pretrained=yulan-team/YuLan-Mini-Phase22"), "step200.json"), YULAN)
    with pytest.raises(StoreError, match=r"is of yulan-team/YuLan-Mini-Phase2 \(phase 2"):
        read(write(RESULTS, "step100.json"), YULAN, model="yulan-team/YuLan-Mini-Phase2")


def test_a_revision_and_a_name_that_disagree(write):
    def content(revision, model="EleutherAI/pythia-160m"):
        return args(f"pretrained={model},revision={revision}")

    for revision in ("step2000", "step1500", "global_step3"):
        with pytest.raises(StoreError, match=f"160m at {revision}.* but its name says step 1000"):
            read(write(content(revision), "160m_step1000.json"))
    with pytest.raises(StoreError, match=r"step2000 \(phase 3 of the suite\), but --phase says 2"):
        read(write(content("step2000")), phase=2)
    path = write(content("global_step7", "bigscience/bloom"), "step1000.json")
    with pytest.raises(StoreError, match="bloom at global_step7, but its name says step 1000"):
        read(path, model="bloom")
    assert read(path, model="bloom", phase=2)[0] == (2, "bloom", False)
    # The step that a revision names may count from the start of a stage.
    of_stage = write(content("stage2-step1000", "org/olmo"), "stage2-step1000.json")
    assert read(of_stage, TWO_STAGES)[0] == (3, "org/olmo", True)
    of_stage = write(content("stage2-step1000", "org/olmo"), "step3000.json")
    assert read(of_stage, TWO_STAGES)[0] == (3, "org/olmo", True)


def test_without_a_revision_lm_eval_evaluated_main(write):
    path = write(args("pretrained=EleutherAI/pythia-160m"), "160m_step1000.json")
    found, remarks = read(path)
    assert found == OWN
    assert remarks == ["The suite does not have the revision; the phase comes from the "
                       "file's name or --phase: 160m_step1000.json (main)."]  # fmt: skip
    with pytest.raises(StoreError, match=r"160m at main \(phase 4 of the suite\), but its name"):
        read(path, WITH_MAIN)
    assert read(write(args("pretrained=EleutherAI/pythia-160m")), WITH_MAIN)[0][0] == 4


def test_the_model_of_a_table(write):
    named_table = TABLE | {"model_name": "EleutherAI/pythia-160m"}
    rows, _ = read_results([write(named_table, "agg.json")], PYTHIA)
    assert {(row["model"], row["own"]) for row in rows} == {("EleutherAI/pythia-160m", True)}
    rows, _ = read_results([write(TABLE, "agg.json")], PYTHIA)
    assert {(row["model"], row["own"]) for row in rows} == {(None, None)}
    rows, _ = read_results([write(TABLE, "agg.json")], PYTHIA, model="bloom")
    assert {(row["model"], row["own"]) for row in rows} == {("bloom", False)}
    with pytest.raises(StoreError, match=r"agg.json is of the model bloom, not of the suite's"):
        read_results([write(TABLE | {"model_name": "bloom"}, "agg.json")], PYTHIA)
    of_a_phase = TABLE | {"checkpoints": [100, 200, 5], "model_name": YULAN[1].repo_id}
    with pytest.raises(StoreError, match=r"Phase2 \(phase 2 of the suite\), but it holds step 100"):
        read_results([write(of_a_phase, "agg.json")], YULAN)


@pytest.mark.parametrize(
    "content", [{"config": []}, {"config": {"model_args": [1]}}, {"model_name": ["a"]},
                {"config": {"model_args": "pretrained="}}, {"config": {"model_args": ",,=,"}}],
)  # fmt: skip
def test_what_names_no_model_is_no_error(write, content):
    assert named_model(Document.read(write(RESULTS | content))).names == ()


def put(store, path, places=PYTHIA, **options):
    rows, remarks = read_results([path], places, **options)
    return remarks + store_results(store, "s", rows).remarks


def stored(store):
    sql = "SELECT phase, model, own, value FROM data.imported_score ORDER BY ALL NULLS FIRST"
    return [tuple(row.values()) for row in store.table(sql).to_pylist()]


def test_an_import_replaces_its_like_and_says_what(store, write):
    def scored(value):
        return {"results": {"arc": {"acc": value}}, "model_name": "EleutherAI/pythia-160m"}

    first = write(scored(0.1), "a/step1.json")
    assert put(store, first) == []
    assert put(store, first) == [
        f"Replaced 1 scores imported before: {first} (1 of EleutherAI/pythia-160m)."
    ]
    (replaced,) = put(store, write(scored(0.2), "b/step1.json"))
    assert f"{first} (1 of EleutherAI/pythia-160m)." in replaced
    foreign = write(scored(0.3) | {"model_name": "gpt2"}, "c/step1.json")
    assert put(store, foreign, model="gpt2") == []
    part = {"n-samples": {"arc": {"effective": 40}}}
    assert put(store, write(scored(0.4) | part, "a/step1.json")) == []  # of a part of the documents
    own = "EleutherAI/pythia-160m"
    assert stored(store) == [(1, own, True, 0.2), (1, own, True, 0.4), (1, "gpt2", False, 0.3)]


def test_scores_of_unknown_models_do_not_replace_each_other(store, write):
    one, two = write(RESULTS, "a/step1.json"), write(TABLE, "b/agg.json")
    put(store, one)
    assert not any(remark.startswith("Replaced") for remark in put(store, two))
    assert [row[:3] for row in stored(store)] == [(1, None, None)] * 2 + [
        (2, None, None), (3, None, None)]  # fmt: skip
    again = put(store, two)
    assert again[-1] == f"Replaced 3 scores imported before: {two} (3 of an unknown model)."
    stated = put(store, one, model="EleutherAI/pythia-160m")
    assert stated == [f"Replaced 1 scores imported before: {one} (1 of an unknown model)."]
    corrected = put(store, one, model="gpt2")
    assert "(1 of EleutherAI/pythia-160m)" in corrected[-1]
    assert (1, "gpt2", False, 0.25) in stored(store)


@pytest.fixture
def mixed(store, write, tmp_path):
    """Own scores at phases 1 and 3, another model's at 1 and 2, unknown ones everywhere."""
    store.put_suite(SUITE, [phase(n, repo_id="EleutherAI/pythia-160m") for n in (1, 2, 3)])
    rows = "model,phase,benchmark,setting,score,footnote,source\nM,1,ARC,acc,20,,t\nM,2,ARC,acc,2,,"
    (tmp_path / "scores.csv").write_text(f"{rows}\n")
    import_published_scores(store, "s", tmp_path / "scores.csv")
    for step, value in ((1, 0.25), (2000, 0.5)):
        content = {"results": {"arc": {"acc": value}}, "model_name": "EleutherAI/pythia-160m"}
        put(store, write(content, f"own/step{step}.json"))
    for step, value in ((1, 0.125), (1000, 1.0)):
        content = {"results": {"arc": {"acc": value}}}
        put(store, write(content, f"gpt2/step{step}.json"), model="gpt2")
        put(store, write(content | {"seed": 1}, f"unknown/step{step}.json"))
    put(store, write(TABLE, "agg.json"))
    return store


def test_no_view_compares_scores_of_different_models(mixed):
    rows = mixed.table(
        "SELECT model_a, model_b, own, phase_a, phase_b, change FROM score_changes "
        "WHERE source = 'imported' ORDER BY ALL NULLS LAST"
    ).to_pylist()
    own = "EleutherAI/pythia-160m"
    assert [tuple(row.values()) for row in rows] == [
        (own, own, True, 1, 3, 25.0),
        ("gpt2", "gpt2", False, 1, 2, 87.5),
        (None, None, None, 1, 2, 25.0),  # of one table
        (None, None, None, 2, 3, 25.0),
    ]
    rows = mixed.table(
        "SELECT phase, published_percent, measured_percent, difference "
        "FROM published_and_measured ORDER BY phase"
    ).to_pylist()
    assert [tuple(row.values()) for row in rows] == [
        (1, 20.0, 25.0, 5.0),
        (2, 2.0, None, None),
        (3, None, 50.0, None),
    ]
    levels = score_levels(mixed, "s")
    assert levels["imported arc acc"].dropna().to_dict() == {1: 25.0, 3: 50.0}
    models = mixed.table("SELECT DISTINCT model FROM benchmarks WHERE source = 'imported'")
    assert set(models["model"].to_pylist()) == {own, "gpt2", None}


def test_a_suite_with_scores_of_other_models_alone_has_none(store, write):
    store.put_suite(SUITE, [phase(1)])
    put(store, write(RESULTS, "step1.json"), model="gpt2")
    with pytest.raises(QueryError, match="no score of a phase of s"):
        score_levels(store, "s")


def test_every_name_of_the_error_is_text(write):
    path = write(named("[red]x[/red]\u0000../.."), "160m_step1000.json")
    with pytest.raises(StoreError, match=re.escape("[red]x[/red]")):
        read(path)
    with pytest.raises(StoreError, match=re.escape("[red]x[/red]")):
        read(path, FOLDERS)
