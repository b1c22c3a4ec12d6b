"""The dashboard in a real browser on the synthetic store: each page, links, downloads."""

import csv

import pytest

from tests.app.browser import PAGES, chromium, dashboard, settle, visit


@pytest.fixture(scope="module")
def address(home):
    with dashboard(home) as found:
        yield found


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


# The first page that is opened is a deep link: a server that has just started must serve it too.
@pytest.mark.parametrize("path", PAGES[1:] + PAGES[:1])
def test_page_shows_its_charts_without_errors(browser, address, path):
    visit(browser, address, path)


def test_link_carries_the_choice(browser, address):
    text = visit(browser, address, "weights?w_metric=rms&w_view=stored&w_module=o_proj&w_x=step")
    assert "Stored view" in text
    assert "rms of o_proj · stored view" in text
    assert "the step of the checkpoint is not known" in text


def test_choice_changes_the_address_and_csv_holds_what_is_shown(browser, address, tmp_path):
    page = browser.new_page()
    page.goto(f"{address}/loss")
    settle(page)
    page.get_by_role("radio", name="tokens").first.click()
    page.wait_for_url("**loss_x=tokens**")
    settle(page)
    with page.expect_download() as download:
        page.get_by_text("Data (CSV, 96 rows)").click()
    download.value.save_as(tmp_path / "shown.csv")
    page.close()
    with (tmp_path / "shown.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    assert len(rows) == 96
    assert "26" not in {row["phase"] for row in rows}
