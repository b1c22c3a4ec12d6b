"""Sound, diverged and start-token-dominated checkpoints through the real command."""

import math

import pytest
from safetensors.torch import load_file, save_file

from analysis_db import Store
from tests.e2e.command import workbench
from tests.fixtures.tiny_checkpoint import write_llama
from workbench.settings import Home

DOWN = "model.layers.1.mlp.down_proj.weight"
NAMES = ("sound", "diverged", "massive", "copy")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("diverged") / "home"
    for name in NAMES:
        path = write_llama(folder / "suites" / "made" / name) / "model.safetensors"
        weights = load_file(path)
        if name == "diverged":
            weights[DOWN][4, 3] = math.nan
        if name == "massive":
            weights["model.embed_tokens.weight"][1, 5] = 1e4  # of the start token
        if name == "copy":
            weights["model.norm.weight"] *= 1.01
        save_file(weights, path, {"format": "pt"})
    phases = "".join(f'[[phases]]\nfolder = "made/{name}"\n' for name in NAMES)
    (folder / "suites" / "tiny.toml").write_text(f'name = "tiny"\ntitle = "Tiny"\n{phases}')
    return folder


@pytest.fixture(scope="module")
def measured(home):
    done = workbench("probe", "tiny", "--probes", "activations,attention", home=home)
    return done, Store(Home(home).store)


def one(store, sql):
    (row,) = store.table(sql).to_pylist()
    return row


def test_a_diverged_checkpoint_is_measured_up_to_the_bad_layer(measured):
    done, store = measured
    said = " ".join((done.stdout + done.stderr).split())
    assert f"NaN or Inf in {DOWN}" in said
    assert "activations are not finite from mlp of layer 1 on" in said
    here = "FROM scoped_metrics WHERE suite = 'tiny' AND phase = 2 AND probe = 'activations'"
    modules = store.table(f"SELECT DISTINCT module {here} AND layer = 1 ORDER BY 1")["module"]
    assert modules.to_pylist() == [
        "attention", "input_norm", "mlp", "post_attention_norm", "residual_mid",
    ]  # fmt: skip
    in_mlp = store.table(f"SELECT DISTINCT metric {here} AND layer = 1 AND module = 'mlp'")
    assert in_mlp["metric"].to_pylist() == ["dead_fraction"]
    assert one(store, f"SELECT count(*) AS n {here} AND layer = 2")["n"] == 0
    same = one(
        store,
        "SELECT count(*) AS n, count(*) FILTER (a.value = b.value) AS equal "
        "FROM scoped_metrics a JOIN scoped_metrics b USING (suite, probe, metric, module, layer, "
        "scope) WHERE a.phase = 1 AND b.phase = 2 AND a.layer = 0 AND probe = 'activations'",
    )
    assert same["n"] == same["equal"] > 200
    reasons = store.table(
        "SELECT DISTINCT reason FROM missing_values WHERE phase = 2 AND module = 'residual' "
        "AND layer = 2 AND metric = 'variance_mean'"
    )["reason"].to_pylist()
    assert len(reasons) == 1
    assert reasons[0].endswith("the first site that is not finite is mlp of layer 1")
    heads = store.table(
        "SELECT DISTINCT layer FROM phase_metrics WHERE phase = 2 AND probe = 'attention' "
        "ORDER BY layer"
    )
    assert heads["layer"].to_pylist() == [0, 1]


def test_the_other_pairs_are_compared_and_the_rest_says_why(measured):
    _, store = measured
    counted = store.table(
        "SELECT phase_a, phase_b, count(*) AS n FROM pair_metrics WHERE metric = 'cka' "
        "GROUP BY ALL ORDER BY ALL"
    ).to_pylist()
    sites = {(row["phase_a"], row["phase_b"]): row["n"] for row in counted}
    assert sites == {(1, 2): 2, (1, 3): 4, (1, 4): 4, (2, 3): 2, (2, 4): 2, (3, 4): 4}
    reasons = store.table(
        "SELECT phase_a, phase_b, reason FROM pair_runs ORDER BY 1, 2"
    ).to_pylist()
    for row in reasons:
        said = "2 sites have no CKA: at 2 (residual of layer 1 first) the activations of the"
        if 2 in (row["phase_a"], row["phase_b"]):
            assert row["reason"].startswith(said)
        else:
            assert row["reason"] is None


def test_the_start_token_dominates_the_mean_and_neither_scope_nor_median(measured):
    _, store = measured
    sql = (
        "SELECT scope, metric, max(value) FILTER (phase = 3) / max(value) FILTER (phase = 1) AS "
        "ratio FROM scoped_metrics WHERE module = 'embed' AND metric IN ('variance_mean', "
        "'variance_median') GROUP BY ALL"
    )
    ratio = {(r["metric"], r["scope"]): r["ratio"] for r in store.table(sql).to_pylist()}
    assert ratio["variance_mean", "all"] > 1e4
    assert ratio["variance_mean", "no_start"] == 1
    assert ratio["variance_mean", "no_massive"] == pytest.approx(1, rel=0.01)
    assert ratio["variance_median", "all"] == pytest.approx(1, rel=0.01)
    places = one(
        store,
        "SELECT edges, counts FROM histograms WHERE metric = 'massive_position' AND phase = 3 "
        "AND module = 'embed'",
    )
    windows = one(
        store, "SELECT value FROM phase_metrics WHERE metric = 'massive_tokens' AND phase = 3 "
        "AND module = 'embed'",
    )["value"]  # fmt: skip
    assert (places["edges"][:2], places["counts"][0]) == ([0.0, 1.0], windows)
    duplicates = store.table(
        "SELECT 1 FROM phase_metrics GROUP BY suite, phase, probe, metric, view, layer, module, "
        "head, domain HAVING count(*) > 1"
    )
    assert duplicates.num_rows == 0
