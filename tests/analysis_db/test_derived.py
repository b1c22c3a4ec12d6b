"""Change points over phases, and what moved with what."""

import numpy as np
import pandas as pd
import pytest

from analysis_db.companions import moved_with
from analysis_db.derived import change_point_frame, change_points
from analysis_db.errors import QueryError

PHASES = range(1, 28)


def noise(seed=0, n=27):
    return np.random.default_rng(100 + seed).standard_normal(n)


def by_phase(values, without=()):
    return {p: float(v) for p, v in zip(PHASES, values, strict=True) if p not in without}


def spans(points):
    return [(point.phase_a, point.phase_b) for point in points]


def test_step_off_a_trend_lies_between_its_phases():
    values = 0.3 * np.arange(27) + 8.0 * (np.arange(27) >= 15) + noise()
    (point,) = change_points(by_phase(values))
    assert (point.phase_a, point.phase_b, point.n) == (15, 16, 27)
    assert point.size == pytest.approx(8.0, abs=1.5)
    assert point.p_value == point.p_adjusted == 1e-4


def test_step_behind_an_unmeasured_phase_names_both_sides_of_the_gap():
    values = by_phase(8.0 * (np.arange(27) >= 15) + noise(), without=(3, 16))
    values[3] = float("nan")
    (point,) = change_points(values)
    assert (point.phase_a, point.phase_b, point.n) == (15, 17, 25)


def test_trend_and_noise_have_no_change_point():
    assert change_points(by_phase(0.3 * np.arange(27) + noise())) == []
    assert change_points(by_phase(0.3 * np.arange(27) + noise()), of="changes") == []


def test_smooth_bend_is_no_step():
    assert change_points(by_phase(np.log(np.arange(1, 28)) + 0.01 * noise())) == []


def test_other_pace_is_found_in_changes():
    pace = np.where(np.arange(26) >= 13, 3.0, 0.0) + 0.5 * noise(n=26)
    levels = np.concatenate([[0.0], pace.cumsum()])
    (point,) = change_points(by_phase(levels), of="changes")
    assert (point.phase_a, point.phase_b) == (14, 15)  # the first change at the new pace
    assert point.size == pytest.approx(3.0, abs=0.4)


def test_change_over_two_phases_counts_as_its_mean():
    steady = by_phase(5.0 * np.arange(27) + 0.1 * noise(), without=(26,))
    assert change_points(steady, of="changes") == []


def test_two_steps_and_the_second_pays_for_the_depth():
    places = np.arange(27)
    values = 60.0 * (places >= 13) + 0.2 * noise()
    values[20:] -= 3.0
    found = change_points(by_phase(values))
    assert spans(found) == [(13, 14), (20, 21)]
    assert found[1].p_adjusted == 2 * found[1].p_value


def test_too_few_phases_are_one_sentence():
    with pytest.raises(QueryError, match="need 12 levels at least, and there are 11"):
        change_points({phase: float(phase) for phase in range(11)})


def test_layers_pay_for_one_another():
    step = 8.0 * (np.arange(27) >= 15)
    frame = pd.DataFrame({layer: step * (layer == 1) + noise(layer) for layer in range(4)},
                         index=list(PHASES))  # fmt: skip
    found = change_point_frame(frame)
    assert found[["layer", "phase_a", "phase_b"]].values.tolist() == [[1, 15, 16]]
    assert found["p_adjusted"].item() == pytest.approx(4 * found["p_value"].item())


def levels_of(changes):
    return pd.DataFrame(np.vstack([np.zeros(changes.shape[1]), changes.cumsum(axis=0)]),
                        index=list(PHASES))  # fmt: skip


def test_metric_that_follows_a_share_is_found_and_the_warning_is_plain():
    mix = noise(n=26)
    values = levels_of(np.column_stack([0.2 * noise(1, 26) + mix, noise(2, 26)]))
    parts = levels_of(np.column_stack([mix, noise(3, 26)])).set_axis(["math", "web"], axis=1)
    found = moved_with(values, parts, draws=999)
    best = found.table.iloc[0]
    assert (best["layer"], best["companion"], best["n"], best["tried"]) == (0, "math", 26, 4)
    assert best["spearman"] > 0.9
    assert best["p_adjusted"] == 0.001
    assert (found.table["p_adjusted"][1:] > 0.05).all()
    for said in ("26 changes between phases are few", "need not be cause", "4 pairs were tried"):
        assert said in found.warning
    assert str(found).startswith(found.warning)
    assert found.warning in found._repr_html_()
    compared = found.changes.query("layer == 0 and companion == 'math'")
    assert compared["companion_change"].tolist() == pytest.approx(mix.tolist())


def test_changes_across_gaps_are_left_out_and_named():
    values, parts = levels_of(noise(1, 26)[:, None]), levels_of(noise(2, 26)[:, None])
    values = values.drop(index=[12, 26])
    found = moved_with(values, parts, draws=99)
    assert found.table["n"].item() == 22
    assert "Left out, over another number of phases than most: 11 to 13, 25 to 27." in found.warning
    every = moved_with(values, parts, across_gaps=True, draws=99)
    assert (every.table["n"].item(), every.table["phases_apart"].item()) == (24, "1, 2")
    at_gap = every.changes.query("phase_a == 25")["metric_change"].item()
    assert at_gap == pytest.approx(values.loc[27, 0] - values.loc[25, 0])


def test_companions_with_other_phases_are_tested_apart_and_paid_for():
    values = levels_of(noise(1, 26)[:, None])
    parts = levels_of(noise(2, 26)[:, None]).set_axis(["all"], axis=1)
    parts["some"] = values[0].where(values.index.isin([5, 10, 15, 20, 25, 26, 27]))
    parts["late"] = values[0].where(values.index >= 15)
    found = moved_with(values, parts, draws=999)
    assert dict(zip(found.table["companion"], found.table["n"], strict=True)) == {
        "late": 12, "all": 26,
    }  # fmt: skip
    assert found.table["p_adjusted"].min() == 0.002  # two groups of phases were tried
    assert "1 pairs have fewer than 5 changes: they were not tested." in found.warning


def test_shares_that_move_by_rounding_alone_do_not_move():
    values = levels_of(noise(1, 26)[:, None])
    steady = pd.DataFrame({"web": [0.3 + 0.003 * p for p in PHASES]}, index=list(PHASES))
    found = moved_with(values, steady, draws=99)
    assert found.table["spearman"].isna().all()
    assert "1 pairs have a side that never changes" in found.warning


def test_too_few_common_phases_are_one_sentence():
    values = levels_of(noise(1, 26)[:, None])
    with pytest.raises(QueryError, match="needs 5 changes at least, and there are 4"):
        moved_with(values, values[values.index <= 5])


def test_nothing_is_found_where_nothing_is():
    """Over whole searches of drifting metrics against a drifting mix."""
    hits = 0
    for seed in range(120):
        random = np.random.default_rng(seed)
        values = levels_of(random.standard_normal((26, 4)) + 1.0)
        parts = levels_of(random.standard_normal((26, 3)) - 0.5)
        hits += moved_with(values, parts, draws=199).table["p_adjusted"].min() <= 0.05
    assert hits / 120 <= 0.12  # 14 of 120 at 5 %: once in a thousand times
