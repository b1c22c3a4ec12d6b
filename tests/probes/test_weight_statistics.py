"""Golden values of the specification, and counting against plain float64 arithmetic."""

import math

import numpy as np
import pytest
import torch

from probes.statistics import (
    ELEMENTWISE,
    HISTOGRAM_EDGES,
    count_values,
    elementwise,
    log10_histogram,
)


def test_golden_values_of_a_diagonal_matrix():
    found = elementwise(count_values(torch.diag(torch.tensor([3.0, 4.0]))))
    assert found["frobenius"] == 5
    assert found["rms"] == 2.5
    assert found["gini"] == pytest.approx(0.5357142857142857, rel=1e-15)
    assert found["hoyer"] == pytest.approx(0.6, rel=1e-15)
    assert (found["min"], found["max"], found["max_abs"]) == (0, 4, 4)
    assert found["zero_fraction"] == 0.5


def test_golden_excess_kurtosis():
    found = elementwise(count_values(torch.tensor([1.0, 1, 1, 1, 9])))
    assert found["kurtosis_excess"] == pytest.approx(0.25, rel=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scale", [None, 0.3651483716701107])
def test_counting_equals_plain_float64_arithmetic(dtype, scale):
    torch.manual_seed(0)
    # More elements than 16-bit patterns, so that 16-bit dtypes are counted by pattern.
    tensor = (torch.randn(300, 256) * 0.02 + 0.001).to(dtype)
    w = tensor.double() if scale is None else (tensor.float() * scale).double()
    w = w.flatten().numpy()
    size, n = np.sort(np.abs(w)), w.size
    found = elementwise(count_values(tensor, scale))
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


def test_the_norm_of_a_large_bf16_tensor_is_not_low():
    # A float32 accumulation in the tensor's own dtype loses percents at this size.
    tensor = torch.full((3_000_000,), 0.0123, dtype=torch.bfloat16)
    exact = float(tensor[0].double()) * math.sqrt(3_000_000)
    assert elementwise(count_values(tensor))["frobenius"] == pytest.approx(exact, rel=1e-12)


def test_kurtosis_of_norm_weights_near_one_keeps_its_digits():
    w = 1 + 1e-4 * torch.randn(2000, generator=torch.Generator().manual_seed(1))
    d = w.double() - w.double().mean()
    exact = float((d**4).mean() / (d**2).mean() ** 2 - 3)
    assert elementwise(count_values(w))["kurtosis_excess"] == pytest.approx(exact, rel=1e-9)


def test_what_does_not_exist_says_why():
    zeros = elementwise(count_values(torch.zeros(4, 4)))
    assert zeros["frobenius"] == 0
    assert zeros["zero_fraction"] == 1
    assert {m for m, v in zeros.items() if isinstance(v, str)} == {
        "kurtosis_excess",
        "gini",
        "hoyer",
    }
    assert isinstance(elementwise(count_values(torch.full((9,), 0.1)))["kurtosis_excess"], str)
    assert isinstance(elementwise(count_values(torch.ones(1)))["hoyer"], str)
    broken = elementwise(count_values(torch.tensor([1.0, math.nan, math.inf])))
    assert set(broken.values()) == {"2 of 3 elements are not finite"}


def test_histogram_counts_every_element_once():
    tensor = torch.tensor([0.0, 1e-20, 1.5e-12, 0.0125, -0.0125, 1.0, 5e7])
    counts = log10_histogram(count_values(tensor))
    assert counts.sum() == tensor.numel()
    assert len(counts) == len(HISTOGRAM_EDGES) - 1
    assert counts[0] == 2  # zero and what is smaller than the first edge
    assert counts[-1] == 1  # beyond the last edge
    assert counts[np.searchsorted(HISTOGRAM_EDGES, math.log10(0.0125)) - 1] == 2
    assert counts[np.searchsorted(HISTOGRAM_EDGES, 0.0)] == 1  # an edge belongs to its right bin
