"""Open the dashboard's pages in a real Chromium and say what is wrong with them.

    with dashboard(home) as address, chromium() as browser:
        visit(browser, address, "weights", screenshot=Path("weights.png"))

``visit`` raises AssertionError with everything that it found: a Streamlit exception, a console
error, a failed request, a request to another host, no chart, a chart without marks.
"""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, ConsoleMessage, Page, Response, sync_playwright

from app.options import streamlit_arguments

PAGES = (
    "",
    "training",
    "weights",
    "changes",
    "activations",
    "loss",
    "benchmarks",
    "data-mix",
    "moved",
    "probe",
    "sql",
)
SIZE = {"width": 1400, "height": 900}
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
MARKS = ".trace path, .trace image, .heatmaplayer image, .barlayer path, .scatterlayer path"
START_S, PAGE_S = 60.0, 30.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@contextmanager
def dashboard(home: Path) -> Iterator[str]:
    """A Streamlit process for the store under ``home``; yields its address."""
    port = free_port()
    environment = {**os.environ, "WORKBENCH_HOME": str(home), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", *streamlit_arguments(port)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        _wait_until_healthy(process, address)
        yield address
    finally:
        process.terminate()
        process.wait(10)


def _wait_until_healthy(process: subprocess.Popen[str], address: str) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise AssertionError(f"The dashboard ended at once: {process.communicate()[0]}")
        try:
            with urllib.request.urlopen(f"{address}/_stcore/health", timeout=1):
                return
        except OSError:
            time.sleep(0.1)
    raise AssertionError(f"The dashboard at {address} did not answer within {START_S:.0f} s.")


@contextmanager
def chromium() -> Iterator[Browser]:
    """The system's Chromium, headless."""
    path = shutil.which("chromium")
    assert path, "There is no chromium on the PATH: install the Debian package chromium."
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        yield browser
        browser.close()


def visit(
    browser: Browser,
    address: str,
    path: str,
    *,
    screenshot: Path | None = None,
    marks: str | None = None,
) -> str:
    """Open one page, check it, return its visible text.

    ``path`` may carry a query; ``marks`` overrides the CSS selector of what must be visible, by
    default a chart with marks, on the SQL page a table. A full-page picture goes to
    ``screenshot``.
    """
    # One context for all pages: the chart library is fetched once.
    context = browser.contexts[0] if browser.contexts else browser.new_context()
    page = context.new_page()
    page.set_viewport_size(SIZE)  # type: ignore[arg-type]
    problems = listen(page, address)
    try:
        page.goto(f"{address}/{path}")
        settle(page)
        if marks is None:
            marks = (
                '[data-testid="stDataFrame"]'
                if path.startswith("sql")
                else ".js-plotly-plot .main-svg"
            )
        page.locator(marks).first.wait_for(state="visible", timeout=PAGE_S * 1000)
        settle(page)
        problems += _without_marks(page)
        for exception in page.locator('[data-testid="stException"]').all():
            problems.append(f"exception: {exception.inner_text()}")
        if screenshot is not None:
            photograph(page, screenshot)
        text = page.locator('[data-testid="stMain"]').inner_text()
    finally:
        found = list(problems)  # closing the page aborts requests, which is no problem
        page.close()
    assert not found, f"{path}: " + "; ".join(found)
    return text


def settle(page: Page) -> None:
    """Wait until the script has run and the charts stand still."""
    page.locator('[data-testid="stApp"][data-test-script-state="notRunning"]').wait_for(
        timeout=PAGE_S * 1000
    )
    page.wait_for_load_state("networkidle")
    page.wait_for_timeout(400)


def photograph(page: Page, path: Path) -> None:
    """The whole page in one picture, however long it is."""
    height = page.evaluate(
        "Math.max(...[...document.querySelectorAll('[data-testid=stMain], section')]"
        ".map(e => e.scrollHeight))"
    )
    page.set_viewport_size({"width": SIZE["width"], "height": max(SIZE["height"], int(height))})
    page.wait_for_timeout(700)
    page.screenshot(path=path)
    page.set_viewport_size(SIZE)  # type: ignore[arg-type]


def _is_search(url: str) -> bool:
    """Streamlit's client finds its server by asking below the page's path first, then above it."""
    return url.endswith(("/_stcore/health", "/_stcore/host-config")) and url.count("/") > 4


def listen(page: Page, address: str) -> list[str]:
    problems: list[str] = []

    def console(message: ConsoleMessage) -> None:
        if message.type == "error" and not _is_search(message.location["url"]):
            problems.append(f"console: {message.text}")

    def response(answer: Response) -> None:
        if answer.status >= 400 and not _is_search(answer.url):
            problems.append(f"HTTP {answer.status}: {answer.url}")

    page.on("console", console)
    page.on("pageerror", lambda error: problems.append(f"page error: {error}"))
    page.on("response", response)
    page.on("requestfailed", lambda r: problems.append(f"failed: {r.url} ({r.failure})"))
    local = (address, "data:", "blob:")
    page.on(
        "request",
        lambda r: None if r.url.startswith(local) else problems.append(f"other host: {r.url}"),
    )
    return problems


def _without_marks(page: Page) -> list[str]:
    charts = page.locator(".js-plotly-plot").all()
    return [
        f"chart {number} has no marks"
        for number, chart in enumerate(charts, start=1)
        if chart.locator(MARKS).count() == 0
    ]
