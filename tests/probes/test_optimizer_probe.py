"""The optimizer probe: against plain float64, against AdamW's own step, and what is not known."""

import math

import pytest
import torch

from probes.base import Measuring
from probes.finite import NotFinite
from probes.optimizer import OptimizerProbe
from probes.optimizer_statistics import CHUNK, Update, sums_of
from tests.fixtures.optimizer_states import (
    BETAS,
    EPS,
    LR,
    MATRIX_LR,
    STEPS,
    train,
    write_distributed,
    write_trainer,
    write_universal,
)

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
KNOWN = {"eps": EPS, "beta1": BETAS[0], "beta2": BETAS[1]}
MATRICES = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A YuLan checkpoint in bf16 with a universal state. Only read it."""
    made = train(tmp_path_factory.mktemp("probe") / "yulan")
    write_universal(made)
    return made


def measured(trained, **settings):
    probe = OptimizerProbe()
    return probe.measure(trained.open(), probe.Settings(**settings), Measuring())


def values(found):
    return {
        (row["metric"], row["module"], row["layer"]): row["value"]
        for row in found.rows
        if row["value"] is not None
    }


def reasons(found):
    return {row["metric"]: row["reason"] for row in found.rows if row["value"] is None}


def plain(m, v, p, w, lr, step=STEPS):
    """Every metric of one or several parameters, as it stands in the books."""
    m, v, p, w = (torch.cat([x.double().reshape(-1) for x in xs]) for xs in (m, v, p, w))
    r = v.sqrt()
    update = (m / (1 - BETAS[0] ** step)) / ((v / (1 - BETAS[1] ** step)).sqrt() + EPS)
    of_all = {"exp_avg": m, "exp_avg_sq_sqrt": r}
    found = {f"{name}_rms": x.square().mean().sqrt() for name, x in of_all.items()}
    for statistic in ("min", "max", "mean"):
        found |= {f"{name}_{statistic}": getattr(x, statistic)() for name, x in of_all.items()}
    found["update_rms"] = update.square().mean().sqrt()
    found["update_max"] = update.abs().max()
    found["update_ratio"] = lr * update.norm() / p.norm()
    found["below_eps_fraction"] = (r < EPS).double().mean()
    found["below_10eps_fraction"] = (r < 10 * EPS).double().mean()
    found["snr_mean"] = (m.abs() / r)[r > 0].mean()
    found["master_drift"] = (p - w).norm() / p.norm()
    return {metric: float(value) for metric, value in found.items()}


def test_every_value_is_the_plain_one_per_parameter_and_per_kind(trained):
    found = values(measured(trained, lr=LR, matrix_lr=MATRIX_LR, **KNOWN))
    states, checkpoint = trained.states(), trained.open()
    roles = {parameter.name: parameter.roles for parameter in checkpoint.optimizer().parameters()}
    parameters = dict(trained.model.named_parameters())
    by_place: dict[tuple[str, int | None], set[str]] = {}
    for name in states:
        (role,) = roles[name]
        module, layer = role.module, role.layer
        by_place.setdefault((module, None), set()).add(name)
        by_place.setdefault((module, layer), set()).add(name)
    expected = {}
    for (module, layer), names in by_place.items():
        of_all = plain(
            [states[n]["exp_avg"] for n in names],
            [states[n]["exp_avg_sq"] for n in names],
            [parameters[n].detach() for n in names],
            [checkpoint.tensor(n) for n in names],
            MATRIX_LR if module in MATRICES else LR,
        )
        expected |= {(metric, module, layer): value for metric, value in of_all.items()}
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key] == pytest.approx(value, rel=1e-12, abs=1e-300), key
    assert found["below_eps_fraction", "embed", None] > 0
    assert 0 < found["master_drift", "q_proj", None] < 2**-8
    assert ("update_rms", "q_proj_alpha", 0) in found
    assert ("update_rms", "gate_up_proj_alpha", None) in found


def test_the_update_is_the_step_that_adamw_took():
    """In float64, so that the difference of the weights is exact enough to be the measure."""
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(300, 20, dtype=torch.float64))
    optimizer = torch.optim.AdamW([weight], lr=LR, betas=BETAS, eps=1e-6, weight_decay=0.1)
    for _ in range(4):
        before = weight.detach().clone()
        weight.grad = torch.randn_like(weight) * 1e-4
        optimizer.step()
    step = (before * (1 - LR * 0.1) - weight.detach()) / LR
    state = optimizer.state[weight]
    update = Update(1e-6, 4, *BETAS)
    found = sums_of(state["exp_avg"], state["exp_avg_sq"], update, eps=1e-6, lr=LR)
    assert (found.u_square / found.n) ** 0.5 == pytest.approx(
        float(step.square().mean().sqrt()), rel=1e-11
    )
    assert found.u_max == pytest.approx(float(step.abs().max()), rel=1e-9)


def test_values_in_the_head():
    m, v = torch.tensor([3.0, -4.0]), torch.tensor([9.0, 4.0])
    found = sums_of(m, v, Update(0.5, None, None, None), eps=0.25, lr=0.1)
    assert (found.m_square, found.r_square, found.snr) == (25, 13, 1 + 2)
    assert (found.m_min, found.m_max, found.r_min, found.r_max) == (-4, 3, 2, 3)
    assert found.u_square == (3 / 3.5) ** 2 + (4 / 2.5) ** 2
    assert found.u_max == 4 / 2.5
    assert (found.below_eps, found.below_10eps) == (0, 1)
    assert found.rate_u_square == pytest.approx(0.01 * found.u_square)


def test_what_is_added_up_is_what_is_measured_at_once():
    torch.manual_seed(0)
    m, v = torch.randn(2 * CHUNK + 3), torch.rand(2 * CHUNK + 3)
    v[:5] = 0
    update = Update(1e-8, 7, *BETAS)
    whole = sums_of(m, v, update, eps=1e-8, lr=None)
    parts = [sums_of(m[a], v[a], update, eps=1e-8, lr=None) for a in (slice(9), slice(9, None))]
    for key, value in vars(parts[0] + parts[1]).items():
        expected = getattr(whole, key)
        exact = isinstance(expected, NotFinite)
        assert value == (expected if exact else pytest.approx(expected, rel=1e-12)), key
    assert whole.snr_n == whole.n - 5


def test_nan_stays_and_says_so(trained, tmp_path):
    made = train(tmp_path / "nan")
    path = write_universal(made) / "model.norm.weight" / "exp_avg.pt"
    held = torch.load(path)
    held["param"][3] = math.nan
    torch.save(held, path)
    found = measured(made, lr=LR, **KNOWN)
    broken = {row["metric"] for row in found.rows if row["value"] is None}
    assert broken == {
        *(f"exp_avg_{statistic}" for statistic in ("rms", "min", "max", "mean")),
        "update_rms", "update_max", "update_ratio", "snr_mean",
    }  # fmt: skip
    assert {row["module"] for row in found.rows if row["value"] is None} == {"final_norm"}


def test_the_same_values_from_every_layout(trained, tmp_path):
    """But what a layout does not keep: the trainer's file has no float32 weight."""
    known = values(measured(trained, lr=LR, **KNOWN))
    for write in (write_trainer, write_distributed):
        made = train(tmp_path / write.__name__)
        write(made)
        found = measured(made)
        missing = {"master_drift"} if write is write_trainer else set()
        assert reasons(found).keys() == missing
        for key, value in values(found).items():
            # The ratio to the weight in bf16 where there is no other.
            tolerance = 0.01 if missing and key[0] == "update_ratio" else 1e-12
            assert value == pytest.approx(known[key], rel=tolerance, abs=1e-300), key


def test_what_is_not_known_is_not_guessed(trained):
    found = measured(trained)
    assert reasons(found).keys() == {
        "update_rms", "update_max", "update_ratio", "below_eps_fraction", "below_10eps_fraction",
    }  # fmt: skip
    assert "beta1, beta2, eps" in reasons(found)["update_rms"]
    assert "--set optimizer.beta1=..." in reasons(found)["update_rms"]
    rateless = measured(trained, **KNOWN)
    assert list(reasons(rateless)) == ["update_ratio"]
    assert "--set optimizer.lr=..." in reasons(rateless)["update_ratio"]


def test_without_a_step_the_uncorrected_update_has_its_own_name(tmp_path):
    made = train(tmp_path / "stepless")
    for path in write_universal(made).glob("*/step.pt"):
        path.unlink()
    found = measured(made, lr=LR, eps=EPS)
    assert set(reasons(found).values()) == {"the state does not say its step"}
    assert reasons(found).keys() == {"update_rms", "update_max", "update_ratio"}
    state = made.states()["model.norm.weight"]
    m, v = state["exp_avg"].double(), state["exp_avg_sq"].double()
    update = m / (v.sqrt() + EPS)
    assert values(found)["update_max_uncorrected", "final_norm", None] == pytest.approx(
        float(update.abs().max()), rel=1e-12
    )
    metrics = {row["metric"] for row in found.rows}
    assert metrics == {metric.id for metric in OptimizerProbe.metrics}


def test_a_rate_that_is_set_goes_before_the_state_s_and_betas_do_not(tmp_path):
    made = train(tmp_path / "trainer", "llama")
    write_trainer(made)
    own, set_ = values(measured(made)), values(measured(made, lr=2 * LR, beta1=0.1, eps=1.0))
    key = ("update_ratio", "q_proj", 1)
    assert set_[key] == pytest.approx(2 * own[key], rel=1e-12)
    assert set_["update_rms", "q_proj", 1] == own["update_rms", "q_proj", 1]


def test_one_matrix_for_q_k_and_v_is_measured_in_three(tmp_path):
    made = train(tmp_path / "neox", "neox")
    write_trainer(made)
    found = values(measured(made))
    for kind in ("proj", "bias"):
        assert {m for _, m, layer in found if layer == 1 and m[1:] == f"_{kind}" and m[0] in "qkv"}
    name = "gpt_neox.layers.1.attention.query_key_value.weight"
    m = made.states()[name]["exp_avg"].double()
    heads = made.model.config.num_attention_heads
    q, k, v = m.reshape(heads, 3, -1, m.shape[1]).unbind(1)
    for module, part in (("q_proj", q), ("k_proj", k), ("v_proj", v)):
        rms = float(part.square().mean().sqrt())
        assert found["exp_avg_rms", module, 1] == pytest.approx(rms, rel=1e-12)
