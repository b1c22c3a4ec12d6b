"""The page Changes and its figures, on a random walk with an identical pair and a gap."""

import pandas as pd
import pytest

from analysis_db import queries
from app.figures.axis import phase_axis
from app.figures.pairs import change_line, neighbours, pair_matrix
from tests.app.synthetic import ABSENT, MISSING, SUITE
from tests.app.test_pages import open_page


@pytest.fixture
def frame(store):
    return queries.pair_values(store, SUITE, "relative_change", "total", None)


@pytest.fixture
def axis(store):
    return phase_axis(queries.phases(store, SUITE), "phase", {ABSENT: "absent", MISSING: "missing"})


def test_the_matrix_is_whole_but_for_the_gaps(frame, axis):
    fig = pair_matrix(frame, axis, name="relative_change", unit="", title="t")
    z = pd.DataFrame(fig.data[0].z, index=axis.phases, columns=axis.phases)
    assert z.loc[3, 9] == z.loc[9, 3] > 0
    assert z.loc[20, 21] == 0
    assert z.loc[MISSING].isna().all()
    assert z.loc[5].isna().all()  # sketched with another width
    assert {trace.name for trace in fig.data[1:]} == {
        f"{ABSENT}: not published", f"{MISSING}: not measured",
    }  # fmt: skip
    hover = fig.data[0].text
    assert "(exact)" in hover[19][20]
    assert "±" in hover[2][8]
    assert "estimated" in hover[2][8]


def test_the_line_breaks_at_gaps_and_says_since_when(frame, axis):
    line = neighbours(frame)
    assert dict(zip(line["phase"], line["phase_a"], strict=True))[13] == 11
    fig = change_line(line, axis, name="relative_change", unit="", title="t")
    top, bottom, drawn = fig.data
    at = {phase: i for i, phase in enumerate(axis.phases)}
    assert drawn.y[at[MISSING]] is None
    assert drawn.y[at[1]] is None
    assert bottom.y[at[9]] < drawn.y[at[9]] < top.y[at[9]]
    assert drawn.marker.symbol[at[21]] == "circle"
    assert drawn.marker.symbol[at[9]] == "circle-open"
    assert "since phase 11" in drawn.text[at[13]]


def test_the_page_warns_of_identical_phases_and_says_what_it_cannot_compare(home, monkeypatch):
    monkeypatch.setenv("WORKBENCH_HOME", str(home))
    app = open_page("changes.py", SUITE)
    assert not app.exception
    (alarm,) = app.error
    assert "phase 20 and phase 21 hold the same weights" in alarm.value
    assert any("cannot be compared" in caption.value for caption in app.caption)
    app.selectbox("changes_metric").select("cosine").run()
    app.selectbox("changes_module").select("q_proj").run()
    app.selectbox("changes_layer").select(2).run()
    assert not app.exception
    assert len(app.get("plotly_chart")) == 2


def test_a_suite_without_pairs_names_the_command(home, monkeypatch):
    monkeypatch.setenv("WORKBENCH_HOME", str(home))
    app = open_page("changes.py", "bare")
    assert "workbench probe bare --probes changes" in [block.value for block in app.code]
