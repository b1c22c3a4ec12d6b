"""Run the real `workbench` command in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

WORKBENCH = str(Path(sys.executable).with_name("workbench"))


def environment(home: Path) -> dict[str, str]:
    """A user's environment with its own WORKBENCH_HOME and its own, empty Hugging Face cache."""
    own = {"WORKBENCH_HOME": str(home), "HF_HOME": str(home.parent / "huggingface")}
    return os.environ | own | {"COLUMNS": "200", "HF_HUB_DISABLE_TELEMETRY": "1"}


def workbench(
    *words: str,
    home: Path,
    expect: int = 0,
    timeout: float = 600,
    installed: Path | None = None,
) -> subprocess.CompletedProcess[str]:
    """The finished command; its exit code has to be ``expect``.

    ``installed`` is a folder of further packages that are installed for it.
    """
    done = subprocess.run(
        [WORKBENCH, *words],
        env=environment(home) | ({"PYTHONPATH": str(installed)} if installed else {}),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == expect, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def error_of(*words: str, home: Path, expect: int) -> str:
    """The one sentence of a command that fails: nothing else may be on stderr."""
    done = workbench(*words, home=home, expect=expect)
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert "Traceback" not in done.stderr, done.stderr
    assert len(lines) == 1, done.stderr
    return lines[0].removeprefix("Error: ")
