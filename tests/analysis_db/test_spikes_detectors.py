"""Detectors against golden values and against their definitions written out plainly."""

import numpy as np
import pytest

from analysis_db.detectors import (
    DETECTORS,
    MAD,
    OLMO2,
    OLMO_CORE,
    rolling_median_mad,
    rolling_moments,
    scan,
    spike_score,
)


def golden():
    values = np.random.default_rng(0).normal(2, 0.01, 3000)
    values[[1500, 2000, 2500]] += 1
    return values


@pytest.mark.parametrize("detector", DETECTORS.values(), ids=DETECTORS)
def test_golden_spikes_and_nothing_else(detector):
    assert np.flatnonzero(scan(golden(), detector).direction).tolist() == [1500, 2000, 2500]


def test_golden_spike_score():
    found = scan(golden(), OLMO2)
    assert found.eligible == 2000
    assert spike_score(found.flags, 3000) == 0.1
    assert spike_score(found.flags, found.eligible) == 0.15
    assert spike_score(0, 0) is None


def plainly(values, detector):
    """One value at a time, with numpy's own mean, std and median."""
    found = np.zeros(len(values), int)
    z = np.full(len(values), np.nan)
    for i in range(detector.window, len(values)):
        before = values[i - detector.window : i]
        if detector is MAD:
            centre = np.median(before)
            spread = 1.4826 * np.median(np.abs(before - centre))
        else:
            centre, spread = before.mean(), before.std()
        if spread > 1e-10:
            z[i] = (values[i] - centre) / spread
            reached = z[i] > 6 if detector is OLMO_CORE else z[i] >= 7
            found[i] = 1 if reached else -1 if detector is OLMO2 and z[i] <= -7 else 0
    return found, z


def hard_series(seed):
    """Trend, changing noise, spikes up and down, ties and stretches without any change."""
    rng = np.random.default_rng(seed)
    n = 2600
    values = 3 / np.sqrt(1 + np.arange(n) / 50) + rng.normal(0, np.geomspace(0.1, 1e-3, n))
    values[rng.integers(0, n, 25)] += rng.normal(0, 2, 25)
    values[1700:1900] = np.round(values[1700:1900], 2)
    values[2100:2400] = values[2100]
    values[2450] -= 1
    return values


@pytest.mark.parametrize("detector", DETECTORS.values(), ids=DETECTORS)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_vectorised_is_the_definition(detector, seed):
    values = hard_series(seed)
    flags, z = plainly(values, detector)
    found = scan(values, detector)
    assert np.flatnonzero(flags).tolist() == np.flatnonzero(found.direction).tolist()
    assert found.direction.tolist() == flags.tolist()
    assert len(np.flatnonzero(flags)) > 3
    np.testing.assert_allclose(found.z, z, rtol=1e-8, equal_nan=True)


@pytest.mark.parametrize("window", [1, 2, 7, 128, 1000, 2600])
def test_rolling_moments_are_those_of_every_window(window):
    values = hard_series(3)
    windows = np.lib.stride_tricks.sliding_window_view(values, window)
    mean, std = rolling_moments(values, window)
    np.testing.assert_allclose(mean, windows.mean(axis=1), rtol=1e-13)
    np.testing.assert_allclose(std, windows.std(axis=1), rtol=1e-9, atol=1e-15)


def test_a_huge_value_leaves_no_trace_in_the_windows_after_it():
    values = 2 + np.random.default_rng(0).normal(0, 1e-3, 4000)
    values[500] = 1e12
    _, std = rolling_moments(values, 128)
    clean = np.lib.stride_tricks.sliding_window_view(values[501:], 128).std(axis=1)
    np.testing.assert_allclose(std[501:], clean, rtol=1e-10)


@pytest.mark.parametrize("window", [1, 2, 7, 128])
def test_rolling_medians_are_those_of_every_window(window):
    values = hard_series(4)
    windows = np.lib.stride_tricks.sliding_window_view(values, window)
    median, mad = rolling_median_mad(values, window)
    plain = np.median(windows, axis=1)
    assert median.tolist() == plain.tolist()
    plain_mad = 1.4826 * np.median(np.abs(windows - plain[:, None]), axis=1)
    np.testing.assert_allclose(mad, plain_mad, rtol=1e-14)


def test_no_flag_without_spread():
    values = np.full(1300, 2.5)
    values[1200] = 100
    for detector in DETECTORS.values():
        assert scan(values, detector).flags == 0
    nearly = 1 + 1e-11 * (np.arange(300) % 2)
    nearly[200] = 2
    assert scan(nearly, OLMO_CORE).flags == 0  # std 5e-12


def test_thresholds_are_reached_or_exceeded_as_defined():
    alternating = np.where(np.arange(1001) % 2, 1.0, -1.0)  # mean 0, std 1
    alternating[1000] = 7.0
    assert scan(alternating, OLMO2).direction[1000] == 1
    alternating[1000] = -7.0
    assert scan(alternating, OLMO2).direction[1000] == -1
    short = alternating[:129].copy()
    short[128] = 6.0
    assert scan(short, OLMO_CORE).direction[128] == 0
    short[128] = np.nextafter(6.0, 7.0)
    assert scan(short, OLMO_CORE).direction[128] == 1
    short[128] = -50.0
    assert scan(short, OLMO_CORE).flags == scan(short, MAD).flags == 0


@pytest.mark.parametrize("length", [0, 1, 128, 129])
def test_a_series_no_longer_than_the_window_is_not_judged(length):
    found = scan(np.arange(float(length)), OLMO_CORE)
    assert len(found.z) == length
    assert found.eligible == max(0, length - 128)


def test_values_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="finite"):
        scan(np.array([1.0, np.nan]), MAD)
