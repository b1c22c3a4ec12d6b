"""Starting values: the standard deviation of every matrix and every alpha, scheme by scheme."""

import pytest
import torch

from workbench.models import YuLanMiniConfig, YuLanMiniForCausalLM
from workbench.models.init import starting_alpha

D, LAYERS, BASE, S = 128, 3, 32, 0.03
M, L2 = D / BASE, 2 * LAYERS
INNER = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")
OUTER = ("o_proj", "down_proj")


def build(**fields):
    torch.manual_seed(0)
    return YuLanMiniForCausalLM(
        YuLanMiniConfig(
            **{
                "vocab_size": 300, "hidden_size": D, "intermediate_size": 192,
                "num_hidden_layers": LAYERS, "num_attention_heads": 8, "num_key_value_heads": 4,
                "dim_model_base_lr": BASE, "initializer_range": S, "tie_word_embeddings": False,
                **fields,
            }
        )
    )  # fmt: skip


SCALED = (2 / (5 * D)) ** 0.5
SCHEMES = {
    # (wesar_weights, model_reproduce): std of q, k, v, gate, up; of o, down; of embedding and head
    (True, "transformer"): (S, S, S),
    (True, "cerebras"): (S, S, S),
    (False, "transformer"): (S, S, S),
    (False, "cerebras"): (S / M**0.5, S / (L2 * M) ** 0.5, S),
    (False, "minicpm"): (S, S / M**0.5, S),
    (False, "scaled"): (SCALED, SCALED / L2**0.5, SCALED),
}


@pytest.mark.parametrize(("wesar", "scheme"), SCHEMES)
def test_every_matrix_starts_at_its_standard_deviation(wesar, scheme):
    inner, outer, rest = SCHEMES[wesar, scheme]
    seen = 0
    for name, p in build(wesar_weights=wesar, model_reproduce=scheme).named_parameters():
        module = name.split(".")[-2] if "." in name else name
        if name.endswith("bias"):
            assert not p.any(), name
        elif p.dim() == 2:
            std = inner if module in INNER else outer if module in OUTER else rest
            assert p.std().item() == pytest.approx(std, rel=0.03), name
            assert abs(p.mean().item()) < 5 * std / p.numel() ** 0.5, name
            seen += 1
        elif not name.endswith("_alpha"):
            assert torch.equal(p, torch.ones(D)), name
    assert seen == 7 * LAYERS + 2


def test_alphas_start_at_the_wesar_values():
    alphas = {n: p.item() for n, p in build().named_parameters() if n.endswith("_alpha")}
    assert len(alphas) == 8 * LAYERS + 2
    for name, value in alphas.items():
        short = name.split(".")[-1]
        inner = {"q_proj_alpha", "k_proj_alpha", "v_proj_alpha", "gate_up_proj_alpha"}
        outer = {"o_proj_alpha", "down_proj_alpha"}
        expected = M**-0.5 if short in inner else (M * L2) ** -0.5 if short in outer else 1.0
        assert value == pytest.approx(expected), name


def test_published_sizes_give_the_published_alphas():
    config = YuLanMiniConfig()
    assert starting_alpha(config, "q_proj_alpha") == pytest.approx(0.3651483716701107)
    assert starting_alpha(config, "down_proj_alpha") == pytest.approx(0.03450327796711771)
    assert config.hidden_states_shrink == pytest.approx(0.18708286933869706)


def test_without_wesar_there_are_no_alphas():
    assert not [n for n, _ in build(wesar_weights=False).named_parameters() if "alpha" in n]


def test_a_seed_gives_the_same_start():
    first, second = build().state_dict(), build().state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_an_unknown_scheme_is_refused():
    with pytest.raises(ValueError, match="model_reproduce 'gpt' is no initialisation"):
        build(wesar_weights=False, model_reproduce="gpt")
