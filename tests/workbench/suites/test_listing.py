"""Suites found by a pattern, asked of a Hub on this machine with the Hub's own client."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import HfApi

from analysis_db.store import Store
from tests.analysis_db.rows import run
from workbench.catalogue import list_phases, list_suites, record_suite, refresh_suite
from workbench.errors import WorkbenchError
from workbench.hub.discover import list_refs
from workbench.hub.failures import HubError
from workbench.hub.server import LocalHub
from workbench.settings import Home
from workbench.suites import Suite, load_suite

TOML = r"""
title = "Found"
local_hub = "../hub"
[[phases]]
repo_id = "o/m"
pattern = '(?P<stage>[a-z]+)-step(?P<step>\d+)-tokens(?P<tokens>\d+)B'
stage = "{stage}"
[[phases]]
repo_id = "o/m"
revision = "main"
label = "soup"
stage = "soup"
"""
NAMES = ("a-step9-tokens1B", "a-step10-tokens2B", "b-step5-tokens3B", "notes")
LABELS = ["a-step9-tokens1B", "a-step10-tokens2B", "b-step5-tokens3B", "soup"]


@pytest.fixture
def hub(home: Home) -> Path:
    """A repository with a main and four branches, beside a suite that finds three of them."""
    for name in ("m", *(f"m@{name}" for name in NAMES)):
        put(home.root / "hub" / "o" / name)
    (home.suites / "found.toml").write_text(TOML)
    return home.root / "hub"


def put(folder: Path, content: str = "") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(content or folder.name)


def numbered(suite: Suite) -> dict[str, int]:
    return {phase.label: phase.phase for phase in suite.phases}


def close(hub: Path) -> None:
    """From now on there is no such repository."""
    shutil.move(hub / "o", hub.parent / "away")


def test_the_first_command_lists_and_later_ones_ask_nothing(home: Home, hub: Path) -> None:
    assert next(r for r in list_suites(home) if r["suite"] == "found")["phases"] is None
    phases = load_suite("found", home).phases
    assert [(p.phase, p.label) for p in phases] == list(enumerate(LABELS, 1))
    assert [p.revision for p in phases] == [*LABELS[:3], "main"]
    assert [p.stage for p in phases] == ["a", "a", "b", "soup"]
    assert [p.end_step for p in phases] == [9, 10, 5, None]
    assert [p.tokens_seen_b for p in phases] == [1, 2, 3, None]
    close(hub)
    assert load_suite("found", home).phases == phases
    assert next(r for r in list_suites(home) if r["suite"] == "found")["phases"] == 4
    with pytest.raises(HubError, match="o/m cannot be listed: the Hub has no public repository"):
        refresh_suite("found", home)


def test_a_hub_that_cannot_be_asked_is_one_sentence(home: Home, monkeypatch) -> None:
    (home.suites / "found.toml").write_text(TOML.replace('local_hub = "../hub"', ""))
    code = "from workbench.cli import main; main()"
    closed = {"HF_ENDPOINT": "http://127.0.0.1:9", "WORKBENCH_HOME": str(home.root)}
    for extra, says in (
        ({}, "the Hub cannot be reached"),
        ({"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set"),
    ):
        done = subprocess.run(
            [sys.executable, "-c", code, "phases", "found"],
            env={**os.environ, **closed, **extra},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 1
        assert says in done.stderr
        assert "Traceback" not in done.stderr


def test_a_later_revision_at_the_end_gets_the_next_number(home: Home, hub: Path) -> None:
    only_found = TOML[: TOML.rindex("[[phases]]")]
    (home.suites / "found.toml").write_text(only_found)
    load_suite("found", home)
    put(hub / "o" / "m@b-step6-tokens4B")
    assert refresh_suite("found", home) == ["New: o/m@b-step6-tokens4B."]
    assert numbered(load_suite("found", home))["b-step6-tokens4B"] == 4
    assert refresh_suite("found", home) == ["Nothing has changed."]


def test_a_late_revision_renumbers_while_there_are_no_results(home: Home, hub: Path) -> None:
    record_suite(load_suite("found", home), Store(home.store))
    put(hub / "o" / "m@a-step1-tokens1B")
    assert refresh_suite("found", home) == [
        "New: o/m@a-step1-tokens1B.",
        "No results are stored yet, so all phases were numbered anew.",
    ]
    assert numbered(load_suite("found", home)) == {
        label: n for n, label in enumerate(["a-step1-tokens1B", *LABELS], 1)
    }
    labels = Store(home.store).table("SELECT label FROM phases ORDER BY phase").to_pylist()
    assert labels[0]["label"] == "a-step1-tokens1B"  # the store knows it at once


def test_a_late_revision_does_not_renumber_phases_that_have_results(home: Home, hub: Path) -> None:
    before = numbered(load_suite("found", home))
    Store(home.store).write_run(run("r", suite="found", phase=2), {})
    put(hub / "o" / "m@a-step1-tokens1B")
    changes = refresh_suite("found", home)
    assert changes[0] == "New: o/m@a-step1-tokens1B."
    assert changes[1].startswith("Numbered from 5 on, after all others")
    suite = load_suite("found", home)
    assert numbered(suite) == before | {"a-step1-tokens1B": 5}
    assert suite.phases[0].label == "a-step1-tokens1B"  # yet it stands where it was trained
    assert [phase.phase for phase in suite.select("all")] == [5, 1, 2, 3, 4]
    assert [phase.phase for phase in suite.select("4-5")] == [5, 4]
    rows = list_phases("found", home)
    assert {row["phase"]: row["measured"] for row in rows}.keys() == {1, 2, 3, 4, 5}


def test_what_is_gone_keeps_its_number_and_is_marked(home: Home, hub: Path) -> None:
    load_suite("found", home)
    shutil.rmtree(hub / "o" / "m@a-step10-tokens2B")
    put(hub / "o" / "m", "other weights")
    assert refresh_suite("found", home) == [
        "No longer in o/m: a-step10-tokens2B; they keep their numbers.",
        "At another commit than before in o/m: main.",
    ]
    suite = load_suite("found", home)
    assert [phase.label for phase in suite.phases] == LABELS
    assert [phase.label for phase in suite.phases if not phase.confirmed] == ["a-step10-tokens2B"]
    put(hub / "o" / "m@a-step10-tokens2B")
    refresh_suite("found", home)
    assert all(phase.confirmed for phase in load_suite("found", home).phases)


def test_a_changed_pattern_keeps_the_numbers_given(home: Home, hub: Path) -> None:
    load_suite("found", home)
    wider = TOML + '[[phases]]\nrepo_id = "o/m"\nrevision = "notes"\n'
    (home.suites / "found.toml").write_text(wider.replace("[a-z]+", "a"))
    assert numbered(load_suite("found", home)) == {
        "a-step9-tokens1B": 1, "a-step10-tokens2B": 2, "soup": 4, "notes": 5,
    }  # fmt: skip
    (home.suites / "found.toml").write_text(TOML)
    assert numbered(load_suite("found", home)) == {label: n for n, label in enumerate(LABELS, 1)}


def test_nothing_that_matches_is_said_and_not_kept(home: Home, hub: Path) -> None:
    only_found = TOML[: TOML.rindex("[[phases]]")]
    (home.suites / "found.toml").write_text(only_found.replace("-step", "-stp"))
    with pytest.raises(WorkbenchError, match=r"found\.toml, line 4: .*nothing in o/m has a name"):
        load_suite("found", home)
    (home.suites / "found.toml").write_text(only_found)
    assert len(load_suite("found", home).phases) == 3


def test_a_list_that_is_damaged_is_not_made_anew(home: Home, hub: Path) -> None:
    load_suite("found", home)
    kept = home.root / "listings" / "found.json"
    kept.write_text(kept.read_text()[:-9])
    with pytest.raises(WorkbenchError, match=r"listings/found\.json, the list of the phases"):
        load_suite("found", home)


def test_checkpoints_that_a_training_run_adds_and_deletes(home: Home, tmp_path: Path) -> None:
    (home.suites / "run.toml").write_text(
        f'title = "Run"\n[[phases]]\nfolder = "{tmp_path}/run"\n'
        "pattern = 'checkpoint-(?P<step>\\d+)'\n"
    )
    for step in (500, 1000):
        put(tmp_path / "run" / f"checkpoint-{step}")
    assert [phase.phase for phase in load_suite("run", home).phases] == [1, 2]
    shutil.rmtree(tmp_path / "run" / "checkpoint-500")  # as save_total_limit has it
    put(tmp_path / "run" / "checkpoint-1500")
    phases = load_suite("run", home).phases
    assert [(p.phase, p.end_step) for p in phases] == [(1, 500), (2, 1000), (3, 1500)]
    rows = list_phases("run", home)
    assert rows[0]["repo_id"] == str(tmp_path / "run" / "checkpoint-500")


def test_refs_are_those_that_the_client_lists(home: Home, hub: Path) -> None:
    refs = list_refs(["o/m"], hub)
    with LocalHub(hub) as served:
        api = HfApi(endpoint=served.endpoint)
        assert refs == {"o/m": {n: api.model_info("o/m", revision=n).sha for n in refs["o/m"]}}
    assert refs["o/m"].keys() == {"main", *NAMES}


def test_a_suite_that_names_its_phases_has_nothing_to_list(home: Home) -> None:
    assert refresh_suite("smollm3", home)[0].endswith("there is nothing to list.")
    assert not (home.root / "listings").exists()
