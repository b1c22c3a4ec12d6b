"""`workbench app` in folders whose files have the names of modules."""

import os
import signal
import subprocess
import time
import urllib.request
from contextlib import contextmanager

import pytest

from tests.app.browser import chromium, free_port, listen, settle
from tests.e2e.command import WORKBENCH, environment

SHADOWS = ("app", "analysis_db", "probes", "workbench", "streamlit", "json", "pandas", "click")
CONFIG = """
[theme]
font = "Theirs:http://hostile.invalid/font.css"
[[theme.fontFaces]]
family = "Theirs"
url = "http://hostile.invalid/font.woff2"
"""


@pytest.fixture
def folder(tmp_path):
    """A working directory full of modules that end the process that imports them."""
    for module in SHADOWS:
        (tmp_path / module).mkdir()
        (tmp_path / module / "__init__.py").write_text("raise SystemExit('imported from here')")
    (tmp_path / "base64.py").write_text("raise SystemExit('imported from here')")
    (tmp_path / ".streamlit").mkdir()
    (tmp_path / ".streamlit" / "config.toml").write_text(CONFIG)
    return tmp_path


@contextmanager
def served(folder, home):
    """The command in ``folder``, WORKBENCH_HOME as the user writes it; yields the address."""
    port = free_port()
    process = subprocess.Popen(
        [WORKBENCH, "app", "--port", str(port)],
        cwd=folder, env=environment(folder) | {"WORKBENCH_HOME": home}, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            assert process.poll() is None, process.stderr.read()
            try:
                urllib.request.urlopen(f"{address}/_stcore/health", timeout=1).close()
                break
            except OSError:
                time.sleep(0.1)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGINT)
        process.communicate(timeout=30)


def test_app_takes_neither_modules_nor_settings_from_the_working_directory(folder, home):
    relative = os.path.relpath(home, folder)
    with served(folder, relative) as address, chromium() as browser:
        page = browser.new_page()
        problems = listen(page, address)
        page.goto(address)
        settle(page)
        assert page.get_by_role("heading", name="Small synthetic suite").count() == 1
        assert problems == []
