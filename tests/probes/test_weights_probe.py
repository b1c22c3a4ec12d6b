"""The weights probe on checkpoints: both views, the fold, the totals, the scales."""

import pytest
import torch

from probes.base import Measuring
from probes.statistics import ELEMENTWISE, count_values, elementwise, log10_histogram
from probes.weights import WeightsProbe
from tests.fixtures.tiny_checkpoint import write_yulan
from workbench.checkpoints import Checkpoint

LAYER_MODULES = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def measured(checkpoint):
    return WeightsProbe().measure(checkpoint, WeightsProbe.Settings(), Measuring())


def values(found, view, metrics=ELEMENTWISE):
    return {
        (row["metric"], row["layer"], row["module"]): row["value"]
        for row in found.rows
        if row["view"] == view and row["metric"] in metrics
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_pass_over_both_views_stores_what_a_pass_for_each_would(dtype, tmp_path):
    """Equal, not about equal: a tensor large enough to be counted by its patterns is among them."""
    checkpoint = Checkpoint.open(write_yulan(tmp_path / "big", dtype=dtype, vocab_size=3000))
    found = measured(checkpoint)
    rows, histograms = [], []
    for view in ("stored", "effective"):
        for weight in checkpoint.weights(view):
            counted = count_values(weight.stored, weight.scale)
            where = (view, weight.layer, weight.module)
            rows += [(*where, metric, value) for metric, value in elementwise(counted).items()]
            histograms.append((*where, log10_histogram(counted).tolist()))
    assert rows == [
        (r["view"], r["layer"], r["module"], r["metric"], r["value"] or r["reason"] or 0.0)
        for r in found.rows
        if r["module"] != "total" and r["metric"] != "alpha"
    ]
    assert histograms == [
        (h["view"], h["layer"], h["module"], h["counts"]) for h in found.histograms
    ]


def test_effective_view_is_exactly_the_stored_view_of_the_fold(yulan, folded):
    effective = values(measured(yulan), "effective")
    plain = values(measured(folded), "stored")
    # The fold adds zero biases to o_proj, which Llama demands; everything else is the same.
    plain = {key: value for key, value in plain.items() if key[2] != "o_bias"}
    assert set(effective) == set(plain)
    for key, value in effective.items():
        assert value == pytest.approx(plain[key], rel=1e-12, abs=1e-15), key


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
    assert missing["rms", "up_proj"] == "1 of 3840 elements are not finite"
    assert "up_proj" in missing["frobenius", "total"]
    assert ("rms", "q_proj") not in missing
