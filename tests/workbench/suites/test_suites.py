"""One suite: its CSV, the choice of phases, where it is looked for."""

import shutil
from pathlib import Path

import pytest

from tests.workbench.suites.conftest import Write
from workbench.catalogue import list_phases
from workbench.errors import UsageError, WorkbenchError
from workbench.settings import Home
from workbench.suites import CATALOGUE, load_suite, load_suite_file, read_all

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
STEPS = (
    'title = "Steps"\n[[phases]]\nrepo_id = "o/a"\nrevision = "step{step}"\n'
    'steps = [0, 8, {from = 10, to = 30, by = 10}]\nlabel = "at {step:03}"\nstage = "only"\n'
)


def test_tokens_seen_are_unknown_once_a_phase_is(write: Write) -> None:
    suite = write(TOML, HEADER + ROWS)
    assert [phase.tokens_seen_b for phase in suite.phases] == [1.5, 2.0, None, None]
    assert [phase.form for phase in suite.phases][-1] == "plain"
    assert [phase.label for phase in suite.phases][-1] == "phase 6"
    assert all(phase.confirmed for phase in suite.phases)


def test_paths_are_relative_to_the_file(write: Write, home: Home) -> None:
    suite = write(TOML + 'local_hub = "mine/hub"\ncache_dir = "../hub"\n', HEADER + ROWS)
    assert suite.local_hub == home.suites / "mine" / "hub"
    assert suite.cache_dir == home.suites / ".." / "hub"
    assert "mine" in {definition.name for definition in read_all(home)}


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
        ("phase 5", [5]),
    ],
)
def test_select(write: Write, spec: str, phases: list[int]) -> None:
    assert [phase.phase for phase in write(TOML, HEADER + ROWS).select(spec)] == phases


@pytest.mark.parametrize(
    ("spec", "phases"),
    [("step8", [2]), ("at 008", [2]), ("step30,step0", [1, 5]), ("only", [1, 2, 3, 4, 5])],
)
def test_select_by_label_and_revision(write: Write, spec: str, phases: list[int]) -> None:
    assert [phase.phase for phase in write(STEPS).select(spec)] == phases


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("7", "has no phase 7: its phases are 1-6"),
        ("1-9", "has no phase 1-9"),
        ("6-1", "has no phase 6-1"),
        ("3", "has no phase 3"),
        ("cooldown", r"'cooldown' is no phase .*\(warm-up, stable, annealing\)\.$"),
        ("main", "'main' is no phase"),
        ("-2", "'-2' is no phase"),
        ("2-", "'2-' is no phase"),
        ("²", "'²' is no phase"),
        ("", "No phase was named: give for example --phases 1-6"),
        (" , ", "No phase was named"),
    ],
)
def test_select_refuses(write: Write, spec: str, says: str) -> None:
    with pytest.raises(UsageError, match=says) as refusal:
        write(TOML, HEADER + ROWS).select(spec)
    assert refusal.value.exit_code == 2


def test_a_refusal_stays_one_sentence_with_154_phases(home: Home) -> None:
    with pytest.raises(UsageError) as refusal:
        load_suite("pythia-70m", home).select("stp1000")
    assert str(refusal.value) == (
        "'stp1000' is no phase of suite pythia-70m: give numbers (1-154), ranges such as 1-154, "
        "'all', or a label such as step1000 or step91000 or step81000."
    )


def test_an_unknown_suite_is_a_usage_error(home: Home) -> None:
    with pytest.raises(UsageError, match="no suite named 'pythia-180m': did you mean pyth") as e:
        load_suite("pythia-180m", home)
    assert str(e.value).endswith("`workbench demo` makes demo.")
    with pytest.raises(UsageError, match="'zzz': `workbench suites` lists them"):
        load_suite("zzz", home)


def test_a_suite_may_be_named_by_its_path(home: Home, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "steps.toml").write_text(STEPS)
    monkeypatch.chdir(tmp_path)
    for name in ("steps.toml", "./steps.toml", str(tmp_path / "steps.toml")):
        assert load_suite(name, home).name == "steps"
        assert [row["label"] for row in list_phases(name, home)][:2] == ["at 000", "at 008"]
    with pytest.raises(UsageError, match=r"no file other\.toml: give the path"):
        load_suite("other.toml", home)


def test_a_name_that_is_taken_is_refused(home: Home, tmp_path: Path) -> None:
    mine = tmp_path / "pythia-70m.toml"
    mine.write_text(STEPS)
    says = r"pythia-70m\.toml, line 1: field name: .*pythia\.toml defines a suite pythia-70m"
    with pytest.raises(WorkbenchError, match=says):
        load_suite(str(mine), home)
    shutil.copy(mine, home.suites / "pythia-70m.toml")
    with pytest.raises(WorkbenchError, match=says):
        load_suite("pythia-70m", home)
    with pytest.raises(WorkbenchError, match=says):
        read_all(home)
    # The path of the catalogue's own file is no clash.
    assert load_suite(str(CATALOGUE / "smollm3.toml"), home).name == "smollm3"


def test_a_family_of_ones_own(home: Home, tmp_path: Path) -> None:
    family = (
        'name = "my-{size}-{seed}"\ntitle = "{size}, seed {seed}"\n'
        '[family]\nsize = ["1m", "2m"]\nseed = [0, 1]\n'
        '[[phases]]\nrepo_id = "o/{size}-{seed}"\nevidence = "of {size}"\n'
    )
    (home.suites / "any-name.toml").write_text(family)
    suite = load_suite("my-2m-1", home)
    assert (suite.title, suite.phases[0].repo_id) == ("2m, seed 1", "o/2m-1")
    assert suite.phases[0].evidence == "of 2m"
    outside = shutil.copy(home.suites / "any-name.toml", tmp_path / "family.toml")
    with pytest.raises(UsageError, match=r"family\.toml defines 4 suites: .* such as my-1m-0"):
        load_suite(str(outside), home)


def test_checkpoints_of_a_folder_in_the_trainers_layout(home: Home, tmp_path: Path) -> None:
    for step in (1500, 500, 1000):
        (tmp_path / "run" / f"checkpoint-{step}").mkdir(parents=True)
    (tmp_path / "run" / "checkpoint-1500" / "optimizer.pt").touch()
    (tmp_path / "run" / "runs").mkdir()
    (tmp_path / "run" / "checkpoint-2000").touch()  # no folder
    toml = tmp_path / "local.toml"
    toml.write_text(
        'title = "Local"\n[[phases]]\nfolder = "run"\ntokens_per_step = 1000000\n'
        "pattern = 'checkpoint-(?P<step>\\d+)'\n"
    )
    phases = load_suite(str(toml), home).phases
    assert [(p.phase, p.label, p.end_step) for p in phases] == [
        (1, "checkpoint-500", 500), (2, "checkpoint-1000", 1000), (3, "checkpoint-1500", 1500),
    ]  # fmt: skip
    assert phases[0].folder == tmp_path / "run" / "checkpoint-500"
    assert [p.has_optimizer for p in phases] == [False, False, True]
    assert [p.tokens_seen_b for p in phases] == [0.5, 1.0, 1.5]
    assert {p.repo_id for p in phases} == {None}


def test_single_folders_and_folders_by_step(tmp_path: Path) -> None:
    toml = tmp_path / "local.toml"
    toml.write_text(
        'title = "Local"\n[[phases]]\nfolder = "out/step{step}"\nsteps = [10, 20]\n'
        '[[phases]]\nfolder = "out/final"\nhas_optimizer = true\ntokens_seen_b = 2.5\n'
    )
    phases = load_suite_file(toml).phases
    assert [p.folder for p in phases] == [
        tmp_path / "out" / n for n in ("step10", "step20", "final")
    ]
    assert [p.label for p in phases] == ["step10", "step20", "final"]
    assert [p.end_step for p in phases] == [10, 20, None]
    assert (phases[-1].has_optimizer, phases[-1].tokens_seen_b) == (True, 2.5)


def test_a_folder_in_a_csv_is_relative_to_it(write: Write, home: Home) -> None:
    phases = write(TOML, "phase,folder,end_step\n1,out/a,10\n2,,20\n").phases
    assert [phase.folder for phase in phases] == [home.suites / "mine" / "out" / "a", None]


def test_groups_of_a_pattern_that_match_nothing_or_no_number(home: Home, tmp_path: Path) -> None:
    for name in ("step5", "last", "step-x"):
        (tmp_path / "run" / name).mkdir(parents=True)
    toml = tmp_path / "local.toml"
    text = "title = 'T'\n[[phases]]\nfolder = 'run'\npattern = '{}'\nlabel = 'at {{step}}'\n"
    toml.write_text(text.format(r"step(?P<step>\d+)|last"))
    phases = load_suite(str(toml), home).phases
    assert [(p.label, p.end_step) for p in phases] == [("at 5", 5), ("at ", None)]
    toml.write_text(text.format("step(?P<step>.+)"))
    with pytest.raises(WorkbenchError, match=r"line 2: field phases: in step-x, step and tokens"):
        load_suite(str(toml), home)
