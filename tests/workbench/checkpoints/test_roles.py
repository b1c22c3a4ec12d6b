"""Roles found from the structure of four families, and checkpoints of them read by their roles."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.fixtures.tiny_checkpoint import write_llama, write_neox, write_olmo2, write_yulan
from workbench.checkpoints import Checkpoint
from workbench.checkpoints.roles import UnknownStructure, layout_of
from workbench.errors import CheckpointError
from workbench.models.architecture import architecture_of

WRITE = {"yulan": write_yulan, "llama": write_llama, "neox": write_neox, "olmo2": write_olmo2}
ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}
GATED = {"gate_proj", "up_proj", "down_proj"}
BIASES = {"q_bias", "k_bias", "v_bias"}
PRE = {"input_norm", "post_attention_norm"}
IN_LAYER = {
    "yulan": ATTENTION | GATED | BIASES | PRE,
    "llama": ATTENTION | GATED | PRE,
    "neox": ATTENTION | BIASES | PRE | {
        "o_bias", "up_proj", "down_proj", "up_bias", "down_bias", "input_norm_bias",
        "post_attention_norm_bias",
    },
    "olmo2": ATTENTION | GATED | {"q_norm", "k_norm", "attention_output_norm", "mlp_output_norm"},
}  # fmt: skip
OUTSIDE = {"embed", "final_norm", "lm_head"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("families")
    return {family: write(root / family) for family, write in WRITE.items()}


@pytest.mark.parametrize("family", WRITE)
def test_every_tensor_of_a_family_has_its_role(family, folders):
    checkpoint = Checkpoint.open(folders[family])
    weights = list(checkpoint.weights("effective"))
    for layer in range(3):
        assert {w.module for w in weights if w.layer == layer} == IN_LAYER[family]
    outside = {w.module for w in weights if w.layer is None}
    assert outside == OUTSIDE | ({"final_norm_bias"} if family == "neox" else set())
    assert len({(w.module, w.layer) for w in weights}) == len(weights)
    kv = 6 if family == "neox" else 2
    heads = {"q_proj": 6, "k_proj": kv, "v_proj": kv, "o_proj": 6}
    for w in weights:
        assert w.heads == heads.get(w.module), w.module
        assert w.is_matrix == (w.module.endswith("_proj") or w.module in ("embed", "lm_head"))
        assert w.role.side == ("columns" if w.module == "o_proj" else "rows")


@torch.no_grad()
@pytest.mark.parametrize("family", ["llama", "neox", "olmo2"])
def test_the_weights_are_those_that_the_model_computes_with(family, folders):
    """Checked on what the running model's modules hold, not on the file."""
    checkpoint = Checkpoint.open(folders[family])
    model = checkpoint.load_model()
    attention = next(
        m
        for n, m in model.named_modules()
        if n.endswith(("layers.1.self_attn", "layers.1.attention"))
    )
    weights = {(w.module, w.layer): w.tensor for w in checkpoint.weights("stored")}
    x_BTD = torch.randn(1, 4, 48, generator=torch.Generator().manual_seed(0))
    if family == "neox":
        # As its own forward cuts the joint map: heads first, then q, k and v of each.
        joint = attention.query_key_value(x_BTD).view(1, 4, 6, 3, 8)
        for i, letter in enumerate("qkv"):
            own = x_BTD @ weights[f"{letter}_proj", 1].T + weights[f"{letter}_bias", 1]
            torch.testing.assert_close(own, joint[:, :, :, i].reshape(1, 4, 48))
        assert torch.equal(attention.dense.weight, weights["o_proj", 1])
    else:
        for letter in "qkvo":
            held = getattr(attention, f"{letter}_proj").weight
            assert torch.equal(held, weights[f"{letter}_proj", 1])
    assert torch.equal(model.get_output_embeddings().weight, weights["lm_head", None])
    assert torch.equal(model.get_input_embeddings().weight, weights["embed", None])


def test_both_views_share_the_part_of_a_joint_matrix(folders):
    both = list(Checkpoint.open(folders["neox"]).both_views())
    stored = {(w.module, w.layer): w.stored for view, w in both if view == "stored"}
    effective = {(w.module, w.layer): w.stored for view, w in both if view == "effective"}
    assert stored.keys() == effective.keys()
    assert all(stored[place] is effective[place] for place in stored)


def test_old_pythia_files_are_read_without_their_tables(folders, tmp_path):
    """As transformers 4 wrote them: another name of the head, masks and rotary tables beside."""
    new = Checkpoint.open(folders["neox"])
    state = load_file(folders["neox"] / "model.safetensors")
    state = {n.replace("lm_head", "embed_out"): t for n, t in state.items()}
    for layer in range(3):
        attention = f"gpt_neox.layers.{layer}.attention."
        state[f"{attention}bias"] = torch.ones(1, 1, 8, 8, dtype=torch.bool).tril()
        state[f"{attention}masked_bias"] = torch.tensor(-1e9)
        state[f"{attention}rotary_emb.inv_freq"] = torch.ones(1)
    old = tmp_path / "old"
    old.mkdir()
    (old / "config.json").write_text((folders["neox"] / "config.json").read_text())
    save_file(state, old / "model.safetensors", {"format": "pt"})
    opened = Checkpoint.open(old)
    assert "embed_out.weight" in opened.tensor_names()
    assert not [n for n in opened.tensor_names() if "inv_freq" in n or n.endswith("attention.bias")]
    one = {(w.module, w.layer): w.tensor for w in new.weights("stored")}
    two = {(w.module, w.layer): w.tensor for w in opened.weights("stored")}
    assert one.keys() == two.keys()
    assert all(torch.equal(one[place], two[place]) for place in one)
    ids = torch.arange(8)[None]
    with torch.no_grad():
        assert torch.equal(*(c.load_model()(ids).logits for c in (new, opened)))


@pytest.mark.parametrize("family", ["llama", "neox", "olmo2"])
def test_a_tied_head_is_no_stored_matrix_in_any_family(family, tmp_path):
    checkpoint = Checkpoint.open(WRITE[family](tmp_path / family, tie_word_embeddings=True))
    assert checkpoint.tied
    assert "lm_head" not in {w.module for w in checkpoint.weights("stored")}
    effective = {w.module: w.tensor for w in checkpoint.weights("effective")}
    assert torch.equal(effective["lm_head"], effective["embed"])


@pytest.mark.parametrize("family", ["neox", "olmo2"])
def test_other_families_are_plain_and_load(family, folders):
    checkpoint = Checkpoint.open(folders[family])
    assert (checkpoint.form, checkpoint.alphas()) == ("plain", {})
    assert checkpoint.load_tokenizer().bos_token_id == 1


@pytest.mark.parametrize(
    ("model_type", "more", "said"),
    [
        ("gpt2", {}, "a block is not an attention and an MLP"),
        ("phi3", {"pad_token_id": 0}, "which cannot be read"),
        ("bert", {}, "the MLP comes before the attention"),
        ("t5", {}, "no causal language model"),
        ("nobody", {}, "transformers knows no architecture 'nobody'"),
    ],
)
def test_a_structure_that_is_not_understood_is_refused(model_type, more, said, folders, tmp_path):
    shape = {
        "vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
        "intermediate_size": 64,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(shape | more | {"model_type": model_type}))
    with pytest.raises(CheckpointError, match=said) as caught:
        Checkpoint.open(tmp_path)
    assert f"architecture {model_type!r}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_norms_are_told_apart_by_where_they_stand():
    """Names are no help: a norm of one name stands in two places in two families."""
    shape = {
        "vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4,
        "num_key_value_heads": 2, "intermediate_size": 64, "head_dim": 8, "pad_token_id": 0,
    }  # fmt: skip
    found = {}
    for model_type in ("llama", "olmo2", "gemma2"):
        layout = layout_of(architecture_of(shape | {"model_type": model_type}))
        found[model_type] = {
            name.split(".")[-2]: role.module for name, (role,) in layout.weights.items()
        }
    assert found["llama"]["post_attention_layernorm"] == "post_attention_norm"
    assert found["olmo2"]["post_attention_layernorm"] == "attention_output_norm"
    assert found["gemma2"]["pre_feedforward_layernorm"] == "post_attention_norm"
    assert found["gemma2"]["post_feedforward_layernorm"] == "mlp_output_norm"


def test_experts_are_not_taken_for_an_mlp():
    config = {
        "model_type": "mixtral", "vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 1,
        "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 64,
    }  # fmt: skip
    with pytest.raises(UnknownStructure):
        layout_of(architecture_of(config))
