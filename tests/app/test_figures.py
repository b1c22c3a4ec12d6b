"""Figures from frames alone: all phases on the axis, gaps that stay gaps, bands of 1.96 stderr."""

import pandas as pd
import pytest

from app.figures.axis import axis_kinds, phase_axis, token_unit
from app.figures.benchmarks import measured_scores, published_scores
from app.figures.heatmap import distribution_heatmap, layer_heatmap
from app.figures.lines import phase_lines
from app.figures.mix import mix_bars
from app.figures.positions import position_lines
from app.figures.theme import log_axis, modebar
from app.figures.timeline import coverage_matrix, time_line
from app.figures.training import layer_curves, thin, training_curves

ALL = list(range(1, 28))


@pytest.fixture
def phases():
    """27 phases in three stages; phase 26 has no repository, phase 14 no known step."""
    return pd.DataFrame(
        {
            "phase": ALL,
            "label": [f"phase {p}" for p in ALL],
            "stage": ["warmup"] + ["stable"] * 24 + ["annealing"] * 2,
            "repo_id": [None if p == 26 else f"org/phase-{p}" for p in ALL],
            "step": [None if p == 14 else 100.0 * p for p in ALL],
            "tokens_b": [40.0 * p for p in ALL],
            "context_length": [4096] * 27,
            "form": ["reparameterised"] * 26 + ["merged"],
        }
    )


@pytest.fixture
def axis(phases):
    return phase_axis(phases, "phase", {26: "absent", 12: "missing"} | {5: "measured"})


def values(layers=(0, 1)):
    """phase, layer, value for every phase but 12 and 26."""
    rows = [(p, la, p + la / 10) for p in ALL if p not in (12, 26) for la in layers]
    return pd.DataFrame(rows, columns=["phase", "layer", "value"])


def notes(fig):
    return [annotation.text for annotation in fig.layout.annotations]


def test_line_breaks_at_the_gap_and_keeps_its_place(axis):
    fig = phase_lines(
        values(), axis, series="layer", prefix="layer ", ordered=True, y_title="rms", title="rms"
    )
    assert [trace.name for trace in fig.data] == ["layer 0", "layer 1"]
    for trace in fig.data:
        assert list(trace.x) == ALL
        assert trace.connectgaps is False
        assert [p for p, y in zip(ALL, trace.y, strict=True) if y is None] == [12, 26]
    assert fig.data[1].y[26] == 27.1
    assert "26: not published" in notes(fig)
    assert "12: not measured" in notes(fig)
    assert fig.layout.xaxis.range == (0.5, 27.5)
    assert fig.layout.yaxis.title.text == "rms"


def test_series_differ_by_more_than_colour(axis):
    fig = phase_lines(values(range(6)), axis, series="layer", y_title="", title="")
    assert len({(t.marker.symbol, t.line.dash) for t in fig.data}) == 6


def test_unknown_step_breaks_the_line_and_is_named(phases):
    axis = phase_axis(phases, "step", {26: "absent"})
    fig = phase_lines(values(), axis, series="layer", y_title="", title="")
    assert axis.unplaced == [14]
    assert fig.data[0].x[13] is None
    assert fig.data[0].y[25] is None
    assert fig.data[0].x[25] == 2600
    assert axis.gaps() == [("26: not published", 2550.0, 2650.0)]


def test_axes_are_those_whose_values_are_known(phases):
    assert axis_kinds(phases) == ["phase", "step", "tokens"]
    assert axis_kinds(phases.assign(step=None, tokens_b=float("nan"))) == ["phase"]


def test_small_suites_count_tokens_in_millions(phases):
    assert token_unit(pd.Series([40.0, 1080.0])) == (1.0, "B")
    axis = phase_axis(phases.assign(tokens_b=phases["tokens_b"] / 1e6), "tokens")
    assert axis.title.endswith("[M]")
    assert axis.x[0] == pytest.approx(0.04)


def test_stage_bands_cover_the_axis(axis):
    assert axis.bands() == [
        ("warmup", 0.5, 1.5),
        ("stable", 1.5, 25.5),
        ("annealing", 25.5, 27.5),
    ]


def test_heat_map_keeps_an_empty_hatched_column(axis):
    fig = layer_heatmap(values((0, 1, 2)), axis, name="rms", unit="u", title="rms")
    heat = fig.data[0]
    assert list(heat.x) == ALL
    assert list(heat.y) == [0, 1, 2]
    for row in heat.z:
        assert [p for p, z in zip(ALL, row, strict=True) if z is None] == [12, 26]
    hatched = {trace.name: trace for trace in fig.data[1:]}
    assert set(hatched) == {"12: not measured", "26: not published"}
    assert hatched["26: not published"].fillpattern.shape == "/"
    assert min(hatched["26: not published"].x) == 25.5
    assert heat.colorbar.title.text == "rms [u]"


def test_distribution_cuts_empty_ends_and_keeps_the_gap(axis):
    shares = [0.0, 0.5, 0.0, 0.5, 0.0]
    rows = [(p, b / 10, b / 10 + 0.1, s) for p in ALL if p != 26 for b, s in enumerate(shares)]
    frame = pd.DataFrame(rows, columns=["phase", "low", "high", "share"])
    fig = distribution_heatmap(frame, axis, title="")
    assert len(fig.data[0].z) == 3
    assert fig.data[0].z[0][0] == 50.0
    assert fig.data[0].z[0][25] is None
    assert fig.layout.yaxis.range == pytest.approx((0.1, 0.4))
    assert "26: not published" in notes(fig)


def test_heat_map_colours(axis):
    logarithmic = layer_heatmap(values(), axis, name="rms", title="", log=True).data[0]
    assert logarithmic.z[0][9] == pytest.approx(1.0)
    signed = values().assign(value=lambda f: f["value"] - 10)
    heat = layer_heatmap(signed, axis, name="mean", title="").data[0]
    assert heat.zmin == -heat.zmax
    assert heat.zmax == pytest.approx(17.1)


def test_band_is_1_96_stderr_and_breaks_at_gaps(axis):
    frame = values((0,)).assign(series="cloze", stderr=0.5, n=200)
    fig = measured_scores(frame, axis, metric="acc", title="")
    bands = [trace for trace in fig.data if trace.fill == "toself"]
    assert [(min(b.x), max(b.x)) for b in bands] == [(1, 11), (13, 25), (27, 27)]
    assert bands[0].y[0] == pytest.approx(1 + 0.98)
    assert bands[0].y[-1] == pytest.approx(1 - 0.98)
    assert "task sampling error" in fig.layout.yaxis.title.text
    line = next(trace for trace in fig.data if trace.mode == "lines+markers")
    lone = {phase: e for phase, e in zip(line.x, line.error_y.array, strict=True) if e is not None}
    assert lone == {27: pytest.approx(0.98)}  # a band of one point has no width
    assert line.y[25] is None
    assert line.y[11] is None


def test_published_scores_are_markers_without_lines(axis):
    frame = pd.DataFrame({"phase": [5, 27], "model": "m", "task": "GSM8K", "value": [3.4, 68.5]})
    fig = published_scores(frame, axis, title="")
    assert fig.data[0].mode == "markers"
    assert fig.data[0].marker.symbol.endswith("-open")
    assert "published" in fig.layout.yaxis.title.text


def test_time_line_hatches_the_phase_without_a_repository(phases):
    fig = time_line(phases, "tokens", title="", subtitle="")
    hatched = [trace for trace in fig.data if trace.marker.pattern.shape == "/"]
    assert [list(trace.text) for trace in hatched] == [["26"]]
    assert hatched[0].base == (1000.0,)
    assert hatched[0].x == (40.0,)
    drawn = [int(text) for trace in fig.data for text in trace.text]
    assert sorted(drawn) == ALL


def test_time_line_leaves_out_what_has_no_known_end(phases):
    fig = time_line(phases, "step", title="", subtitle="")
    drawn = [int(text) for trace in fig.data for text in trace.text]
    assert sorted(set(ALL) - set(drawn)) == [14, 15]


def test_time_line_marks_what_the_audit_found(phases):
    findings = pd.DataFrame(
        [
            (3, "error", "The weights are those of phase 5."),
            (3, "warning", "Another tokenizer."),
            (7, "warning", "Another tokenizer."),
            (8, "note", "Stored twice."),
            (14, "error", "It has no step, so no place."),
        ],
        columns=["phase", "severity", "message"],
    )
    bare = time_line(phases, "step", title="", subtitle="")
    fig = time_line(phases, "step", title="", subtitle="", findings=findings)
    error, warning = fig.data[len(bare.data) :]
    assert (error.name, list(error.x)) == ("audit: error", [250.0])
    assert (warning.name, list(warning.x)) == ("audit: warning", [650.0])
    assert error.text != warning.text  # told apart by more than colour
    assert "The weights are those of phase 5.<br>Another tokenizer." in error.hovertext[0]
    unmarked = time_line(phases, "step", title="", subtitle="", findings=findings.iloc[3:4])
    assert len(unmarked.data) == len(bare.data)
    assert unmarked.layout.height == bare.layout.height


def test_coverage_signs_differ_by_more_than_colour(axis):
    statuses = ["measured", "failed", "missing", "absent", "measured"]
    reasons = [None, "ValueError", None, "no checkpoint was published", "newer attempt failed"]
    coverage = pd.DataFrame(
        {"phase": [1, 2, 3, 26, 4], "probe": "loss", "status": statuses, "reason": reasons}
    )
    fig = coverage_matrix(coverage, axis, title="", subtitle="")
    drawn = [trace for trace in fig.data if trace.x]
    assert len({trace.text[0] for trace in drawn}) == 5
    assert [list(trace.x) for trace in drawn] == [[1], [4], [2], [3], [26]]
    assert all(trace.showlegend for trace in drawn)
    assert "a newer attempt failed" in drawn[1].hovertext[0]


def test_mix_bars_put_two_runs_side_by_side(axis):
    rows = [
        (p, run, part, 20.0, 0.5)
        for p in ALL
        if p != 3
        for run in (("26-28k", "26-4k") if p == 26 else (str(p),))
        for part in ("code", "web")
    ]
    frame = pd.DataFrame(rows, columns=["phase", "run", "part", "tokens_b", "share"])
    fig = mix_bars(frame, axis, share=True, title="")
    assert {trace.name for trace in fig.data} == {"code", "web"}
    assert set(fig.data[0].y) == {50.0}
    in_26 = [x for x in fig.data[0].x if 25.5 < x < 26.5]
    assert in_26 == pytest.approx([25.79, 26.21])
    assert len({trace.marker.pattern.shape for trace in fig.data}) == 2
    assert {"26-28k", "26-4k", "mix unknown"} <= set(notes(fig))
    assert fig.layout.xaxis.range == (0.5, 27.5)


def log(steps=2700):
    return pd.DataFrame(
        {"step": range(1, steps + 1), "tokens": range(10, 10 * steps + 10, 10), "value": 2.0}
    )


def test_training_curves_mark_phases_and_the_missing_checkpoint(phases):
    curves = {"loss": log(), "lr": log()}
    fig = training_curves(curves, phases, title="", log=("loss",))
    assert [trace.yaxis for trace in fig.data] == ["y", "y2"]
    assert fig.layout.yaxis.type == "log"
    assert fig.layout.yaxis2.domain[1] < fig.layout.yaxis.domain[0]
    boundaries = [shape.x0 for shape in fig.layout.shapes if shape.type == "line"]
    assert boundaries == [100 * p for p in ALL if p != 14]
    assert "26: checkpoint not published" in notes(fig)


def test_training_curves_over_tokens_use_the_logs_own_tokens(phases):
    fig = training_curves({"loss": log()}, phases, x="tokens", title="")
    boundaries = [shape.x0 for shape in fig.layout.shapes if shape.type == "line"]
    assert boundaries[0] == 1000


def test_layer_curves_have_one_line_per_layer(phases):
    frame = pd.concat([log().assign(layer=layer) for layer in (0, 1, 2)])
    fig = layer_curves(frame, phases, y_title="variance", title="")
    assert [trace.name for trace in fig.data] == ["layer 0", "layer 1", "layer 2"]


def test_thinning_keeps_peaks_and_order():
    frame = log(50_000)
    frame.loc[31_337, "value"] = 9.0
    frame.loc[40_000, "value"] = -9.0
    thinned = thin(frame, 1000)
    assert len(thinned) <= 1000
    assert {9.0, -9.0} <= set(thinned["value"])
    assert thinned["step"].is_monotonic_increasing
    assert thin(frame, 50_000) is frame


def test_log_axis_has_ticks_within_a_decade():
    ticks = log_axis([0.2, None, 0.6])["tickvals"]
    assert len([t for t in ticks if 0.2 <= t <= 0.6]) >= 3
    assert log_axis([0.0, None]) == {}


def test_camera_saves_svg():
    options = modebar("loss")["toImageButtonOptions"]
    assert (options["format"], options["filename"]) == ("svg", "loss")


def test_positions_stand_in_their_order_and_a_shorter_window_ends_its_line():
    edges = {1: [(1, 15), (16, 31)], 27: [(1, 15), (16, 31), (1024, 2047)]}
    frame = pd.DataFrame(
        [
            {"phase": p, "label": f"phase {p}", "low": low, "high": high, "nll": p + 1 / low,
             "tokens": 1000 * low}
            for p, buckets in edges.items()
            for low, high in reversed(buckets)
        ]
    )  # fmt: skip
    fig = position_lines(frame, [1, 27], title="nll")
    assert [trace.name for trace in fig.data] == ["phase 1", "phase 27"]
    assert list(fig.data[0].x) == ["1-15", "16-31", "1,024-2,047"]
    assert list(fig.data[0].y) == [2.0, 1 + 1 / 16, None]
    assert list(fig.data[1].y) == [28.0, 27 + 1 / 16, 27 + 1 / 1024]
    assert "mean of 16,000 tokens" in fig.data[1].text[1]
    assert fig.layout.xaxis.title.text == "position in the window [tokens]"
    assert fig.layout.yaxis.title.text == "nll [nats/token]"
