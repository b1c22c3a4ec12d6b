"""Metrics of singular values on golden values, and against WeightWatcher's own."""

import numpy as np
import pytest
import torch

from probes.singular_values import Spectrum, singular_values
from probes.spectral import (
    SPECTRAL,
    fit_power_law,
    marchenko_pastur_edge,
    marchenko_pastur_median,
    rescaled,
    spectral_metrics,
)


def metrics_of(matrix):
    spectrum = singular_values(torch.as_tensor(matrix))
    assert isinstance(spectrum, Spectrum)
    return spectral_metrics(spectrum)


def test_golden_values_of_a_diagonal():
    found = metrics_of(torch.diag(torch.tensor([3.0, 4.0])))
    assert set(found) == set(SPECTRAL)
    golden = {
        "spectral_norm": 4,
        "nuclear_norm": 7,
        "stable_rank": 1.5625,
        "effective_rank": 1.9796263300525183,
        "per": 0.9898131650262592,
        "per_denominator": 2,
        "condition_number": 4 / 3,
        "participation_ratio": 1.8545994065281899,
    }
    assert {metric: found[metric] for metric in golden} == pytest.approx(golden, rel=1e-14)


def test_golden_power_laws():
    fit = fit_power_law(2.0 ** np.arange(16))
    assert fit == pytest.approx((1.1923593387851952, 0.17567103588277844, 1, 16), rel=1e-14)
    uniform = np.random.default_rng(0).random(2000)
    pareto = np.sort((1 - uniform) ** (-1 / 1.5))  # a density of exponent 2.5
    assert fit_power_law(pareto).alpha == pytest.approx(2.4928684, rel=1e-7)


@pytest.mark.parametrize("rows", [1, 7, 64, 1000])
def test_the_fit_is_what_a_loop_over_every_xmin_finds(rows):
    x = np.sort(np.random.default_rng(3).lognormal(0, 1, 150))
    x[20:23] = x[20]  # equal values count as a tail each
    fits = []
    for i in range(len(x) - 1):
        tail = x[i:]
        n = len(tail)
        alpha = 1 + n / np.log(tail / tail[0]).sum()
        ks = np.abs(1 - (tail / tail[0]) ** (1 - alpha) - np.arange(n) / n).max()
        fits.append((ks, alpha, tail[0]))
    ks, alpha, xmin = min(fits)
    fit = fit_power_law(x, rows)
    assert fit == pytest.approx((alpha, ks, xmin, (x >= xmin).sum()), rel=1e-12)


# What WeightWatcher 0.7.7 finds: analyze() with its defaults on a torch.nn.Linear whose weight is
# the matrix below in float32 (scipy's SVD, columns alpha, D, xmin, num_pl_spikes, stable_rank).
WEIGHTWATCHER = {
    "gaussian": (16.132745044813888, 0.11783654413135214, 1177.5977656056898, 11, 85.6734594771355),
    "heavy": (1.7071444902585466, 0.019663650109707526, 1309.622223733713, 120, 2.422236814562856),
    "spiked": (1.996127994778762, 0.12722360479197425, 289.85860607851373, 185, 14.447335448550232),
    "powers": (1.866134295942532, 0.03411926167983942, 0.008212459857783015, 59, 4.061529850217075),
}


def watched(kind):
    kinds = list(WEIGHTWATCHER)
    g = np.random.default_rng(kinds.index(kind) + 1)
    if kind == "gaussian":
        matrix = g.standard_normal((400, 300))
    elif kind == "heavy":
        matrix = g.standard_normal((400, 300)) * (g.pareto(1.5, (400, 1)) + 1)
    elif kind == "spiked":
        spikes = g.standard_normal((300, 12)) @ g.standard_normal((12, 500))
        matrix = spikes * 0.3 + g.standard_normal((300, 500))
    else:
        matrix = g.standard_normal((256, 256)) / 16 * np.arange(1, 257) ** -0.6
    return matrix.astype(np.float32)


@pytest.mark.parametrize("kind", WEIGHTWATCHER)
def test_power_law_and_stable_rank_are_those_of_weightwatcher(kind):
    found = metrics_of(watched(kind))
    alpha, ks, xmin, spikes, stable_rank = WEIGHTWATCHER[kind]
    assert found["powerlaw_alpha"] == pytest.approx(alpha, rel=1e-5)
    assert found["powerlaw_ks"] == pytest.approx(ks, rel=1e-5)
    assert found["powerlaw_xmin"] == pytest.approx(xmin, rel=1e-5)
    assert found["powerlaw_tail_n"] == spikes
    assert found["stable_rank"] == pytest.approx(stable_rank, rel=1e-5)
    assert found["is_powerlaw"] == (alpha <= 8)


@pytest.mark.parametrize(
    ("ratio", "median"),
    # At 1 from the paper's 2.858 = 4/sqrt(3)/sqrt(median); at 0 the law shrinks to a point.
    [(1.0, 0.6528), (1e-12, 1.0)],
)
def test_median_of_the_marchenko_pastur_law(ratio, median):
    assert marchenko_pastur_median(ratio) == pytest.approx(median, rel=1e-4)


@pytest.mark.parametrize("ratio", [0.2, 0.4, 0.75])
def test_median_splits_the_law_in_halves(ratio):
    """The density in x itself, which the code integrates in another variable."""
    low, high = (1 - ratio**0.5) ** 2, (1 + ratio**0.5) ** 2
    x = np.linspace(low, high, 1_000_001)
    density = np.sqrt((high - x) * (x - low)) / (2 * np.pi * ratio * x)
    below = x <= marchenko_pastur_median(ratio)
    assert np.trapezoid(density, x) == pytest.approx(1, abs=1e-6)
    assert np.trapezoid(density[below], x[below]) == pytest.approx(0.5, abs=1e-5)


def test_noise_ends_at_the_edge_and_planted_directions_lie_beyond():
    rng = np.random.default_rng(0)
    noise = 0.02 * rng.standard_normal((900, 360))
    found = metrics_of(noise)
    assert found["mp_edge"] == pytest.approx(0.02 * (900**0.5 + 360**0.5), rel=0.01)
    assert found["mp_edge_outliers"] == 0
    left, right = (np.linalg.qr(rng.standard_normal((size, 5))).Q for size in (900, 360))
    found = metrics_of(noise + 2.0 * left @ right.T)
    assert found["mp_edge_outliers"] == 5


def test_edge_does_not_hang_on_which_side_is_longer():
    s = np.linspace(3, 1, 40)
    found = [spectral_metrics(Spectrum(s, shape, "", 40, 0.0)) for shape in ((40, 90), (90, 40))]
    assert found[0] == found[1]
    assert found[0]["mp_edge"] == marchenko_pastur_edge(s, 90)


@pytest.mark.parametrize("factor", [0.3, -2.0, 1e-3])
def test_metrics_of_a_multiple_follow_from_those_of_the_matrix(factor):
    matrix = torch.from_numpy(watched("heavy")).double()
    found, whole = rescaled(metrics_of(matrix), factor), metrics_of(matrix * factor)
    assert found == pytest.approx(whole, rel=1e-9)
    assert found["powerlaw_xmin"] != metrics_of(matrix)["powerlaw_xmin"]


def missing(found):
    return {metric: value for metric, value in found.items() if isinstance(value, str)}


def test_zeros_have_norms_and_no_ranks():
    zeros = metrics_of(torch.zeros(4, 3))
    assert zeros["spectral_norm"] == zeros["nuclear_norm"] == 0
    assert set(missing(zeros).values()) == {"all elements are zero"}
    by_scale = rescaled(metrics_of(torch.rand(4, 3)), 0.0)
    assert by_scale["spectral_norm"] == by_scale["nuclear_norm"] == 0
    assert set(missing(by_scale)) == set(missing(zeros))
    assert set(missing(by_scale).values()) == {"the scale is zero"}


def test_a_scale_that_is_not_finite_leaves_reasons():
    found = rescaled(metrics_of(torch.rand(4, 3)), float("nan"))
    assert missing(found) == dict.fromkeys(SPECTRAL, "the scale is nan")


def test_a_single_row_has_a_norm_and_neither_tail_nor_bulk():
    found = metrics_of(torch.tensor([[3.0, 4.0]]))
    assert found["spectral_norm"] == found["nuclear_norm"] == 5
    assert found["condition_number"] == found["stable_rank"] == found["per"] == 1
    reasons = missing(found)
    assert reasons["powerlaw_alpha"] == "a power law needs two singular values that are not zero"
    assert reasons["mp_edge_outliers"] == "a single singular value has no bulk"
    assert len(reasons) == 7


def test_equal_singular_values_have_no_power_law():
    found = metrics_of(torch.eye(30))
    assert missing(found) == dict.fromkeys(
        [m for m in SPECTRAL if "powerlaw" in m], "all singular values are equal"
    )
    assert found["effective_rank"] == pytest.approx(30)


def test_a_singular_matrix_has_no_condition_number():
    matrix = torch.zeros(8, 6)
    matrix[0, 0], matrix[1, 1] = 1.0, 2.0
    found = metrics_of(matrix)
    reasons = missing(found)
    assert reasons["condition_number"] == (
        "float64 cannot tell the smallest 4 of 6 singular values from zero"
    )
    assert reasons["mp_edge"] == "the median value is zero"
    assert found["nuclear_norm"] == 3
    assert found["powerlaw_tail_n"] == 2
