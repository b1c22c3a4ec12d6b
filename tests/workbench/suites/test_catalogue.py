"""The suites that ship: complete, as published, and quick to read."""

import csv

import pytest

from workbench.catalogue import fold_families, list_phases, list_suites
from workbench.settings import Home
from workbench.suites import CATALOGUE, Suite, load_suite, read_all

PYTHIA_SIZES = ("14m", "31m", "70m", "160m", "410m", "1b", "1.4b", "2.8b", "6.9b", "12b")
DEDUPED = PYTHIA_SIZES[2:]


@pytest.fixture
def yulan(home: Home) -> Suite:
    return load_suite("yulan-mini", home)


def test_every_suite_of_the_catalogue_is_valid(home: Home) -> None:
    definitions = read_all(home)
    for definition in definitions:
        assert definition.head.title
        assert definition.head.licence
        assert "{" not in definition.head.title + definition.head.about
        if not definition.found:
            suite = definition.suite()
            assert all(phase.evidence for phase in suite.phases)
            assert suite.data_mix is None or suite.data_mix.is_file()
            assert suite.published_scores is None or suite.published_scores.is_file()
    names = [definition.name for definition in definitions]
    assert names == list(dict.fromkeys(names))
    seeds = {f"pythia-{s}-seed{n}" for s in PYTHIA_SIZES[:5] for n in range(1, 10)}
    decoupled = {f"pythia-160m-{w}-seed{n}" for w in ("data", "weight") for n in (1, 2, 3)}
    assert set(names) == {
        "yulan-mini", "amber", "smollm3", "olmo-2-0425-1B", "olmo-2-1124-7B", "olmo-2-1124-13B",
        "olmo-2-0325-32B", *(f"pythia-{s}" for s in PYTHIA_SIZES),
        *(f"pythia-{s}-deduped" for s in DEDUPED), *seeds, *decoupled,
    }  # fmt: skip


def test_yulan_mini_is_as_published(yulan: Suite) -> None:
    by_number = {phase.phase: phase for phase in yulan.phases}
    assert list(by_number) == list(range(1, 28))
    assert [n for n, phase in by_number.items() if phase.repo_id is None] == [26]
    assert [n for n, phase in by_number.items() if phase.has_optimizer] == [20, 25]
    assert [n for n, phase in by_number.items() if not phase.confirmed] == [1, 22, 24]
    assert {n: p.overrides for n, p in by_number.items() if p.overrides} == {
        25: {"rope_theta": 10000.0, "max_position_embeddings": 4096}
    }
    named = {f"yulan-team/YuLan-Mini-Phase{n}": n for n in range(1, 25)}
    named |= {"yulan-team/YuLan-Mini-Before-Annealing": 25, "yulan-team/YuLan-Mini": 27}
    assert {p.repo_id: n for n, p in by_number.items() if p.repo_id is not None} == named
    assert {p.label for p in yulan.phases} == {f"phase {n}" for n in range(1, 28)}
    assert [by_number[n].model_type for n in (1, 24, 25, 27)] == [
        "miniyulan", "miniyulan", "yulanmini", "llama",
    ]  # fmt: skip
    assert [by_number[n].form for n in (1, 25, 27)] == ["reparameterised"] * 2 + ["merged"]
    annealing = {(p.stage, p.context_length, p.rope_theta) for p in yulan.phases[25:]}
    assert annealing == {("annealing", 28672, 490000)}
    assert {(p.stage, p.context_length, p.rope_theta) for p in yulan.phases[:25]} == {
        ("stable", 4096, 10000)
    }


def test_yulan_minis_steps_are_those_published_and_no_others(yulan: Suite) -> None:
    by_number = {phase.phase: phase for phase in yulan.phases}
    # An unknown step stays empty.
    assert [n for n, p in by_number.items() if p.end_step is None] == [12, 13, 14, 15]
    assert [n for n, p in by_number.items() if p.start_step is None] == [13, 14, 15, 16]
    assert {p.end_step_basis for p in yulan.phases[11:15]} == {"unknown"}
    estimated = [n for n, p in by_number.items() if p.end_step_basis == "estimated"]
    assert estimated == [17, 18, 19, 21, 23, 24]
    assert {n: by_number[n].end_step for n in (1, 11, 16, 20, 22, 25, 26, 27)} == {
        1: 9733, 11: 107107, 16: 155587, 20: 194526, 22: 213995, 25: 243198, 26: 253006, 27: 262772,
    }  # fmt: skip


def test_yulan_minis_tokens_add_up_to_the_published_total(yulan: Suite) -> None:
    assert [p.tokens_b for p in yulan.phases][:3] == [40.184, 40.227, 40.167]
    assert [p.tokens_b for p in yulan.phases][-3:] == [40.163, 40.292, 40.042]
    tokens = [phase.tokens_b or 0 for phase in yulan.phases]
    seen = [phase.tokens_seen_b for phase in yulan.phases]
    assert seen == pytest.approx([sum(tokens[: n + 1]) for n in range(27)])
    assert seen[-1] == pytest.approx(1080, rel=0.01)
    # Steps of 1008 x 4096 tokens lead to the same count.
    assert yulan.phases[24].end_step is not None
    assert yulan.phases[24].end_step * 1008 * 4096 / 1e9 == pytest.approx(seen[24], rel=0.003)


def test_yulan_minis_mix_and_scores_are_complete(yulan: Suite) -> None:
    assert yulan.data_mix is not None
    with yulan.data_mix.open(encoding="utf-8", newline="") as lines:
        mix = list(csv.DictReader(lines))
    assert len({(row["phase"], row["run"]) for row in mix}) == 28
    assert {row["run"] for row in mix if row["phase"] == "26"} == {"26-4k", "26-28k"}
    assert len(mix) == 2128
    assert yulan.published_scores is not None
    with yulan.published_scores.open(encoding="utf-8", newline="") as lines:
        scores = list(csv.DictReader(lines))
    assert len(scores) == 277
    of_phases = {row["phase"] for row in scores if row["phase"]}
    assert of_phases == {"5", "10", "15", "20", "25", "26", "27"}


@pytest.mark.parametrize(
    "name", ["pythia-14m", "pythia-12b-deduped", "pythia-410m-seed9", "pythia-160m-data-seed3"]
)
def test_pythia_has_154_checkpoints(home: Home, name: str) -> None:
    suite = load_suite(name, home)
    steps = [phase.end_step for phase in suite.phases]
    assert len(steps) == 154
    assert steps[:12] == [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000]
    assert steps[12:] == list(range(2000, 143001, 1000))
    assert [phase.phase for phase in suite.phases] == list(range(1, 155))
    assert {phase.repo_id for phase in suite.phases} == {f"EleutherAI/{name}"}
    assert {phase.context_length for phase in suite.phases} == {2048}
    last = suite.phases[-1]
    assert (last.revision, last.label, last.form) == ("step143000", "step143000", "plain")
    assert last.tokens_seen_b == 299.892736  # as the cards state it
    assert [phase.phase for phase in suite.select("step1000,1,step143000")] == [1, 12, 154]


def test_smollm3_has_the_stages_of_its_card(home: Home) -> None:
    suite = load_suite("smollm3", home)
    stages = [phase.stage for phase in suite.phases]
    assert {s: stages.count(s) for s in stages} == {
        "stage1": 86, "stage2": 19, "stage3": 13, "4k-to-32k": 5, "32k-to-64k": 5,
        "post-training": 4,
    }  # fmt: skip
    by_label = {phase.label: phase for phase in suite.phases}
    assert by_label["stage1-step-40000"].tokens_seen_b == pytest.approx(94.4, abs=0.05)
    first_long = by_label["lc-4k-to-32k-step-4000"]
    assert (first_long.end_step, first_long.context_length) == (4_724_000, 32768)
    assert first_long.end_step_basis == "step 4000 after stage3"
    last_long = by_label["lc-32k-to-64k-step-20000"]
    assert last_long.tokens_seen_b == pytest.approx(11_200, rel=0.01)
    assert last_long.rope_theta == 5_000_000
    assert by_label["it-SFT"].end_step is None


def test_olmo_2s_branches_make_one_trajectory(home: Home) -> None:
    """Branch names as they are on the Hub, in the order in which it lists them: by letter."""
    definition = next(d for d in read_all(home) if d.name == "olmo-2-1124-7B")
    names = [
        "main", "stage1-step1000-tokens5B", "stage1-step928646-tokens3896B",
        "stage1-step99000-tokens416B", "stage2-ingredient1-step1000-tokens5B",
        "stage2-ingredient1-step11931-tokens50B", "stage2-ingredient2-step11931-tokens50B",
        "step150-tokens1B", "stage1-step1000-tokens5B-wrong", "refs/pr/1",
    ]  # fmt: skip
    found = {"allenai/OLMo-2-1124-7B": names}
    phases = definition.suite(found).phases
    assert [(p.label, p.stage) for p in phases] == [
        ("step150-tokens1B", "stage1"),
        ("stage1-step1000-tokens5B", "stage1"),
        ("stage1-step99000-tokens416B", "stage1"),
        ("stage1-step928646-tokens3896B", "stage1"),
        ("stage2-ingredient1-step1000-tokens5B", "stage2-ingredient1"),
        ("stage2-ingredient1-step11931-tokens50B", "stage2-ingredient1"),
        ("stage2-ingredient2-step11931-tokens50B", "stage2-ingredient2"),
        ("soup", "soup"),
    ]
    assert [p.tokens_seen_b for p in phases] == [1, 5, 416, 3896, 3901, 3946, 3946, None]
    assert [p.end_step for p in phases][3:6] == [928646, 929646, 940577]
    assert len(definition.candidates(found)) == 8


def test_amber_is_ordered_by_number(home: Home) -> None:
    definition = next(d for d in read_all(home) if d.name == "amber")
    names = ["ckpt_010", "main", "ckpt_009", "ckpt_358", "ckpt_000", "ckpt_1"]
    phases = definition.suite({"LLM360/Amber": names}).phases
    assert [p.label for p in phases] == ["ckpt_000", "ckpt_009", "ckpt_010", "ckpt_358", "ckpt_359"]
    assert [p.revision for p in phases][-1] == "main"
    assert {(p.end_step, p.tokens_seen_b) for p in phases} == {(None, None)}


def test_families_are_folded_but_for_what_is_used(home: Home) -> None:
    rows = list_suites(home)
    assert len(rows) == 76
    assert next(r for r in rows if r["suite"] == "amber")["phases"] is None  # never listed
    rows[[r["suite"] for r in rows].index("pythia-70m")]["measured_jobs"] = 3
    folded = {row["suite"]: row for row in fold_families(rows)}
    assert len(folded) < 10
    assert folded["pythia-{size}"]["title"] == "18 suites"
    assert folded["pythia-{size}"]["phases"] == 154
    assert folded["pythia-70m"]["measured_jobs"] == 3
    assert "pythia-160m" not in folded
    assert [row["suite"] for row in list_suites(home, "160m-weight")] == [
        f"pythia-160m-weight-seed{n}" for n in (1, 2, 3)
    ]


def test_the_list_of_phases_says_what_is_doubtful(home: Home) -> None:
    rows = {row["phase"]: row for row in list_phases("yulan-mini", home)}
    assert rows[22]["note"] == "unconfirmed: no page seen: confirm on the hub"
    assert rows[26]["repo_id"] == "not published"
    assert rows[26]["note"].startswith("not published: no public repo of the 28K run")
    assert rows[25]["note"] == "rope_theta = 10000.0; max_position_embeddings = 4096"
    assert [n for n, row in rows.items() if not row["confirmed"]] == [1, 22, 24]
    assert rows[2]["note"] == ""


def test_the_facts_of_the_catalogue_lie_in_the_package() -> None:
    files = {path.relative_to(CATALOGUE).as_posix() for path in CATALOGUE.rglob("*.csv")}
    assert files == {f"yulan-mini/{n}.csv" for n in ("phases", "data_mix", "published_scores")}
