"""Phases compared with each other: in all three ways of getting at checkpoints."""

import shutil
import subprocess

import numpy as np
import pytest
import torch

from analysis_db.store import Store
from probes.changes import compared
from tests.e2e.command import WORKBENCH, environment
from tests.fixtures.tiny_checkpoint import write_llama, write_yulan
from workbench.checkpoints import Checkpoint
from workbench.checkpoints.llama import fold_to_llama
from workbench.downloads import pull_suite
from workbench.errors import CheckpointError, UsageError
from workbench.jobs import ProbeRequest, probe_suite
from workbench.jobs.pairs import compare_two
from workbench.settings import Home

TOML = (
    'name = "small"\ntitle = "Small"\nphases = "small/phases.csv"\n'
    'local_hub = "small/hub"\ncache_dir = "../hub"\n'
)
WIDE = ("changes.width=256",)  # narrower than a matrix of the fixture is large


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """Five phases of a local Hub; 3 is 2 merged into a Llama, 4 is 1 again, 5 is not published."""
    home = Home(tmp_path_factory.mktemp("pairs") / "home")
    hub = home.suites / "small" / "hub" / "o"
    hub.mkdir(parents=True)
    (home.suites / "small.toml").write_text(TOML)
    rows = [f"{n},o/p{n},miniyulan,{n / 2}" for n in range(1, 5)] + ["5,,miniyulan,2.5"]
    header = "phase,repo_id,model_type,tokens_b"
    (home.suites / "small/phases.csv").write_text("\n".join([header, *rows]))
    for n in (1, 2):
        write_yulan(hub / f"p{n}", seed=n)
    fold_to_llama(hub / "p2", hub / "p3")
    shutil.copy(hub / "p2" / "tokenizer.json", hub / "p3")
    write_yulan(hub / "p4", seed=1)
    return home


@pytest.fixture
def home(served, tmp_path):
    shutil.copytree(served.root, tmp_path / "home")
    return Home(tmp_path / "home")


def ask(home, **changes):
    request = {"probes": "changes", "settings": WIDE} | changes
    result = probe_suite(ProbeRequest("small", **request), home)
    assert not result.failed
    return result


def rows(home, **where):
    sql = "SELECT * FROM pair_metrics ORDER BY ALL"
    found = Store(home.store).table(sql).to_pylist()
    return [r for r in found if all(r[name] == value for name, value in where.items())]


def exact(home):
    found = Store(home.store).table("SELECT phase_a, phase_b, exact FROM pair_runs").to_pylist()
    return {(r["phase_a"], r["phase_b"]): r["exact"] for r in found}


NEIGHBOURS = {(1, 2), (2, 3), (3, 4)}


def test_neighbours_on_disk_are_exact_the_others_estimated_and_all_are_there(home):
    pull_suite("small", "all", home)
    result = ask(home)
    assert exact(home) == {
        (a, b): (a, b) in NEIGHBOURS for a in range(1, 5) for b in range(a + 1, 5)
    }
    hub = home.suites / "small/hub/o"
    one, two = (
        {(w.module, w.layer): w.tensor.double().numpy() for w in c.weights("effective")}
        for c in (Checkpoint.open(hub / "p1"), Checkpoint.open(hub / "p2"))
    )
    found = {
        (r["module"], r["layer"]): r["value"]
        for r in rows(home, phase_a=1, phase_b=2, metric="relative_change")
    }
    for key, before in one.items():
        change = np.linalg.norm(two[key] - before) / np.linalg.norm(before)
        assert found[key] == pytest.approx(change, rel=1e-9), key
    square = sum(np.square(two[k] - one[k]).sum() for k in one)
    size = sum(np.square(one[k]).sum() for k in one)
    assert found["total", None] == pytest.approx((square / size) ** 0.5, rel=1e-9)
    # The merged form of phase 2 is phase 2, to rounding; estimates know their limits.
    (merged,) = rows(home, phase_a=2, phase_b=3, metric="relative_change", module="total",
                     layer=None)  # fmt: skip
    assert merged["value"] < 1e-6
    for estimate in rows(home, phase_a=1, phase_b=3, module="q_proj"):
        (same,) = rows(home, phase_a=1, phase_b=2, module="q_proj", layer=estimate["layer"],
                       metric=estimate["metric"])  # fmt: skip
        if estimate["metric"] != "change_per_btoken":  # twice the tokens lie between
            assert estimate["value"] == pytest.approx(
                same["value"], abs=2 * estimate["error_bound"]
            )
    pairs = [alarm.partition(" hold the same weights")[0] for alarm in result.alarms]
    assert pairs == ["phase 1 and phase 4", "phase 2 and phase 3"]
    before = rows(home)
    assert ask(home).alarms == result.alarms
    assert rows(home) == before  # nothing was compared again


def test_a_stream_compares_neighbours_while_both_are_there(home):
    ask(home, stream=True)
    assert {pair for pair, is_exact in exact(home).items() if is_exact} == NEIGHBOURS
    streamed = rows(home)
    assert not list((home.root / "hub").glob("models--*/blobs/*"))
    home.store.unlink()
    pull_suite("small", "all", home)
    ask(home)
    for one, other in zip(streamed, rows(home), strict=True):
        assert {**one, "run_id": ""} == {**other, "run_id": ""}


def test_remote_and_without_exact_all_are_estimates(home):
    ask(home, remote=True)
    assert set(exact(home).values()) == {False}
    remote = [{**r, "run_id": ""} for r in rows(home)]
    home.store.unlink()
    pull_suite("small", "all", home)
    ask(home, exact=False)
    assert [{**r, "run_id": ""} for r in rows(home)] == remote


def test_two_phases_are_compared_exactly_on_demand(home):
    pull_suite("small", "1-3", home)
    ask(home, phases="1-3")
    values, alarms = compare_two("small", "3", "1", home)
    assert exact(home)[1, 3]
    assert all(row["exact"] for row in values)
    widths = Store(home.store).table("SELECT DISTINCT settings FROM runs")["settings"].to_pylist()
    assert widths == ['{"width": 256}']  # what had been measured was not measured again
    assert [alarm[:19] for alarm in alarms] == ["phase 2 and phase 3"]
    with pytest.raises(UsageError, match=r"Phase 4 is not on disk.*workbench pull small"):
        compare_two("small", "1", "4", home)
    with pytest.raises(UsageError, match="No checkpoint of phase 5 was published"):
        compare_two("small", "1", "5", home)
    with pytest.raises(UsageError, match="name two different ones"):
        compare_two("small", "2", "2", home)


def test_the_commands_warn_of_the_same_weights_and_print_the_table(home):
    pull_suite("small", "1,4", home)
    env = environment(home.root)

    def call(*words):
        return subprocess.run(
            [WORKBENCH, *words], env=env, capture_output=True, text=True, check=False
        )

    probed = call("probe", "small", "--phases", "1,4", "--probes", "changes")
    assert probed.returncode == 0, probed.stderr
    assert "phase 1 and phase 4 hold the same weights" in probed.stderr
    table = call("compare", "small", "1", "4")
    assert "q_proj" in table.stdout
    assert "relative_change" in table.stdout
    assert "phase 1 and phase 4 hold the same weights" in table.stderr


def test_checkpoints_of_other_shapes_are_not_compared_as_matrices(tmp_path):
    deep = Checkpoint.open(write_llama(tmp_path / "deep"))
    shallow = Checkpoint.open(write_llama(tmp_path / "shallow", num_hidden_layers=2))
    with pytest.raises(CheckpointError, match="Only one of the two checkpoints has the matrix"):
        list(compared(deep.weights("effective"), shallow.weights("effective")))


def test_norms_are_those_of_float64(tmp_path):
    a = Checkpoint.open(write_llama(tmp_path / "a", seed=1))
    b = Checkpoint.open(write_llama(tmp_path / "b", seed=2))
    change = next(compared(a.weights("effective"), b.weights("effective")))
    one, two = (next(iter(c.weights("effective"))).tensor.double() for c in (a, b))
    assert change.norm_a == pytest.approx(one.norm().item(), rel=1e-12)
    assert change.distance == pytest.approx(torch.dist(one, two).item(), rel=1e-12)


def test_activations_of_two_phases_have_their_cka(home):
    pull_suite("small", "1,2,4", home)
    settings = ("activations.windows_per_domain=2", "activations.window=32",
                "activations.sampled_tokens=64")  # fmt: skip
    ask(home, probes="activations", settings=settings, phases="1,2,4")
    found = {
        (r["phase_a"], r["phase_b"], r["module"], r["layer"]): r["value"]
        for r in rows(home, metric="cka")
    }
    assert {key[2:] for key in found} == {("embed", None), *(("residual", n) for n in range(3))}
    for module, layer in {key[2:] for key in found}:
        assert found[1, 4, module, layer] == pytest.approx(1.0, abs=1e-5)  # the same weights
        assert found[1, 2, module, layer] < 0.95
    nulls = rows(home, metric="cka_null_95")
    assert len(nulls) == len(found)
    assert all(abs(r["value"]) < 0.5 for r in nulls)
