"""Suites as data: the catalogue, the choice of phases, and files that are wrong."""

import csv

import pytest

from workbench.errors import UsageError, WorkbenchError
from workbench.settings import Home
from workbench.suites import CATALOGUE, Suite, load_suite, load_suite_file, suite_files

TOML = 'name = "mine"\ntitle = "Mine"\nphases = "mine/phases.csv"\n'
HEADER = (
    "phase,stage,repo_id,model_type,start_step,end_step,end_step_basis,tokens_b,context_length,"
    "rope_theta,has_optimizer,evidence\n"
)
ROWS = (
    "1,warm-up,o/a,miniyulan,0,10,known,1.5,64,10000,false,\n"
    "2,stable,o/b,miniyulan,10,20,known,0.5,64,10000,true,\n"
    "5,stable,,llama,20,,unknown,,64,10000,false,\n"
    "6,annealing,o/d,gpt_neox,,40,known,2,64,10000,false,\n"
)


@pytest.fixture
def home(tmp_path):
    (tmp_path / "suites" / "mine").mkdir(parents=True)
    return Home(tmp_path)


def write(home: Home, toml: str = TOML, rows: str = HEADER + ROWS) -> Suite:
    (home.suites / "mine.toml").write_text(toml, encoding="utf-8")
    (home.suites / "mine" / "phases.csv").write_text(rows, encoding="utf-8")
    return load_suite("mine", home)


@pytest.mark.parametrize("path", sorted(CATALOGUE.glob("*.toml")), ids=lambda p: p.stem)
def test_every_suite_of_the_catalogue_is_valid(path):
    suite = load_suite_file(path)
    assert suite.title
    assert suite.licence
    for facts in (suite.data_mix, suite.published_scores):
        assert facts is None or facts.is_file()


def test_yulan_mini_is_as_published(home):
    suite = load_suite("yulan-mini", home)
    by_number = {phase.phase: phase for phase in suite.phases}
    assert list(by_number) == list(range(1, 28))
    assert [n for n, phase in by_number.items() if phase.repo_id is None] == [26]
    assert [n for n, phase in by_number.items() if phase.has_optimizer] == [20, 25]
    assert {n: p.overrides for n, p in by_number.items() if p.overrides} == {
        25: {"rope_theta": 10000.0, "max_position_embeddings": 4096}
    }
    assert by_number[25].repo_id == "yulan-team/YuLan-Mini-Before-Annealing"
    assert by_number[27].repo_id == "yulan-team/YuLan-Mini"
    assert [by_number[n].form for n in (1, 25, 27)] == ["reparameterised"] * 2 + ["merged"]
    assert [n for n, p in by_number.items() if p.context_length == 28672] == [26, 27]
    assert [n for n, p in by_number.items() if p.stage == "annealing"] == [26, 27]
    # An unknown step stays empty.
    assert [n for n, p in by_number.items() if p.end_step is None] == [12, 13, 14, 15]
    assert (by_number[25].end_step, by_number[27].end_step) == (243198, 262772)


def test_yulan_minis_tokens_add_up_to_the_published_total(home):
    suite = load_suite("yulan-mini", home)
    with (CATALOGUE / "yulan-mini" / "phases.csv").open(newline="") as lines:
        tokens = [float(row["tokens_b"]) for row in csv.DictReader(lines)]
    seen = [phase.tokens_seen_b for phase in suite.phases]
    assert seen == pytest.approx([sum(tokens[: n + 1]) for n in range(27)])
    assert seen[-1] == pytest.approx(1080, rel=0.01)
    # Steps of 1008 x 4096 tokens lead to the same count.
    assert suite.phases[24].end_step is not None
    assert suite.phases[24].end_step * 1008 * 4096 / 1e9 == pytest.approx(seen[24], rel=0.003)


def test_tokens_seen_are_unknown_once_a_phase_is(home):
    suite = write(home)
    assert [phase.tokens_seen_b for phase in suite.phases] == [1.5, 2.0, None, None]
    assert [phase.form for phase in suite.phases][-1] == "plain"


def test_paths_are_relative_to_the_file_and_own_suites_are_found(home):
    suite = write(home, TOML + 'local_hub = "mine/hub"\ncache_dir = "../hub"\n')
    assert suite.local_hub == home.suites / "mine" / "hub"
    assert suite.cache_dir == home.suites / ".." / "hub"
    assert set(suite_files(home)) >= {"mine", "yulan-mini"}


@pytest.mark.parametrize(
    ("spec", "phases"),
    [
        ("all", [1, 2, 5, 6]),
        ("2", [2]),
        ("6,1", [1, 6]),
        ("1-5", [1, 2, 5]),
        (" 2 , 2-5,", [2, 5]),
        ("stable", [2, 5]),
        ("warm-up,annealing", [1, 6]),
    ],
)
def test_select(home, spec, phases):
    assert [phase.phase for phase in write(home).select(spec)] == phases


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("7", "has no phase 7: its phases are 1-6"),
        ("1-9", "has no phase 1-9"),
        ("6-1", "has no phase 6-1"),
        ("3", "has no phase 3"),
        ("cooldown", r"'cooldown' is no phase .*\(warm-up, stable, annealing\)"),
        ("-2", "'-2' is no phase"),
        ("2-", "'2-' is no phase"),
        ("²", "'²' is no phase"),
        ("", "No phase was named"),
        (" , ", "No phase was named"),
    ],
)
def test_select_refuses(home, spec, says):
    with pytest.raises(UsageError, match=says) as refusal:
        write(home).select(spec)
    assert refusal.value.exit_code == 2


def test_an_unknown_suite_is_a_usage_error(home):
    with pytest.raises(UsageError, match=r"no suite named 'pythia'.*yulan-mini.*makes demo"):
        load_suite("pythia", home)


@pytest.mark.parametrize(
    ("toml", "says"),
    [
        ('name = "mine', "is not valid TOML"),
        (TOML.replace('title = "Mine"\n', ""), "field title: Field required"),
        (TOML + "colour = 1\n", "field colour: Extra inputs"),
        (TOML.replace('"Mine"', "3"), "field title: Input should be a valid string"),
        (TOML.replace('"mine/phases.csv"', "[1]"), r"field phases: a path is wanted, not \[1\]"),
        (TOML.replace("mine/phases", "none"), r"field phases: cannot read .*none\.csv"),
        (TOML.replace('phases = "mine/phases.csv"\n', ""), "field phases: cannot read"),
        (TOML + "data_mix = 4\n", "field data_mix: a path is wanted, not 4"),
        (TOML.replace('"mine"', '"yours"'), "field name: it has to be that of the file, mine"),
        (TOML + "[overrides.3]\nrope_theta = 1.0\n", "field overrides.3: there is no such phase"),
    ],
)
def test_a_wrong_toml_is_named_with_the_field(home, toml, says):
    with pytest.raises(WorkbenchError, match=says) as wrong:
        write(home, toml)
    assert str(home.suites / "mine.toml") in str(wrong.value)


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (HEADER + ROWS.replace("2,stable", "two,stable"), "line 3: field phase: .*valid integer"),
        (HEADER + "\n" + ROWS.replace("0.5", "much"), "line 4: field tokens_b: .*valid number"),
        (HEADER + ROWS.replace("true", "perhaps"), "line 3: field has_optimizer: .*boolean"),
        (HEADER + ROWS + "7,stable\n", "line 6: field "),
        (HEADER + ROWS.replace("known,2,", "known,2,,"), "line 5: field "),
        (HEADER.replace("evidence", "proof") + ROWS, "line 2: field proof: Extra inputs"),
        (HEADER.replace("phase", "number") + ROWS, "line 2: field phase: Field required"),
        (HEADER + ROWS + ROWS, "line 6: field phase: 1 comes after 6"),
    ],
)
def test_a_wrong_csv_is_named_with_line_and_field(home, rows, says):
    with pytest.raises(WorkbenchError, match=says) as wrong:
        write(home, rows=rows)
    assert "phases.csv" in str(wrong.value)


def test_a_suite_without_phases_is_refused(home):
    with pytest.raises(WorkbenchError, match=r"mine\.toml: field phases: .*at least 1 item"):
        write(home, rows=HEADER)
