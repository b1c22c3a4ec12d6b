"""Checkpoints with NaN or Inf: sound sites keep their values, the others say what is not finite."""

import math

import pytest
import torch

from probes.activations import ActivationsProbe
from probes.attention import AttentionProbe
from probes.base import SCOPES, Measuring
from tests.probes.architectures import ARCHITECTURES, TinyCheckpoint

SMALL = {"window": 32, "windows_per_domain": 2, "sampled_tokens": 40}


def measured(probe, checkpoint):
    settings = {k: v for k, v in SMALL.items() if k in probe.Settings.model_fields}
    return probe().measure(checkpoint, probe.Settings(**settings), Measuring())


def broken(name, value, *, architecture="llama", at=(3, 2)):
    checkpoint = TinyCheckpoint(architecture)
    with torch.no_grad():
        weight = dict(checkpoint.load_model().named_parameters())[name]
        weight[at if weight.ndim == 2 else at[0]] = value
    return checkpoint


def table(found):
    key = ("metric", "module", "layer", "head", "scope")
    return {tuple(row[k] for k in key): (row["value"], row["reason"]) for row in found.rows}


WEIGHTS = {
    "model.layers.1.input_layernorm.weight": "input_norm of layer 1",
    "model.layers.1.self_attn.q_proj.weight": "attention of layer 1",
    "model.layers.1.self_attn.o_proj.weight": "attention of layer 1",
    "model.layers.1.post_attention_layernorm.weight": "post_attention_norm of layer 1",
    "model.layers.1.mlp.gate_proj.weight": "neurons of layer 1",
    "model.layers.1.mlp.down_proj.weight": "mlp of layer 1",
    "model.norm.weight": "final_norm",
    "lm_head.weight": "lm_head",
}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", WEIGHTS)
def test_values_before_the_bad_weight_are_those_of_the_sound_model(name, value):
    sound = table(measured(ActivationsProbe, TinyCheckpoint("llama")))
    found = measured(ActivationsProbe, broken(name, value))
    rows = table(found)
    assert rows.keys() == sound.keys()
    first = WEIGHTS[name]
    assert first in found.notes["warning"]
    assert name in found.notes["warning"]
    missing = {key for key, (number, _) in rows.items() if number is None}
    for key, (number, told) in rows.items():
        if key in missing:
            assert "finite" in told, key
            assert first in told or not told.count(";"), key
        elif not key[0].startswith("residual_growth"):
            assert number == sound[key][0], key
    layer_0 = {key for key in rows if key[2] == 0 and not key[0].startswith("logit_lens")}
    assert not layer_0 & missing
    for metric in ("logz_mean", "logit_max", "z_loss"):
        assert (metric, "lm_head", None, None, "all") in missing
    for layer in range(3):
        # An argmax over NaN would be counted as the model's token.
        assert ("logit_lens_top1", "residual", layer, None, "all") in missing
    if first not in ("final_norm", "lm_head"):
        for scope in SCOPES:
            assert ("variance_mean", "residual", 1, None, scope) in missing
            assert ("residual_growth", "residual", None, None, scope) in missing
    empty = {s["layer"] for s in found.sketches if not len(s["values"])}
    assert empty == (set() if first in ("final_norm", "lm_head") else {1, 2})
    assert all(math.isfinite(s["norm"]) for s in found.sketches)
    found.tables()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_is_measured_with_all_weights_nan(architecture):
    checkpoint = TinyCheckpoint(architecture)
    with torch.no_grad():
        for weight in checkpoint.load_model().parameters():
            weight.fill_(math.nan)
    for probe in (ActivationsProbe, AttentionProbe):
        rows = measured(probe, checkpoint).rows
        assert {row["metric"] for row in rows if row["value"] is not None} <= {"tokens"}
        assert all(row["reason"] for row in rows if row["value"] is None)


def test_sound_heads_of_a_layer_keep_their_values():
    sound = table(measured(AttentionProbe, TinyCheckpoint("llama")))
    # 6 query heads of 8 features share 2 key heads: row 9 belongs to head 1.
    for name, at, heads in (
        ("model.layers.1.self_attn.q_proj.weight", (9, 2), {1}),
        ("model.layers.1.self_attn.k_proj.weight", (9, 2), {3, 4, 5}),
    ):
        for value in (math.nan, math.inf):
            found = measured(AttentionProbe, broken(name, value, at=at))
            for key, (number, told) in table(found).items():
                _, _, layer, head, _ = key
                if layer == 0 or (layer == 1 and head not in heads):
                    assert number == sound[key][0], key
                else:
                    assert number is None, key
                    assert "not finite: attention logits of this head are NaN or Inf" in told
            assert "attention of layer 1" in found.notes["warning"]
            assert name in found.notes["warning"]


def test_a_bad_scale_beside_a_sound_matrix_is_named():
    checkpoint = TinyCheckpoint("yulan")
    name, weight = next(
        (n, w)
        for n, w in checkpoint.load_model().named_parameters()
        if n.endswith("1.down_proj_alpha")
    )
    with torch.no_grad():
        weight.fill_(math.nan)
    found = measured(ActivationsProbe, checkpoint)
    rows = table(found)
    assert rows["variance_mean", "mlp", 1, None, "all"] == (
        None,
        "not finite: the learnable factor of the site is nan",
    )
    assert rows["variance_mean", "residual_mid", 1, None, "all"][0] is not None
    assert rows["variance_mean", "residual", 1, None, "all"][0] is None
    assert name in found.notes["warning"]


def test_a_finite_checkpoint_has_no_warning():
    for probe in (ActivationsProbe, AttentionProbe):
        assert "warning" not in measured(probe, TinyCheckpoint("llama")).notes


def test_logits_too_large_for_the_old_mask_are_hidden_from_earlier_queries():
    from probes.attention_statistics import AttentionStatistics

    q_BHTE, k_BGTE = torch.full((1, 1, 4, 1), 1e16), torch.ones(1, 1, 4, 1)
    k_BGTE[0, 0, 3] = 1e16  # only the last query sees it
    found = AttentionStatistics()
    found.update(q_BHTE, k_BGTE, scale=1.0)
    values = found.values()
    assert values["max_logit"] == [pytest.approx(1e32)]
    expected = (
        1.0 + 0.5 + 1 / 3 + 0.0
    ) - 1.0  # uniform over the visible keys, then all on the last
    assert values["sink_mass"] == [pytest.approx(expected / 3)]


def test_one_bad_row_of_the_embedding_is_counted():
    checkpoint = broken("model.embed_tokens.weight", math.nan, at=(1, 0))  # the start token's
    rows = table(measured(ActivationsProbe, checkpoint))
    assert rows["variance_mean", "embed", None, None, "all"][1].startswith("not finite: ")
    assert " NaN and 0 Inf in " in rows["variance_mean", "embed", None, None, "no_start"][1]
