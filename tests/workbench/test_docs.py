"""The generated pages are what the code says, and every command has help and an example."""

from pathlib import Path

import pytest
import typer.main

from workbench import cli
from workbench.docs import GENERATED, commands

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("name", GENERATED)
def test_page_is_up_to_date(name):
    written = (DOCS / name).read_text(encoding="utf-8")
    assert written == GENERATED[name](), f"docs/{name} is out of date: run `make docs`"


def test_every_command_has_help_an_example_and_helped_options():
    found = dict(commands(typer.main.get_command(cli.app)))
    assert set(found) > {"demo", "suites", "phases", "pull", "audit", "convert", "probe", "status"}
    for name, command in found.items():
        assert command.help, name
        assert command.epilog.startswith(f"Example: workbench {name}"), name
        for param in command.params:
            assert param.name == "help" or param.help, f"{name} {param.name}"
