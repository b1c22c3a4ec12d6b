"""Events: what is one, when it ends, and what restarts, gaps, schedules and NaN are."""

import numpy as np
import pytest

from analysis_db.detectors import DETECTORS, MAD, OLMO2, OLMO_CORE
from analysis_db.series import Series, SeriesKey
from analysis_db.spike_events import find_events
from bench.simulated_runs import clean_loss, labelled


def series(values, steps=None):
    values = np.asarray(values, float)
    steps = np.arange(1, len(values) + 1) if steps is None else np.asarray(steps)
    return Series(SeriesKey("run", "loss"), steps, values)


def flat(count, seed=0, level=2.0):
    return np.random.default_rng(seed).normal(level, 0.01, count)


def events(values, detector=MAD, steps=None, **options):
    return find_events(series(values, steps), [detector], **options)[0]


def test_an_event_has_its_steps_peak_height_and_recovery():
    values = flat(3000)
    values[2000:2006] += [0.5, 1.0, 0.8, 0.3, 0.2, 0.15]
    event, *others = events(values)
    assert not others
    assert (event.start_step, event.end_step, event.peak_step) == (2001, 2006, 2002)
    assert event.peak_value == values[2001]
    before = values[1872:2000]
    centre = np.median(before)
    spread = 1.4826 * np.median(np.abs(before - centre))
    assert event.score == pytest.approx((values[2001] - centre) / spread)
    back = next(i for i in range(2006, 3000) if values[i] < centre + spread)
    assert event.recovered_at == back + 1
    assert event.recovery_steps == back - 2000
    assert (event.kind, event.severity, event.agreement, event.judges) == ("spike", "major", 3, 3)
    assert (event.attempt, event.superseded_from, event.note) == (1, None, None)


def test_flags_within_the_join_are_one_event():
    values = flat(2000)
    values[[1500, 1510, 1521]] += 1
    assert [(e.start_step, e.end_step) for e in events(values)] == [(1501, 1511), (1522, 1522)]
    assert len(events(values, join_steps=9)) == 3
    assert len(events(values, join_steps=11)) == 1


def test_a_long_spike_keeps_its_peak_when_its_detector_goes_blind():
    values = flat(3000)
    values[2000:2040] += np.r_[np.full(20, 1.0), np.linspace(1, 2, 20)]
    event, *later = events(values, OLMO_CORE)
    assert not later
    assert event.end_step < 2020
    assert event.peak_step == pytest.approx(2040, abs=1)
    assert event.recovered_at > 2040


def test_severity():
    values = flat(4000)
    values[1200] += 0.09  # about 9 sigmas
    values[1800] += 1.0  # 100 sigmas
    values[2400:2480] += 0.12  # too long
    values[3000:] += 1.0  # for good
    found = events(values)
    assert [e.severity for e in found] == ["minor", "major", "major", "severe"]
    assert found[-1].recovered_at is None
    assert found[-1].recovery_steps is None


def test_an_event_at_the_end_of_the_log_is_not_called_severe():
    values = flat(2000)
    values[-3:] += 0.1
    event = events(values)[-1]
    assert (event.severity, event.recovered_at) == ("minor", None)
    assert event.note == "the history ends 0 steps after it"


def test_detectors_that_could_not_judge_do_not_disagree():
    values = flat(900)
    values[500] += 1
    event = events(values)[0]
    assert (event.agreement, event.judges) == (2, 2)
    after_a_change = flat(3000)
    after_a_change[:1500] += 0.2  # half of olmo2's window, none of the others'
    after_a_change[2000] += 0.15
    event = events(after_a_change)[0]
    assert (event.agreement, event.judges) == (2, 3)


@pytest.mark.parametrize("seed", range(6))
def test_warm_up_decay_and_annealing_are_no_spikes(seed):
    loss = clean_loss(np.random.default_rng(seed))
    found, scores = find_events(series(loss))
    assert [e for e in found if e.kind == "spike"] == []
    assert [score.flags for score in scores] == [0, 0, 0]


def test_a_step_decay_is_a_fall_with_its_reason_and_no_spike():
    values = flat(4000)
    values[2000:] -= 0.5
    found, scores = find_events(series(values))
    assert {(e.detector, e.kind, e.start_step, e.severity) for e in found} == {
        ("olmo2", "fall", 2001, None)
    }
    assert found[0].score < -7
    assert "schedule" in found[0].note
    by_name = {score.detector: score for score in scores}
    assert by_name["olmo2"].falls == by_name["olmo2"].flags > 0  # as defined, it counts falls
    assert by_name["mad"].flags == by_name["olmo_core"].flags == 0


def test_values_not_finite_are_events_of_their_own_and_leave_the_rest_alone():
    values = flat(3000)
    values[2500] += 1
    clean = events(values)
    for bad in ([2000, 2001, 2003], [2200]):
        values[bad] = np.nan, *[np.inf] * (len(bad) - 1)
    values[2999] = -np.inf
    found = events(values)
    bad = [e for e in found if e.kind == "nonfinite"]
    assert [(e.start_step, e.end_step, e.recovered_at) for e in bad] == [
        (2001, 2004, 2005), (2201, 2201, 2202), (3000, 3000, None)
    ]  # fmt: skip
    assert {(e.detector, e.peak_value, e.score, e.severity) for e in bad} == {
        ("nonfinite", None, None, "severe")
    }
    spike = next(e for e in found if e.kind == "spike")
    assert (spike.start_step, spike.peak_value) == (clean[0].start_step, clean[0].peak_value)
    score = find_events(series(values), [OLMO2])[1][0]
    assert (score.n, score.nonfinite, score.eligible) == (2995, 5, 1995)


def test_values_logged_every_tenth_step():
    values = flat(2000)
    values[[1500, 1505]] += 1
    event, *others = events(values, steps=10 * np.arange(2000))
    assert not others
    assert (event.start_step, event.end_step, event.recovery_steps) == (15000, 15050, 60)


# Restarts


def restarted():
    """Steps 1-2000, a spike at 1981, taken up again at 1901 to 3000, a spike at 2501."""
    first, second = flat(2000), flat(1100, seed=1)
    first[1980:] += 1
    second[600] += 1
    return np.r_[first, second], np.r_[1:2001, 1901:3001]


def test_a_rerun_overrides_what_it_repeats_and_both_are_kept():
    values, steps = restarted()
    left, held = events(values, steps=steps)
    assert (left.start_step, left.attempt, left.superseded_from) == (1981, 1, 1901)
    assert "restart at step 1901 overrode" in left.note
    assert left.recovered_at is None  # the rerun's calm is no recovery of the branch that was left
    assert (held.start_step, held.attempt, held.superseded_from) == (2501, 2, None)
    found = series(values, steps)
    assert found.restarts == [(2000, 1901)]
    assert found.current.steps.tolist() == list(range(1, 3001))
    score = find_events(found, [MAD])[1][0]
    assert (score.n, score.flags) == (3000, 1)
    assert score.restarts == [{"from_step": 2000, "to_step": 1901}]


def test_a_window_that_reaches_back_over_a_restart_says_so():
    values, steps = restarted()
    values[2000 + 30] += 1
    near = next(e for e in events(values, steps=steps) if e.start_step == 1931)
    assert near.note == "its window reaches back over the restart at step 1901"
    held = next(e for e in events(values, steps=steps) if e.start_step == 2501)
    assert held.note is None
    # the window holds the values that the rerun went on from, none of the branch that was left
    before = np.r_[values[:1900], values[2000:2030]][-128:]
    centre = np.median(before)
    spread = 1.4826 * np.median(np.abs(before - centre))
    assert near.score == pytest.approx((values[2030] - centre) / spread)


def test_restarts_of_restarts():
    steps = np.r_[1:601, 501:551, 401:701]
    found = series(np.arange(len(steps)), steps)
    assert found.restarts == [(600, 501), (550, 401)]
    assert found.current.steps.tolist() == list(range(1, 701))
    assert found.current.attempts.tolist() == [0] * 400 + [2] * 300
    branches = list(found.left_branches())
    assert [cut for _, cut in branches] == [501, 401]
    assert branches[1][0].steps.tolist() == list(range(1, 551))
    assert branches[1][0].attempts.tolist() == [0] * 500 + [1] * 50


def test_an_overridden_event_is_told_once():
    """Two restarts, of which the second goes back further: the spike lay on the first branch."""
    values = flat(600 + 50 + 300)
    values[560] += 1
    found = events(values, steps=np.r_[1:601, 501:551, 401:701])
    assert [(e.start_step, e.superseded_from) for e in found] == [(561, 501)]


def test_a_step_logged_twice_is_one_step_and_no_restart():
    steps = np.r_[1:1001, 1000:2001]
    found = series(np.arange(len(steps)), steps)
    assert found.restarts == []
    assert found.current.steps.tolist() == list(range(1, 2001))
    assert found.current.values[999] == 1000  # the last holds


def test_a_run_begun_anew_shares_no_window_with_the_old_one():
    values = np.r_[flat(500, level=1.0), flat(500, level=9.0)]
    found, scores = find_events(series(values, np.r_[1:501, 1:501]))
    assert found == []
    assert scores[-1].n == 500


# Gaps


def test_a_gap_makes_no_spike_and_no_window_reaches_over_it():
    values = np.r_[flat(1500), flat(1500, level=3.0)]
    values[[1540, 1800]] += 1
    steps = np.r_[1:1501, 2501:4001]
    found, scores = find_events(series(values, steps), [MAD])
    assert [e.start_step for e in found] == [2801]  # 2541 has only 40 values before it
    assert scores[0].gaps == [{"from_step": 1500, "to_step": 2501}]
    assert scores[0].eligible == 3000 - 2 * 128
    without_gap, _ = find_events(series(values), [MAD])
    assert without_gap[0].start_step == 1501


def test_missing_steps_here_and_there_are_no_gaps_and_another_rate_is_one_cut():
    steps = np.arange(1, 3001)
    kept = np.random.default_rng(0).random(3000) < 0.7
    assert series(flat(kept.sum()), steps[kept]).current.gaps == []
    slow_then_fast = np.r_[0:5000:100, 5000:9000:1]
    assert series(flat(len(slow_then_fast)), slow_then_fast).current.gaps == [(4900, 5000)]


@pytest.mark.parametrize("kind", ["plain", "drift", "step_decay", "restart", "gap", "not_finite"])
def test_high_spikes_of_simulated_runs_are_found_and_nothing_is_invented(kind):
    run = labelled(3, kind)
    for name in ("olmo_core", "mad"):
        found = events(run.loss, DETECTORS[name], steps=run.steps)
        spikes = [e for e in found if e.kind == "spike"]
        truth = [*run.spikes, *run.left_spikes]
        ends_of_gaps = [after for _, after in series(run.loss, run.steps).current.gaps]
        for planted in truth:
            blind = any(0 <= planted.first - after < 128 for after in ends_of_gaps)
            if planted.height >= 20 and not blind:
                assert any(planted.first <= e.start_step <= planted.last for e in spikes), planted
        wrong = [e for e in spikes if not any(t.first <= e.start_step <= t.last for t in truth)]
        assert len(wrong) <= 1


def test_a_series_needs_values():
    with pytest.raises(ValueError, match="one value at least"):
        series([])
