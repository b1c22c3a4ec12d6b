"""The whole path on the real suite, through the public commands.

One file, so that one of the workers makes the suite and keeps it.
"""

import csv
import io
import json
import re
import subprocess

import pytest

from analysis_db import Store
from analysis_db.export import rebuild
from tests.app.browser import PAGES, chromium, dashboard, visit
from tests.e2e.command import WORKBENCH, environment, workbench
from workbench.settings import Home
from workbench.suites import load_suite

DOMAINS = ("chinese", "code", "maths", "web")
EVERYWHERE = ("activations", "attention", "benchmarks", "changes", "loss", "spectra", "weights")
PROBES = ("optimizer", *EVERYWHERE)
JOBS = 26 * (len(EVERYWHERE) + 1) + 2
"""Benchmarks are two tasks, a job each; two phases have the state of an optimizer."""


@pytest.fixture(scope="module")
def store(demo_home):
    return Store(Home(demo_home).store)


def rows(store, sql, **params):
    return store.table(sql, params).to_pylist()


def test_demo_measures_every_published_phase(demo, store):
    _, counts = demo
    assert counts["checkpoints"] == 26
    assert counts["jobs"] == JOBS
    per_phase = rows(
        store, "SELECT phase, count(*) AS n FROM phase_metrics WHERE suite = 'demo' GROUP BY phase"
    )
    assert sorted(row["phase"] for row in per_phase) == [*range(1, 26), 27]
    assert min(row["n"] for row in per_phase) > 1500


def test_loss_falls_in_every_domain_and_annealing_drops_it(store):
    nll = {
        (row["domain"], row["phase"]): row["value"]
        for row in rows(
            store,
            "SELECT domain, phase, value FROM phase_metrics "
            "WHERE suite = 'demo' AND metric = 'nll' AND module IS NULL",
        )
    }
    for domain in DOMAINS:
        assert nll[domain, 27] < nll[domain, 1] - 0.8
        assert nll[domain, 27] < min(nll[domain, phase] for phase in (23, 24, 25))


def test_training_log_has_every_step_and_the_schedule(store):
    steps = rows(
        store,
        "SELECT metric, count(*) AS n, max(step) AS last FROM training_steps "
        "WHERE run = 'demo' AND layer IS NULL GROUP BY metric",
    )
    assert {row["metric"] for row in steps} >= {"loss", "lr", "grad_norm", "z_loss"}
    assert {(row["n"], row["last"]) for row in steps} == {(972, 972)}
    variance = rows(
        store,
        "SELECT DISTINCT layer FROM training_steps WHERE metric = 'hidden_variance' ORDER BY layer",
    )
    assert [row["layer"] for row in variance] == list(range(6))
    lr = [
        row["value"]
        for row in rows(store, "SELECT value FROM training_steps WHERE metric = 'lr' ORDER BY step")
    ]
    assert lr[0] == 0
    assert max(lr) == lr[100] == lr[899] == 0.006
    assert lr[-1] == pytest.approx(0.006 * 0.00522)


def test_phase_26_is_absent_and_has_no_value(store):
    absent = rows(store, "SELECT probe, status FROM coverage WHERE suite = 'demo' AND phase = 26")
    assert {(row["probe"], row["status"]) for row in absent} == {(p, "absent") for p in PROBES}
    assert rows(store, "SELECT * FROM phase_metrics WHERE suite = 'demo' AND phase = 26") == []


def test_optimizer_states_are_measured_where_they_were_published(store):
    status = rows(
        store, "SELECT phase, status FROM coverage WHERE suite = 'demo' AND probe = 'optimizer'"
    )
    assert {row["phase"] for row in status if row["status"] == "measured"} == {20, 25}
    assert {row["status"] for row in status} == {"measured", "absent"}
    ratios = rows(
        store,
        "SELECT phase, module, value FROM phase_metrics WHERE suite = 'demo' "
        "AND metric = 'update_ratio' AND layer IS NULL",
    )
    assert {row["phase"] for row in ratios} == {20, 25}
    assert {row["module"] for row in ratios} >= {"embed", "q_proj", "q_proj_alpha", "final_norm"}
    assert all(1e-6 < row["value"] < 0.5 for row in ratios)
    settings = rows(store, "SELECT DISTINCT settings FROM runs WHERE probe = 'optimizer'")
    assert json.loads(settings[0]["settings"])["matrix_lr"] == pytest.approx(0.006 / 1.75)


def test_runs_keep_their_provenance(store):
    runs = rows(store, "SELECT * FROM runs WHERE suite = 'demo'")
    assert len(runs) == JOBS
    for run in runs:
        assert re.fullmatch(r"[0-9a-f]{40}", run["commit_sha"])
        hashes = json.loads(run["file_hashes"])
        assert re.fullmatch(r"[0-9a-f]{64}", hashes["model.safetensors"])
        assert run["device"] == "cpu"
        assert run["dtype"] == "float32"
        assert run["code_version"]
        expected = {"rope_theta": 10000.0, "max_position_embeddings": 128}
        assert json.loads(run["overrides"]) == (expected if run["phase"] == 25 else {})
    loss_notes = {run["notes"] for run in runs if run["probe"] == "loss"}
    assert len(loss_notes) == 1
    assert "token_set_sha256" in loss_notes.pop()


def test_only_the_home_folder_was_written(demo_home):
    assert not (demo_home.parent / "huggingface" / "hub").exists()
    suite = load_suite("demo", Home(demo_home))
    assert suite.cache_dir.resolve() == (demo_home / "hub").resolve()
    cached = {path.name for path in (demo_home / "hub").glob("models--*")}
    assert len(cached) == 26
    snapshots = list((demo_home / "hub").glob("models--*/snapshots/*/*"))
    assert snapshots
    assert not [path for path in snapshots if path.suffix == ".py"]


def test_published_shares_are_met(store):
    mix = rows(
        store,
        "SELECT phase, category, sum(share) AS share FROM data_mix_share "
        "WHERE suite = 'demo' GROUP BY ALL",
    )
    published = rows(
        store,
        "SELECT phase, CASE WHEN category LIKE 'english%' THEN 'english-web' ELSE category END "
        "AS category, sum(share) AS share FROM data_mix_share "
        "WHERE suite = 'yulan-mini' AND run <> '26-4k' GROUP BY ALL",
    )
    wanted = {(row["phase"], row["category"]): row["share"] for row in published}
    assert len(mix) == len(wanted) == 27 * 4
    for row in mix:
        assert row["share"] == pytest.approx(wanted[row["phase"], row["category"]], abs=0.01)


def test_demo_again_finds_the_work_done(demo_home, store):
    before = rows(store, "SELECT count(*) AS n FROM runs")
    workbench("demo", home=demo_home, timeout=120)
    assert rows(store, "SELECT count(*) AS n FROM runs") == before


def test_probe_measures_again_only_when_forced_and_values_stay(demo_home, store):
    def values():
        return rows(
            store,
            "SELECT metric, layer, head, module, domain, view, value FROM phase_metrics "
            "WHERE suite = 'demo' AND phase = 27 AND probe IN ('loss', 'attention') ORDER BY ALL",
        )

    before = values()
    words = ("probe", "demo", "--phases", "27", "--probes", "loss,attention", "--json")
    assert json.loads(workbench(*words, home=demo_home).stdout) == []
    again = json.loads(workbench(*words, "--force", home=demo_home).stdout)
    assert [row["status"] for row in again] == ["measured", "measured"]
    assert values() == before


def test_commands_tell_the_same_story(demo_home):
    def said(*words):
        return json.loads(workbench(*words, "--json", home=demo_home).stdout)

    suites = {row["suite"]: row for row in said("suites")}
    assert (suites["demo"]["published"], suites["demo"]["on_disk"]) == (26, 26)
    # Counted by phase and probe, whatever number of jobs the probe's work came in.
    assert suites["demo"]["measured_jobs"] == 26 * len(EVERYWHERE) + 2
    assert (suites["yulan-mini"]["phases"], suites["yulan-mini"]["published"]) == (27, 26)
    phases = said("phases", "demo")
    assert phases[25]["repo_id"] == "not published"
    assert "rope_theta = 10000.0" in phases[24]["note"]
    assert [row["weights"] for row in said("status", "demo")][24:] == [
        "measured",
        "absent",
        "measured",
    ]
    assert said("failures", "demo") == []
    pulled = said("pull", "demo", "--phases", "25-27", "--with-optimizer")
    assert [row["status"] for row in pulled] == ["on disk", "absent", "on disk"]
    universal = list((demo_home / "hub").glob("**/global_step900_universal/zero/*/exp_avg.pt"))
    assert len(universal) > 50
    assert {row["view"] for row in said("schema")} >= {"phase_metrics", "coverage", "spikes"}
    states = {row["what"]: row["state"] for row in said("doctor", "--offline")}
    assert states["store"] == "fine"


def test_sql_in_every_format(demo_home, tmp_path):
    query = "SELECT phase, value FROM phase_metrics WHERE metric = 'bits_per_byte' AND domain = $d"
    words = ("sql", query + " ORDER BY phase", "-p", "d=code")
    as_json = json.loads(workbench(*words, "--format", "json", home=demo_home).stdout)
    as_csv = csv.DictReader(
        io.StringIO(workbench(*words, "--format", "csv", home=demo_home).stdout)
    )
    assert [float(row["value"]) for row in as_csv] == [row["value"] for row in as_json]
    assert len(as_json) == 26
    assert "26 rows" in workbench(*words, home=demo_home).stderr


def test_every_page_shows_the_demo(demo_home):
    with dashboard(demo_home) as address, chromium() as browser:
        for path in PAGES:
            text = visit(browser, address, path)
            if path not in (
                "training",
                "data-mix",
                "moved",
                "sql",
            ):  # those without the phases' axis
                assert "Phase 26: not published" in text


def test_the_published_traps_are_found_and_nothing_else(demo_home):
    audited = workbench("audit", "demo", "--json", home=demo_home, expect=1)
    findings = json.loads(audited.stdout)["findings"]
    errors = [row for row in findings if row["severity"] == "error"]
    assert {(row["phase"], row["check"]) for row in errors} == {(25, "config-value")}
    corrected = [row for row in findings if "corrected by the catalogue" in row["message"]]
    assert {row["phase"] for row in corrected} == {25}
    assert [row["phase"] for row in findings if row["check"] == "not-published"] == [26]


def test_a_dry_run_has_nothing_left_to_fetch(demo_home):
    plan = json.loads(workbench("pull", "demo", "--dry-run", "--json", home=demo_home).stdout)
    assert plan["fetch_bytes"] == 0
    assert plan["peak_disk_bytes"] == plan["cached_bytes"] > 26 * 2e6
    states = [row["phase"] for row in plan["phases"] if row["status"] == "absent"]
    assert states == [26]


def test_what_is_measured_on_disk_is_measured_remotely_and_in_a_stream(demo_home):
    for way in ("--remote", "--stream"):
        words = ("probe", "demo", "--probes", "weights", "--phases", "20-27", way, "--json")
        assert json.loads(workbench(*words, home=demo_home).stdout) == []


def test_a_phase_is_folded_and_loads_without_this_package(demo_home, tmp_path):
    out = tmp_path / "llama"
    workbench("convert", "25", str(out), "--to", "llama", "--suite", "demo", home=demo_home)
    config = json.loads((out / "config.json").read_text())
    assert (config["model_type"], config["max_position_embeddings"]) == ("llama", 128)
    assert (out / "model.safetensors").exists()


def test_the_store_exported_and_made_again_is_equal(demo_home, store, tmp_path):
    workbench("export", "--all", str(tmp_path / "all"), home=demo_home)
    again = Store(tmp_path / "again.duckdb")
    rebuild(again, tmp_path / "all")
    for view in ("phase_metrics", "runs", "training_steps", "findings"):
        sql = f"FROM {view} ORDER BY ALL"
        assert again.table(sql).equals(store.table(sql)), view


def test_status_of_all_probes_fits_a_terminal_of_80_columns(demo_home):
    env = environment(demo_home) | {"COLUMNS": "80"}
    done = subprocess.run(
        [WORKBENCH, "status", "demo"], env=env, capture_output=True, text=True, check=True
    )
    assert any(line.split() == ["phase", *sorted(PROBES)] for line in done.stdout.splitlines())


def test_the_demo_searches_its_log_for_spikes(store):
    scores = rows(store, "SELECT metric, n FROM spike_scores WHERE run = 'demo'")
    assert {row["metric"] for row in scores} == {"loss", "grad_norm"}
    assert {row["n"] for row in scores} == {972}
