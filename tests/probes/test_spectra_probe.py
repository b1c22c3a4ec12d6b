"""The spectra probe on checkpoints: both views, heads, products, settings, threads."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from probes.base import Measuring
from probes.spectra import SpectraProbe
from probes.spectral import SPECTRAL
from tests.fixtures.tiny_checkpoint import (
    SHAPE,
    write_llama,
    write_neox,
    write_olmo2,
    write_qwen3,
    write_yulan,
)
from workbench.checkpoints import Checkpoint
from workbench.errors import UsageError

ATTENTION = {"q_proj": 6, "k_proj": 2, "v_proj": 2, "o_proj": 6}
MATRICES = {*ATTENTION, "gate_proj", "up_proj", "down_proj"}


def measured(checkpoint, **settings):
    return SpectraProbe().measure(checkpoint, SpectraProbe.Settings(**settings), Measuring())


def values(found, view):
    return {
        (row["metric"], row["layer"], row["module"], row["head"]): row["value"]
        for row in found.rows
        if row["view"] == view
    }


@pytest.fixture(scope="module")
def found(yulan):
    return measured(yulan)


def test_it_yields_what_it_declares(found):
    assert {row["metric"] for row in found.rows} == set(SPECTRAL)
    assert {metric.id for metric in SpectraProbe.metrics} == set(SPECTRAL)
    for metric in SpectraProbe.metrics:
        assert metric.id in SpectraProbe.__doc__
    places = [tuple(v for k, v in r.items() if k not in ("value", "reason")) for r in found.rows]
    assert len(places) == len(set(places))
    assert found.tables()["measurements"].num_rows == len(places)


def test_every_matrix_and_head_has_every_metric(found):
    stored = values(found, "stored")
    heads = [(module, head) for module, n in ATTENTION.items() for head in range(n)]
    expected = {
        (metric, layer, module, head)
        for metric in SPECTRAL
        for layer in range(SHAPE["num_hidden_layers"])
        for module, head in [*((m, None) for m in MATRICES), *heads]
    }
    expected |= {(metric, None, "embed", None) for metric in SPECTRAL}
    expected |= {
        ("spectral_norm", layer, module, head)
        for layer in range(SHAPE["num_hidden_layers"])
        for module in ("qk", "ov")
        for head in range(6)
    }
    assert set(stored) == expected
    head_of_tied = {(metric, None, "lm_head", None) for metric in SPECTRAL}
    assert set(values(found, "effective")) == expected | head_of_tied


def test_effective_view_is_the_stored_view_of_the_fold(found, folded):
    effective, plain = values(found, "effective"), values(measured(folded), "stored")
    assert set(effective) == set(plain)
    for key, value in effective.items():
        if key[0] != "singular_value_error":
            assert value == pytest.approx(plain[key], rel=1e-5), key


def test_a_llama_is_its_own_effective_view(llama):
    found = measured(llama)
    assert values(found, "effective") == values(found, "stored")


def test_heads_and_products_are_those_of_the_files(found, yulan):
    stored, layer = values(found, "stored"), "model.layers.1.self_attn."
    q, k, v, o = (yulan.tensor(f"{layer}{p}_proj.weight").double() for p in "qkvo")
    size = q.shape[0] // 6
    for head in range(6):
        own, shared = (slice(h * size, (h + 1) * size) for h in (head, head // 3))
        for module, matrix in (
            ("q_proj", q[own]), ("o_proj", o[:, own]), ("qk", q[own].T @ k[shared]),
            ("ov", o[:, own] @ v[shared]),
        ):  # fmt: skip
            norm = stored["spectral_norm", 1, module, head]
            assert norm == pytest.approx(float(torch.linalg.matrix_norm(matrix, 2)), rel=1e-12)
        s = torch.linalg.svdvals(q[own])
        assert stored["condition_number", 1, "q_proj", head] == pytest.approx(float(s[0] / s[-1]))


@torch.no_grad()
@pytest.mark.parametrize(("write", "kv"), [(write_llama, 2), (write_neox, 6), (write_olmo2, 2)])
def test_heads_and_products_are_those_that_the_model_computes_with(write, kv, tmp_path):
    """Queries and keys are taken from the running model, whatever its file's layout is."""
    checkpoint = Checkpoint.open(write(tmp_path / "family"))
    stored = values(measured(checkpoint), "stored")
    model, eye = checkpoint.load_model(), torch.eye(48)
    layer = (model.gpt_neox if kv == 6 else model.model).layers[1]
    if kv == 6:
        maps = layer.attention.query_key_value
        joint = (maps(eye) - maps.bias).view(48, 6, 3, 8).permute(2, 1, 3, 0).double()
        (q, k, v), o = joint, layer.attention.dense.weight
    else:
        at = layer.self_attn
        q, k, v = (
            x(eye).T.double().unflatten(0, (-1, 8)) for x in (at.q_proj, at.k_proj, at.v_proj)
        )
        o = at.o_proj.weight
    assert (len(q), len(k), len(v)) == (6, kv, kv)
    for head in range(6):
        shared = head // (6 // kv)
        own_o = o[:, head * 8 : head * 8 + 8].double()
        for module, at_head, matrix in (
            ("q_proj", head, q[head]), ("k_proj", shared, k[shared]), ("v_proj", shared, v[shared]),
            ("o_proj", head, own_o), ("qk", head, q[head].T @ k[shared]),
            ("ov", head, own_o @ v[shared]),
        ):  # fmt: skip
            norm = stored["spectral_norm", 1, module, at_head]
            # What the model gives of the unit vectors is rounded to float32.
            assert norm == pytest.approx(float(torch.linalg.matrix_norm(matrix, 2)), rel=1e-5)
    counts = [n for n in stored if n[0] == "spectral_norm" and n[1] == 1 and n[3] is not None]
    assert len(counts) == 6 * 4 + 2 * kv


def test_a_matrix_is_decomposed_once_for_both_views(found):
    # Seven matrices a layer, and the embedding, which is the tied head as well.
    counts = [int(part.split(": ")[1]) for part in found.notes["spectral_methods"].split(", ")]
    assert sum(counts) == 3 * 7 + 1
    assert "1e-05" in found.notes["spectral_method"]


def test_a_head_of_its_own_is_in_both_views(tmp_path):
    untied = Checkpoint.open(write_llama(tmp_path / "untied", tie_word_embeddings=False))
    stored = values(measured(untied), "stored")
    norm = torch.linalg.matrix_norm(untied.tensor("lm_head.weight").double(), 2)
    assert stored["spectral_norm", None, "lm_head", None] == pytest.approx(float(norm), rel=1e-6)


def test_settings_choose_modules_and_leave_out_heads(yulan):
    some = measured(yulan, modules="q_proj, k_proj")
    assert {row["module"] for row in some.rows} == {"q_proj", "k_proj", "qk"}
    whole = measured(yulan, modules="q_proj,embed", heads=False)
    assert {(row["module"], row["head"]) for row in whole.rows} == {
        ("q_proj", None), ("embed", None),
    }  # fmt: skip
    with pytest.raises(UsageError, match=r"names q_prj, which is no matrix .* choose among down_"):
        measured(yulan, modules="q_prj")


def test_a_matrix_that_is_not_finite_has_reasons_and_its_sound_heads_have_values(tmp_path):
    folder = write_yulan(tmp_path / "broken")
    state = load_file(folder / "model.safetensors")
    state["model.layers.0.self_attn.v_proj.weight"][0, 0] = float("nan")
    save_file(state, folder / "model.safetensors")
    rows = measured(Checkpoint.open(folder)).rows
    missing = [row for row in rows if row["value"] is None]
    assert {(r["layer"], r["module"], r["head"], r["reason"]) for r in missing} == {
        (0, "v_proj", None, "NaN in 1 of 768 elements"),
        (0, "v_proj", 0, "NaN in 1 of 384 elements"),
        *((0, "ov", head, "v_proj: NaN in 1 of 384 elements") for head in range(3)),
    }
    assert len(missing) == 2 * (len(SPECTRAL) * 2 + 3)
    sound = measured(Checkpoint.open(write_yulan(tmp_path / "sound"))).rows
    assert [r for r in rows if r["value"] is not None] == [
        s for r, s in zip(rows, sound, strict=True) if r["value"] is not None
    ]


@pytest.mark.parametrize("family", ["olmo2", "qwen3", "llama"])
def test_qk_of_a_model_that_normalises_queries_and_keys_is_marked(family, tmp_path):
    """q_norm and k_norm are left out, and the run and the metric's formula say so."""
    write = {"olmo2": write_olmo2, "qwen3": write_qwen3, "llama": write_llama}[family]
    checkpoint = Checkpoint.open(write(tmp_path / family))
    found = measured(checkpoint)
    state = {w.module: w.tensor.double() for w in checkpoint.weights("stored") if w.layer == 1}
    size = len(state["q_proj"]) // 6
    for head in range(6):
        q = state["q_proj"][head * size : (head + 1) * size]
        k = state["k_proj"][head // 3 * size : (head // 3 + 1) * size]
        assert values(found, "stored")["spectral_norm", 1, "qk", head] == pytest.approx(
            float(torch.linalg.matrix_norm(q.T @ k, 2)), rel=1e-6
        )
    normalised = {"q_norm", "k_norm"} <= set(state)
    assert normalised == (family != "llama") == ("qk_norm" in found.notes)
    (formula,) = (m.formula for m in SpectraProbe.metrics if m.id == "spectral_norm")
    assert "'qk' without q_norm and k_norm" in formula
    assert "not on the scale of the attention logits" in formula


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_thread_and_two_store_the_same(dtype, tmp_path):
    """Within 1e-6, for another order of summing; counts are the same.

    What is seen is 1e-13, and for condition numbers, which amplify it, 1e-9.
    """
    folder = write_yulan(
        tmp_path / "wider", dtype=dtype, hidden_size=192, intermediate_size=480,
        num_hidden_layers=1, vocab_size=1200,
    )  # fmt: skip
    before, stored = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            stored.append(values(measured(Checkpoint.open(folder)), "stored"))
    finally:
        torch.set_num_threads(before)
    one, two = stored
    assert set(one) == set(two)
    for key, value in one.items():
        if key[0] in ("powerlaw_tail_n", "mp_edge_outliers", "is_powerlaw", "per_denominator"):
            assert two[key] == value, key
        elif key[0] != "singular_value_error":
            assert two[key] == pytest.approx(value, rel=1e-6), key
