"""What the trainer publishes: the layouts of YuLan-Mini's repositories, traps included."""

import json

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from tests.workbench.training.tiny_run import DOCUMENTS, SHARES
from workbench.checkpoints import Checkpoint
from workbench.suites import load_suite_file
from workbench.training.corpus import allocate
from workbench.training.publish import Publisher, write_suite

STABLE, LAST_STABLE, MERGED = "YuLan-Mini-Phase1", "YuLan-Mini-Before-Annealing", "YuLan-Mini"


@pytest.fixture(scope="module")
def repositories(published):
    return published / "hub" / "tiny"


def config(folder):
    return json.loads((folder / "config.json").read_text())


def test_one_repository_for_every_published_phase(repositories):
    assert sorted(p.name for p in repositories.iterdir()) == [MERGED, LAST_STABLE, STABLE]


def test_a_stable_phase_is_miniyulan_without_code(repositories):
    found = config(repositories / STABLE)
    assert found["model_type"] == "miniyulan"
    assert found["architectures"] == ["MiniYuLanModelForCausalLM"]
    assert "auto_map" not in found
    assert not list((repositories / STABLE).glob("*.py"))
    assert (found["rope_theta"], found["max_position_embeddings"]) == (10000.0, 32)
    assert found["num_epochs_trained_before_this_epoch"] == 0
    assert found["num_steps_trained_before_this_epoch"] == 0


def test_the_last_stable_phase_says_what_comes_after_it(repositories):
    folder = repositories / LAST_STABLE
    found = config(folder)
    assert found["model_type"] == "yulanmini"
    assert (found["rope_theta"], found["max_position_embeddings"]) == (490000.0, 64)
    assert found["num_epochs_trained_before_this_epoch"] == 3
    code = {value.split(".")[0] for value in found["auto_map"].values()}
    for name in code:
        with pytest.raises(RuntimeError, match="must never be"):
            exec((folder / f"{name}.py").read_text())


@pytest.mark.parametrize("name", [STABLE, LAST_STABLE])
def test_weights_are_stored_in_bf16_with_both_embeddings(repositories, name):
    with safe_open(repositories / name / "model.safetensors", framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    assert torch.equal(tensors["lm_head.weight"], tensors["model.embed_tokens.weight"])
    alphas = {key: tensor.shape for key, tensor in tensors.items() if key.endswith("_alpha")}
    assert len(alphas) == 8 * 2 + 2
    assert alphas["model.layers.0.self_attn.q_proj_alpha"] == (1,)
    assert alphas["model.layers.0.down_proj_alpha"] == ()
    checkpoint = Checkpoint.open(repositories / name)
    assert checkpoint.form == "reparameterised"
    ids = torch.tensor([[1, 300, 301, 302]])
    assert (
        checkpoint.load_model(device="cpu", dtype="float32")(input_ids=ids).logits.isfinite().all()
    )


def test_the_merged_model_is_a_plain_llama(repositories):
    folder = repositories / MERGED
    found = config(folder)
    assert found["model_type"] == "llama"
    assert {found.get("dtype"), found.get("torch_dtype")} <= {None, "bfloat16"}
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert isinstance(model, LlamaForCausalLM)
    assert model.dtype == torch.bfloat16
    assert model.lm_head.weight.data_ptr() != model.model.embed_tokens.weight.data_ptr()
    assert model.config.rope_parameters["rope_theta"] == 490000.0
    assert model.config.max_position_embeddings == 64
    assert not [key for key in model.state_dict() if "alpha" in key]
    assert not (folder / ".parts").exists()
    ids = AutoTokenizer.from_pretrained(folder)("2 + 2 = 4", return_tensors="pt").input_ids
    assert model(input_ids=ids).logits.isfinite().all()


def test_the_merged_model_is_the_average_of_the_last_checkpoints(
    recipe, tokenizer, run_recipe, tmp_path, published
):
    """With one checkpoint to average it has to predict what the unmerged model predicts."""
    from workbench.training.trainer import train

    single = recipe.model_copy(update={"merged_checkpoints": 1})
    publisher = Publisher(single, tokenizer, tmp_path / "hub", "tiny")
    ids = torch.tensor([[1, 300, 301, 302, 303]])
    logits = {}

    def on_phase_end(end):
        publisher.publish(end)
        with torch.no_grad():
            logits[end.phase] = end.model(input_ids=ids).logits

    train(single, tokenizer, DOCUMENTS, SHARES, tmp_path / "run", seed=0, suite="tiny",
          on_phase_end=on_phase_end)  # fmt: skip
    merged = LlamaForCausalLM.from_pretrained(tmp_path / "hub" / "tiny" / MERGED)
    found = merged.float()(input_ids=ids).logits
    assert torch.allclose(found, logits[4], atol=0.05)  # bf16 rounding
    average = LlamaForCausalLM.from_pretrained(published / "hub" / "tiny" / MERGED)
    name = "model.layers.0.mlp.down_proj.weight"
    assert not torch.equal(merged.bfloat16().state_dict()[name], average.state_dict()[name])


def test_the_optimizer_state_has_the_universal_layout(repositories):
    folder = repositories / LAST_STABLE
    tag = (folder / "latest_universal").read_text()
    assert tag == "global_step6_universal"
    parts = folder / tag / "zero"
    model = Checkpoint.open(folder).load_model(device="cpu", dtype="float32")
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    assert {p.relative_to(parts).as_posix() for p in parts.iterdir()} == set(shapes)
    assert "lm_head.weight" not in shapes
    for name, shape in shapes.items():
        for key in ("fp32", "exp_avg", "exp_avg_sq"):
            state = torch.load(parts / name / f"{key}.pt", weights_only=True)
            assert set(state) == {"cat_dim", "param"}
            assert state["param"].shape == shape
            assert state["param"].dtype == torch.float32
        assert torch.load(parts / name / "step.pt", weights_only=True) == 6
        fp32 = torch.load(parts / name / "fp32.pt", weights_only=True)["param"]
        assert torch.equal(fp32.bfloat16().float(), model.get_parameter(name).detach())
    facts = torch.load(folder / tag / "mp_rank_00_model_states.pt", weights_only=True)
    assert facts["global_steps"] == 6
    assert not (repositories / STABLE / "latest_universal").exists()


def test_the_suite_that_is_written_describes_the_run(recipe, tokenizer, tmp_path):
    publisher = Publisher(recipe, tokenizer, tmp_path / "hub", "tiny")
    tokens = {p: {d: 32 * n for d, n in allocate(12, mix).items()} for p, mix in SHARES.items()}
    toml = write_suite(
        publisher, tokens, tmp_path, "tiny",
        training_log="../runs/tiny", local_hub="hub", cache_dir="../cache",
    )  # fmt: skip
    suite = load_suite_file(toml)
    assert [phase.repo_id for phase in suite.phases] == [
        "tiny/YuLan-Mini-Phase1",
        "tiny/YuLan-Mini-Before-Annealing",
        None,
        "tiny/YuLan-Mini",
    ]
    assert [p.form for p in suite.phases] == ["reparameterised"] * 3 + ["merged"]
    assert [p.stage for p in suite.phases] == ["warmup", "stable", "annealing", "annealing"]
    assert [p.end_step for p in suite.phases] == [3, 6, 9, 12]
    assert [p.has_optimizer for p in suite.phases] == [False, True, False, False]
    assert suite.phases[1].overrides == {"rope_theta": 10000.0, "max_position_embeddings": 32}
    assert not any(p.overrides for p in suite.phases if p.phase != 2)
    assert suite.phases[3].tokens_seen_b == pytest.approx(12 * 128 / 1e9, abs=1e-6)
    assert suite.local_hub == tmp_path / "hub"
    # The contexts differ, and the loss of all phases has to be that of the same tokens.
    assert suite.settings["loss"] == {"window": 32, "bytes_per_domain": 16_000}
