"""Leads: the true leader is found and named, chance is not, on runs whose truth is known."""

from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest

from analysis_db.detectors import MAD
from analysis_db.series import Series, SeriesKey
from analysis_db.spike_events import find_events
from analysis_db.spike_leads import Lead, LeadSearch, lead_summary
from bench.simulated_runs import led_run

IDLE = ("heavy", "idle_a", "idle_b", "idle_c")


def series(name, values, steps=None):
    steps = np.arange(1, len(values) + 1) if steps is None else steps
    return Series(SeriesKey("run", name), np.asarray(steps), np.asarray(values, float))


def leads_of(curves, look_back=None, **changed):
    """Frame of the leads of the events of ``loss``, found by the detector mad."""
    made = {name: series(name, values) for name, values in curves.items()} | changed
    search = LeadSearch(made["loss"], find_events(made["loss"], [MAD])[0], look_back)
    for other in made.values():
        search.test(other)
    frame = pd.DataFrame([asdict(lead) for lead in search.leads()], columns=Lead.__annotations__)
    return frame.assign(leader=frame["leader"].str.removeprefix("run/"))


def test_the_leader_is_found_with_its_lead():
    curves, starts = led_run(0, {"variance": 40, "attention": 12}, IDLE)
    found = leads_of(curves)
    assert set(found["start_step"]) == set(starts)
    for leader, planted in (("variance", 40), ("attention", 12)):
        part = found[found["leader"] == leader]
        assert part["lead_steps"].between(planted - 6, planted + 1).all(), leader
        assert (part["p_value"] < 0.02).all()
        assert (part["false_lead_rate"] < 0.02).all()
        assert set(part["direction"]) == {"up"}
        assert (part["start_step"] - part["left_at"] == part["lead_steps"]).mean() > 0.9
    first = found.groupby("start_step").head(2)
    assert set(first["leader"]) == {"variance", "attention"}  # sorted
    summary = lead_summary(found)
    assert set(summary[summary["q_value"] < 0.01]["leader"]) == {"variance", "attention"}
    assert set(summary["leader"].iloc[:2]) == {"attention", "variance"}
    assert summary.set_index("leader")["lead_steps"]["variance"] == pytest.approx(37, abs=3)
    assert (summary["led"].iloc[:2] == 6).all()


def test_nothing_leads_where_nothing_leads():
    p_values, accused = [], 0
    for seed in range(25):
        found = leads_of(led_run(seed, {}, IDLE)[0])
        p_values += found["p_value"].tolist()
        accused += (lead_summary(found)["q_value"] <= 0.05).sum()
    p = np.array(p_values)
    assert len(p) == 25 * 6 * len(IDLE)
    for level in (0.02, 0.05, 0.2, 0.5):
        assert (p <= level).mean() <= level + 3 * np.sqrt(level * (1 - level) / len(p))
    assert np.median(p) == pytest.approx(0.5, abs=0.1)  # nor is it timid
    assert accused <= 1


def test_a_series_that_often_leaves_its_band_has_a_high_false_lead_rate():
    found = leads_of(led_run(1, {}, IDLE)[0])
    rates = found.groupby("leader")["false_lead_rate"].first()
    assert rates["heavy"] > 0.3
    assert rates.drop("heavy").max() < 0.05


@pytest.mark.parametrize("look_back", [None, 400])
def test_a_trend_is_no_lead(look_back):
    """Early spikes, where a series that knows nothing of them still falls or rises fast."""
    curves, _ = led_run(1, {}, ("idle",), events=1)
    t = np.arange(len(curves["idle"]))
    for start in (900, 1300, 1700):
        curves["loss"][start : start + 5] += 3
    curves["falls"] = 3 / np.sqrt(1 + t / 300) + 0.003 * curves["idle"]
    curves["rises"] = 0.002 * t + 0.003 * curves["idle"]
    found = leads_of(curves, look_back)
    early = found[(found["start_step"] < 1800) & (found["leader"] != "idle")]
    assert len(early) == 3 * 2
    assert early["lead_steps"].isna().all()


def test_a_series_that_moves_with_the_event_or_after_it_does_not_lead():
    curves, _ = led_run(2, {}, ("idle",))
    curves["same"] = curves["loss"] * 3 + 1
    curves["later"] = np.r_[np.full(20, curves["loss"][0]), curves["loss"][:-20]]
    found = leads_of(curves)
    for name in ("same", "later"):
        assert found[found["leader"] == name]["lead_steps"].isna().all()


def test_a_leader_downwards_and_one_logged_more_rarely():
    curves, starts = led_run(3, {"entropy": 40}, ())
    curves["entropy"] = -curves["entropy"]
    rare = np.arange(1, len(curves["loss"]) + 1, 5)
    entropy = series("entropy", curves["entropy"][rare - 1], rare)
    found = leads_of({"loss": curves["loss"]}, entropy=entropy)
    assert set(found["direction"]) == {"down"}
    assert found["lead_steps"].between(30, 41).all()
    assert len(found) == len(starts)


def test_values_not_finite_lead_as_well():
    curves, starts = led_run(4, {}, ("grad_norm",))
    curves["grad_norm"][starts[0] - 1 - 7] = np.nan
    found = leads_of(curves)
    row = found[found["start_step"] == starts[0]].iloc[0]
    assert row["lead_steps"] == 7
    assert np.isnan(row["strength"])
    assert row["p_value"] == pytest.approx(1 / (row["quiet_look_backs"] + 1))


def test_a_loss_that_is_no_number_is_led_as_well():
    curves, starts = led_run(5, {"variance": 30}, ())
    curves["loss"][starts[2] - 1 : starts[2] + 20] = np.nan
    found = leads_of(curves)
    row = found[(found["start_step"] == starts[2]) & (found["detector"] == "nonfinite")]
    assert row["lead_steps"].item() == pytest.approx(27, abs=4)


def test_a_short_run_proves_nothing():
    curves, starts = led_run(6, {"variance": 40}, (), count=6000, events=2)
    values = {name: v[starts[0] - 400 : starts[0] + 300] for name, v in curves.items()}
    found = leads_of(values)
    assert found["lead_steps"].item() > 30
    assert found["quiet_look_backs"].item() < 3
    assert found["p_value"].item() > 0.2


def test_without_a_band_before_the_event_a_series_is_not_judged():
    curves, starts = led_run(7, {"variance": 40}, ("flat",))
    curves["flat"][:] = 1.0  # no width
    late = np.arange(starts[0] - 150, len(curves["loss"]))
    variance = series("variance", curves["variance"][late], late + 1)
    found = leads_of(curves, variance=variance)
    assert set(found["leader"]) == {"variance"}
    assert set(found["start_step"]) == set(starts[1:])


def test_leads_of_an_event_that_a_restart_overrode():
    curves, starts = led_run(8, {"variance": 40}, ("idle",), events=3)
    back, cut = starts[1] + 30, starts[1] - 200  # after the second spike to well before it
    calm, _ = led_run(9, {}, ("variance", "idle"), events=1)
    steps = np.r_[1 : back + 1, cut : cut + 3000]
    logged = {}
    for name, values in curves.items():
        again = values[cut - 1 : cut + 2999].copy()
        again[:400] = np.median(again) + (calm[name][3500:3900] - np.median(calm[name][3500:3900]))
        logged[name] = series(name, np.r_[values[:back], again], steps)
    found = leads_of({}, **logged)
    row = found[(found["start_step"] == starts[1]) & (found["leader"] == "variance")].iloc[0]
    assert row["attempt"] == 1
    assert row["lead_steps"] == pytest.approx(37, abs=4)


def test_summary_counts_events_that_share_a_look_back_once():
    row = {
        "series": "run/loss", "detector": "mad", "attempt": 1, "leader": "run/a", "lead_steps": 5,
        "left_at": 1, "direction": "up", "strength": 9.0, "look_back": 100,
        "quiet_look_backs": 19.0, "false_lead_rate": 0.0, "p_value": 0.05, "q_value": 0.05,
        "run": "run",
    }  # fmt: skip
    frame = pd.DataFrame([{**row, "start_step": at} for at in (1000, 1050, 1099, 1100, 3000)])
    summary = lead_summary(frame).iloc[0]
    assert (summary["events"], summary["led"]) == (3, 3)
    assert summary["p_value"] == pytest.approx(0.05**3)
    assert lead_summary(frame.iloc[:0]).empty
