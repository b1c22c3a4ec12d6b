"""Who may import whom, and what a light import must not load."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HOUSE = ("workbench", "probes", "app", "analysis_db")
ALLOWED = {
    "analysis_db": {"analysis_db"},
    "app": {"app", "analysis_db"},
    "probes": {
        "probes",
        "workbench.checkpoints",
        "workbench.models",
        "workbench.errors",
    },
}


def imported(file: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return {name for name in names if name.split(".")[0] in HOUSE}


@pytest.mark.parametrize("package", ALLOWED)
def test_package_imports_only_what_it_may(package):
    files = list((ROOT / package).rglob("*.py"))
    assert files
    for file in files:
        for name in imported(file):
            allowed = any(name == a or name.startswith(a + ".") for a in ALLOWED[package])
            assert allowed, f"{file.relative_to(ROOT)} imports {name}"


def test_figures_know_neither_streamlit_nor_sql():
    for file in (ROOT / "app/figures").glob("*.py"):
        text = file.read_text(encoding="utf-8")
        assert "streamlit" not in text, file
        assert "duckdb" not in text, file


@pytest.mark.parametrize(
    "code", ["import workbench", "import workbench.cli", "import analysis_db; analysis_db.Store"]
)
def test_light_imports_load_nothing_heavy(code):
    heavy = "{'torch', 'transformers', 'streamlit', 'nnsight', 'lm_eval'}"
    check = f"import sys; {code}; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
