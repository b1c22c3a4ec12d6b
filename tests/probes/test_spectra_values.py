"""Singular values against a float64 SVD: every method, its bound, heads and their products."""

import numpy as np
import pytest
import torch

from probes.singular_values import (
    TOLERANCE,
    head_spectra,
    head_triangles,
    product_norms,
    singular_values,
)

N, R = 700, 280


def noise(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def with_values(s, n=N):
    """A matrix of n rows in float64 with the given singular values."""
    left, right = (torch.linalg.qr(noise(size, len(s))).Q for size in (n, len(s)))
    return left * s @ right.T


def fall(lowest, r=R):
    return torch.logspace(0, lowest, r, dtype=torch.float64)


def twins():
    """Two large columns that differ by little: the smallest value hangs on their product alone."""
    matrix = 0.1 * noise(N, R)
    matrix[:, 0] = 20 * noise(N, seed=1)
    matrix[:, 1] = matrix[:, 0] + 0.1 * noise(N, seed=2)
    return matrix


MATRICES = {
    "tall": (lambda: noise(N, R), "gram-float32"),
    "wide": (lambda: noise(R, N), "gram-float32"),
    "long": (lambda: noise(5000, 64), "gram-float32"),
    "common mean": (lambda: noise(N, R) + 0.3, "gram-float32"),
    "large columns": (
        lambda: noise(N, R) * (1 + 99.0 * (torch.arange(R) < 8)),
        "gram-float64",
    ),
    "twin columns": (twins, "gram-float64"),
    "power law": (lambda: with_values(torch.arange(1, R + 1) ** -0.3), "gram-float32"),
    "badly conditioned": (lambda: with_values(fall(-2.5)), "gram-float64"),
    "square": (lambda: noise(R, R), "gram-float64"),
}


def exact(matrix):
    return torch.linalg.svdvals(matrix.double()).numpy()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", MATRICES)
def test_values_agree_with_a_float64_svd_within_their_bound(kind, dtype):
    make, method = MATRICES[kind]
    matrix = make().to(dtype)
    spectrum = singular_values(matrix)
    off = np.abs(spectrum.values / exact(matrix) - 1)
    assert off.max() <= spectrum.error <= TOLERANCE
    assert spectrum.trusted == min(matrix.shape)
    assert spectrum.shape == tuple(matrix.shape)
    if dtype == torch.float32:
        assert spectrum.method == method


def test_the_diagonal_is_exact_and_the_bound_the_smaller_for_it():
    """Summed in float32 it has a bias, which alone moves every value by 1e-7."""
    matrix = noise(5000, 64).bfloat16()
    spectrum = singular_values(matrix)
    assert spectrum.method == "gram-float32"
    assert spectrum.error < 6e-8
    assert spectrum.values == pytest.approx(exact(matrix), rel=1e-8)


def test_float64_matrices_are_not_summed_in_float32():
    matrix = noise(N, R)
    spectrum = singular_values(matrix)
    assert spectrum.method == "gram-float64"
    assert spectrum.values == pytest.approx(exact(matrix), rel=1e-12)


def test_a_condition_that_no_gram_matrix_can_show_is_found_by_svd():
    s = fall(-7)
    spectrum = singular_values(with_values(s))
    assert spectrum.method == "svd-float64"
    assert spectrum.trusted == R
    assert spectrum.values == pytest.approx(s.numpy(), rel=TOLERANCE)
    assert spectrum.error <= TOLERANCE


def test_what_cannot_be_told_from_zero_is_not_trusted():
    matrix = with_values(torch.cat([fall(-1, 200), torch.zeros(80, dtype=torch.float64)]))
    spectrum = singular_values(matrix)
    assert spectrum.trusted == 200
    assert spectrum.values[:200] == pytest.approx(fall(-1, 200).numpy(), rel=1e-12)


@pytest.mark.parametrize("size", [1e-40, 1e-30, 1e30, 1e38])
def test_no_size_of_the_elements_overflows_or_vanishes(size):
    ones = noise(90, 40).sign()
    matrix = (ones * size).bfloat16()
    spectrum = singular_values(matrix)
    assert spectrum.trusted == 40
    assert spectrum.values == pytest.approx(exact(ones) * float(matrix.abs().max()), rel=TOLERANCE)


def test_float32_sums_that_are_worse_than_they_should_be_are_noticed(monkeypatch):
    """Such as those of a matrix product that is allowed to round its factors to bfloat16."""
    product = torch.Tensor.__matmul__

    def coarse(a, b):
        if a.dtype == torch.float32:
            a, b = a.bfloat16().float(), b.bfloat16().float()
        return product(a, b)

    monkeypatch.setattr(torch.Tensor, "__matmul__", coarse)
    matrix = noise(N, R).float()
    spectrum = singular_values(matrix)
    assert spectrum.method == "gram-float64"
    assert spectrum.values == pytest.approx(exact(matrix), rel=TOLERANCE)


@pytest.mark.parametrize(
    ("broken", "kind"), [(float("nan"), "NaN"), (float("inf"), "Inf"), (float("-inf"), "Inf")]
)
def test_a_matrix_that_is_not_finite_has_a_reason(broken, kind):
    matrix = torch.ones(6, 5)
    matrix[2, 3] = broken
    assert singular_values(matrix) == f"{kind} in 1 of 30 elements"


def test_zeros_and_single_rows():
    zeros = singular_values(torch.zeros(3, 4))
    assert zeros.values.tolist() == [0, 0, 0]
    assert zeros.trusted == 0
    row = noise(1, 50).float()
    for matrix in (row, row.T):
        assert singular_values(matrix).values == pytest.approx([float(row.double().norm())])


HEADS, GROUPS, SIZE, WIDTH = 6, 2, 8, 50


def test_heads_are_the_rows_or_columns_of_their_matrix():
    matrix = noise(HEADS * SIZE, WIDTH).bfloat16()
    for side, whole in (("rows", matrix), ("columns", matrix.T)):
        found = head_spectra(head_triangles(whole, HEADS, side), WIDTH)
        assert len(found) == HEADS
        for head, spectrum in enumerate(found):
            slice_EX = matrix[head * SIZE : (head + 1) * SIZE]
            assert spectrum.values == pytest.approx(exact(slice_EX), rel=1e-12)
            assert spectrum.shape == (SIZE, WIDTH)
            assert spectrum.trusted == SIZE


def test_heads_wider_than_the_model():
    matrix = noise(2 * SIZE, 5)
    found = head_spectra(head_triangles(matrix, 2, "rows"), 5)
    assert found[1].values == pytest.approx(exact(matrix[SIZE:]), rel=1e-12)


def test_products_of_heads_share_the_key_and_value_heads():
    q, k, v = (noise(n * SIZE, WIDTH, seed=n) for n in (HEADS, GROUPS, GROUPS + 2))
    o = noise(WIDTH, HEADS * SIZE)
    qk = product_norms(head_triangles(q, HEADS, "rows"), head_triangles(k, GROUPS, "rows"), WIDTH)
    ov = product_norms(
        head_triangles(o, HEADS, "columns"),
        head_triangles(v[: GROUPS * SIZE], GROUPS, "rows"),
        WIDTH,
    )
    for head in range(HEADS):
        own = slice(head * SIZE, (head + 1) * SIZE)
        group = head // (HEADS // GROUPS)
        shared = slice(group * SIZE, (group + 1) * SIZE)
        assert qk[head] == pytest.approx(exact(q[own].T @ k[shared])[0], rel=1e-12)
        assert ov[head] == pytest.approx(exact(o[:, own] @ v[shared])[0], rel=1e-12)


def test_a_product_that_is_zero_but_for_rounding_has_a_reason():
    """Query and key that live in different directions of the head."""
    half, turn = SIZE // 2, torch.linalg.qr(noise(SIZE, SIZE)).Q
    query, key = noise(SIZE, WIDTH), noise(SIZE, WIDTH, seed=1)
    query[half:] = 0
    key[:half] = 0
    q, k = (head_triangles(turn @ x, 1, "rows") for x in (query, key))
    assert product_norms(q, k, WIDTH) == ["float64 cannot tell the product from zero"]
    assert product_norms(q, torch.zeros_like(k), WIDTH) == [0.0]
