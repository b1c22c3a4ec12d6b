"""The model against the published equations, and against itself along its other paths."""

import json
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from tests.workbench.models.published import CONFIG, relative_error, shapes, token_ids, write
from workbench.models import (
    MiniYuLanConfig,
    MiniYuLanForCausalLM,
    YuLanMiniConfig,
    YuLanMiniForCausalLM,
)
from workbench.models.modeling import language_model_loss, published_state_dict

IDS = token_ids()


def load(folder, **kwargs):
    kwargs = {"dtype": torch.float32, "trust_remote_code": False} | kwargs
    return AutoModelForCausalLM.from_pretrained(folder, **kwargs).eval()


def load_with_report(folder):
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True
    )
    return loaded


@torch.no_grad()
def logits(model, ids=IDS):
    return model(torch.tensor(np.asarray(ids))[None]).logits[0].numpy()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One tied checkpoint in the published layout."""
    path = tmp_path_factory.mktemp("models") / "phase"
    write(path)
    return path


VARIANTS: dict[str, dict[str, Any]] = {
    "published": {},
    "alphas ()": {"alphas": ()},
    "alphas (1,)": {"alphas": (1,)},
    "embedding once": {"head": "once"},
    "untied": {"head": "own", "tie_word_embeddings": False, "scale_emb": 3.0},
    "config tied, head differs": {"head": "own"},
    "sharded": {"shards": 3},
    "sharded, alphas ()": {"shards": 2, "alphas": ()},
    "theta 490000": {"rope_theta": 490000.0, "max_position_embeddings": 28723},
    "usual attention scale": {"dim_model_base_attn": 10},
    "r of 1 is not applied": {"hidden_states_shrink": 1.0},
    "r above 1 is not applied": {"hidden_states_shrink": 1.4},
    "one KV head": {"num_key_value_heads": 1},
    "no grouping, no bias": {"num_key_value_heads": 6, "attention_bias": False},
    "QK norm": {"qk_layernorm": True},
    "embedding norm": {"embedding_rmsln": True},
    "no WeSaR": {"wesar_weights": False},
    "no norm alphas": {"use_norm_alpha": False},
    "gradient shrink leaves values": {"shrink_alpha": 0.1},
    "stored in bf16": {"dtype": torch.bfloat16, "torch_dtype": "bfloat16"},
    "yulanmini with code": {
        "model_type": "yulanmini",
        "architectures": ["YuLanMiniForCausalLM"],
        "auto_map": {"AutoModelForCausalLM": "modeling_yulanmini.YuLanMiniForCausalLM"},
        "_attn_implementation": "flash_attention_2",
    },
}


@pytest.mark.parametrize("name", VARIANTS)
def test_logits_are_those_of_the_published_equations(tmp_path, name):
    reference = write(tmp_path / "phase", **VARIANTS[name])
    model = load(tmp_path / "phase")
    error = relative_error(logits(model), reference.logits(IDS))
    print(f"logit error {error:.2e} ({name})")
    assert error < 1e-4
    served = {"miniyulan": MiniYuLanForCausalLM, "yulanmini": YuLanMiniForCausalLM}
    assert type(model) is served[model.config.model_type]
    # A head that differs is a head of its own, whatever the config says.
    tied = model.lm_head.weight is model.model.embed_tokens.weight
    assert tied == (VARIANTS[name].get("head") != "own")


def test_every_part_of_the_equations_moves_the_reference(tmp_path):
    """The comparison above would notice a part left out: each changes logits by over 1e-3."""
    reference = write(tmp_path / "phase")
    expected = reference.logits(IDS)
    for field, value in {
        "rope_theta": 490000.0, "hidden_states_shrink": 1.0, "ln_scale": 1.0, "scale_emb": 1.0,
        "dim_model_base_attn": 10, "dim_model_base_logits": 60.0,
    }.items():  # fmt: skip
        reference.c = {**CONFIG, field: value}
        assert relative_error(reference.logits(IDS), expected) > 1e-3, field
    reference.c = CONFIG
    for name in [n for n in reference.t if n.startswith("model.layers.1.") or "alpha" in n]:
        kept = reference.t[name]
        reference.t[name] = np.ones_like(kept) if kept.size == 1 else kept[::-1]
        # A key's bias adds the same to all scores of a row but for the rotation: it moves little.
        least = 1e-5 if name.endswith("k_proj.bias") else 1e-4
        assert relative_error(reference.logits(IDS), expected) > least, name
        reference.t[name] = kept


def test_a_config_edited_before_loading_decides(folder, tmp_path):
    reference = write(tmp_path / "before-annealing", rope_theta=490000.0)
    config = AutoConfig.from_pretrained(tmp_path / "before-annealing")
    assert config.rope_theta == 490000.0
    assert config.num_epochs_trained_before_this_epoch == 3
    config.rope_theta = 10000.0
    config.max_position_embeddings = 128
    model = load(tmp_path / "before-annealing", config=config)
    assert model.config.rope_parameters == {"rope_type": "default", "rope_theta": 10000.0}
    assert model.model.rotary_emb.max_seq_len_cached == 128
    reference.c = {**reference.c, "rope_theta": 10000.0}
    assert relative_error(logits(model), reference.logits(IDS)) < 1e-4
    by_keyword = AutoConfig.from_pretrained(tmp_path / "before-annealing", rope_theta=77.0)
    assert by_keyword.rope_parameters["rope_theta"] == 77.0


def test_set_rope_changes_a_model_in_use(folder, tmp_path):
    reference = write(tmp_path / "annealing", rope_theta=490000.0)
    model = load(folder)
    model.set_rope(490000.0, 256)
    assert model.config.max_position_embeddings == 256
    assert relative_error(logits(model), reference.logits(IDS)) < 1e-4


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("rope_scaling", {"type": "linear", "factor": 2.0}),
        ("embedding_ln", True),
        ("rms_type", "gemma"),
    ],
)
def test_options_that_are_not_served_are_refused(field, value):
    with pytest.raises(ValueError, match=f"asks for {field}"):
        YuLanMiniConfig(**{field: value})


def test_base_widths_left_open_mean_the_model_s_own():
    config = MiniYuLanConfig(
        hidden_size=60, num_attention_heads=6, dim_model_base_attn=None, dim_model_base_logits=None
    )
    assert config.attention_scaling == pytest.approx(10**-0.5)
    assert config.logit_scaling == 1.0


def test_sdpa_equals_eager(folder):
    sdpa, eager = load(folder), load(folder, attn_implementation="eager")
    assert (sdpa.config._attn_implementation, eager.config._attn_implementation) == (
        "sdpa",
        "eager",
    )
    assert relative_error(logits(sdpa), logits(eager)) < 1e-5


def test_bf16_stays_bf16(folder):
    model = load(folder, dtype=torch.bfloat16)
    found = model(torch.tensor(IDS)[None]).logits[0]
    assert found.dtype == torch.bfloat16
    assert relative_error(found.float().detach(), logits(load(folder))) < 0.1


@torch.no_grad()
def test_generation_with_a_cache_equals_generation_without(folder):
    model = load(folder)
    prompts = torch.tensor(IDS[:18]).reshape(2, 9)
    options = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    options |= {"return_dict_in_generate": True, "output_logits": True}
    cached = model.generate(prompts, use_cache=True, **options)
    plain = model.generate(prompts, use_cache=False, **options)
    assert torch.equal(cached.sequences, plain.sequences)
    assert cached.past_key_values.get_seq_length() == 9 + 11
    for a, b in zip(cached.logits, plain.logits, strict=True):
        assert relative_error(a, b.double().numpy()) < 1e-5
    # A row padded on the left goes on as it does without padding.
    padded = torch.cat([torch.zeros(1, 4, dtype=torch.long), prompts[:1]], dim=1)
    mask = (torch.arange(13) >= 4).long()[None]
    shifted = model.generate(padded, attention_mask=mask, **options)
    assert torch.equal(shifted.sequences[0, 4:], cached.sequences[0])


def gradients(model):
    model.zero_grad()
    ids = torch.tensor(IDS).reshape(2, -1)
    loss = model(input_ids=ids, labels=ids, use_cache=False).loss
    loss.backward()
    return loss.item(), {n: p.grad.clone() for n, p in model.named_parameters()}


def test_gradient_checkpointing_gives_the_same_gradients(folder):
    model = load(folder).train()
    loss, plain = gradients(model)
    assert all(grad.abs().max() > 0 for grad in plain.values())
    calls = []
    model.model.layers[1].mlp.register_forward_hook(lambda *_: calls.append(1))
    model.activation_checkpointing_enable()
    again, checkpointed = gradients(model)
    assert len(calls) == 2  # the layer ran again in the backward pass
    assert again == loss
    for name, grad in plain.items():
        torch.testing.assert_close(checkpointed[name], grad, rtol=1e-5, atol=1e-7)


def test_gradient_shrink_reaches_the_embedding_alone(tmp_path):
    found = {}
    for keep in (1, 0.25):
        fields = {"head": "own", "tie_word_embeddings": False, "shrink_alpha": keep}
        write(tmp_path / str(keep), **fields)
        found[keep] = gradients(load(tmp_path / str(keep)))[1]
    for name, grad in found[1].items():
        factor = 0.25 if name == "model.embed_tokens.weight" else 1.0
        torch.testing.assert_close(found[0.25][name], factor * grad, rtol=1e-4, atol=1e-6)


def test_loss_is_cross_entropy_plus_z_loss_of_shifted_labels(tmp_path):
    reference = write(tmp_path / "phase")
    labels = IDS.copy()
    labels[5:9] = labels[-1] = -100
    cross_entropy, z_loss = reference.loss(IDS, labels)
    ids_BT, labels_BT = torch.tensor(IDS)[None], torch.tensor(labels)[None]
    output = load(tmp_path / "phase")(input_ids=ids_BT, labels=labels_BT)
    assert output.loss.item() == pytest.approx(cross_entropy + z_loss, rel=1e-4)
    parts = language_model_loss(output.logits, labels_BT, CONFIG["z_loss"])
    assert [p.item() for p in parts] == pytest.approx([cross_entropy, z_loss], rel=1e-4)
    assert z_loss / cross_entropy > 1e-2  # large enough to be seen in the sum


@torch.no_grad()
def test_hidden_states_and_attentions_are_captured(folder):
    model = load(folder, attn_implementation="eager")
    output = model(torch.tensor(IDS)[None], output_hidden_states=True, output_attentions=True)
    first, last = output.hidden_states[0], output.hidden_states[-1]
    assert len(output.hidden_states) == CONFIG["num_hidden_layers"] + 1
    assert torch.equal(first[0], 10.0 * model.model.embed_tokens(torch.tensor(IDS)))
    head_input = last * model.lm_head_alpha * (40 / 60)
    torch.testing.assert_close(model.lm_head(head_input), output.logits)
    assert [a.shape for a in output.attentions] == [(1, 6, len(IDS), len(IDS))] * 3


def test_a_published_state_dict_has_the_published_names_and_shapes(folder):
    model = load(folder)
    assert all(p.shape == (1,) for n, p in model.named_parameters() if n.endswith("_alpha"))
    found = published_state_dict(model)
    assert {name: tuple(tensor.shape) for name, tensor in found.items()} == shapes(CONFIG)
    assert sum(name.endswith("_alpha") for name in found) == 8 * CONFIG["num_hidden_layers"] + 2
    stored = load_file(folder / "model.safetensors")
    assert all(torch.equal(found[name], tensor) for name, tensor in stored.items())


def test_what_transformers_saves_it_loads_again(folder, tmp_path):
    model = load(folder)
    model.save_pretrained(tmp_path / "saved")
    again, report = load_with_report(tmp_path / "saved")
    assert not any(report.values()), report
    assert np.array_equal(logits(model), logits(again.eval()))
    assert json.loads((tmp_path / "saved/config.json").read_text())["rms_type"] == "llama"


def test_a_missing_tensor_is_reported_and_the_others_stay(folder, tmp_path):
    tensors = load_file(folder / "model.safetensors")
    lost = {"model.layers.1.self_attn.q_proj.weight", "model.layers.2.down_proj_alpha"}
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    kept = {name: tensor for name, tensor in tensors.items() if name not in lost}
    save_file(kept, tmp_path / "model.safetensors", {"format": "pt"})
    model, report = load_with_report(tmp_path)
    assert set(report["missing_keys"]) == lost
    found = published_state_dict(model)
    assert all(torch.equal(found[name], tensor) for name, tensor in kept.items())
    # What is missing starts as in a new model, not from whatever memory held.
    width, depth = 60 / 256, 2 * CONFIG["num_hidden_layers"]
    alpha = found["model.layers.2.down_proj_alpha"].item()
    assert alpha == pytest.approx((width * depth) ** -0.5)
    std = found["model.layers.1.self_attn.q_proj.weight"].std().item()
    assert std == pytest.approx(CONFIG["initializer_range"], rel=0.1)
