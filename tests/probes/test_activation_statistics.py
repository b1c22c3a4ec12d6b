"""Golden values, and batches against plain arithmetic on everything at once."""

import math

import numpy as np
import pytest
import torch

from probes import activation_statistics
from probes.activation_statistics import (
    SITE_METRICS,
    LensStatistics,
    LogitStatistics,
    NeuronMaxima,
    SiteStatistics,
    gram_triangle,
    growth_exponent,
)


def site(*batches_BTD, scale=1.0, ids_NT=None):
    found, done = SiteStatistics(scale, mean_vector=True), 0
    for x_BTD in batches_BTD:
        ids_BT = torch.zeros(x_BTD.shape[:2], dtype=torch.long)
        if ids_NT is not None:
            ids_BT = ids_NT[done : done + len(x_BTD)]
        found.update(x_BTD, ids_BT)
        done += len(x_BTD)
    return found


def test_golden_neuron_kurtosis():
    two = torch.tensor([[[1.0, 1, 1, 3], [1, -1, 1, -3]]])
    assert site(two).values()["neuron_kurtosis"] == pytest.approx(7 / 3, rel=1e-14)
    one_hot = torch.zeros(1, 5, 8)
    one_hot[..., 3] = 2.0
    assert site(one_hot).values()["neuron_kurtosis"] == 8


def test_golden_growth_exponent():
    found = growth_exponent(torch.tensor([3.0, 4.0]), torch.tensor([6.0, 8.0]), layers=4)
    assert found == pytest.approx(math.log(2) / 4, rel=1e-14)
    assert growth_exponent(5.0, 10.0, layers=4) == pytest.approx(found)
    assert math.isnan(growth_exponent(torch.zeros(2), torch.ones(2), layers=4))


@pytest.mark.parametrize("block", [2**20, 36])
@pytest.mark.parametrize("scale", [1.0, -2.5])
@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_batches_and_blocks_equal_plain_arithmetic(batch_size, scale, block, monkeypatch):
    monkeypatch.setattr(activation_statistics, "BLOCK", block)
    generator = torch.Generator().manual_seed(0)
    x_BTD = torch.randn(5, 7, 12, generator=generator) * 3 + 0.5
    x_BTD[3, 4, 10], x_BTD[1, 4, 10], x_BTD[0, 4, 2], x_BTD[2, 0, 3] = -40.0, 39.0, 38.0, 37.0
    ids_BT = torch.randint(0, 1000, (5, 7), generator=generator)
    found = site(*x_BTD.split(batch_size), scale=scale, ids_NT=ids_BT)
    x, n = x_BTD.double() * scale, x_BTD.numel()
    off = x - x.mean()
    square_D = x.square().mean((0, 1))
    # Places, not elements: 39.0 stands where -40.0 does.
    size = abs(scale)
    top = [(40.0 * size, 4, 10, 3), (38.0 * size, 4, 2, 0), (37.0 * size, 0, 3, 2)]
    median = x.abs().flatten(1).sort(-1).values[:, (7 * 12 - 1) // 2].mean()
    expected = {
        "mean": x.sum() / n,
        "variance_mean": x.var(-1, correction=1).mean(),
        "rms_mean": x.square().mean(-1).sqrt().mean(),
        "rms_pooled": x.square().mean().sqrt(),
        "max_abs": 40.0 * size,
        "kurtosis_excess": (off**4).mean() / (off**2).mean() ** 2 - 3,
        "neuron_kurtosis": square_D.square().mean() / square_D.mean() ** 2,
        "median_abs": median,
        "top1_ratio": 40.0 * size / median,
        "massive_count": 0,
    }
    for rank, (value, position, feature, window) in enumerate(top, start=1):
        expected |= {
            f"top{rank}_abs": value,
            f"top{rank}_position": position,
            f"top{rank}_feature": feature,
            f"top{rank}_token": ids_BT[window, position],
        }
    variance_NT, mean_NT = x.var(-1, correction=1), x.mean(-1, keepdim=True)
    off_NT = (x - mean_NT).square().mean(-1)
    expected |= {
        "variance_median": np.median(variance_NT),
        "rms_median": np.median(x.square().mean(-1).sqrt()),
        "max_abs_median": np.median(x.abs().amax(-1)),
        "kurtosis_median": np.median((x - mean_NT).pow(4).mean(-1) / off_NT.square() - 3),
        "massive_tokens": 0,
    }
    values = found.values()
    assert set(values) == set(SITE_METRICS)
    assert values == pytest.approx({k: float(v) for k, v in expected.items()}, rel=2e-6)
    assert found.mean_vector().tolist() == pytest.approx(x.mean((0, 1)).tolist(), rel=1e-5)
    assert found.mean_norm() == pytest.approx(float(x.norm(dim=-1).mean()), rel=1e-6)


def test_massive_elements_are_above_both_bounds():
    x_BTD = torch.randn(2, 64, 32, generator=torch.Generator().manual_seed(0)) * 0.05
    x_BTD[0, 0, 3], x_BTD[0, 0, 4], x_BTD[1, 9, 5] = -150.0, 120.0, 101.0
    x_BTD[1, 0, 3] = 99.0  # large against the median, but not of the size
    assert site(x_BTD).values()["massive_count"] == 3
    assert site(*x_BTD.split(1)).values()["massive_count"] == 3
    assert site(x_BTD * 10).values()["massive_count"] == 4
    assert site(x_BTD, scale=10.0).values()["massive_count"] == 4
    shifted = x_BTD + 10.0  # as large, but no longer so beside the median
    assert site(shifted).values()["massive_count"] == 0


def test_median_of_a_window_is_over_all_its_elements():
    generator = torch.Generator().manual_seed(5)
    x_BTD = (
        torch.randn(3, 640, 5, generator=generator).exp() * torch.tensor([1.0, 2, 3])[:, None, None]
    )
    # Positions between those of an even spacing of 40 differ from these.
    x_BTD[:, 20::40] = 1e3
    expected = x_BTD.abs().flatten(1).median(-1).values.double().mean()
    for batch_size in (1, 3):
        assert site(*x_BTD.split(batch_size)).values()["median_abs"] == float(expected)


def test_lens_divergence_is_from_the_final_distribution():
    generator = torch.Generator().manual_seed(3)
    final, lens = (torch.randn(6, 11, generator=generator).log_softmax(-1) for _ in range(2))
    found = LensStatistics()
    found.update(final[:4], lens[:4])
    found.update(final[4:], lens[4:])
    p, q = final.double().exp(), lens.double().exp()
    kl = (p * (p / q).log()).sum(-1).mean()
    agreed = (p.argmax(-1) == q.argmax(-1)).double().mean()
    assert found.values() == pytest.approx(
        {"logit_lens_kl": float(kl), "logit_lens_top1": float(agreed)}, rel=1e-6
    )
    same = LensStatistics()
    same.update(final, final)
    assert same.values() == {"logit_lens_kl": 0.0, "logit_lens_top1": 1.0}


def test_gram_triangle_holds_the_centred_products():
    x_ND = torch.randn(5, 3, generator=torch.Generator().manual_seed(4)) + 100
    triangle, norm = gram_triangle(x_ND)
    centred = (x_ND - x_ND.double().mean(0)).double()
    gram = centred @ centred.T
    expected = [float(gram[i, j]) for i in range(5) for j in range(i, 5)]
    assert triangle.tolist() == pytest.approx(expected, rel=1e-6)
    assert norm == pytest.approx(float(gram.square().sum().sqrt()))


def test_what_does_not_exist_says_why():
    zeros = site(torch.zeros(1, 3, 4)).values()
    assert {m for m, v in zeros.items() if isinstance(v, str)} == {
        "kurtosis_excess",
        "neuron_kurtosis",
        "kurtosis_median",
        "top1_ratio",
    }
    assert set(site(torch.full((1, 3, 4), math.inf)).values().values()) == {
        "0 NaN and 12 Inf in 12 activations"
    }


def test_dead_neurons_are_those_far_below_the_median_neuron():
    neurons = NeuronMaxima()
    neurons.update(torch.tensor([[[1.0, -2.0, 1e-4, 0.0], [0.5, 0.1, 0.0, 0.0]]]))
    neurons.update(torch.tensor([[[-3.0, 0.0, 0.0, 1e-3]]]))
    # Maxima 3, 2, 1e-4, 1e-3; the lower median is 1e-3.
    assert neurons.dead_fraction(0.5) == 0.25
    assert neurons.dead_fraction(0.05) == 0.0
    silent = NeuronMaxima()
    silent.update(torch.zeros(1, 2, 3))
    assert isinstance(silent.dead_fraction(1e-3), str)


def test_logit_statistics():
    logits_BTV = torch.randn(3, 4, 9, generator=torch.Generator().manual_seed(1)) * 2 + 5
    found = LogitStatistics()
    for batch in logits_BTV.split(2):
        found.update(batch.flatten(0, 1))
    x = logits_BTV.double()
    logz = x.logsumexp(-1)
    expected = {
        "logz_mean": logz.mean(),
        "logit_mean": x.mean(),
        "logit_max": x.max(),
        "logit_std": x.std(correction=0),
        "z_loss": logz.square().mean(),
    }
    assert found.values() == pytest.approx({k: float(v) for k, v in expected.items()}, rel=1e-6)
