"""Every figure on frames whose texts are tags: only our own tags are left."""

import inspect
import json
import re
from importlib import import_module
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go
import pytest

import app.figures
from app.figures import benchmarks, heatmap, lines, mix, moved, pairs, positions, theme, timeline
from app.figures.axis import phase_axis
from app.figures.runs import RunSeries, run_panels
from app.figures.training import layer_curves, training_curves
from tests.app.hostile import name

OURS = re.compile(
    r"</?b>|<br>|<extra></extra>|</span>|<span style=\"font-size:13px;color:#[0-9A-F]{6}\">"
)
TITLES = {"title": name("title"), "subtitle": name("subtitle")}
PHASES = pd.DataFrame(
    {
        "phase": [1, 2, 3], "label": [name(f"label{p}") for p in (1, 2, 3)],
        "stage": [name("stage")] * 3, "repo_id": [name("repo"), None, name("repo")],
        "step": [10.0, 20.0, 30.0], "tokens_b": [1.0, 2.0, 3.0], "context_length": [256] * 3,
        "form": [name("form")] * 3,
    }
)  # fmt: skip
AXIS = phase_axis(PHASES, "phase", {2: "absent"})
SCORES = pd.DataFrame(
    {
        "phase": [1, 3], "series": [name("series")] * 2, "task": [name("task")] * 2,
        "value": [1.0, 2.0], "stderr": [0.1, 0.1], "n": [5, 5], "model": [name("model")] * 2,
        "source": ["measured", "published"],
    }
)  # fmt: skip
PAIRS = pd.DataFrame(
    {"phase_a": [1], "phase_b": [3], "value": [0.5], "exact": [False], "error_bound": [0.1]}
)
LAYERS = pd.DataFrame({"phase": [1, 3], "layer": [0, 0], "value": [1.0, 2.0]})
LOG = pd.DataFrame({"step": [1, 2, 3], "tokens": [1, 2, 3], "value": [1.0, 2.0, 3.0]})
HISTORY = LOG.assign(attempt=[1, 1, 2], holds=[True, False, True], after_gap=False)
SPIKES = pd.DataFrame(
    {"start_step": [1], "peak_step": [2], "peak_value": [2.0], "severity": [name("severity")],
     "detector": [name("detector")]}
)  # fmt: skip
BINS = pd.DataFrame({"phase": [1, 3], "low": [0.0, 0.0], "high": [0.1, 0.1], "share": [1.0, 1.0]})
MIX = pd.DataFrame(
    {"phase": [1, 1, 3], "run": [name("run"), "b", "c"], "part": [name("part")] * 3,
     "tokens_b": [1.0] * 3, "share": [1.0] * 3}
)  # fmt: skip
FINDINGS = pd.DataFrame({"phase": [1], "severity": ["error"], "message": [name("finding")]})
COVERAGE = pd.DataFrame(
    {"phase": [1, 3], "probe": [name("probe")] * 2, "status": "measured", "reason": [None, None]}
)
CHANGES = PAIRS.assign(metric_change=0.1, companion_change=0.2)
WINDOWS = pd.DataFrame(
    {"phase": [1], "label": [name("label1")], "low": [1], "high": [15], "nll": [1.0],
     "tokens": [9]}
)  # fmt: skip

# Figure -> how it is drawn, and the slots that it shows.
DRAWN = {
    theme.figure: (lambda f: f(**TITLES), "title subtitle"),
    lines.phase_lines: (
        lambda f: f(SCORES, AXIS, series="series", y_title=name("unit"), **TITLES),
        "title subtitle series unit label1 stage",
    ),
    heatmap.layer_heatmap: (
        lambda f: f(LAYERS, AXIS, name=name("metric"), unit=name("unit"), **TITLES),
        "title metric unit label1",
    ),
    heatmap.distribution_heatmap: (lambda f: f(BINS, AXIS, **TITLES), "title label1"),
    benchmarks.measured_scores: (
        lambda f: f(SCORES.head(1), AXIS, metric=name("metric"), **TITLES),
        "title series metric label1",
    ),
    benchmarks.compared_scores: (lambda f: f(SCORES, AXIS, **TITLES), "title series label1"),
    benchmarks.published_scores: (lambda f: f(SCORES, AXIS, **TITLES), "title task model label1"),
    mix.mix_bars: (lambda f: f(MIX, AXIS, share=True, **TITLES), "title run part stage"),
    moved.moved_points: (
        lambda f: f(CHANGES, x_title=name("x"), y_title=name("y"), **TITLES), "title x y",
    ),
    pairs.pair_matrix: (
        lambda f: f(PAIRS, AXIS, name=name("metric"), unit=name("unit"), **TITLES),
        "title metric unit",
    ),
    pairs.change_line: (
        lambda f: f(
            pairs.neighbours(PAIRS), AXIS, name=name("metric"), unit=name("unit"), **TITLES
        ),
        "title metric unit label1",
    ),
    positions.position_lines: (lambda f: f(WINDOWS, [1], **TITLES), "title label1"),
    timeline.time_line: (
        lambda f: f(PHASES, "phase", findings=FINDINGS, **TITLES), "title label1 stage repo form",
    ),
    timeline.coverage_matrix: (
        lambda f: f(COVERAGE, AXIS, **TITLES), "title probe label1 stage",
    ),
    training_curves: (
        lambda f: f({name("series"): LOG}, PHASES.assign(step=[1, 2, 3]), **TITLES),
        "title series stage",
    ),
    layer_curves: (
        lambda f: f(LOG.assign(layer=0), PHASES, y_title=name("unit"), **TITLES), "title unit",
    ),
    run_panels: (
        lambda f: f({name("series"): [RunSeries(name("run"), HISTORY, SPIKES)]}, **TITLES),
        "title series run severity detector",
    ),
}  # fmt: skip


def texts(value):
    """Every string of a figure, in whatever it is nested."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from texts(inner)


def drawn(draw, function):
    return json.loads(draw(function).to_json())


@pytest.mark.parametrize("function", DRAWN, ids=lambda function: function.__name__)
def test_figure_shows_names_as_they_are_written(function):
    draw, slots = DRAWN[function]
    figure = drawn(draw, function)
    for trace in figure["data"]:
        trace.pop("legendgroup", None)  # an identifier that is not drawn
    found = [OURS.sub("", text) for text in texts(figure)]
    assert [text for text in found if "<" in text] == []
    everything = "\n".join(found)
    for slot in slots.split():
        assert theme.pseudo_html(name(slot)) in everything, slot


@pytest.mark.parametrize("function", DRAWN, ids=lambda function: function.__name__)
def test_no_name_is_part_of_a_hover_template(function):
    draw, _ = DRAWN[function]
    for trace in drawn(draw, function)["data"]:
        assert "hostile" not in trace.get("hovertemplate", "")


def test_every_figure_is_drawn_here():
    functions = set()
    for path in Path(app.figures.__file__).parent.glob("[a-z]*.py"):
        module = import_module(f"app.figures.{path.stem}")
        for key, value in inspect.getmembers(module, inspect.isfunction):
            own = value.__module__ == module.__name__ and not key.startswith("_")
            if own and inspect.signature(value).return_annotation is go.Figure:
                functions.add(value)
    assert functions == set(DRAWN)


def test_exported_figure_cannot_leave_its_script():
    fig = theme.figure("</script><script>alert(1)</script>")
    fig.add_scatter(y=[1], customdata=["</script><img src=x>"])
    exported = fig.to_html(include_plotlyjs=False)
    assert exported.count("</script>") == exported.count("<script ") + exported.count("<script>")
    assert "<img" not in exported
