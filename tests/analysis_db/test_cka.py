"""CKA on values that are known."""

import numpy as np
import pytest

from analysis_db import cka
from analysis_db.cka import (
    directions,
    gram_from_triangle,
    shuffled,
    unbiased_cka,
)


def gaussians(n, d, seed=1):
    random = np.random.default_rng(seed)
    x, y = random.standard_normal((n, d)), random.standard_normal((n, d))
    return x @ x.T, y @ y.T


def hsic1(k, ell):
    """Song et al. 2012, equation (4), term by term."""
    n = len(k)
    k, ell = k - np.diag(np.diag(k)), ell - np.diag(np.diag(ell))
    ones = np.ones(n)
    product = (ones @ k @ ones) * (ones @ ell @ ones) / ((n - 1) * (n - 2))
    return (np.trace(k @ ell) + product - 2 / (n - 2) * (ones @ k @ ell @ ones)) / (n * (n - 3))


def test_golden_value_and_the_published_formula():
    k, ell = gaussians(64, 10)
    assert unbiased_cka(k, ell) == pytest.approx(0.0238246, abs=5e-8)
    by_terms = hsic1(k, ell) / np.sqrt(hsic1(k, k) * hsic1(ell, ell))
    assert unbiased_cka(k, ell) == pytest.approx(by_terms, rel=1e-10)
    centre = np.eye(64) - 1 / 64
    biased = [np.sum((centre @ a @ centre) * (centre @ b @ centre))
              for a, b in ((k, ell), (k, k), (ell, ell))]  # fmt: skip
    assert biased[0] / np.sqrt(biased[1] * biased[2]) == pytest.approx(0.150857, abs=5e-7)


def test_it_does_not_see_rotations_sizes_or_shifts():
    random = np.random.default_rng(2)
    x = random.standard_normal((50, 8))
    turn, _ = np.linalg.qr(random.standard_normal((8, 8)))
    other = 3 * x @ turn + 5
    assert unbiased_cka(x @ x.T, other @ other.T) == pytest.approx(1.0, abs=1e-9)


def test_independent_activations_of_many_features_are_near_zero():
    k, ell = gaussians(128, 128)
    assert abs(unbiased_cka(k, ell)) < 0.05  # the biased one says 0.5


def test_tokens_that_are_all_alike_have_none():
    k, _ = gaussians(20, 4)
    assert unbiased_cka(np.ones((20, 20)), k) is None


def test_the_null_lies_around_zero_and_below_what_is_alike():
    random = np.random.default_rng(3)
    x = random.standard_normal((60, 6))
    near = x + 0.5 * random.standard_normal(x.shape)
    one, other = directions([x @ x.T, near @ near.T])
    null = shuffled(one, other[None])[:, 0]
    assert abs(null.mean()) < 0.02
    assert np.percentile(null, 95) < 0.1 < unbiased_cka(x @ x.T, near @ near.T)
    assert np.array_equal(null, shuffled(one, other[None])[:, 0])
    order = np.random.default_rng(cka.SEED).permutation(60)
    by_hand = unbiased_cka((x @ x.T)[np.ix_(order, order)], near @ near.T)
    assert null[0] == pytest.approx(by_hand, abs=1e-6)


def test_a_triangle_becomes_its_matrix():
    k, _ = gaussians(5, 3)
    assert np.array_equal(gram_from_triangle(k[np.triu_indices(5)], 5), k)
