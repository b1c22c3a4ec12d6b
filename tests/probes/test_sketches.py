"""Sketches keep distances as stated, and are the same whatever computes them."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch

from probes.base import Measuring
from probes.changes import ChangesProbe
from probes.sketches import CHUNK_ROWS, GRAIN, ROWS, SPAN_CHUNKS, seed_of, sketch, splitmix64

LARGE = 2 * SPAN_CHUNKS * CHUNK_ROWS * GRAIN + 12_345  # three spans, the last one ragged


def numbers(n: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(n).astype(np.float32))


def by_the_definition(x: np.ndarray, seed: int, width: int) -> np.ndarray:
    """Element by element: its sign, its row's rotation, its place."""
    places = np.arange(x.size, dtype=np.uint64)
    row, column = places // width, places % width
    words = (row // ROWS * width + column) // 4
    lane = splitmix64(words, seed) >> (column % 4 * 16) & 0xFFFF
    signs = np.where(lane >> (15 - row % ROWS) & 1, -1.0, 1.0)
    turned = (column + splitmix64(row, seed ^ 0x5EED) % width) % width
    return np.bincount(turned.astype(np.int64), weights=signs * x, minlength=width)


def test_splitmix64_gives_its_published_numbers():
    first, second = splitmix64(np.array([1, 2], np.uint64), 0)
    assert (first, second) == (0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4)
    assert splitmix64(np.array([1], np.uint64), 1234567)[0] == 6457827717110365317


def test_it_is_what_the_definition_says():
    x = numbers(LARGE)
    found = sketch(x, seed=7, width=GRAIN, scale=-0.5)
    expected = -0.5 * by_the_definition(x.double().numpy(), 7, GRAIN)
    np.testing.assert_allclose(found.values, expected, rtol=1e-5, atol=1e-3)
    assert found.norm == pytest.approx(0.5 * x.double().norm().item(), rel=1e-7)


def test_the_same_bits_on_every_machine_and_with_any_number_of_threads():
    x = (torch.arange(LARGE) % 1013 - 500).to(torch.bfloat16) / 512
    alone = sketch(x, seed=seed_of("q_proj 3"), width=GRAIN, scale=0.3)
    with ThreadPoolExecutor(3) as pool:
        together = sketch(x, seed=seed_of("q_proj 3"), width=GRAIN, scale=0.3, pool=pool)
    assert together.digest == alone.digest
    assert together.values.tobytes() == alone.values.tobytes()
    pinned = hashlib.sha256(alone.values.astype("<f4").tobytes()).hexdigest()
    assert pinned[:16] == "f17404a1f58a8e98"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_dtype_changes_nothing_but_the_digest(dtype):
    x = numbers(9000).to(torch.bfloat16).clamp(-2, 2)
    x[x.abs() < 2**-6] = 0  # exact in all of them
    same, other = (sketch(t, seed=1, width=GRAIN) for t in (x.float(), x.to(dtype)))
    assert same.values.tobytes() == other.values.tobytes()
    assert same.norm == other.norm
    assert same.digest != other.digest


def test_a_tensor_no_larger_than_the_sketch_is_kept_as_it_is():
    x = numbers(GRAIN)
    assert np.array_equal(sketch(x, seed=1, width=GRAIN).values, x.numpy())


def test_the_digest_tells_tensors_apart():
    x = numbers(LARGE)
    whole = sketch(x, seed=1, width=GRAIN)
    assert sketch(x.clone(), seed=1, width=GRAIN).digest == whole.digest
    smallest = x.clone()
    smallest[77] = torch.nextafter(smallest[77], torch.tensor(9.0))
    swapped = x.clone()
    swapped[[5, 70_000]] = swapped[[70_000, 5]]
    shaped = x[: LARGE - 1].reshape(2, -1)
    others = [sketch(t, seed=1, width=GRAIN) for t in (smallest, swapped, shaped, shaped.T)]
    others.append(sketch(x, seed=1, width=GRAIN, scale=1.0001))
    assert len({whole.digest, *(other.digest for other in others)}) == 6


@pytest.mark.parametrize("shape", ["dense", "one column", "heavy"])
def test_distances_are_unbiased_and_vary_no_more_than_stated(shape):
    """Over 600 seeds: the mean of |Sz|^2/|z|^2 is 1, its variance at most 2/K.

    The column lies in the same place of every row, which a projection without rotations would put
    into one place.
    """
    z = numbers(64 * GRAIN)
    if shape == "one column":
        z = torch.zeros(64, GRAIN).index_fill(1, torch.tensor([3]), 1.0).reshape(-1)
    if shape == "heavy":
        z = z**5
    square = z.double().square().sum().item()
    got = np.array(
        [np.square(sketch(z, seed=s, width=GRAIN).values, dtype=float).sum() for s in range(600)]
    )
    ratios, bound = got / square, 2 / GRAIN
    assert abs(ratios.mean() - 1) < 4 * (bound / 600) ** 0.5
    assert ratios.var() < bound * 1.25  # the variance of 600 such numbers is known to 6 %


def test_the_probe_sketches_every_effective_weight(yulan, folded):
    settings = ChangesProbe.Settings(width=512)
    found = ChangesProbe().measure(yulan, settings, Measuring())
    again = ChangesProbe().measure(yulan, settings, Measuring())
    assert found.tables() == again.tables()
    weights = {(w.module, w.layer): w.tensor for w in yulan.weights("effective")}
    assert ("lm_head", None) in weights  # tied, and a matrix of its own in this view
    assert {(s["module"], s["layer"]) for s in found.sketches} == set(weights)
    for kept in found.sketches:
        tensor = weights[kept["module"], kept["layer"]]
        assert kept["n"] == tensor.numel()
        assert kept["norm"] == pytest.approx(tensor.double().norm().item(), rel=1e-6)
    merged = ChangesProbe().measure(folded, settings, Measuring())
    same = [s for s in merged.sketches if s["module"] != "o_bias"]  # a Llama has it, and zero
    for ours, theirs in zip(found.sketches, same, strict=True):
        assert (ours["module"], ours["layer"]) == (theirs["module"], theirs["layer"])
        np.testing.assert_allclose(ours["values"], theirs["values"], rtol=1e-4, atol=1e-5)


def test_a_tensor_that_is_not_finite_has_an_empty_sketch(yulan, monkeypatch):
    weights = [replace(w, stored=w.stored.clone()) for w in yulan.weights("effective")]
    weights[4].stored.view(-1)[0] = float("nan")
    monkeypatch.setattr(yulan, "weights", lambda view: iter(weights))
    found = ChangesProbe().measure(yulan, ChangesProbe.Settings(), Measuring())
    assert [len(s["values"]) == 0 for s in found.sketches] == [w is weights[4] for w in weights]
    assert found.sketches[4]["norm"] == 0
