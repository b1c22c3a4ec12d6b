"""Checkpoints: views, layouts, overrides, and one-sentence errors for what is broken."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.fixtures.tiny_checkpoint import write_llama, write_yulan
from workbench.checkpoints import Checkpoint
from workbench.errors import CheckpointError
from workbench.models.fold import effective_scales

EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"


@pytest.fixture(scope="session")
def written(tmp_path_factory):
    return write_yulan(tmp_path_factory.mktemp("written") / "yulan")


@pytest.fixture
def folder(written, tmp_path):
    """A copy that a test may break."""
    return shutil.copytree(written, tmp_path / "phase")


def change_config(folder, **fields):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def change_weights(folder, change):
    state = load_file(folder / "model.safetensors")
    change(state)
    save_file(state, folder / "model.safetensors", {"format": "pt"})


def shard(folder):
    """Rewrite the single file as two shards with an index."""
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    weight_map = {}
    for part, names in enumerate((sorted(state)[:20], sorted(state)[20:]), start=1):
        file = f"model-{part:05}-of-00002.safetensors"
        save_file({n: state[n] for n in names}, folder / file, {"format": "pt"})
        weight_map |= dict.fromkeys(names, file)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def test_stored_view_is_the_file_in_reading_order(written):
    checkpoint = Checkpoint.open(written)
    state = load_file(written / "model.safetensors")
    weights = list(checkpoint.weights("stored"))
    for weight in weights:
        assert torch.equal(weight.tensor, state[weight.name])
    layers = [w.layer for w in weights if w.layer is not None]
    assert layers == sorted(layers)
    assert {w.name for w in weights} == {n for n in state if not n.endswith("_alpha") and n != HEAD}
    assert {w.module for w in weights if w.layer == 1} == {
        "q_proj", "k_proj", "v_proj", "o_proj", "q_bias", "k_bias", "v_bias",
        "gate_proj", "up_proj", "down_proj", "input_norm", "post_attention_norm",
    }  # fmt: skip
    assert {w.module for w in weights if w.layer is None} == {"embed", "final_norm"}


def test_effective_view_multiplies_in_float32(tmp_path):
    checkpoint = Checkpoint.open(write_yulan(tmp_path / "bf16", dtype=torch.bfloat16))
    scales = effective_scales(checkpoint.config, checkpoint.alphas())
    weights = {w.name: w for w in checkpoint.weights("effective")}
    assert HEAD in weights
    assert weights[HEAD].module == "lm_head"
    for name, weight in weights.items():
        expected = checkpoint.tensor(name).float() * scales[name]
        assert weight.tensor.dtype == torch.float32
        assert torch.equal(weight.tensor, expected)


def test_alphas_of_both_shapes_are_plain_numbers(folder):
    before = Checkpoint.open(folder).alphas()
    assert len(before) == 3 * 8 + 2

    def reshape(state):
        for name in before:
            state[name] = state[name].reshape((1,) if state[name].dim() == 0 else ())

    change_weights(folder, reshape)
    assert Checkpoint.open(folder).alphas() == before


def test_tied_once_tied_twice_and_untied(folder):
    def head(change):
        change_weights(folder, change)
        checkpoint = Checkpoint.open(folder)
        stored = [w.module for w in checkpoint.weights("stored")]
        effective = {w.module: w.tensor for w in checkpoint.weights("effective")}
        return checkpoint.tied, "lm_head" in stored, effective["lm_head"]

    twice = head(lambda state: None)
    once = head(lambda state: state.pop(HEAD))
    assert twice[:2] == once[:2] == (True, False)
    assert torch.equal(twice[2], once[2])
    apart = head(lambda state: state.update({HEAD: state[EMBED] + 1}))
    assert apart[:2] == (False, True)
    assert not torch.equal(apart[2], once[2])


def test_an_untied_config_needs_its_head(folder):
    change_weights(folder, lambda state: state.pop(HEAD))
    change_config(folder, tie_word_embeddings=False)
    with pytest.raises(CheckpointError, match=r"lack the tensor lm_head\.weight"):
        Checkpoint.open(folder)


def test_forms(written, tmp_path):
    assert Checkpoint.open(written).form == "reparameterised"
    assert Checkpoint.open(write_llama(tmp_path / "plain")).form == "plain"
    assert Checkpoint.open(write_llama(tmp_path / "merged", attention_bias=True)).form == "merged"


@torch.no_grad()
def test_shards_give_the_same_tensors_and_model(written, folder):
    shard(folder)
    one, two = Checkpoint.open(written), Checkpoint.open(folder)
    assert one.tensor_names() == two.tensor_names()
    assert all(torch.equal(one.tensor(n), two.tensor(n)) for n in one.tensor_names())
    ids = torch.arange(20)[None]
    logits = [checkpoint.load_model()(ids).logits for checkpoint in (one, two)]
    assert torch.equal(*logits)


@torch.no_grad()
def test_overrides_reach_config_and_model(written):
    plain = Checkpoint.open(written)
    changed = Checkpoint.open(
        written, overrides={"rope_theta": 77.0, "max_position_embeddings": 64}
    )
    assert plain.stored_config == changed.stored_config
    assert changed.config["rope_theta"] == 77.0
    model = changed.load_model()
    assert model.config.rope_parameters["rope_theta"] == 77.0
    assert model.config.max_position_embeddings == 64
    assert not model.training
    ids = torch.arange(20)[None]
    assert not torch.allclose(model(ids).logits, plain.load_model()(ids).logits)


def test_code_and_kernels_named_by_a_config_are_not_taken(folder):
    change_config(
        folder,
        auto_map={"AutoModelForCausalLM": "evil.Model"},
        _attn_implementation="flash_attention_2",
    )
    model = Checkpoint.open(folder).load_model(dtype="bfloat16")
    assert model.config._attn_implementation == "sdpa"
    assert model.dtype == torch.bfloat16


def test_loading_is_quiet(written, capfd):
    checkpoint = Checkpoint.open(written)
    checkpoint.load_model()
    assert checkpoint.load_tokenizer().bos_token_id == 1
    assert capfd.readouterr() == ("", "")


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1000])


BREAKAGES = {
    "no config": (lambda f: (f / "config.json").unlink(), "has no config.json"),
    "config no JSON": (lambda f: (f / "config.json").write_text("{"), "config.json is not valid"),
    "config a list": (lambda f: (f / "config.json").write_text("[]"), "holds no JSON object"),
    "other architecture": (lambda f: change_config(f, model_type="gpt2"), "architecture 'gpt2'"),
    "no layers": (lambda f: change_config(f, num_hidden_layers=None), "num_hidden_layers"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "lacks the weight file model.s"),
    "truncated": (lambda f: truncate(f / "model.safetensors"), "model.safetensors is broken"),
    "no safetensors": (
        lambda f: (f / "model.safetensors").write_text(
            "version https://git-lfs.github.com/spec/v1"
        ),
        "model.safetensors is broken",
    ),
    "tensor missing": (
        lambda f: change_weights(f, lambda s: s.pop("model.layers.2.mlp.up_proj.weight")),
        r"lack the tensor model\.layers\.2\.mlp\.up_proj\.weight",
    ),
    "tensor unknown": (
        lambda f: change_weights(f, lambda s: s.update({"model.odd.weight": torch.ones(2)})),
        r"hold model\.odd\.weight",
    ),
    "layers too many": (
        lambda f: change_config(f, num_hidden_layers=2),
        r"hold model\.layers\.2\.",
    ),
    "index without map": (
        lambda f: (f / "model.safetensors.index.json").write_text("{}"),
        "has no weight_map",
    ),
    "shard missing": (
        lambda f: (shard(f), (f / "model-00002-of-00002.safetensors").unlink()),
        "lacks the weight file model-00002",
    ),
    "shard truncated": (
        lambda f: (shard(f), truncate(f / "model-00001-of-00002.safetensors")),
        "model-00001-of-00002.safetensors is broken",
    ),
    "shard without its tensor": (
        lambda f: (
            shard(f),
            save_file({"x": torch.ones(1)}, f / "model-00002-of-00002.safetensors"),
        ),
        "model-00002-of-00002.safetensors lacks the tensor",
    ),
}


@pytest.mark.parametrize("name", BREAKAGES)
def test_what_is_broken_is_said_in_one_sentence(folder, name):
    break_it, said = BREAKAGES[name]
    break_it(folder)
    with pytest.raises(CheckpointError, match=said) as caught:
        Checkpoint.open(folder, label="phase 7")
    message = str(caught.value)
    assert message.startswith(f"phase 7 ({folder})")
    assert "\n" not in message
    assert message.endswith(".")


@pytest.mark.parametrize(
    ("field", "said"),
    [
        (
            {"vocab_size": 70},
            r"embed_tokens\.weight in the shape \[70, 48\], .* have in .* \[1000, 48\]",
        ),
        ({"qk_layernorm": True}, r"lack the tensor .*0\.self_attn\.q_layernorm\.weight"),
        ({"rope_scaling": {"type": "x"}}, r"config\.json cannot be used: .*rope_scaling"),
    ],
)
def test_a_model_that_the_weights_do_not_fill_is_not_loaded(folder, field, said, capfd):
    change_config(folder, **field)
    with pytest.raises(CheckpointError, match=said) as caught:
        Checkpoint.open(folder).load_model()
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_a_missing_scale_is_said(folder):
    change_weights(folder, lambda state: state.pop("model.layers.1.self_attn.q_proj_alpha"))
    with pytest.raises(CheckpointError, match=r"lack .*model\.layers\.1\.self_attn\.q_proj_alpha"):
        Checkpoint.open(folder)


def test_scales_of_norms_are_wanted_only_where_the_config_uses_them(folder):
    change_config(folder, use_norm_alpha=False)
    checkpoint = Checkpoint.open(folder)  # the file holds them all the same
    assert not [name for name in checkpoint.alphas() if "norm" in name]
    norms = {w.name: w.scale for w in checkpoint.weights("effective") if "norm" in w.module}
    assert set(norms.values()) == {1.25}  # ln_scale alone
    change_weights(folder, lambda s: [s.pop(n) for n in list(s) if n.endswith("norm_alpha")])
    assert Checkpoint.open(folder).alphas() == checkpoint.alphas()


def test_a_missing_tokenizer_is_said(folder):
    for path in folder.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(CheckpointError, match="no tokenizer that can be read"):
        Checkpoint.open(folder).load_tokenizer()
