"""The weights probe on checkpoints: both views, the fold, the totals, the scales."""

import pytest
import torch
from torch import nn

from probes.base import Measuring
from probes.statistics import ELEMENTWISE, profile
from probes.weights import WeightsProbe
from tests.fixtures.tiny_checkpoint import write_neox, write_olmo2, write_yulan
from workbench.checkpoints import Checkpoint

LAYER_MODULES = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def measured(checkpoint):
    return WeightsProbe().measure(checkpoint, WeightsProbe.Settings(), Measuring())


def values(found, view, metrics=ELEMENTWISE):
    """Of whole tensors."""
    return {
        (row["metric"], row["layer"], row["module"]): row["value"]
        for row in found.rows
        if row["view"] == view and row["metric"] in metrics and row["head"] is None
    }


def by_head(found, view):
    return {
        (row["metric"], row["layer"], row["module"], row["head"]): row["value"]
        for row in found.rows
        if row["view"] == view and row["head"] is not None
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_pass_over_both_views_stores_what_a_pass_for_each_would(dtype, tmp_path):
    """Equal, not about equal: a tensor large enough to be counted by its patterns is among them."""
    checkpoint = Checkpoint.open(write_yulan(tmp_path / "big", dtype=dtype, vocab_size=3000))
    found = measured(checkpoint)
    rows, histograms = [], []
    for view in ("stored", "effective"):
        for weight in checkpoint.weights(view):
            counted = profile(weight.stored, weight.heads, weight.role.side)
            where = (view, weight.layer, weight.module)
            for head, metrics in enumerate(counted.metrics(weight.scale), start=-1):
                rows += [(*where, head, metric, value) for metric, value in metrics.items()]
            histograms.append((*where, counted.histogram(weight.scale).tolist()))
    assert rows == [
        (r["view"], r["layer"], r["module"], -1 if r["head"] is None else r["head"], r["metric"],
         r["value"] if r["reason"] is None else r["reason"])
        for r in found.rows
        if r["module"] != "total" and r["metric"] != "alpha"
    ]  # fmt: skip
    assert histograms == [
        (h["view"], h["layer"], h["module"], h["counts"]) for h in found.histograms
    ]


def test_heads_are_rows_of_q_k_v_and_columns_of_o(yulan):
    heads = by_head(measured(yulan), "effective")
    count = {"q_proj": 6, "k_proj": 2, "v_proj": 2, "o_proj": 6}
    assert {key[1:] for key in heads} == {
        (layer, module, head)
        for layer in range(3) for module, n in count.items() for head in range(n)
    }  # fmt: skip
    weights = {(w.layer, w.module): w.tensor.double() for w in yulan.weights("effective")}
    for (metric, layer, module, head), value in heads.items():
        if metric == "frobenius":
            own = slice(head * 8, (head + 1) * 8)
            matrix = weights[layer, module]
            part = matrix[:, own] if module == "o_proj" else matrix[own]
            assert value == pytest.approx(float(part.norm()), rel=1e-6)


@pytest.mark.parametrize("write", [write_neox, write_olmo2])
def test_other_families_have_every_metric_and_the_same_total(write, tmp_path):
    checkpoint = Checkpoint.open(write(tmp_path / "family"))
    found = measured(checkpoint)
    stored, model = values(found, "stored"), checkpoint.load_model()
    matrices = [m.weight for m in model.modules() if isinstance(m, nn.Linear | nn.Embedding)]
    square = sum(float(matrix.detach().double().square().sum()) for matrix in matrices)
    assert stored["frobenius", None, "total"] == pytest.approx(square**0.5, rel=1e-12)
    assert stored == values(found, "effective")
    assert {key[1:] for key in stored} == {
        *((w.layer, w.module) for w in checkpoint.weights("stored")), (None, "total"),
    }  # fmt: skip
    by_parts = {key[1:] for key in by_head(found, "stored")}
    assert {module for _, module, _ in by_parts} == {"q_proj", "k_proj", "v_proj", "o_proj"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_thread_and_two_store_the_same(dtype, tmp_path):
    """Bit for bit: counts are whole numbers, and sums are taken in an order of their own."""
    folder = write_yulan(tmp_path / "wider", dtype=dtype, hidden_size=384, vocab_size=1200)
    before, stored = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found = measured(Checkpoint.open(folder))
            stored.append((found.rows, found.histograms))
    finally:
        torch.set_num_threads(before)
    assert stored[0] == stored[1]


def test_effective_view_is_the_stored_view_of_the_fold(yulan, folded):
    """Within float32's rounding: the fold rounds each product once, the view does not."""
    effective = values(measured(yulan), "effective")
    plain = values(measured(folded), "stored")
    # The fold adds zero biases to o_proj, which Llama demands; everything else is the same.
    plain = {key: value for key, value in plain.items() if key[2] != "o_bias"}
    assert set(effective) == set(plain)
    for key, value in effective.items():
        assert value == pytest.approx(plain[key], rel=1e-6, abs=1e-6), key


def test_a_llama_is_its_own_effective_view(llama):
    found = measured(llama)
    assert values(found, "effective") == values(found, "stored")
    assert not values(found, "stored", ["alpha"])


def test_stored_statistics_are_those_of_the_files(yulan):
    found = values(measured(yulan), "stored")
    weight = yulan.tensor("model.layers.1.mlp.up_proj.weight").double()
    assert found["frobenius", 1, "up_proj"] == pytest.approx(float(weight.norm()), rel=1e-12)
    assert found["mean", 1, "up_proj"] == pytest.approx(float(weight.mean()), rel=1e-12)
    norm = yulan.tensor("model.norm.weight").double()
    assert found["rms", None, "final_norm"] == pytest.approx(
        float(norm.square().mean().sqrt()), rel=1e-12
    )


def test_a_tied_head_is_no_stored_matrix_and_an_effective_one(yulan):
    found = measured(yulan)
    assert ("frobenius", None, "lm_head") not in values(found, "stored")
    effective = values(found, "effective")
    assert effective["frobenius", None, "lm_head"] != effective["frobenius", None, "embed"]


@pytest.mark.parametrize("view", ["stored", "effective"])
def test_total_is_taken_over_all_matrices_of_the_view(yulan, view):
    found = values(measured(yulan), view)
    matrices = [*LAYER_MODULES, "embed"] + (["lm_head"] if view == "effective" else [])
    squares = {
        key: value**2
        for key, value in found.items()
        if key[0] == "frobenius" and key[2] in matrices
    }
    elements = sum((squares[k] ** 0.5 / found["rms", k[1], k[2]]) ** 2 for k in squares)
    total = sum(squares.values())
    assert found["frobenius", None, "total"] == pytest.approx(total**0.5, rel=1e-12)
    assert found["rms", None, "total"] == pytest.approx((total / elements) ** 0.5, rel=1e-12)


def test_alphas_stand_under_the_modules_that_they_scale(yulan):
    alphas = values(measured(yulan), "stored", ["alpha"])
    assert len(alphas) == yulan.config["num_hidden_layers"] * 9 + 2
    held = yulan.alphas()
    assert alphas["alpha", 2, "o_proj"] == held["model.layers.2.self_attn.o_proj_alpha"]
    shared = held["model.layers.0.gate_up_proj_alpha"]
    assert alphas["alpha", 0, "gate_proj"] == alphas["alpha", 0, "up_proj"] == shared
    assert alphas["alpha", None, "lm_head"] == held["lm_head_alpha"]


def test_histograms_count_every_element(yulan):
    found = measured(yulan)
    sizes = {(w.layer, w.module): w.stored.numel() for w in yulan.weights("effective")}
    effective = [h for h in found.histograms if h["view"] == "effective"]
    assert {(h["layer"], h["module"]): sum(h["counts"]) for h in effective} == sizes


def test_a_tensor_with_nan_has_reasons_and_spoils_the_total(tmp_path):
    from safetensors.torch import load_file, save_file

    folder = write_yulan(tmp_path / "broken")
    state = load_file(folder / "model.safetensors")
    state["model.layers.0.mlp.up_proj.weight"][0, 0] = float("nan")
    save_file(state, folder / "model.safetensors")
    rows = measured(Checkpoint.open(folder)).rows
    missing = {(r["metric"], r["module"]): r["reason"] for r in rows if r["value"] is None}
    assert missing["rms", "up_proj"] == "NaN in 1 of 3,840 elements"
    assert "up_proj" in missing["frobenius", "total"]
    assert ("rms", "q_proj") not in missing
