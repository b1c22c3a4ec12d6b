"""GPT-NeoX and OLMo 2 checkpoints through the whole path: pulled, probed, stored, asked for."""

import pytest

from analysis_db import queries
from analysis_db.examples import EXAMPLES
from analysis_db.store import Store
from tests.fixtures.tiny_checkpoint import write_neox, write_olmo2
from workbench.downloads import pull_suite
from workbench.jobs import ProbeRequest, probe_suite
from workbench.settings import Home

TOML = (
    'name = "families"\ntitle = "Families"\nphases = "families/phases.csv"\n'
    'local_hub = "families/hub"\ncache_dir = "../hub"\n'
)
PHASES = "phase,repo_id,model_type\n1,o/neox,gpt_neox\n2,o/olmo2,olmo2\n"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    home = Home(tmp_path_factory.mktemp("families") / "home")
    (home.suites / "families").mkdir(parents=True)
    (home.suites / "families.toml").write_text(TOML)
    (home.suites / "families" / "phases.csv").write_text(PHASES)
    hub = home.suites / "families" / "hub" / "o"
    write_neox(hub / "neox")
    write_olmo2(hub / "olmo2")
    pull_suite("families", "1-2", home)
    result = probe_suite(ProbeRequest("families", phases="1-2", probes="weights,spectra"), home)
    assert not result.failed
    assert [row["status"] for row in result.rows()] == ["measured"] * 4
    return Store(home.store)


def modules(store, phase, probe):
    sql = "SELECT DISTINCT module FROM phase_metrics WHERE phase = $phase AND probe = $probe"
    return set(store.table(sql, {"phase": phase, "probe": probe})["module"].to_pylist())


def test_each_family_is_stored_under_the_canonical_modules(store):
    attention = {"q_proj", "k_proj", "v_proj", "o_proj"}
    assert modules(store, 1, "spectra") == attention | {
        "qk", "ov", "up_proj", "down_proj", "embed", "lm_head"
    }  # fmt: skip
    assert modules(store, 2, "spectra") == modules(store, 1, "spectra") | {"gate_proj"}
    assert {"q_bias", "down_bias", "final_norm_bias", "input_norm"} <= modules(store, 1, "weights")
    assert {"attention_output_norm", "mlp_output_norm", "q_norm"} <= modules(store, 2, "weights")


def test_means_over_layers_leave_the_heads_out(store):
    seam = queries.seam(store, "families", "frobenius", "q_proj")
    whole = store.table(
        "SELECT avg(value) AS mean FROM phase_metrics WHERE metric = 'frobenius' AND phase = 1 "
        "AND module = 'q_proj' AND view = 'stored' AND head IS NULL"
    )["mean"][0].as_py()
    at = {(row.series, row.phase): row.value for row in seam.itertuples()}
    assert at["stored", 1] == pytest.approx(whole)
    grown = store.table(next(e.sql for e in EXAMPLES if e.name == "matrices-that-grew"))
    sql = (
        "SELECT value FROM phase_metrics WHERE metric = 'rms' AND layer = $layer "
        "AND module = $module AND view = 'effective' AND head IS NULL ORDER BY phase"
    )
    for row in grown.to_pylist():
        where = {"layer": row["layer"], "module": row["module"]}
        first, *_, last = 2 * store.table(sql, where)["value"].to_pylist()
        assert (row["first"], row["last"]) == (first, last)
