"""Sites and logit lens of every architecture against its forward pass; windows of the text."""

import math

import pytest
import torch

from probes.activation_statistics import SiteStatistics
from probes.activations import ActivationsProbe, sampled
from probes.attention import AttentionProbe
from probes.base import Measuring
from probes.sites import LAYER_SITES, WindowSettings, anatomy, load_with_windows, packed
from probes.text import Windows
from tests.probes.architectures import ARCHITECTURES, TinyCheckpoint
from workbench.errors import UsageError

WINDOW, PER_DOMAIN = 32, 2
WINDOWS = WindowSettings(window=WINDOW, windows_per_domain=PER_DOMAIN)
SMALL = {"window": WINDOW, "windows_per_domain": PER_DOMAIN}
every_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES)
MISSING = {
    "gpt-neox": {"residual_mid"},
    "olmo2": {"input_norm", "post_attention_norm"},
}


def measured(probe, checkpoint, **settings):
    return probe().measure(checkpoint, probe.Settings(**SMALL, **settings), Measuring())


def table(found):
    return {(r["metric"], r["layer"], r["module"], r["head"]): r["value"] for r in found.rows}


def read(checkpoint, sites):
    """What the anatomy reads of a checkpoint, by site and layer, times the factors."""
    model, ids_NT = load_with_windows(checkpoint, WINDOWS, Measuring())
    parts, seen = anatomy(model), {}

    def keep(site):
        def take(x_BTD, layer):
            seen[site, layer] = x_BTD.clone() * parts.factor(site, layer)

        return take

    with torch.no_grad():
        parts.trace(ids_NT, {site: keep(site) for site in sites})
        outputs = model(ids_NT, use_cache=False, output_hidden_states=True)
    return model, parts, seen, outputs


@every_architecture
def test_sites_add_up_to_the_residual_stream(architecture):
    sites = ("embed", *LAYER_SITES, "final_norm")
    _, parts, seen, outputs = read(TinyCheckpoint(architecture), sites)
    hidden = outputs.hidden_states  # before each layer, and the final norm's output
    torch.testing.assert_close(seen["embed", None], hidden[0])
    torch.testing.assert_close(seen["final_norm", None], hidden[-1])
    missing = MISSING.get(architecture, set())
    for layer in range(3):
        assert {s for s, i in seen if i == layer} == set(LAYER_SITES) - missing
        before = seen["residual", layer - 1] if layer else seen["embed", None]
        torch.testing.assert_close(before, hidden[layer])
        middle = before + seen["attention", layer]
        after = middle + seen["mlp", layer]
        torch.testing.assert_close(seen["residual", layer], after, rtol=1e-5, atol=1e-5)
        if "residual_mid" not in missing:
            torch.testing.assert_close(seen["residual_mid", layer], middle, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        parts.logits(parts.norm(seen["residual", 2])), outputs.logits, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("architecture", ["llama", "gpt-neox", "gpt-neox-sequential"])
def test_norms_are_read_where_they_stand(architecture):
    model, _, seen, _ = read(TinyCheckpoint(architecture), ("embed", *LAYER_SITES))
    layer = model.base_model.layers[1]
    before = seen["residual", 0]
    torch.testing.assert_close(seen["input_norm", 1], layer.input_layernorm(before))
    middle = before if architecture == "gpt-neox" else seen["residual_mid", 1]
    torch.testing.assert_close(
        seen["post_attention_norm", 1], layer.post_attention_layernorm(middle)
    )


def test_olmo2_branches_are_read_behind_their_norms():
    model, _, seen, _ = read(TinyCheckpoint("olmo2"), (*LAYER_SITES, "neurons"))
    layer = model.base_model.layers[1]
    mlp = layer.mlp(seen["residual_mid", 1])
    torch.testing.assert_close(seen["mlp", 1], layer.post_feedforward_layernorm(mlp))
    torch.testing.assert_close(layer.mlp.down_proj(seen["neurons", 1]), mlp)


@every_architecture
def test_attention_equals_eager_attention(architecture, monkeypatch):
    checkpoint = TinyCheckpoint(architecture)
    model, ids_NT = load_with_windows(checkpoint, WINDOWS, Measuring())
    attention = type(anatomy(model).attentions[0])
    logits = []

    def spy(module, query, key, value, mask, *, scaling, **kwargs):
        key_heads = key.repeat_interleave(query.shape[1] // key.shape[1], 1)
        scores = query @ key_heads.transpose(-1, -2) * scaling
        hidden = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        logits.append(scores.masked_fill(hidden, -math.inf).detach())
        return eager(module, query, key, value, mask, scaling=scaling, **kwargs)

    import sys

    eager = sys.modules[attention.__module__].eager_attention_forward
    model.set_attn_implementation("eager")
    monkeypatch.setattr(sys.modules[attention.__module__], "eager_attention_forward", spy)
    with torch.no_grad():
        layers = model(ids_NT, use_cache=False, output_attentions=True).attentions
    model.set_attn_implementation("sdpa")
    found = table(measured(AttentionProbe, checkpoint))
    visible_T = torch.arange(1, WINDOW + 1).double()
    for layer, (a_BHTT, scores_BHTT) in enumerate(zip(layers, logits, strict=True)):
        entropy_BHT = torch.special.entr(a_BHTT.double()).sum(-1)
        pairs = len(ids_NT) * WINDOW * (WINDOW + 1) // 2
        expected = {
            "max_logit": scores_BHTT.amax((0, 2, 3)),
            "mean_logit": scores_BHTT.double().tril().sum((0, 2, 3)) / pairs,
            "entropy": entropy_BHT.mean((0, 2)),
            "entropy_normalised": (entropy_BHT[..., 1:] / visible_T[1:].log()).mean((0, 2)),
            "sink_mass": a_BHTT[:, :, 1:, 0].double().mean((0, 2)),
        }
        for metric, of_head in expected.items():
            for head, value in enumerate(of_head.tolist()):
                key = (metric, layer, "attention", head)
                assert found[key] == pytest.approx(value, rel=1e-4, abs=1e-5), key


@every_architecture
def test_logit_lens_is_final_norm_and_head_on_every_layer(architecture):
    checkpoint = TinyCheckpoint(architecture)
    found = table(measured(ActivationsProbe, checkpoint, sampled_tokens=40))
    _, parts, seen, outputs = read(checkpoint, ("residual",))
    _, ids_NT = load_with_windows(checkpoint, WINDOWS, Measuring())
    chosen_NT = sampled(ids_NT, 40)
    p = outputs.logits[chosen_NT].double().log_softmax(-1)
    for layer in range(3):
        # The model itself, its layers after this one left out.
        with torch.no_grad():
            q = parts.logits(parts.norm(seen["residual", layer]))[chosen_NT]
        q = q.double().log_softmax(-1)
        kl = float((p.exp() * (p - q)).sum(-1).mean())
        key = (layer, "residual", None)
        assert found["logit_lens_kl", *key] == pytest.approx(kl, rel=1e-4, abs=1e-6)
        agreed = float((p.argmax(-1) == q.argmax(-1)).double().mean())
        assert found["logit_lens_top1", *key] == pytest.approx(agreed)
    assert found["logit_lens_kl", 0, "residual", None] > 0.01
    assert found["logit_lens_kl", 2, "residual", None] == 0
    assert found["logit_lens_top1", 2, "residual", None] == 1


@every_architecture
def test_batch_size_does_not_change_values(architecture):
    checkpoint = TinyCheckpoint(architecture)
    for probe in (ActivationsProbe, AttentionProbe):
        one, all_of_them = (table(measured(probe, checkpoint, batch_size=b)) for b in (1, 8))
        assert one.keys() == all_of_them.keys()
        for key, value in one.items():
            # Repeated tokens tie for a place, up to rounding, where no context tells them apart.
            if not key[0].endswith(("_position", "_feature", "_token")) or key[2] == "residual":
                assert value == pytest.approx(all_of_them[key], rel=1e-4, abs=1e-5), key


def test_of_equal_places_the_first_is_given():
    x_BTD = torch.ones(3, 8, 5)
    x_BTD[..., 0] = 2.0
    x_BTD[2, 6, 1] = x_BTD[1, 3, 4] = -9.0
    for batch_size in (1, 3):
        site = SiteStatistics()
        for batch in x_BTD.split(batch_size):
            site.update(batch, torch.zeros(batch.shape[:2], dtype=torch.long))
        values = site.values()
        found = [(values[f"top{r}_position"], values[f"top{r}_feature"]) for r in (1, 2, 3)]
        assert found == [(3, 4), (6, 1), (0, 0)]


def test_sketches_are_gram_matrices_of_the_sampled_tokens():
    checkpoint = TinyCheckpoint("llama")
    found = measured(ActivationsProbe, checkpoint, sampled_tokens=10, batch_size=3)
    sketches = {(s["module"], s["layer"]): s for s in found.sketches}
    assert set(sketches) == {("embed", None), *(("residual", i) for i in range(3))}
    _, _, seen, _ = read(checkpoint, ("residual",))
    _, ids_NT = load_with_windows(checkpoint, WINDOWS, Measuring())
    x_ND = seen["residual", 1][sampled(ids_NT, 10)].double()
    x_ND = x_ND - x_ND.mean(0)
    rows, columns = torch.triu_indices(10, 10)
    sketch = sketches["residual", 1]
    assert sketch["kind"] == "activation_gram"
    assert sketch["n"] == 10
    assert sketch["values"].tolist() == pytest.approx(
        (x_ND @ x_ND.T)[rows, columns].tolist(), rel=1e-4, abs=1e-4
    )
    assert sketch["norm"] == pytest.approx(float((x_ND @ x_ND.T).norm()), rel=1e-5)


def test_places_of_the_largest_activations():
    checkpoint = TinyCheckpoint("llama")
    model, ids_NT = load_with_windows(checkpoint, WINDOWS, Measuring())
    with torch.no_grad():
        model.model.embed_tokens.weight[7, 5] = 1e4
    ids_NT[2, 9] = ids_NT[5, 9] = 7
    parts, site = anatomy(model), SiteStatistics()
    with torch.no_grad():
        parts.trace(ids_NT, {"embed": lambda x_BTD, layer: site.update(x_BTD, ids_NT)})
    values = site.values()
    places = [values[f"top1_{name}"] for name in ("abs", "position", "feature", "token")]
    assert places == [1e4, 9, 5, 7]
    assert values["massive_count"] == 2
    assert values["top2_abs"] < 100


def test_sampled_tokens_are_spread_and_leave_out_start_tokens():
    ids_NT = torch.zeros(6, 9, dtype=torch.long)
    chosen_NT = sampled(ids_NT, 12)
    assert chosen_NT.sum() == 12
    assert chosen_NT.sum(1).tolist() == [2] * 6
    assert not chosen_NT[:, 0].any()
    assert sampled(ids_NT, 1000).sum() == 6 * 8


def windows(*lengths, width=4):
    """A domain with documents of these lengths, cut as the probe text is; tokens count up."""
    ids, sizes, token = [], [], 10
    for length in lengths:
        document = list(range(token, token + length))
        token += length
        for i in range(0, length, width - 1):
            piece = document[i : i + width - 1]
            sizes.append(1 + len(piece))
            ids.append([1, *piece] + [1] * (width - 1 - len(piece)))
    return Windows(ids=torch.tensor(ids), lengths=torch.tensor(sizes), bytes=0)


def test_windows_are_packed_and_a_long_one_goes_on_in_the_next_domain():
    domains = {"a": windows(2, 5), "b": windows(4)}
    assert packed(domains, 2).tolist() == [
        [1, 10, 11, 12],
        [1, 13, 14, 15],
        [1, 10, 11, 12],
    ]
    long = {"a": windows(2, 5, width=11), "b": windows(4, width=11)}
    assert packed(long, 2).tolist() == [
        [1, *range(10, 17), 10, 11, 12],
        [1, *range(10, 14), *range(10, 16)],
    ]
    with pytest.raises(UsageError, match="set window to 12 or less"):
        packed({"a": windows(2, 5, width=99), "b": windows(4, width=99)}, 1)
