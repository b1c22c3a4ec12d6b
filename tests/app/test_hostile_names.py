"""Names with Markdown, HTML and LaTeX in a real browser: shown as written, no request leaves."""

import re
from urllib.parse import quote

import pytest

from tests.app import hostile
from tests.app.browser import PAGES, chromium, dashboard, listen, settle
from tests.app.hostile import LOG, RUN, SUITE, name

# Page -> the slots whose names its text shows; after the bar, those in the texts of its figures.
SHOWN = {
    "": "title about licence finding check probe error| stage probe",
    "training": "log| log run series",
    "weights": "source formula unit reason| unit module",
    "changes": "source label2 label3 formula unit| unit",
    "activations": "formula unit| module",
    "loss": "formula| domain layered layered module unit",
    "benchmarks": "task warning| task score bench",
    "data-mix": "mixrun| mixrun category",
    "moved": "formula",
    "probe": "metric formula unit source| metric module unit",
    "sql": "",
}
QUERY = {"probe": {"any_probe": name("probe")}}


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    hostile.build(folder)
    with dashboard(folder) as found:
        yield found


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


@pytest.fixture
def page(browser, address):
    """A page that fails the test for every foreign request, dialog and error of the console."""
    context = browser.new_context(viewport={"width": 1400, "height": 1000})
    page = context.new_page()
    problems = listen(page, address)
    page.on("dialog", lambda dialog: problems.append(f"dialog: {dialog.message}"))
    yield page
    found = list(problems)
    context.close()
    assert not found, found


def spaced(text):
    return " ".join(text.split())


def figure_texts(page):
    """Titles, legends, axis titles, ticks and annotations, as they are drawn."""
    texts = page.locator(".js-plotly-plot svg text").all_text_contents()
    return spaced(" ".join(texts))


# Where some points of each trace lie, from the corner of their figure.
POINTS = """figure => figure.calcdata.flatMap(trace => {
    const of = figure._fullLayout, {xaxis = 'x', yaxis = 'y'} = trace[0].trace;
    const axis = id => of[id[0] + 'axis' + id.slice(1)], x = axis(xaxis), y = axis(yaxis);
    const kept = trace.filter(point => isFinite(point.x) && isFinite(point.y));
    return [0, 1, kept.length >> 1, kept.length - 1].filter(i => kept[i]).map(i => [
        x._offset + x.c2p(kept[i].x), y._offset + y.c2p(kept[i].y)]);
})"""


def hover(page):
    """The texts that appear where the mouse passes over the figures."""
    found = []
    for chart in page.locator(".js-plotly-plot").all():
        for x, y in chart.evaluate(POINTS):
            chart.hover(position={"x": x, "y": y + 2}, force=True)
            page.wait_for_timeout(60)
            found += chart.locator(".hoverlayer text").all_text_contents()
    return spaced(" ".join(found))


def nothing_rendered(page):
    """Links, images, formulas and icons that only a name can have brought in."""
    main = page.locator('[data-testid="stMain"], [data-testid="stSidebarUserContent"]')
    marks = main.locator("a[href], img, .katex, [role=img][aria-label$=' icon']")
    return [mark.evaluate("e => e.outerHTML") for mark in marks.all()]


@pytest.mark.parametrize("path", PAGES)
def test_names_are_shown_as_they_are_written(page, address, path):
    query = "&".join(f"{key}={quoted(value)}" for key, value in QUERY.get(path, {}).items())
    page.goto(f"{address}/{path}?{query}")
    settle(page)
    if path == "training":
        choose_all(page, "Runs", RUN)
        choose_all(page, "Series", name("series"))
    for closed in page.locator('[data-testid="stExpander"] summary').all():
        closed.click()
    settle(page)
    assert page.locator('[data-testid="stException"]').count() == 0
    text = spaced(page.locator('[data-testid="stMain"]').inner_text())
    slots, _, drawn = SHOWN[path].partition("|")
    for slot in slots.split():
        assert name(slot) in text, f"{slot} is not in the text of the page"
    figures = figure_texts(page)
    for slot in drawn.split():
        assert name(slot) in figures, f"{slot} is not in the figures"
    assert nothing_rendered(page) == []
    shown = hover(page)
    assert path in ("sql", "moved") or "layer_0*q" in shown
    assert "%{y}" in shown or "layer_0*q" not in shown
    assert page.locator('[data-testid="stSidebar"] input').first.input_value() == SUITE
    assert "\\" not in text.replace("\\frac", "")


def quoted(value):
    return quote(value, safe="")


def choose_all(page, label, option):
    page.get_by_label(label, exact=True).first.click()
    page.get_by_role("option").filter(has_text=option).first.click()
    page.keyboard.press("Escape")
    settle(page)


def test_select_boxes_offer_the_names_as_they_are_written(page, address):
    page.goto(f"{address}/training")
    settle(page)
    page.get_by_label("Runs", exact=True).first.click()
    options = page.get_by_role("option").all_inner_texts()
    assert {spaced(option) for option in options} <= {RUN, LOG}
    assert options


def test_sql_shows_the_names_of_columns_values_and_errors(page, address):
    column = name("column").replace('"', "")
    page.goto(f"{address}/sql?q=" + quoted(f'SELECT 1 AS "{column}"'))
    settle(page)
    headers = page.locator('[data-testid="stDataFrame"] [role=columnheader]').all_text_contents()
    assert column in headers
    page.goto(f"{address}/sql?q=" + quoted(f'SELECT "{column}" FROM phases'))
    settle(page)
    assert column[:30] in page.locator('[data-testid="stCode"]').first.inner_text()
    assert nothing_rendered(page) == []


def test_exported_figure_runs_no_script_and_calls_no_host(page, address, tmp_path):
    page.goto(f"{address}/data-mix")
    settle(page)
    with page.expect_download() as download:
        page.get_by_role("button", name="Figure (HTML)").click()
    download.value.save_as(tmp_path / "figure.html")
    assert re.fullmatch(r"[a-z0-9-]{1,120}\.html", download.value.suggested_filename)
    requests = []
    page.context.on("request", lambda request: requests.append(request.url))
    exported = page.context.new_page()
    exported.goto((tmp_path / "figure.html").as_uri())
    exported.locator(".js-plotly-plot .main-svg").first.wait_for()
    assert name("category") in figure_texts(exported)
    exported.close()
    assert [url for url in requests if not url.startswith(("file:", "data:", "blob:"))] == []
