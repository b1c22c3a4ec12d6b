"""`workbench spikes`: severity, settings of the detectors and restarts, from log to store."""

import json

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from analysis_db import Store, StoreError
from workbench.cli import app, spikes  # noqa: F401
from workbench.cli import imports as _imports  # noqa: F401
from workbench.errors import UsageError


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("workbench.cli.output.console.width", 160)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*words):
    done = CliRunner().invoke(app, list(map(str, words)))
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done


def put(home, name, **columns):
    """Import a CSV of these columns as a run."""
    pd.DataFrame(columns).to_csv(home / "log.csv", index=False, na_rep="nan")
    run("import", "csv", "log.csv", "--run", name)


def search(*words):
    return json.loads(run("spikes", *words, "--json").stdout)


def stored(home, sql):
    return [tuple(r.values()) for r in Store(home / "home/metrics.duckdb").table(sql).to_pylist()]


def noise(count, level=3.0, scale=0.01, seed=0):
    return np.random.default_rng(seed).normal(level, scale, count)


def test_a_rise_by_two_nats_is_not_minor_in_a_noisy_loss(home):
    """As reported: a loss of 3.29 rises to 5.65 at 12 to 18 spreads."""
    loss = noise(3000, 3.29, 0.16)
    loss[2000] = 5.65
    loss[2500] = 3.29 + 8.5 * 0.16
    put(home, "a", step=np.arange(1, 3001), loss=loss)
    events = [e for e in search("a")["events"] if e["start_step"] == 2001]
    assert {e["detector"] for e in events} == {"olmo2", "olmo_core", "mad"}
    for event in events:
        assert 12 <= event["score"] <= 18
        assert event["severity"] == "major"
        assert event["severity_score"] > 6


def test_severity_is_its_formula(home):
    loss, norm = noise(3000, 2.0), noise(3000, 1.0)
    loss[2000:2003] += 0.5
    norm[1500] = 4.0
    put(home, "a", step=10 * np.arange(1, 3001), loss=loss, grad_norm=norm)
    events = {e["series"]: e for e in search("a", "--detector", "mad")["events"]}
    for name, rise in (
        ("a/loss", lambda centre, peak: (peak - centre) / np.log(2)),
        ("a/grad_norm", lambda centre, peak: np.log10(peak / centre)),
    ):
        event = events[name]
        first = event["start_step"] // 10 - 1
        before = (loss if name == "a/loss" else norm)[first - 128 : first]
        values = event["recovery_steps"] / 10
        x = event["score"] / 21 + rise(np.median(before), event["peak_value"]) + values / 50
        assert event["severity_score"] == pytest.approx(9 * x / (1 + x))
        assert event["severity"] == "major"


def test_what_never_recovers_and_what_is_not_finite_ranks_first(home):
    loss = noise(4000)
    loss[1500] += 0.1  # minor
    loss[2000:2010] += 3  # high
    loss[2500] = np.nan
    loss[3000:3004] += [1.0, np.nan, 1.0, 1.0]  # a spike with a NaN in it
    loss[3600:] += 0.2  # for good
    put(home, "a", step=np.arange(1, 4001), loss=loss)
    events = search("a", "--detector", "mad")["events"]
    ranked = [(e["start_step"], e["severity"], e["detector"]) for e in events]
    assert ranked == [
        (2501, "severe", "nonfinite"), (3001, "severe", "mad"), (3002, "severe", "nonfinite"),
        (3601, "severe", "mad"), (2001, "major", "mad"), (1501, "minor", "mad"),
    ]  # fmt: skip
    scores = [e["severity_score"] for e in events]
    assert scores[:3] == [10.0] * 3
    assert 9 < scores[3] < 10
    assert 4.5 <= scores[4] < 9
    assert scores[5] < 4.5
    assert "it contains values that are not finite" in events[1]["note"]
    by_sql = "SELECT start_step FROM spikes WHERE kind = 'spike' ORDER BY severity_score DESC"
    assert [step for (step,) in stored(home, by_sql)] == [3001, 3601, 2001, 1501]


def test_the_most_severe_are_printed_and_all_are_stored(home):
    loss = noise(4000)
    for place, height in ((1500, 0.2), (2000, 4.0), (2500, 0.5)):
        loss[place] += height
    put(home, "[b]*a*", step=np.arange(1, 4001), loss=loss)
    words = ("[b]*a*", "--detector", "mad")
    told = search(*words, "--top", 2)
    assert [e["start_step"] for e in told["events"]] == [2001, 2501]
    assert [e["start_step"] for e in told["incidents"]] == [2001, 2501]
    shown = run("spikes", *words, "--top", 1).stdout
    assert "Events of [b]*a*, most severe first (1 of 3)" in shown
    assert "2001-2001" in shown
    assert "1501-1501" not in shown
    assert stored(home, "SELECT count(*) FROM spikes") == [(3,)]
    assert CliRunner().invoke(app, ["spikes", *words, "--top", "0"]).exit_code == 2


def test_a_log_of_every_128th_step_is_searched_with_its_own_window(home):
    loss = noise(120)
    loss[80] += 1
    put(home, "a", step=128 * np.arange(1, 121), loss=loss)
    told = search("a")
    assert told["events"] == []
    assert "--window olmo2=N makes it compare with N." in told["remarks"][0]
    told = search("a", "--window", "32", "--window", "olmo2=48", "--threshold", "mad=5.5")
    found = {e["detector"]: (e["window_values"], e["threshold"]) for e in told["events"]}
    assert found == {"olmo2": (48, 7.0), "olmo_core": (32, 6.0), "mad": (32, 5.5)}
    assert {(e["start_step"], e["agreement"], e["judges"]) for e in told["events"]} == {
        (128 * 81, 3, 3)
    }
    eligible = {score["detector"]: score["eligible"] for score in told["scores"]}
    assert eligible == {"olmo2": 72, "olmo_core": 88, "mad": 88}


def plainly(values, window, threshold):
    """Places that reach the threshold of a mad detector, one value at a time."""
    found = []
    for i in range(window, len(values)):
        before = values[i - window : i]
        centre = np.median(before)
        spread = 1.4826 * np.median(np.abs(before - centre))
        if values[i] - centre >= threshold * spread:
            found.append(i)
    return found


@pytest.mark.parametrize(("window", "threshold"), [(16, 5.0), (64, 4.0), (300, 3.5)])
def test_a_window_and_a_threshold_are_what_they_say(home, window, threshold):
    loss = noise(900)
    put(home, "a", step=np.arange(1, 901), loss=loss)
    loss = pd.read_csv(home / "log.csv")["loss"].to_numpy()
    told = search("a", "--detector", "mad", "--window", window, "--threshold", threshold,
                  "--join", 0)  # fmt: skip
    assert sorted(e["start_step"] - 1 for e in told["events"]) == plainly(loss, window, threshold)
    assert {e["join_steps"] for e in told["events"]} <= {0}


def test_settings_are_stored_with_the_events_and_never_mixed_in_silence(home):
    loss = noise(3000)
    loss[2000] += 1
    put(home, "a", step=np.arange(1, 3001), loss=loss, grad_norm=noise(3000, seed=1))
    assert search("a")["remarks"] == []
    told = search("a/loss", "--detector", "mad", "--window", 40)
    assert told["remarks"] == [
        "Replaced what was found with other settings: mad (window 128, threshold 7)."
    ]
    sql = "SELECT DISTINCT detector, window_values, threshold FROM spikes ORDER BY ALL"
    assert stored(home, sql) == [("mad", 40, 7.0), ("olmo2", 1000, 7.0), ("olmo_core", 128, 6.0)]
    sql = "SELECT series, window_values FROM spike_scores WHERE detector = 'mad' ORDER BY ALL"
    assert stored(home, sql) == [("a/grad_norm", 128), ("a/loss", 40)]
    done = run("spikes", "a")
    assert "Searched with olmo2 window 1,000, threshold 7; olmo_core" in done.stderr.replace(
        "threshold 7, olmo_core", "threshold 7; olmo_core"
    )
    assert "mad (window 40, threshold 7)" in done.stderr


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--window", "1"), "--window '1' is not a number of values from 2 on."),
        (("--window", "mad=many"), "--window 'many' is not a number of values"),
        (("--window", "best=9"), "--window best=9: there is no detector 'best'; choose one of"),
        (("--threshold", "nan"), "--threshold 'nan' is not a number of spreads above 0."),
        (("--threshold", "mad=-1"), "--threshold '-1' is not a number of spreads above 0."),
        (("--threshold", "inf"), "--threshold 'inf' is not a number of spreads above 0."),
    ],
)
def test_settings_that_are_none(home, words, says):
    put(home, "a", step=[1, 2], loss=[1.0, 2.0])
    with pytest.raises(UsageError) as failed:
        run("spikes", "a", *words)
    assert says in str(failed.value)


def test_an_event_never_spans_a_restart(home):
    """The loss rises at step 1,990 and is high until 2,050; step 2,001 is logged again, calm."""
    first, second = noise(2050), noise(1000, seed=1)
    first[1989:] += 1
    first[2030] += 2
    second[:5] += 1
    steps = [*range(1, 2051), *range(2001, 3001)]
    put(home, "a", step=steps, loss=np.r_[first, second])
    told = search("a", "--detector", "mad")
    events = sorted(told["events"], key=lambda e: (e["start_step"], e["attempt"]))
    assert [
        (e["start_step"], e["end_step"], e["attempt"], e["superseded_from"], e["recovered_at"])
        for e in events
    ] == [(1990, 2000, 1, None, None), (2001, 2050, 1, 2001, None), (2001, 2005, 2, None, 2006)]
    held, left, again = events
    assert held["peak_step"] <= 2000
    assert "the restart at step 2001 cuts it off" in held["note"]
    assert left["peak_step"] == 2031
    assert "on steps that the restart at step 2001 overrode" in left["note"]
    assert again["peak_step"] <= 2005
    assert len(told["incidents"]) == 3
    assert stored(home, "SELECT attempt FROM spikes ORDER BY ALL") == [(1,), (1,), (2,)]


def test_values_not_finite_before_and_after_a_restart_are_two_events(home):
    loss = np.ones(40)
    loss[19:22] = np.nan
    put(home, "a", step=[*range(1, 21), *range(19, 39)], loss=loss)
    events = search("a", "--detector", "mad")["events"]
    assert [(e["start_step"], e["attempt"], e["superseded_from"]) for e in events] == [
        (19, 2, None), (20, 1, 19),
    ]  # fmt: skip


def test_a_series_of_two_runs_is_not_guessed(home):
    put(home, "a/b", step=[1, 2], loss=[1.0, 2.0])
    put(home, "a", step=[1, 2], **{"b/loss": [1.0, 2.0]})
    with pytest.raises(StoreError, match="a/b/loss is a series of the runs a and a/b: search one"):
        run("spikes", "a/b/loss")
    # searching one leaves what was found in the other
    for name, metric in (("a", "b/loss"), ("a/b", "loss")):
        search(name, "--metric", metric)
    assert stored(home, "SELECT DISTINCT run FROM spike_scores ORDER BY 1") == [("a",), ("a/b",)]
