"""Golden values, and batches against plain arithmetic on everything at once."""

import math

import pytest
import torch

from probes.activation_statistics import (
    SITE_METRICS,
    LogitStatistics,
    NeuronMaxima,
    SiteStatistics,
    growth_exponent,
)


def site(*batches_BTD):
    found = SiteStatistics()
    for x_BTD in batches_BTD:
        found.update(x_BTD)
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


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_batches_equal_plain_arithmetic(batch_size):
    x_BTD = torch.randn(5, 7, 12, generator=torch.Generator().manual_seed(0)) * 3 + 0.5
    x_BTD[3, 4, 10] = -40.0
    found = site(*x_BTD.split(batch_size))
    x, n = x_BTD.double(), x_BTD.numel()
    off = x - x.mean()
    square_D = x.square().mean((0, 1))
    top = x.abs().flatten().sort(descending=True).values
    median = x_BTD.abs().flatten(1).sort(-1).values[:, (7 * 12 - 1) // 2].double().mean()
    expected = {
        "mean": x.sum() / n,
        "variance_mean": x.var(-1, correction=1).mean(),
        "rms_mean": x.square().mean(-1).sqrt().mean(),
        "rms_pooled": x.square().mean().sqrt(),
        "max_abs": 40.0,
        "kurtosis_excess": (off**4).mean() / (off**2).mean() ** 2 - 3,
        "neuron_kurtosis": square_D.square().mean() / square_D.mean() ** 2,
        "top1_abs": top[0],
        "top2_abs": top[1],
        "top3_abs": top[2],
        "median_abs": median,
        "top1_ratio": 40.0 / median,
        "top1_position": 4,
        "top1_feature": 10,
    }
    values = found.values()
    assert set(values) == set(SITE_METRICS)
    assert values == pytest.approx({k: float(v) for k, v in expected.items()}, rel=1e-10)
    assert found.mean_vector().tolist() == pytest.approx(x.mean((0, 1)).tolist())
    assert found.mean_norm() == pytest.approx(float(x.norm(dim=-1).mean()))


def test_what_does_not_exist_says_why():
    zeros = site(torch.zeros(1, 3, 4)).values()
    assert {m for m, v in zeros.items() if isinstance(v, str)} == {
        "kurtosis_excess",
        "neuron_kurtosis",
        "top1_ratio",
    }
    assert set(site(torch.full((1, 3, 4), math.inf)).values().values()) == {
        "activations are not finite"
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
        found.update(batch)
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
