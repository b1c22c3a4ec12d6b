"""A suite's name belongs to one definition as long as it has results, in every command."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from analysis_db.errors import StoreError
from analysis_db.store import Store
from tests.analysis_db.rows import run
from tests.e2e.command import error_of, workbench
from tests.fixtures.tiny_checkpoint import write_llama
from workbench.catalogue import record_suite
from workbench.cli import app
from workbench.demo import NAME, Progress, run_demo
from workbench.errors import UsageError, WorkbenchError
from workbench.settings import Home
from workbench.suites import load_suite

Run = Callable[..., Result]

FOLDERS = "title = '{0}'\n[[phases]]\nfolder = 'run'\npattern = 'checkpoint-(?P<step>\\d+)'\n"
STEPS = "title = '{0}'\n[[phases]]\nrepo_id = '{0}/m'\nrevision = 'step{{step}}'\nsteps = [1, 2]\n"
FAMILY = (
    "name = 'mine-{size}'\ntitle = 'F'\n[family]\nsize = [1, 2]\n[[phases]]\nrepo_id = 'f/{size}'\n"
)


@pytest.fixture
def call(home: Home, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command; ``fails`` is part of the sentence that it fails with."""
    monkeypatch.setenv("WORKBENCH_HOME", str(home.root))

    def run(*words: object, fails: str = "") -> Result:
        done = CliRunner().invoke(app, [str(word) for word in words])
        if fails:
            assert isinstance(done.exception, WorkbenchError | StoreError), done.output
            assert fails in str(done.exception)
        else:
            assert done.exit_code == 0, (done.output, done.exception)
        return done

    return run


@pytest.fixture
def score(tmp_path: Path, call: Run) -> Callable[..., Result]:
    """Import a score for step 1 of a suite: a result."""
    results = tmp_path / "step1.json"
    results.write_text('{"results": {"arc": {"acc": 0.5}}, "versions": {}}')
    return lambda suite, **how: call("import", "lm-eval", results, "--suite", suite, **how)


def put(path: Path, text: str = STEPS) -> Path:
    """Write a TOML; the repositories in it are named after its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text.format(path.parent.name) if "{0}" in text else text)
    return path


def checkpoints(toml: Path, *steps: int) -> None:
    for step in steps:
        folder = toml.parent / "run" / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        (folder / "config.json").touch()


def rows(call: Run, *words: object) -> list[dict[str, object]]:
    return json.loads(call(*words, "--json").stdout)


def row(call: Run, suite: str) -> dict[str, object]:
    (found,) = [row for row in rows(call, "suites", suite) if row["suite"] == suite]
    return found


def stored(home: Home, sql: str) -> list[tuple[object, ...]]:
    return [tuple(row.values()) for row in Store(home.store).table(sql).to_pylist()]


def kept(home: Home) -> dict[str, bytes]:
    """Everything under the home, by path."""
    return {str(p): p.read_bytes() for p in home.root.rglob("*") if p.is_file()}


def test_two_measured_definitions_through_the_real_command(tmp_path: Path) -> None:
    home = tmp_path / "home"
    for name, step in (("hf", 10), ("other", 20)):
        write_llama(put(tmp_path / name / "mine.toml", FOLDERS).parent / f"run/checkpoint-{step}")
    first, second = (str(tmp_path / name / "mine.toml") for name in ("hf", "other"))
    workbench("probe", first, "--probes", "weights", home=home)
    listing = (home / "listings/mine.json").read_bytes()
    for command in ("phases", "status", "failures", "probe", "pull", "audit"):
        said = error_of(command, second, home=home, expect=2)
        assert said == (
            f"{second} defines a second suite named mine: the name belongs to {first}, which has "
            "results in the store; rename the file to choose another name."
        )
    assert (home / "listings/mine.json").read_bytes() == listing
    sql = "SELECT suite, phase, label FROM phases"
    assert stored(Home(home), sql) == [("mine", 1, "checkpoint-10")]
    status = json.loads(workbench("status", "mine", "--json", home=home).stdout)
    assert [(row["phase"], row["weights"]) for row in status] == [(1, "measured")]
    own = shutil.move(second, tmp_path / "other" / "mine-2.toml")
    workbench("probe", own, "--probes", "weights", home=home)
    assert stored(Home(home), sql + " ORDER BY suite") == [
        ("mine", 1, "checkpoint-10"), ("mine-2", 1, "checkpoint-20"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "words",
    [
        ("phases",), ("phases", "--adopt"), ("phases", "--refresh"), ("status",), ("failures",),
        ("pull", "--dry-run"), ("probe",), ("audit",), ("compare", "1", "2"),
        ("convert", "1", "out", "--to", "llama", "--suite"),
    ],
)  # fmt: skip
def test_a_second_definition_is_refused_by_every_command(
    home: Home, tmp_path: Path, call: Run, score, words: tuple[str, ...]
) -> None:
    first, second = put(tmp_path / "hf/mine.toml"), put(tmp_path / "other/mine.toml")
    score(first)
    before = kept(home)
    where = len(words) if words[-1] == "--suite" else 1
    told = (*words[:where], second, *words[where:])
    call(*told, fails=f"belongs to {first}, which has results")
    assert kept(home) == before


def test_imports_refuse_a_second_definition(home: Home, tmp_path: Path, call: Run, score) -> None:
    first, second = put(tmp_path / "hf/mine.toml"), put(tmp_path / "other/mine.toml")
    score(first)
    before = kept(home)
    score(second, fails="rename the file to choose another name")
    (tmp_path / "log.csv").write_text("step,loss\n1,2\n")
    call(
        "import", "csv", tmp_path / "log.csv", "--run", "r", "--suite", second,
        fails="belongs to",
    )  # fmt: skip
    assert kept(home) == before
    assert stored(home, "SELECT repo_id FROM phases") == [("hf/m",)] * 2


def test_without_results_the_later_definition_takes_the_name(
    home: Home, tmp_path: Path, call: Run, score
) -> None:
    first = put(tmp_path / "hf/mine.toml", FOLDERS)
    second = put(tmp_path / "other/mine.toml", FOLDERS)
    checkpoints(first, 1, 2)
    checkpoints(second, 7)
    assert len(rows(call, "phases", first)) == 2
    call("pull", first)  # the store knows it; there is no result
    labels = [(row["phase"], row["label"]) for row in rows(call, "phases", second)]
    assert labels == [(1, "checkpoint-7")]
    assert row(call, "mine")["definition"] == str(second)
    call("pull", second)
    assert stored(home, "SELECT label, definition FROM phases JOIN suites USING (suite)") == [
        ("checkpoint-7", str(second))
    ]
    assert len(rows(call, "phases", first)) == 2  # and back
    score(first)  # records it anew, since the store has the phases of the other
    assert stored(home, "SELECT label FROM phases ORDER BY 1") == [
        ("checkpoint-1",), ("checkpoint-2",),
    ]  # fmt: skip
    call("phases", second, fails="belongs to")


def test_facts_of_the_former_definition_do_not_stay(home: Home, tmp_path: Path, call: Run) -> None:
    first = put(tmp_path / "hf/mine.toml", "data_mix = 'mix.csv'\n" + STEPS)
    (first.parent / "mix.csv").write_text(
        "phase,run,mix_id,source,group,category,bucket,tokens_b\n1,1,a,web,g,c,b,2\n"
    )
    load_and_record(first, home)
    assert stored(home, "SELECT source FROM data_mix") == [("web",)]
    load_and_record(put(tmp_path / "other/mine.toml"), home)
    assert stored(home, "SELECT source FROM data_mix") == []


def load_and_record(toml: Path, home: Home) -> None:
    record_suite(load_suite(str(toml), home), Store(home.store))


def test_a_path_is_known_by_its_name_from_everywhere(
    home: Home, tmp_path: Path, call: Run, score, monkeypatch: pytest.MonkeyPatch
) -> None:
    toml = put(tmp_path / "hf/mine.toml")
    monkeypatch.chdir(toml.parent)
    call("phases", "mine.toml")
    monkeypatch.chdir(tmp_path)
    assert not home.store.exists()
    call("phases", "mine")
    assert (row(call, "mine")["phases"], row(call, "mine")["title"]) == (2, "hf")
    score("mine")
    monkeypatch.chdir("/")
    for command in ("phases", "status", "failures"):
        call(command, "mine")
    assert row(call, "mine")["definition"] == str(toml)
    assert "mine" in call("suites").stdout
    shutil.rmtree(home.root / "listings")  # the store knows it, too
    assert [row["repo_id"] for row in rows(call, "phases", "mine")] == ["hf/m"] * 2
    call("phases", "mien", fails="did you mean mine?")


def test_all_paths_of_a_file_are_one_definition(
    home: Home, tmp_path: Path, call: Run, score, monkeypatch: pytest.MonkeyPatch
) -> None:
    toml = put(tmp_path / "hf/mine.toml")
    (tmp_path / "link").symlink_to("hf")
    put(tmp_path / "elsewhere/nothing.toml")
    (tmp_path / "elsewhere/mine.toml").symlink_to(toml)
    score(toml)
    monkeypatch.chdir(tmp_path / "elsewhere")
    before = kept(home)
    for path in ("../hf/mine.toml", tmp_path / "link/mine.toml", "mine.toml"):
        assert rows(call, "phases", path)[0]["repo_id"] == "hf/m"
        score(path)
    listings = {name: text for name, text in before.items() if "listings" in name}
    assert {name: text for name, text in kept(home).items() if "listings" in name} == listings


def test_a_link_in_another_folder_with_other_checkpoints_is_another_definition(
    tmp_path: Path, call: Run, score
) -> None:
    toml = put(tmp_path / "hf/mine.toml", FOLDERS)
    checkpoints(toml, 1)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/mine.toml").symlink_to(toml)
    checkpoints(tmp_path / "other/mine.toml", 1)
    score(toml)
    call("phases", tmp_path / "other/mine.toml", fails=f"belongs to {toml}")


def test_a_copy_is_a_second_definition(tmp_path: Path, call: Run, score, home: Home) -> None:
    toml = put(tmp_path / "hf/mine.toml")
    score(toml)
    copy = put(tmp_path / "copy/mine.toml", toml.read_text())
    call("phases", copy, fails=f"belongs to {toml}")
    # In WORKBENCH_HOME/suites the name would be that of the copy: it is refused there, too.
    put(home.suites / "mine.toml", toml.read_text())
    call("phases", "mine", fails=f"{home.suites / 'mine.toml'} defines a second suite named mine")
    shown = row(call, "mine")
    assert shown["definition"] == str(toml)
    assert "defines a second suite" in str(shown["problem"])
    assert rows(call, "phases", toml)[0]["repo_id"] == "hf/m"  # the owner is not refused


def test_a_definition_edited_in_place_stays_the_same(tmp_path: Path, call: Run, score) -> None:
    toml = put(tmp_path / "hf/mine.toml")
    score(toml)
    toml.write_text(toml.read_text().replace("[1, 2]", "[1, 2, 3]"))
    assert len(rows(call, "phases", "mine")) == 3


def test_a_moved_definition_is_accepted_where_its_checkpoints_agree(
    home: Home, tmp_path: Path, call: Run, score
) -> None:
    toml = put(tmp_path / "hf/mine.toml")
    score(toml)
    toml.rename(tmp_path / "hf/mine.bak")
    for words in (
        ("phases", "mine"),
        ("status", "mine"),
        ("import", "scores", "x", "--suite", "mine"),
    ):
        call(*words, fails=f"{toml}, which defines suite mine, is not there: restore it, or name")
    gone = row(call, "mine")
    assert (gone["phases"], gone["title"]) == (None, "hf")
    assert "is not there" in str(gone["problem"])
    other = put(tmp_path / "other/mine.toml")
    call("phases", other, fails=f"belongs to {toml}, a file that is not there: rename the file")
    moved = put(tmp_path / "new/mine.toml", (tmp_path / "hf/mine.bak").read_text())
    assert len(rows(call, "phases", moved)) == 2
    assert rows(call, "phases", "mine") == rows(call, "phases", moved)
    assert stored(home, "SELECT definition FROM suites") == [(str(moved),)]
    toml.parent.joinpath("mine.bak").rename(toml)
    call("phases", toml, fails=f"belongs to {moved}")


def test_the_numbers_of_a_moved_definition_stay(home: Home, tmp_path: Path, call, score) -> None:
    run = tmp_path / "run"
    text = FOLDERS.replace("'run'", f"'{run}'")
    toml = put(tmp_path / "hf/mine.toml", text)
    checkpoints(tmp_path / "mine.toml", 1, 3)
    score(toml)
    checkpoints(tmp_path / "mine.toml", 2)
    moved = tmp_path / "mine.toml"
    toml.rename(moved)
    numbers = {row["label"]: row["phase"] for row in rows(call, "phases", moved)}
    assert numbers == {"checkpoint-1": 1, "checkpoint-3": 2, "checkpoint-2": 3}


def test_a_suite_moved_with_its_checkpoints_is_adopted_by_choice(
    home: Home, tmp_path: Path, call: Run, score
) -> None:
    toml = put(tmp_path / "my runs/mine.toml", FOLDERS)
    checkpoints(toml, 1)
    score(toml)
    moved = shutil.move(toml.parent, tmp_path / "new place") / "mine.toml"
    call("phases", moved, fails=f"run `workbench phases '{moved}' --adopt`.")
    call("phases", moved, "--adopt")
    call("status", "mine")
    assert stored(home, "SELECT definition FROM suites") == [(str(moved),)]


def test_a_home_may_be_moved_and_copied(
    home: Home, tmp_path: Path, call: Run, score, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(home.suites / "mine.toml", FOLDERS)
    checkpoints(home.suites / "mine.toml", 1)
    inside = put(home.root / "more/deep.toml")
    score("mine")
    score(inside)
    assert stored(home, "SELECT definition FROM suites ORDER BY 1") == [
        ("WORKBENCH_HOME/more/deep.toml",), ("WORKBENCH_HOME/suites/mine.toml",),
    ]  # fmt: skip
    shutil.copytree(home.root, tmp_path / "copy")
    shutil.move(home.root, tmp_path / "moved")
    (tmp_path / "linked").symlink_to("moved")
    for name in ("copy", "moved", "linked"):
        monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path / name))
        assert rows(call, "phases", "mine")[0]["repo_id"] == str(
            tmp_path / name / "suites/run/checkpoint-1"
        )
        call("status", "deep")
        score(tmp_path / name / "suites/mine.toml")
        assert row(call, "deep")["definition"] == str(tmp_path / name / "more/deep.toml")
    # The other home's file is a second definition.
    call("phases", tmp_path / "copy/suites/mine.toml", fails="defines a second suite named mine")


def test_members_of_families_have_names_of_their_own(
    home: Home, tmp_path: Path, call: Run, score
) -> None:
    put(home.suites / "any.toml", FAMILY)
    member = put(tmp_path / "mine-1.toml")
    call("phases", member, fails=f"{home.suites / 'any.toml'} defines a suite mine-1 as well")
    (home.suites / "any.toml").unlink()
    score(member)
    put(home.suites / "any.toml", FAMILY)
    call("phases", "mine-1", fails="change the field name or the values of this family")
    call("phases", "mine-2")
    assert rows(call, "phases", member)[0]["label"] == "step1"
    shown = {r["suite"]: r["definition"] for r in rows(call, "suites", "mine")}
    assert shown == {"mine-1": str(member), "mine-2": str(home.suites / "any.toml")}
    # A family's file may be renamed: its members are the same.
    call("import", "lm-eval", tmp_path / "step1.json", "--suite", "mine-2", "--phase", "1")
    (home.suites / "any.toml").rename(home.suites / "family.toml")
    assert rows(call, "phases", "mine-2")[0]["repo_id"] == "f/2"


def test_a_name_of_the_catalogue_is_taken(home: Home, tmp_path: Path, call: Run, score) -> None:
    score("pythia-70m")
    sql = "SELECT suite, definition FROM suites"
    assert stored(home, sql) == [("pythia-70m", "catalogue")]
    mine = put(tmp_path / "pythia-70m.toml")
    call("phases", mine, fails="belongs to the catalogue that ships with the workbench")
    # One of the user's own that had results before the catalogue had the name keeps it.
    with Store(home.store).write() as connection:
        connection.execute("UPDATE data.suite SET definition = $d", {"d": str(mine)})
    assert len(rows(call, "phases", mine)) == 2
    call("phases", "pythia-70m", fails=f"the name belongs to {mine}")
    assert row(call, "pythia-70m")["definition"] == str(mine)


def test_results_without_a_definition_are_adopted(
    home: Home, tmp_path: Path, call: Run, score
) -> None:
    first, second = put(tmp_path / "hf/mine.toml"), put(tmp_path / "other/mine.toml")
    score(first)
    with Store(home.store).write() as connection:  # as a workbench stored it before
        connection.execute("UPDATE data.suite SET definition = NULL")
    shutil.rmtree(home.root / "listings")
    call("status", "mine", fails="name its TOML once: `workbench phases PATH/mine.toml`")
    assert row(call, "mine")["problem"] != ""
    call("phases", second, fails="does not say what defined that suite: rename the file")
    call("phases", first)
    assert stored(home, "SELECT definition FROM suites") == [(str(first),)]
    call("status", "mine")
    call("phases", second, fails="belongs to")


def test_an_old_suite_of_the_home_needs_no_choice(
    home: Home, tmp_path: Path, call: Run, score
) -> None:
    toml = put(home.suites / "mine.toml", FOLDERS)
    checkpoints(toml, 1)
    score("mine")
    with Store(home.store).write() as connection:
        connection.execute("UPDATE data.suite SET definition = NULL")
    listing = home.root / "listings/mine.json"
    old = json.loads(listing.read_text())
    del old["definition"]
    listing.write_text(json.dumps(old))
    call("phases", put(tmp_path / "mine.toml"), fails=f"{toml} defines a suite mine as well")
    checkpoints(toml, 0)
    assert {r["label"]: r["phase"] for r in rows(call, "phases", "mine")} == {
        "checkpoint-1": 1, "checkpoint-0": 2,
    }  # fmt: skip


def test_a_name_that_is_given_away_meanwhile_gets_no_results(home: Home, tmp_path: Path) -> None:
    one, two = Store(home.store), Store(home.store)
    phases: list[dict[str, object]] = [{"phase": 1, "label": "a"}]
    head = {"name": "s", "title": "S", "about": "", "licence": ""}
    one.put_suite(head, phases, definition="/hf/s.toml")
    two.put_suite(head, phases, definition="/other/s.toml")
    with pytest.raises(StoreError, match=r"was given to the suite of /other/s\.toml while /hf/s"):
        one.write_run(run("r"), {})
    two.write_run(run("r"), {})
    with pytest.raises(StoreError, match=r"s belongs to the suite of /other/s\.toml, which has"):
        one.put_suite(head, [], definition="/hf/s.toml")
    assert stored(home, "SELECT label FROM phases") == [("a",)]


def test_the_demo_does_not_take_the_name_of_another_suite(
    home: Home, tmp_path: Path, call: Run, score
) -> None:
    score(put(tmp_path / f"hf/{NAME}.toml"))
    silent = Progress(lambda step: None, lambda done, total: None)
    with pytest.raises(UsageError, match="results of another suite named demo, that of /"):
        run_demo(home, seed=0, progress=silent)
    assert not home.runs.exists()
