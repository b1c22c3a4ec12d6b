"""Scopes, extremes and medians against brute force in numpy, on random and adversarial inputs."""

import numpy as np
import pytest
import torch

from probes import activation_statistics, token_statistics
from probes.activation_extremes import Extremes
from probes.activation_statistics import SCOPED_METRICS, NeuronMaxima, SiteStatistics
from probes.base import SCOPES

IDS = torch.arange(6 * 9).view(6, 9)


def random(seed=0):
    return torch.randn(6, 9, 12, generator=torch.Generator().manual_seed(seed)) + 0.1


def massive_start():
    x_BTD = random()
    x_BTD[:, 0, 4] = 5e4
    return x_BTD


def other_massive_tokens():
    x_BTD = massive_start()
    x_BTD[2, 5] *= 40
    x_BTD[4, 7, 1] = -300.0
    return x_BTD


def beside_the_limit():
    """Tokens between 5 and 20 times the median, some at the limit itself."""
    x_BTD = random(1)
    x_BTD /= x_BTD.square().mean(-1, keepdim=True).sqrt()
    for i, factor in enumerate((6.0, 9.99, 10.0, 10.01, 15.0, 19.0, 25.0)):
        x_BTD[i % 6, 1 + i] *= factor
    return x_BTD


def a_loud_first_window():
    """What is read first gives no idea of the median: it is massive as a whole."""
    return random(2) * torch.tensor([1e3, 1, 1, 1, 1, 1])[:, None, None]


def a_silent_first_window():
    return random(3) * torch.tensor([0, 1, 1, 1, 1, 30.0])[:, None, None]


def mostly_zero():
    x_BTD = torch.zeros(6, 9, 12)
    x_BTD[3, 2, 1] = 2.0
    return x_BTD


INPUTS = (
    random, massive_start, other_massive_tokens, beside_the_limit, a_loud_first_window,
    a_silent_first_window, mostly_zero,
)  # fmt: skip


def site(x_BTD, batch_size, scale=1.0):
    """The settled statistics, and whether the batches had to be read again."""
    found = SiteStatistics(scale, mean_vector=True)
    batches = x_BTD.split(batch_size)
    for x, ids in zip(batches, IDS.split(batch_size), strict=True):
        found.update(x, ids)
    again = not found.settle()
    if again:
        for x in batches:
            found.recount(x)
    return found, again


def kept(x_BTD, scope):
    """The tokens of a scope (N, D), and which they are (B, T)."""
    rms_BT = np.sqrt(np.square(x_BTD).mean(-1))
    keep_BT = np.ones(rms_BT.shape, bool)
    if scope == "no_start":
        keep_BT[:, 0] = False
    if scope == "no_massive":
        keep_BT = rms_BT <= 10 * np.median(rms_BT)
    return x_BTD[keep_BT], keep_BT


def brute_force(x_BTD, scope):
    x_ND, keep_BT = kept(x_BTD, scope)
    variance, off = x_ND.var(), x_ND - x_ND.mean()
    square_D = np.square(x_ND).mean(0)
    size_BTD = np.abs(x_BTD)
    medians_B = np.sort(size_BTD.reshape(len(x_BTD), -1))[:, (x_BTD[0].size - 1) // 2]
    massive_BTD = (size_BTD > 100) & (size_BTD > 1000 * medians_B[:, None, None])
    return {
        "mean": x_ND.mean(),
        "variance_mean": x_ND.var(1, ddof=1).mean(),
        "rms_mean": np.sqrt(np.square(x_ND).mean(1)).mean(),
        "rms_pooled": np.sqrt(np.square(x_ND).mean()),
        "max_abs": np.abs(x_ND).max(),
        "kurtosis_excess": (off**4).mean() / variance**2 - 3 if variance else None,
        "neuron_kurtosis": np.square(square_D).mean() / square_D.mean() ** 2 if variance else None,
        "massive_count": massive_BTD[keep_BT].sum(),
    }


@pytest.mark.parametrize("block", [2**20, 50])
@pytest.mark.parametrize("batch_size", [1, 2, 6])
@pytest.mark.parametrize("make", INPUTS)
def test_every_scope_equals_brute_force(make, batch_size, block, monkeypatch):
    monkeypatch.setattr(activation_statistics, "BLOCK", block)
    x_BTD, scale = make(), -1.5
    found, _ = site(x_BTD, batch_size, scale)
    exact = x_BTD.double().numpy() * scale
    # Whether a token at the limit is massive is decided by float32 sums.
    for scope in SCOPES:
        expected, values = brute_force(exact, scope), found.values(scope)
        for metric in SCOPED_METRICS:
            if expected[metric] is None:
                assert isinstance(values[metric], str), (scope, metric)
            else:
                assert values[metric] == pytest.approx(expected[metric], rel=2e-6, abs=1e-6), (
                    scope,
                    metric,
                )
        x_ND, _ = kept(exact, scope)
        mean_D = found.mean_vector(scope).numpy()
        assert mean_D == pytest.approx(x_ND.mean(0), rel=1e-5, abs=1e-5)
        assert found.mean_norm(scope) == pytest.approx(
            np.linalg.norm(x_ND, axis=1).mean(), rel=1e-6
        )
    assert found.values()["massive_tokens"] == (~kept(exact, "no_massive")[1]).sum()


def test_batches_are_read_again_only_where_the_first_tokens_misled():
    assert site(a_loud_first_window(), 1)[1] is True
    assert site(a_silent_first_window(), 1)[1] is True
    assert site(a_loud_first_window(), 6)[1] is False
    for make in (massive_start, other_massive_tokens, beside_the_limit):
        assert site(make(), 1)[1] is False


def test_a_feature_is_exact_beside_a_start_token_of_ten_thousand_times_its_size():
    # Sums over all tokens less those of the start tokens would lose this feature's digits.
    x_BTD = massive_start()
    x_BTD[:, 0, 4] = 1e7
    found, _ = site(x_BTD, 6)
    for scope in ("no_start", "no_massive"):
        x_ND, _ = kept(x_BTD.double().numpy(), scope)
        square_D = np.square(x_ND).mean(0)
        expected = np.square(square_D).mean() / square_D.mean() ** 2
        assert found.values(scope)["neuron_kurtosis"] == pytest.approx(expected, rel=1e-6)


def test_positions_of_massive_tokens():
    found, _ = site(other_massive_tokens(), 2)
    edges, counts = found.massive_positions()
    assert dict(zip(edges, counts, strict=False)) == {
        0.0: 6,
        1.0: 0,
        5.0: 1,
        6.0: 0,
        7.0: 1,
        8.0: 0,
    }
    assert edges[-1] == 9.0
    assert site(random(), 2)[0].massive_positions() == ([0.0, 9.0], [0])


def test_medians_of_tokens_do_not_see_the_start_token():
    values = site(massive_start(), 2)[0].values()
    quiet = site(random(), 2)[0].values()
    for metric in ("variance_median", "rms_median", "max_abs_median", "kurtosis_median"):
        assert values[metric] == pytest.approx(quiet[metric], rel=0.2, abs=0.3), metric
    assert values["variance_mean"] > 1e6 * quiet["variance_mean"]


def places(x_BTD):
    """The three first places by brute force: size, position, feature, token."""
    size_TD = np.abs(x_BTD).max(0)
    order = sorted(np.ndindex(size_TD.shape), key=lambda place: (-size_TD[place], place))[:3]
    windows = [np.abs(x_BTD[:, t, d]).argmax() for t, d in order]
    return [(size_TD[t, d], t, d, int(IDS[w, t])) for (t, d), w in zip(order, windows, strict=True)]


def nearly_equal(seed):
    """Values that agree in six digits, as many as there are elements."""
    generator = torch.Generator().manual_seed(seed)
    return 9.0 + torch.randint(0, 40, (6, 9, 12), generator=generator) * 1e-6


def few_values(seed):
    """Many exact ties, of both signs."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-3, 4, (6, 9, 12), generator=generator).float()


@pytest.mark.parametrize(
    "make", [random, nearly_equal, few_values, lambda seed: torch.ones(6, 9, 12)]
)
@pytest.mark.parametrize("batch_size", [1, 2, 6])
def test_the_three_largest_are_exact_and_ties_go_by_place(make, batch_size):
    for seed in range(20):
        x_BTD, found = make(seed), Extremes()
        for x, ids in zip(x_BTD.split(batch_size), IDS.split(batch_size), strict=True):
            found.update(x, x.abs().amax(-1), ids)
        assert [tuple(place) for place in found.top] == places(x_BTD.numpy())


def test_the_largest_of_a_site_is_its_maximum_even_by_the_last_bit():
    x_BTD = torch.full((6, 9, 12), 100.0)
    x_BTD[4, 8, 11] = torch.nextafter(torch.tensor(100.0), torch.tensor(1e9))
    values = site(x_BTD, 2)[0].values()
    assert values["top1_abs"] == values["max_abs"] == float(x_BTD.max())
    assert (values["top1_position"], values["top1_feature"], values["top1_token"]) == (8, 11, 44)


def test_numbers_that_leave_float32_say_so():
    huge = site(random() * 1e25, 2)[0].values()
    assert set(huge.values()) == {"squares of the activations overflow float32"}
    large = site(random() * 1e12, 2)[0].values()
    assert "float32" in large["kurtosis_excess"]
    assert large["rms_mean"] == pytest.approx(1e12 * site(random(), 2)[0].values()["rms_mean"])
    small = site(random() * 1e-12, 2)[0].values()
    assert "float32" in small["kurtosis_excess"]


def test_a_neuron_that_only_the_start_token_drives_is_dead_without_it():
    h_BTF = torch.ones(2, 4, 4)
    h_BTF[:, 1:, 3] = 0.0
    neurons = NeuronMaxima()
    neurons.update(h_BTF)
    assert neurons.dead_fraction(0.5) == 0.0
    assert neurons.dead_fraction(0.5, "no_start") == 0.25


def test_what_is_kept_beside_the_limit_is_little():
    found = token_statistics.FeatureSums(with_values=False)
    x_RD = random().flatten(0, 1)
    found.add(x_RD, x_RD.square(), x_RD.square().sum(-1), torch.zeros(len(x_RD), dtype=torch.bool))
    assert not found._rows
