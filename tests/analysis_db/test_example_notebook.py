"""The notebook in docs runs from its first cell to its last, and holds no output of another day."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.app import synthetic
from tests.run_notebook import code_cells

NOTEBOOK = Path(__file__).parents[2] / "docs" / "notebook" / "training-dynamics.ipynb"
RUN = """
import pathlib, sys
from tests.run_notebook import run
run(pathlib.Path(sys.argv[1]))
print("torch was loaded:", "torch" in sys.modules)
"""


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    """What every cell printed, on the synthetic store."""
    home = tmp_path_factory.mktemp("home")
    synthetic.build(home)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", RUN, str(NOTEBOOK)],
        cwd=NOTEBOOK.parents[2],
        env=os.environ | {"WORKBENCH_HOME": str(home)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split("--- cell ")[1:]


def test_every_cell_ran(printed):
    assert len(printed) == len(code_cells(NOTEBOOK))
    assert all(cell.strip().count("\n") for cell in printed[1:])  # each shows something
    assert "torch was loaded: False" in printed[-1]


def test_it_answers_from_the_store(printed):
    assert "suite: small" in printed[1]
    everything = "".join(printed)
    assert "changes between phases are few" in everything
    assert "Left out, over another number of phases than most: 11 to 13, 25 to 27." in everything
    assert "measured cloze acc 0-shot n=200" in everything


def test_no_stale_outputs():
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])


def test_every_code_cell_is_explained_before_it():
    kinds = [cell["cell_type"] for cell in json.loads(NOTEBOOK.read_text())["cells"]]
    assert kinds[0] == "markdown"
    assert "codecodecode" not in "".join(kinds)
