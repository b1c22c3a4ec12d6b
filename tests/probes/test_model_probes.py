"""Activations, attention and loss against plain forward passes, hooks and eager attention."""

import math

import pytest
import torch

from probes.activation_statistics import SiteStatistics
from probes.activations import ActivationsProbe
from probes.attention import AttentionProbe
from probes.base import Measuring
from probes.loss import LossProbe
from probes.sites import WindowSettings, load_with_windows
from tests.fixtures.tiny_checkpoint import write_yulan
from workbench.checkpoints import Checkpoint

WINDOW, PER_DOMAIN = 32, 2
WINDOWS = WindowSettings(window=WINDOW, windows_per_domain=PER_DOMAIN)
SMALL = {"window": WINDOW, "windows_per_domain": PER_DOMAIN, "batch_size": 3}


def measured(probe, checkpoint, **settings):
    return probe().measure(checkpoint, probe.Settings(**settings), Measuring())


def table(found):
    return {(r["metric"], r["layer"], r["module"], r["head"]): r["value"] for r in found.rows}


def test_activations_equal_forward_hooks(llama):
    model, ids_NT = load_with_windows(llama, WINDOWS, Measuring())
    seen = {}
    for i, layer in enumerate(model.model.layers):
        hooked = {
            "input_norm": layer.input_layernorm,
            "attention": layer.self_attn.o_proj,
            "post_attention_norm": layer.post_attention_layernorm,
            "mlp": layer.mlp,
            "residual": layer,
        }
        for module, place in hooked.items():
            place.register_forward_hook(
                lambda _, inputs, output, key=(i, module): seen.update({key: output})
            )
        layer.post_attention_layernorm.register_forward_hook(
            lambda _, inputs, output, key=(i, "residual_mid"): seen.update({key: inputs[0]})
        )
    model.model.norm.register_forward_hook(
        lambda _, inputs, output: seen.update({(None, "final_norm"): output})
    )
    with torch.no_grad():
        logits = model(ids_NT, use_cache=False).logits
        seen[None, "embed"] = model.model.embed_tokens(ids_NT)
    found = table(measured(ActivationsProbe, llama, **SMALL))
    for (layer, module), x_BTD in seen.items():
        site = SiteStatistics()
        site.update(x_BTD, ids_NT)
        for metric, value in site.values().items():
            key = (metric, layer, module, None)
            assert found[key] == pytest.approx(value, rel=1e-5, abs=1e-7), key
    assert found["logit_max", None, "lm_head", None] == pytest.approx(float(logits.max()), rel=1e-5)
    assert found["tokens", None, None, None] == ids_NT.numel()
    variances = [found["variance_mean", i, "residual", None] for i in (0, 2)]
    assert found["residual_growth", None, "residual", None] == pytest.approx(
        variances[1] / variances[0]
    )


def test_activations_of_a_phase_are_those_of_its_fold(yulan, folded):
    phase, fold = (table(measured(ActivationsProbe, c, **SMALL)) for c in (yulan, folded))
    assert phase.keys() == fold.keys()
    for key, value in phase.items():
        assert value == pytest.approx(fold[key], rel=1e-4, abs=1e-6), key


def test_attention_of_a_phase_is_that_of_its_fold(yulan, folded):
    phase, fold = (table(measured(AttentionProbe, c, **SMALL)) for c in (yulan, folded))
    assert phase.keys() == fold.keys()
    assert phase == pytest.approx(fold, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("qk_layernorm", [False, True])
def test_attention_equals_eager_attention_weights(tmp_path, qk_layernorm):
    checkpoint = Checkpoint.open(write_yulan(tmp_path / "checkpoint", qk_layernorm=qk_layernorm))
    model, ids_NT = load_with_windows(checkpoint, WINDOWS, Measuring())
    model.set_attn_implementation("eager")
    with torch.no_grad():
        layers = model(ids_NT, use_cache=False, output_attentions=True).attentions
    found = table(measured(AttentionProbe, checkpoint, **SMALL))
    for layer, a_BHTT in enumerate(layers):
        entropy_H = torch.special.entr(a_BHTT.double()).sum(-1).mean((0, 2))
        sink_H = a_BHTT[:, :, 1:, 0].double().mean((0, 2))
        for head in range(a_BHTT.shape[1]):
            place = (layer, "attention", head)
            assert found["entropy", *place] == pytest.approx(float(entropy_H[head]), rel=1e-4)
            assert found["sink_mass", *place] == pytest.approx(float(sink_H[head]), rel=1e-4)


def test_attention_logits_are_those_that_the_module_hands_to_its_kernel(yulan):
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    model, ids_NT = load_with_windows(yulan, WINDOWS, Measuring())
    largest = []
    sdpa = ALL_ATTENTION_FUNCTIONS["sdpa"]

    def spy(module, query, key, value, mask, *, scaling, **kwargs):
        key_heads = key.repeat_interleave(module.num_key_value_groups, 1)
        logits = query @ key_heads.transpose(-1, -2) * scaling
        hidden = torch.ones(logits.shape[-2:], dtype=torch.bool).triu(1)
        largest.append(logits.masked_fill(hidden, -math.inf).amax((0, 2, 3)))
        return sdpa(module, query, key, value, mask, scaling=scaling, **kwargs)

    ALL_ATTENTION_FUNCTIONS.register("spy", spy)
    model.set_attn_implementation("spy")
    with torch.no_grad():
        model(ids_NT, use_cache=False)
    found = table(measured(AttentionProbe, yulan, **SMALL))
    for layer, max_H in enumerate(largest):
        for head, value in enumerate(max_H.tolist()):
            key = ("max_logit", layer, "attention", head)
            assert found[key] == pytest.approx(value, rel=1e-5, abs=1e-6)


def test_all_forms_read_the_same_tokens(yulan, llama):
    for probe, settings in (
        (LossProbe, {"bytes_per_domain": 3000}),
        (AttentionProbe, SMALL),
        (ActivationsProbe, SMALL),
    ):
        notes = [measured(probe, c, **settings).notes for c in (yulan, llama)]
        assert {k: v for k, v in notes[0].items() if k.endswith("sha256")} == {
            k: v for k, v in notes[1].items() if k.endswith("sha256")
        }
