"""Readers of optimizer states: what was saved comes back, name by name; the rest is refused."""

import copy
import pickle
import shutil

import pytest
import torch

from tests.fixtures.optimizer_states import (
    BETAS,
    EPS,
    LR,
    STEPS,
    one_group,
    train,
    write_distributed,
    write_trainer,
    write_universal,
)
from workbench.checkpoints.optimizer import NoOptimizerState
from workbench.errors import CheckpointError

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
FAMILIES = ("yulan", "llama", "neox", "olmo2")


@pytest.fixture(scope="module", params=FAMILIES)
def made(request, tmp_path_factory):
    """A trained checkpoint without a state. Only read it."""
    return train(tmp_path_factory.mktemp("made") / request.param, request.param)


@pytest.fixture(scope="module")
def yulan(tmp_path_factory):
    return train(tmp_path_factory.mktemp("made") / "yulan")


@pytest.fixture
def copied(made, tmp_path):
    return copied_to(made, tmp_path)


@pytest.fixture
def damaged(yulan, tmp_path):
    """A YuLan checkpoint to give a state and to damage."""
    return copied_to(yulan, tmp_path)


def copied_to(trained, folder):
    shutil.copytree(trained.folder, folder / "copy")
    return type(trained)(folder / "copy", trained.model, trained.optimizer)


def check(trained, layout, *, fp32):
    """Everything that the state holds is what the optimizer holds, under the right name."""
    state = trained.open().optimizer()
    assert state.layout == layout
    truth = trained.states()
    assert sorted(state.names) == sorted(truth)
    stored = trained.open().stored_name
    weights = {stored(name): weight for name, weight in trained.model.named_parameters()}
    for parameter in state.parameters():
        held = truth[parameter.name]
        for key in ("exp_avg", "exp_avg_sq"):
            read = getattr(parameter, key)
            assert read.dtype == held[key].dtype
            assert torch.equal(read.reshape(held[key].shape), held[key]), parameter.name
        assert read.shape == trained.open().shapes[parameter.name]
        assert parameter.step == STEPS
        assert (parameter.fp32 is not None) == fp32
        if fp32:
            weight = weights[parameter.name].detach()
            assert torch.equal(parameter.fp32.reshape(weight.shape), weight)
    return state


def said(state):
    return {parameter.said for parameter in state.parameters()}


def refusal(trained):
    with pytest.raises(CheckpointError) as error:
        list(trained.open().optimizer().parameters())
    text = str(error.value)
    assert "\n" not in text
    assert text.endswith(".")
    return text


def test_a_universal_folder(copied):
    write_universal(copied)
    state = check(copied, "universal", fp32=True)
    (only,) = said(state)
    assert (only.lr, only.eps) == (None, None)


@pytest.mark.parametrize("name", ["optimizer.pt", "optimizer.bin"])
def test_the_file_of_a_trainer(copied, name):
    write_trainer(copied, name)
    (only,) = said(check(copied, "trainer", fp32=False))
    assert (only.lr, only.beta1, only.beta2, only.eps) == (LR, *BETAS, EPS)


@pytest.mark.parametrize("form", ["named", "flat", "plain"])
@pytest.mark.parametrize("folder", ["", "optimizer_0"])
def test_a_distributed_checkpoint(copied, form, folder):
    write_distributed(copied, form, folder)
    (only,) = said(check(copied, "distributed", fp32=form == "named"))
    assert (only.lr, only.beta1, only.beta2, only.eps) == (LR, *BETAS, EPS)


def test_a_single_group_is_in_the_order_of_the_model(tmp_path):
    trained = train(tmp_path / "one", "llama", groups=one_group)
    write_trainer(trained)
    check(trained, "trainer", fp32=False)


def test_names_that_the_groups_say_are_taken(tmp_path):
    """Shuffled, so that the order of the model would give wrong ones."""

    def shuffled(model):
        named = list(model.named_parameters())
        return [{"params": named[1::2] + named[::2], "weight_decay": 0.0}]

    trained = train(tmp_path / "named", "llama", groups=shuffled)
    path = write_trainer(trained)
    assert torch.load(path)["param_groups"][0]["param_names"]
    check(trained, "trainer", fp32=False)


def test_bf16_averages_come_as_they_are(damaged):
    content = copy.deepcopy(damaged.optimizer.state_dict())
    for state in content["state"].values():
        state["exp_avg"] = state["exp_avg"].bfloat16()
    torch.save(content, damaged.folder / "optimizer.pt")
    state = damaged.open().optimizer()
    assert {p.exp_avg.dtype for p in state.parameters()} == {torch.bfloat16}


def test_a_bare_tensor_a_padded_vocabulary_and_scales_of_either_shape(damaged):
    zero = write_universal(damaged)
    rows = damaged.model.get_input_embeddings().weight.shape[0]
    for part in ("fp32", "exp_avg", "exp_avg_sq"):
        path = zero / "model.embed_tokens.weight" / f"{part}.pt"
        held = torch.load(path)
        padded = torch.cat([held["param"], torch.full((24, held["param"].shape[1]), 7.0)])
        torch.save({"cat_dim": 0, "vocab_tensor": True, "param": padded}, path)
        path = zero / "model.norm.weight" / f"{part}.pt"
        torch.save(torch.load(path)["param"], path)
        path = zero / "model.layers.0.down_proj_alpha" / f"{part}.pt"
        torch.save({"cat_dim": 0, "param": torch.load(path)["param"].reshape(())}, path)
    check(damaged, "universal", fp32=True)
    embedding = next(
        p for p in damaged.open().optimizer().parameters() if p.name == "model.embed_tokens.weight"
    )
    assert embedding.exp_avg.shape[0] == rows


def test_without_a_step_it_is_not_known(damaged):
    zero = write_universal(damaged)
    for path in zero.glob("*/step.pt"):
        path.unlink()
    assert {p.step for p in damaged.open().optimizer().parameters()} == {None}


def test_a_slice_of_a_larger_tensor_is_read_alone(damaged):
    """As DeepSpeed saves it when it does not clone: the storage is longer than the tensor."""
    zero = write_universal(damaged)
    path = zero / "model.norm.weight" / "exp_avg.pt"
    held = torch.load(path)["param"]
    long = torch.cat([torch.zeros(5), held, torch.zeros(9)])
    torch.save({"cat_dim": 0, "param": long[5 : 5 + len(held)]}, path)
    check(damaged, "universal", fp32=True)


def test_there_is_none(yulan):
    with pytest.raises(NoOptimizerState, match=r"has no optimizer state .*--with-optimizer"):
        yulan.open().optimizer()


def test_flattened_partitions_are_refused(damaged, tmp_path):
    folder = damaged.folder / "global_step3"
    folder.mkdir()
    part = folder / "bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt"
    torch.save({"optimizer_state_dict": {}}, part)
    assert "flattened ZeRO partition, in which parameters have no names" in refusal(damaged)
    flat = {"step": torch.tensor(3.0), "exp_avg": torch.zeros(99), "exp_avg_sq": torch.zeros(99)}
    groups = [{"params": [n], "lr": LR, "betas": BETAS, "eps": EPS} for n in (0, 1)]
    content = {"state": {0: flat, 1: flat}, "param_groups": groups}
    torch.save(content, damaged.folder / "optimizer.pt")
    assert "flattened partitions" in refusal(damaged)
    torch.save({"optimizer_state_dict": {}}, damaged.folder / "optimizer.pt")
    assert "ds_to_universal" in refusal(damaged)


def test_an_ambiguous_or_unknown_grouping_is_refused(tmp_path):
    def by_turns(model):
        every = list(model.parameters())
        return [{"params": every[::2]}, {"params": every[1::2]}]

    trained = train(tmp_path / "turns", "llama", groups=by_turns)
    write_trainer(trained)
    assert "no usual grouping of the model's parameters fits its shapes" in refusal(trained)


def test_two_groupings_that_fit_are_refused(tmp_path, monkeypatch):
    """Two mappings with the same shapes: swapped layers could not be told apart."""
    from workbench.checkpoints.optimizer import naming

    trained = train(tmp_path / "two", "llama", groups=one_group)
    write_trainer(trained)
    whole = naming._groupings

    def and_layers_swapped(model, groups, parameters):
        yield from whole(model, groups, parameters)
        swap = {"layers.0.": "layers.1.", "layers.1.": "layers.0."}
        yield [
            [next((n.replace(a, b) for a, b in swap.items() if a in n), n) for n in names]
            for names in next(whole(model, groups, parameters))
        ]

    monkeypatch.setattr(naming, "_groupings", and_layers_swapped)
    assert "2 groupings of the model's parameters fit" in refusal(trained)


def test_another_optimizer_is_refused(damaged):
    torch.save(
        {"state": {0: {"momentum_buffer": torch.zeros(3)}}, "param_groups": [{"params": [0]}]},
        damaged.folder / "optimizer.pt",
    )
    assert "momentum_buffer for parameter 0" in refusal(damaged)


class Evil:
    def __reduce__(self):
        return print, ("code was run",)


@pytest.mark.parametrize("layout", ["universal", "trainer", "distributed"])
def test_no_code_in_a_file_is_run(damaged, layout, capsys):
    path = {
        "universal": lambda: write_universal(damaged) / "model.norm.weight" / "exp_avg.pt",
        "trainer": lambda: write_trainer(damaged),
        "distributed": lambda: write_distributed(damaged) / ".metadata",
    }[layout]()
    if layout == "distributed":
        path.write_bytes(pickle.dumps([".exp_avg", Evil()]))
    else:
        torch.save(Evil(), path)
    text = refusal(damaged)
    assert path.name in text
    assert "code was run" not in capsys.readouterr().out


@pytest.mark.parametrize("layout", ["universal", "trainer", "distributed"])
def test_a_file_cut_short_is_named(damaged, layout):
    path = {
        "universal": lambda: write_universal(damaged) / "model.norm.weight" / "exp_avg.pt",
        "trainer": lambda: write_trainer(damaged),
        "distributed": lambda: next(write_distributed(damaged).glob("*.distcp")),
    }[layout]()
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    text = refusal(damaged)
    assert path.name in text
    assert "is broken or truncated" in text


def test_what_does_not_fit_the_weights_is_named(damaged):
    zero = write_universal(damaged)
    path = zero / "model.norm.weight" / "exp_avg.pt"
    torch.save(torch.zeros(5), path)
    assert "has the shape [5] for model.norm.weight, whose weight has [48]" in refusal(damaged)
    path.unlink()
    assert "model.norm.weight/exp_avg.pt is missing" in refusal(damaged)
    shutil.rmtree(path.parent)
    assert "has no state of model.norm.weight (1 parameters lack one)" in refusal(damaged)
    (zero / "model.layers.9.mlp.up_proj.weight").mkdir()
    assert "has a state of model.layers.9" in refusal(damaged)
    (damaged.folder / "latest_universal").write_text("../elsewhere")
    assert "names '../elsewhere', which is no folder beside it" in refusal(damaged)
    for tag in ("", ".", "..", "/tmp", "a/b", "a\\b", "a\x1bb"):
        (damaged.folder / "latest_universal").write_text(tag)
        assert "which is no folder beside it" in refusal(damaged)
    (damaged.folder / "latest_universal").write_text("global_step9_universal")
    assert "there is no global_step9_universal/zero" in refusal(damaged)
    (damaged.folder / "latest_universal").unlink()
    assert "latest_universal is missing" in refusal(damaged)


@pytest.mark.parametrize(
    "lead", ["../{}", "/{}", "sub/{}", "..\\{}", ".", "..", "", None, ["{}"], "{}\n", "\x1b{}"]
)
def test_a_distributed_file_outside_of_the_folder_is_not_read(lead, damaged):
    path = write_distributed(damaged) / ".metadata"
    metadata = pickle.loads(path.read_bytes())
    for stored in metadata.storage_data.values():
        name = stored.relative_path
        stored.relative_path = lead.format(name) if isinstance(lead, str) else lead
    path.write_bytes(pickle.dumps(metadata))
    assert "which is no file of its own folder" in refusal(damaged)
