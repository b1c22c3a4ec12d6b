"""Pairs of phases from sketches: values, errors, aggregates, what is done again and what is not."""

import json
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
import torch

from analysis_db import pairs
from analysis_db.pair_values import ExactChange
from probes.base import Measurements
from probes.sketches import seed_of, sketch
from tests.analysis_db.rows import run

WIDTH = 512
MATRICES = [("q_proj", 0), ("q_proj", 1), ("down_proj", 0), ("down_proj", 1), ("embed", None)]
NORMS = [("input_norm", 0), ("input_norm", 1)]


def weights(seed, step=0.0):
    """Matrices that move by ``step`` times noise away from those of seed 0; and norms near one."""
    base, noise = np.random.default_rng(0), np.random.default_rng(seed)
    found = {}
    for key in MATRICES:
        start = base.standard_normal((60, 200))
        found[key] = start + step * noise.standard_normal(start.shape)
    for key in NORMS:
        found[key] = 1 + 0.1 * noise.standard_normal(40)
    return {key: value.astype(np.float32) for key, value in found.items()}


def sketched(tensors, width=WIDTH):
    found = Measurements()
    for (module, layer), tensor in tensors.items():
        kept = sketch(torch.from_numpy(tensor), seed=seed_of(f"{module} {layer}"), width=width)
        found.add_sketch(
            "weight", kept.values, view="effective", layer=layer, module=module, n=tensor.size,
            norm=kept.norm, digest=kept.digest,
        )  # fmt: skip
    return found.tables()


def put(store, phase, tensors, *, minutes=None, name=None, width=WIDTH, kind="changes"):
    minutes = phase if minutes is None else minutes
    record = run(name or f"{kind} {phase}", phase=phase, probe=kind, minutes=minutes)
    store.write_run(record, sketched(tensors, width))


def update(store):
    return pairs.update_weights(store, "s", code_version="1")


def values(store, metric, a=1, b=2):
    rows = store.table(
        "SELECT layer, module, value, error_bound, exact FROM pair_metrics "
        "WHERE metric = $metric AND phase_a = $a AND phase_b = $b",
        {"metric": metric, "a": a, "b": b},
    ).to_pylist()
    assert len(rows) == len({(r["module"], r["layer"]) for r in rows})
    return {(r["module"], r["layer"]): r for r in rows}


def expected(one, two, keys):
    """relative_change and cosine over some tensors, from the tensors themselves."""
    x = np.concatenate([one[key].reshape(-1).astype(float) for key in keys])
    y = np.concatenate([two[key].reshape(-1).astype(float) for key in keys])
    norm = np.linalg.norm
    return norm(y - x) / norm(x), x @ y / (norm(x) * norm(y))


GROUPS = {
    ("q_proj", 0): [("q_proj", 0)],
    ("embed", None): [("embed", None)],
    ("input_norm", 1): [("input_norm", 1)],
    ("q_proj", None): [("q_proj", 0), ("q_proj", 1)],
    ("total", 1): [("q_proj", 1), ("down_proj", 1), ("input_norm", 1)],
    ("total", None): MATRICES + NORMS,
}


def test_estimates_lie_within_their_bounds_and_bounds_are_what_they_should_be(store):
    one, two = weights(1), weights(2, step=0.2)
    put(store, 1, one)
    put(store, 2, two)
    assert update(store) == 1
    change, cosine = values(store, "relative_change"), values(store, "cosine")
    assert set(change) == set(cosine)
    assert len(change) == 7 + 3 + 3  # tensors; modules, of which embed is its tensor; totals
    for key, members in GROUPS.items():
        r, c = expected(one, two, members)
        assert change[key]["value"] == pytest.approx(r, abs=1.5 * change[key]["error_bound"] + 1e-6)
        assert cosine[key]["value"] == pytest.approx(c, abs=1.5 * cosine[key]["error_bound"] + 1e-6)
    # One matrix: two deviations of the square are 2 sqrt(2/K), of its root half of that.
    bound = change["q_proj", 0]["error_bound"] / change["q_proj", 0]["value"]
    assert bound == pytest.approx((2 / WIDTH) ** 0.5, rel=0.03)
    # Two equal ones: less by the root of two.
    bound = change["q_proj", None]["error_bound"] / change["q_proj", None]["value"]
    assert bound == pytest.approx((1 / WIDTH) ** 0.5, rel=0.05)
    assert (change["input_norm", 1]["exact"], change["input_norm", 1]["error_bound"]) == (True, 0)
    assert not change["total", None]["exact"]
    per_token = values(store, "change_per_btoken")  # half a billion between neighbours
    assert per_token["total", None]["value"] == 2 * change["total", None]["value"]
    assert per_token["q_proj", 0]["error_bound"] == 2 * change["q_proj", 0]["error_bound"]


def test_the_bound_holds_for_about_95_percent(store):
    """200 tensors of 40 pairs of sketches; a binomial of 0.95 and 200 lies above 0.90."""
    inside = 0
    for i in range(200):
        random = np.random.default_rng(i)
        x = random.standard_normal((30, 128)).astype(np.float32)
        y = x + 0.1 * random.standard_normal(x.shape).astype(np.float32)
        found = pairs.compare_module(
            "q_proj", pairs.pa.concat_tables(
                [sketched({("q_proj", i): t})["sketches"].append_column("run_id", [[name]])
                 for name, t in (("a", x), ("b", y))]
            ), ["a", "b"], [1, 2],
        )  # fmt: skip
        rows = pairs.pair_rows(found, [(1, 2)]).table.to_pylist()
        row = next(r for r in rows if r["metric"] == "relative_change" and r["layer"] == i)
        r, _ = expected({"t": x}, {"t": y}, ["t"])
        inside += abs(row["value"] - r) <= row["error_bound"]
    assert 180 <= inside <= 200


def test_identical_weights_are_exactly_zero_and_raise_the_alarm(store):
    put(store, 1, weights(1))
    put(store, 2, weights(1))
    update(store)
    change = values(store, "relative_change")
    assert {(r["value"], r["error_bound"], r["exact"]) for r in change.values()} == {(0, 0, True)}
    assert {r["value"] for r in values(store, "cosine").values()} == {1.0}
    (alarm,) = pairs.identity_alarms(store, "s")
    assert alarm.startswith("phase 1 and phase 2 hold the same weights")


def test_one_element_that_differs_is_no_alarm(store):
    two = weights(1)
    two["embed", None][3, 4] *= 1.0001
    put(store, 1, weights(1))
    put(store, 2, two)
    update(store)
    change = values(store, "relative_change")
    assert change["q_proj", 0]["value"] == 0
    assert change["embed", None]["value"] > 0
    assert pairs.identity_alarms(store, "s") == []


def test_only_what_is_new_is_compared(store):
    put(store, 1, weights(1))
    put(store, 2, weights(2, 0.1))
    assert (update(store), update(store)) == (1, 0)
    put(store, 3, weights(3, 0.2))
    assert (update(store), update(store)) == (2, 0)
    before = values(store, "cosine")
    # Phase 2 with other weights: its old pairs are gone, its new ones are there.
    put(store, 2, weights(5, 0.5), minutes=20, name="again")
    assert values(store, "cosine") == {}
    assert update(store) == 2
    assert values(store, "cosine")["total", None]["value"] < before["total", None]["value"]


def test_exact_values_take_the_place_of_estimates_and_stay(store):
    one, two = weights(1), weights(2, step=0.2)
    put(store, 1, one)
    put(store, 2, two)
    update(store)
    a, b = pairs.sketch_runs(store, "s", "weight")
    norm = np.linalg.norm
    changes = [
        ExactChange(k, *(float(norm(x.astype(float))) for x in (one[k], two[k], two[k] - one[k])))
        for k in one
    ]
    pairs.write_exact(store, "s", pairs.PairToDo(a, b), changes, code_version="1")
    change = values(store, "relative_change")
    for key, members in GROUPS.items():
        r, _ = expected(one, two, members)
        assert change[key]["value"] == pytest.approx(r, rel=1e-6)
        assert (change[key]["exact"], change[key]["error_bound"]) == (True, 0)
    assert pairs.exact_pairs(store, "s") == {(1, 2)}
    assert update(store) == 0  # no estimate comes over it, though the run is repeated
    store.write_run(
        run("forced", phase=1, probe="changes", minutes=90, fingerprint="print of changes 1"),
        sketched(one),
    )
    assert update(store) == 0
    assert values(store, "relative_change")["total", None]["exact"]


@pytest.mark.parametrize("case", ["missing", "size", "width", "not finite"])
def test_what_cannot_be_compared_has_no_value_and_a_reason(store, case):
    one, two = weights(1), weights(2, 0.1)
    width = WIDTH
    if case == "missing":
        del two["down_proj", 1]
    if case == "size":
        two["down_proj", 1] = two["down_proj", 1][:50]
    if case == "width":
        width = 1024
    tables = sketched(two, width)
    if case == "not finite":
        rows = tables["sketches"].to_pylist()
        for row in rows:
            if (row["module"], row["layer"]) == ("down_proj", 1):
                row |= {"values": [], "norm": 0.0}
        tables = {"sketches": pairs.pa.Table.from_pylist(rows, schema=tables["sketches"].schema)}
    put(store, 1, one)
    store.write_run(run("two", phase=2, probe="changes"), tables)
    update(store)
    change = values(store, "relative_change")
    gone = {("down_proj", 1), ("down_proj", None), ("total", 1), ("total", None)}
    assert not gone & set(change)
    assert (("q_proj", 0) in change) == (case != "width")
    (row,) = store.table("SELECT reason FROM pair_runs").to_pylist()
    assert "weights cannot be compared" in row["reason"]
    assert case == "width" or "1 of 7" in row["reason"]


def test_a_bias_that_one_form_lacks_is_zero_in_it(store):
    one, two = weights(1), weights(2, 0.1)
    two["o_bias", 0] = np.zeros(40, np.float32)
    put(store, 1, one)
    put(store, 2, two)
    update(store)
    r, _ = expected(one, two, MATRICES + NORMS)
    total = values(store, "relative_change")["total", None]
    assert total["value"] == pytest.approx(r, abs=1.5 * total["error_bound"])
    assert ("o_bias", 0) not in values(store, "relative_change")  # nothing to be relative to
    assert ("o_bias", 0) not in values(store, "cosine")


def grams(seed, shift, n=24, layers=2):
    random = np.random.default_rng(seed)
    base = np.random.default_rng(0).standard_normal((layers, n, 6))
    found = Measurements()
    for layer in range(layers):
        x = base[layer] + shift * random.standard_normal((n, 6))
        gram = x @ x.T
        triangle = gram[np.triu_indices(n)]
        norm = float(np.sqrt(np.trace(gram)))
        found.add_sketch(
            "activation_gram", triangle, layer=layer, module="residual", n=n, norm=norm
        )
    return found.tables()


def test_cka_of_phases_on_the_same_tokens(store):
    for phase, token_set in ((1, "t"), (2, "t"), (3, "other")):
        # The same text in all three; of the last one other tokens were kept.
        notes = json.dumps({"token_set_sha256": "x", "sampled_token_set_sha256": token_set})
        started = datetime(2026, 11, 24, tzinfo=UTC) + timedelta(minutes=phase)
        record = run(f"act {phase}", phase=phase, probe="activations", notes=notes,
                     started_at=started)  # fmt: skip
        store.write_run(record, grams(phase, 0.3, n=24 if phase < 3 else 20))
    assert pairs.update_activations(store, "s", code_version="1") == 3
    assert pairs.update_activations(store, "s", code_version="1") == 0
    rows = store.table("SELECT DISTINCT phase_a, phase_b FROM pair_metrics").to_pylist()
    assert rows == [{"phase_a": 1, "phase_b": 2}]
    found = {m: values(store, m) for m in ("cka", "cka_null", "cka_null_95")}
    assert set(found["cka"]) == {("residual", 0), ("residual", 1)}
    for site in found["cka"]:
        assert 0.7 < found["cka"][site]["value"] < 1
        assert abs(found["cka_null"][site]["value"]) < 0.05
        assert 0 < found["cka_null_95"][site]["value"] < 0.3
    reasons = store.table("SELECT phase_b, reason FROM pair_runs WHERE reason IS NOT NULL")
    assert set(reasons["phase_b"].to_pylist()) == {3}
    assert "not of the same tokens" in reasons["reason"][0].as_py()


@pytest.mark.parametrize("broken", ["empty", "nan"])
def test_a_site_that_is_not_finite_has_no_cka_and_a_reason(store, broken):
    notes = json.dumps({"token_set_sha256": "t"})
    for phase in (1, 2, 3):
        tables = grams(phase, 0.3)
        if phase == 2:
            rows = tables["sketches"].to_pylist()
            lost = [] if broken == "empty" else [float("nan")] * len(rows[1]["values"])
            rows[1] |= {"values": lost, "norm": 0.0}
            schema = tables["sketches"].schema
            tables = {"sketches": pairs.pa.Table.from_pylist(rows, schema=schema)}
        record = run(f"act {phase}", phase=phase, probe="activations", minutes=phase, notes=notes)
        store.write_run(record, tables)
    pairs.update_activations(store, "s", code_version="1")
    assert set(values(store, "cka", 1, 3)) == {("residual", 0), ("residual", 1)}
    assert set(values(store, "cka", 1, 2)) == {("residual", 0)}
    rows = store.table("SELECT phase_a, phase_b, reason FROM pair_runs").to_pylist()
    why = "1 sites have no CKA: at 1 (residual of layer 1 first) the activations of the {} phase "
    assert {(r["phase_a"], r["phase_b"]): r["reason"] for r in rows} == {
        (1, 2): why.format("later") + "have NaN or Inf.",
        (2, 3): why.format("earlier") + "have NaN or Inf.",
        (1, 3): None,
    }
