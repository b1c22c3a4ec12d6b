"""`workbench suites` and `workbench phases` as they are seen in a terminal of 80 columns."""

import json

import pytest
from rich.console import Console
from typer.testing import CliRunner

from workbench.cli import app
from workbench.settings import Home


@pytest.fixture
def shown(home: Home, monkeypatch: pytest.MonkeyPatch):
    """Run a command; its stdout in lines, and its stderr."""
    monkeypatch.setenv("WORKBENCH_HOME", str(home.root))

    def run(*arguments: str) -> tuple[list[str], str]:
        monkeypatch.setattr("workbench.cli.output.console", Console(width=80))
        monkeypatch.setattr("workbench.cli.suites.note", Console(stderr=True, soft_wrap=True))
        done = CliRunner().invoke(app, arguments, catch_exceptions=False)
        assert done.exit_code == 0
        return done.stdout.splitlines(), done.stderr

    return run


def test_suites_fit_a_screen(shown) -> None:
    lines, notes = shown("suites")
    assert len(lines) < 24
    assert max(map(len, lines)) <= 80
    assert "PART" in notes
    assert len(json.loads("\n".join(shown("suites", "--json")[0]))) == 76
    lines, _ = shown("suites", "410m-seed")
    assert sum("pythia-410m-seed" in line for line in lines) == 9
    assert shown("suites", "zzz")[0] == ["No suite's name holds 'zzz'."]


def test_phases_take_a_line_each(shown) -> None:
    lines, notes = shown("phases", "yulan-mini")
    assert len([line for line in lines if "stable" in line or "annealing" in line]) == 27
    assert len(lines) <= 27 + 6
    assert "repositories of yulan-team" in lines[0]
    assert "phase 22: unconfirmed: no page seen: confirm on the hub\n" in notes
    assert "phase 25: rope_theta = 10000.0; max_position_embeddings = 4096\n" in notes
    assert len(notes.splitlines()) == 5  # phases 1, 22, 24, 25, 26
    lines, notes = shown("phases", "pythia-160m")
    assert len([line for line in lines if "step" in line]) == 155  # with the header
    assert len(lines) == 154 + 5
    assert notes == ""
    rows = json.loads("\n".join(shown("phases", "pythia-160m", "--json")[0]))
    assert rows[11]["revision"] == "step1000"


def test_refresh_of_a_suite_that_names_its_phases(shown) -> None:
    _, notes = shown("phases", "smollm3", "--refresh")
    assert "names all phases itself: there is nothing to list" in notes
