"""`workbench audit`: what it prints, how it exits, and what it keeps."""

import json
import shutil
from pathlib import Path

import pytest
from huggingface_hub import constants
from typer.testing import CliRunner, Result

import workbench.cli.audit  # noqa: F401
from analysis_db import Store
from tests.workbench.hub.audited import WEIGHTS, edit_config, repo, write_home
from workbench.audits import audit_suite, by_sentence
from workbench.cli import app
from workbench.hub.failures import HubError
from workbench.settings import Home


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("sound")
    write_home(home)
    return home


@pytest.fixture
def home(sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = Path(shutil.copytree(sound, tmp_path / "home"))
    monkeypatch.setenv("WORKBENCH_HOME", str(home))
    return home


def run(*words: str) -> Result:
    return CliRunner().invoke(app, ["audit", *words], env={"COLUMNS": "80"})


def errors(home: Path) -> dict[int, str]:
    sql = "SELECT phase, check_id FROM findings WHERE severity = 'error'"
    return {r["phase"]: r["check_id"] for r in Store(Home(home).store).table(sql).to_pylist()}


def test_all_well(home: Path) -> None:
    done = run("small")
    assert done.exit_code == 0
    assert "1-4    note      tied-stored-twice" in done.output
    assert "5 checkpoints of suite small: 0 errors, 0 warnings, 6 notes" in done.output
    assert "All is well with files and their sizes" in done.output
    assert max(map(len, done.output.split("5 checkpoints")[0].splitlines())) <= 80
    assert not list((home / "cache").rglob("*")), "something was downloaded"


def test_error_exits_with_1_and_json_is_complete(home: Path) -> None:
    shutil.copy(repo(home, 1) / WEIGHTS, repo(home, 2) / WEIGHTS)
    done = run("small", "--json")
    assert done.exit_code == 1
    told = json.loads(done.stdout)
    assert (told["errors"], told["warnings"], told["notes"]) == (2, 0, 6)
    same = [f for f in told["findings"] if f["check"] == "identical-weights"]
    assert [f["phase"] for f in same] == [1, 2]
    assert same[0]["evidence"]["phases"] == [1, 2]
    assert len(same[0]["evidence"]["sha256"][WEIGHTS]) == 64
    assert [row["phase"] for row in told["phases"]] == [1, 2, 3, 4, 5, 6]
    assert len(told["phases"][0]["commit_sha"]) == 40
    assert told["bytes_read"] == sum(row["bytes_read"] for row in told["phases"])


def test_table_says_the_same_of_several_phases_once(home: Path) -> None:
    shutil.copy(repo(home, 1) / WEIGHTS, repo(home, 2) / WEIGHTS)
    rows = by_sentence(audit_suite("small", "all", Home(home))["findings"])
    assert [(r["phase"], r["check"]) for r in rows[:2]] == [
        ("1-2", "identical-weights"),
        ("1-4", "tied-stored-twice"),
    ]


def test_findings_are_kept_and_replaced_phase_by_phase(home: Path) -> None:
    edit_config(repo(home, 1), rope_parameters={"rope_theta": 1.0})
    edit_config(repo(home, 3), max_position_embeddings=1)
    assert run("small").exit_code == 1
    assert errors(home) == {1: "config-value", 3: "config-value"}
    edit_config(repo(home, 1), rope_parameters={"rope_theta": 10000.0})
    edit_config(repo(home, 3), max_position_embeddings=512)
    assert run("small", "--phases", "1-2").exit_code == 0
    assert errors(home) == {3: "config-value"}
    assert run("small").exit_code == 0
    assert errors(home) == {}
    audits = Store(Home(home).store).table("SELECT phase, errors FROM audits ORDER BY phase")
    assert audits["phase"].to_pylist() == [1, 2, 3, 4, 5, 6]
    titles = Store(Home(home).store).table("SELECT title FROM suites")
    assert titles["title"].to_pylist() == ["Small"]


def test_offline_is_one_sentence_and_stores_nothing(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match="while HF_HUB_OFFLINE is set: unset it and audit again"):
        audit_suite("small", "all", Home(home))
    assert not Home(home).store.exists()


def test_unreachable_hub_is_one_sentence_and_stores_nothing(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toml = home / "suites" / "small.toml"
    toml.write_text(toml.read_text().replace('local_hub = "small/hub"\n', ""))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    sentence = r"^Phases 1-4,6 of suite small: the Hub cannot be reached"
    with pytest.raises(HubError, match=sentence) as caught:
        audit_suite("small", "all", Home(home))
    assert "check the network and HF_ENDPOINT" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not Home(home).store.exists()
