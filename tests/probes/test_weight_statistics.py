"""Golden values of the specification, and counting against plain float64 arithmetic."""

import math

import numpy as np
import pytest
import torch

from probes.statistics import (
    ELEMENTWISE,
    HISTOGRAM_EDGES,
    profile,
)


def elementwise(tensor, scale=None):
    (whole,) = profile(tensor).metrics(scale)
    return whole


def test_golden_values_of_a_diagonal_matrix():
    found = elementwise(torch.diag(torch.tensor([3.0, 4.0])))
    assert found["frobenius"] == 5
    assert found["rms"] == 2.5
    assert found["gini"] == pytest.approx(0.5357142857142857, rel=1e-15)
    assert found["hoyer"] == pytest.approx(0.6, rel=1e-15)
    assert (found["min"], found["max"], found["max_abs"]) == (0, 4, 4)
    assert found["zero_fraction"] == 0.5


def test_golden_excess_kurtosis():
    found = elementwise(torch.tensor([1.0, 1, 1, 1, 9]))
    assert found["kurtosis_excess"] == pytest.approx(0.25, rel=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scale", [None, 0.3651483716701107])
def test_counting_equals_plain_float64_arithmetic(dtype, scale):
    torch.manual_seed(0)
    # More elements than 16-bit patterns, so that 16-bit dtypes are counted by pattern.
    tensor = (torch.randn(300, 256) * 0.02 + 0.001).to(dtype)
    w = tensor.double() * (scale or 1)  # the exact product
    w = w.flatten().numpy()
    size, n = np.sort(np.abs(w)), w.size
    found = elementwise(tensor, scale)
    mean, std = w.mean(), w.std()
    expected = {
        "frobenius": np.linalg.norm(w),
        "rms": math.sqrt(np.square(w).mean()),
        "mean": mean,
        "std": std,
        "max_abs": size[-1],
        "min": w.min(),
        "max": w.max(),
        "zero_fraction": (size < 1e-10).mean(),
        "kurtosis_excess": (((w - mean) / std) ** 4).mean() - 3,
        "gini": ((2 * np.arange(1, n + 1) - n - 1) * size).sum() / (n * size.sum()),
        "hoyer": (math.sqrt(n) - size.sum() / np.linalg.norm(w)) / (math.sqrt(n) - 1),
    }
    assert found == pytest.approx(expected, rel=1e-11, abs=1e-14)
    assert tuple(found) == ELEMENTWISE


def test_the_norm_of_a_large_bf16_tensor_is_right_where_torch_norm_is_not():
    """torch.norm sums in float32: 3e-4 low at 10 M elements, 2.8e-2 at an embedding's 190 M."""
    seed = torch.Generator().manual_seed(0)
    block = (torch.randn(2**20, generator=seed) * 0.02).to(torch.bfloat16)
    tensor = block.repeat(32).reshape(2**12, -1)
    exact = math.sqrt(32 * math.fsum(block.double().square().tolist()))
    assert elementwise(tensor)["frobenius"] == pytest.approx(exact, rel=1e-12)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert abs(float(torch.norm(tensor)) / exact - 1) > 1e-4
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("side", ["rows", "columns"])
@pytest.mark.parametrize("scale", [None, -0.03450327796711771])
def test_a_head_has_the_statistics_of_its_slice(dtype, side, scale):
    seed = torch.Generator().manual_seed(2)
    tensor = (torch.randn(384, 192, generator=seed) * 0.02).to(dtype)  # counted, if 16-bit
    slices = tensor.split(64) if side == "rows" else tensor.split(32, dim=1)
    whole, *heads = profile(tensor, 6, side).metrics(scale)
    for metrics, part in zip([whole, *heads], [tensor, *slices], strict=True):
        alone = elementwise(part.contiguous(), scale)
        assert metrics == pytest.approx(alone, rel=1e-12, abs=1e-15)


def test_a_head_that_is_broken_or_zero_does_not_spoil_the_others():
    tensor = torch.ones(6, 200, 100, dtype=torch.bfloat16).reshape(1200, 100)
    tensor[0, 0], tensor[200:400] = math.nan, 0
    found = profile(tensor, 6)
    whole, first, second, third, *_ = found.metrics(0.5)
    assert set(whole.values()) == {"NaN in 1 of 120,000 elements"}
    assert set(first.values()) == {"NaN in 1 of 20,000 elements"}
    assert (second["rms"], second["zero_fraction"]) == (0, 1)
    assert (third["rms"], third["max_abs"], third["zero_fraction"]) == (0.5, 0.5, 0)
    assert found.histogram(0.5).sum() == 119_999


@pytest.mark.parametrize("numel", [2**16, 2**16 + 16])  # sorted, and counted
def test_a_scale_moves_the_histogram_and_what_counts_as_zero(numel):
    tensor = torch.full((numel,), 1.5e-10, dtype=torch.bfloat16)
    found = profile(tensor)
    (stored,), (half,) = found.metrics(), found.metrics(0.5)
    assert (stored["zero_fraction"], half["zero_fraction"]) == (0, 1)
    moved = [int(np.flatnonzero(found.histogram(scale))[0]) for scale in (None, 0.1, 0.0)]
    assert moved[0] - moved[1] == 10  # bins of a tenth of a decade
    assert moved[2] == 0


def test_kurtosis_of_norm_weights_near_one_keeps_its_digits():
    w = 1 + 1e-4 * torch.randn(2000, generator=torch.Generator().manual_seed(1))
    d = w.double() - w.double().mean()
    exact = float((d**4).mean() / (d**2).mean() ** 2 - 3)
    assert elementwise(w)["kurtosis_excess"] == pytest.approx(exact, rel=1e-9)


def test_more_float32_elements_than_are_worked_on_at_once():
    """Norm weights near one, in several chunks: sums and ranks go on where the last one ended."""
    w = 1 + 1e-3 * torch.randn(2_500_000, generator=torch.Generator().manual_seed(1))
    x = w.double().numpy()
    d, size, n = x - x.mean(), np.sort(np.abs(x)), x.size
    found = elementwise(w)
    assert found["frobenius"] == pytest.approx(np.linalg.norm(x), rel=1e-12)
    assert found["kurtosis_excess"] == pytest.approx(
        (d**4).mean() / (d**2).mean() ** 2 - 3, abs=1e-9
    )
    gini = ((2 * np.arange(1, n + 1) - n - 1) * size).sum() / (n * size.sum())
    assert found["gini"] == pytest.approx(gini, rel=1e-9)


def test_what_does_not_exist_says_why():
    zeros = elementwise(torch.zeros(4, 4))
    assert zeros["frobenius"] == 0
    assert zeros["zero_fraction"] == 1
    assert {m for m, v in zeros.items() if isinstance(v, str)} == {
        "kurtosis_excess",
        "gini",
        "hoyer",
    }
    assert isinstance(elementwise(torch.full((9,), 0.1))["kurtosis_excess"], str)
    assert isinstance(elementwise(torch.ones(1))["hoyer"], str)
    broken = elementwise(torch.tensor([1.0, math.nan, math.inf]))
    assert set(broken.values()) == {"NaN in 1 and Inf in 1 of 3 elements"}


@pytest.mark.parametrize("n", [9, 70_000])  # sorted, counted by patterns
def test_a_scale_that_is_not_finite_leaves_no_statistic_and_no_count(n):
    found = profile(torch.linspace(-1, 1, n).to(torch.bfloat16))
    for scale in (math.nan, math.inf, -math.inf):
        (whole,) = found.metrics(scale)
        assert whole == dict.fromkeys(ELEMENTWISE, f"the scale is {scale}")
        assert found.histogram(scale).sum() == 0
    assert found.histogram().sum() == n


@pytest.mark.parametrize("n", [9, 70_000])
def test_a_histogram_counts_the_finite_elements(n):
    tensor = torch.linspace(-1, 1, n).to(torch.bfloat16)
    tensor[1], tensor[2], tensor[3] = math.nan, math.inf, -math.inf
    found = profile(tensor)
    for scale in (None, 0.5):
        assert found.histogram(scale).sum() == n - 3
        assert set(found.metrics(scale)[0].values()) == {f"NaN in 1 and Inf in 2 of {n:,} elements"}


def test_histogram_counts_every_element_once():
    tensor = torch.tensor([0.0, 1e-20, 1.5e-12, 0.0125, -0.0125, 1.0, 5e7])
    counts = profile(tensor).histogram()
    assert counts.sum() == tensor.numel()
    assert len(counts) == len(HISTOGRAM_EDGES) - 1
    assert counts[0] == 2  # zero and what is smaller than the first edge
    assert counts[-1] == 1  # beyond the last edge
    assert counts[np.searchsorted(HISTOGRAM_EDGES, math.log10(0.0125)) - 1] == 2
    assert counts[np.searchsorted(HISTOGRAM_EDGES, 0.0)] == 1  # an edge belongs to its right bin
