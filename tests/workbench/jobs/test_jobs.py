"""Jobs on real checkpoints: what is planned, skipped, measured, failed and retried."""

import json
import shlex
import shutil

import pytest

from analysis_db.store import Store
from probes.loss import LossProbe
from tests.fixtures.tiny_checkpoint import write_yulan
from workbench.downloads import pull_suite
from workbench.errors import UsageError
from workbench.hub.hashes import FileHashes
from workbench.jobs import (
    ProbeRequest,
    coverage,
    failed_runs,
    find_metrics,
    probe_suite,
    resolve_device,
    select_probes,
)
from workbench.jobs.local import run_jobs
from workbench.jobs.plan import plan_jobs
from workbench.jobs.supply import Supply
from workbench.settings import Home
from workbench.suites import load_suite

TOML = (
    'name = "small"\ntitle = "Small"\nphases = "small/phases.csv"\n'
    'local_hub = "small/hub"\ncache_dir = "../hub"\n'
)
PHASES = (
    "phase,stage,repo_id,model_type,has_optimizer\n"
    "1,stable,o/one,miniyulan,false\n"
    "2,stable,o/two,miniyulan,true\n"
    "3,annealing,,yulanmini,false\n"
    "4,annealing,o/four,miniyulan,false\n"
    "5,annealing,o/five,miniyulan,false\n"
)
QUICK = "loss.bytes_per_domain=4000"
ASKED = ProbeRequest(
    "small", phases="1,2,4", probes="weights,loss", settings=("loss.window=256", QUICK)
)


@pytest.fixture(scope="session")
def pulled(tmp_path_factory):
    """A home with phases 1, 2 and 4 of a suite on disk; 3 is unpublished, 5 not pulled."""
    home = Home(tmp_path_factory.mktemp("jobs") / "home")
    (home.suites / "small").mkdir(parents=True)
    (home.suites / "small.toml").write_text(TOML)
    (home.suites / "small" / "phases.csv").write_text(PHASES)
    hub = home.suites / "small" / "hub" / "o"
    for seed, name in enumerate(("one", "two", "four", "five")):
        write_yulan(hub / name, seed=seed)
    state = hub / "two" / "global_step2_universal" / "zero"
    state.mkdir(parents=True)
    (state / "step.pt").write_bytes(b"2")
    (hub / "two" / "latest_universal").write_text("global_step2_universal")
    assert [row["status"] for row in pull_suite("small", "1-4", home)] == [
        "on disk",
        "on disk",
        "absent",
        "on disk",
    ]
    return home


@pytest.fixture
def home(pulled, tmp_path):
    """A copy to measure and to damage."""
    shutil.copytree(pulled.root, tmp_path / "home", symlinks=True)
    return Home(tmp_path / "home")


def jobs(result):
    return [(job.phase.phase, job.probe.id) for job in result.plan.jobs]


def break_weights(home):
    """Cut the weights of phase 2 short, as a full disk would; returns what repairs them."""
    (path,) = (home.root / "hub" / "models--o--two" / "snapshots").glob("*/model.safetensors")
    blob, whole = path.resolve(), path.read_bytes()
    blob.write_bytes(whole[: len(whole) // 2])
    return lambda: blob.write_bytes(whole)


def test_what_is_missing_is_measured_once(home):
    seen = []
    result = probe_suite(
        ASKED, home, on_plan=seen.append, on_start=lambda job: seen.append(job.name)
    )
    assert jobs(result) == [(p, probe) for p in (1, 2, 4) for probe in ("weights", "loss")]
    assert seen == [6, *(f"phase {p}, {probe}" for p, probe in jobs(result))]
    assert not result.failed
    assert all(row["values"] > 0 and row["status"] == "measured" for row in result.rows())
    store = Store(home.store)
    counted = store.table("SELECT phase, probe FROM phase_metrics GROUP BY ALL").num_rows
    assert counted == 6
    run = store.table("SELECT * FROM runs WHERE phase = 1 AND probe = 'loss'").to_pylist()[0]
    assert '"window": 256' in run["settings"]
    assert len(run["commit_sha"]) == 40
    assert "model.safetensors" in run["file_hashes"]
    assert "token_set_sha256" in run["notes"]

    again = probe_suite(ASKED, home)
    assert (jobs(again), len(again.plan.done), again.outcomes) == ([], 6, [])
    assert again.summary() == "0 measured; 6 measured before."


def test_other_settings_dtype_or_overrides_are_other_jobs(home):
    only = {"suite": "small", "phases": "1", "probes": "loss"}
    assert jobs(probe_suite(ProbeRequest(**only, settings=("loss.window=256", QUICK)), home))
    assert not jobs(probe_suite(ProbeRequest(**only, settings=("loss.window=256", QUICK)), home))
    assert jobs(probe_suite(ProbeRequest(**only, settings=("loss.window=128", QUICK)), home))
    dtype = ProbeRequest(**only, settings=("loss.window=256", QUICK), dtype="bfloat16")
    assert jobs(probe_suite(dtype, home))
    (home.suites / "small.toml").write_text(TOML + "[overrides.1]\nrope_theta = 5000.0\n")
    assert jobs(probe_suite(dtype, home))
    forced = ProbeRequest(**only, settings=("loss.window=128", QUICK), force=True)
    assert jobs(probe_suite(forced, home)) == [(1, "loss")]
    runs = "SELECT count(*) AS n FROM runs WHERE phase = 1 AND status = 'complete'"
    assert Store(home.store).table(runs)["n"].to_pylist() == [5]


def test_another_content_of_the_own_text_is_another_job(home, tmp_path):
    text = tmp_path / "mine.txt"
    asked = ProbeRequest("small", "1", "loss", settings=(f"loss.text={text}",))
    with pytest.raises(UsageError, match=r"mine\.txt does not exist"):
        probe_suite(asked, home)
    text.write_text("What I have to say.")
    assert jobs(probe_suite(asked, home)) == [(1, "loss")]
    assert not jobs(probe_suite(asked, home))
    text.write_text("What I had to say.")
    assert jobs(probe_suite(asked, home)) == [(1, "loss")]
    runs = Store(home.store).table("SELECT settings, notes FROM runs ORDER BY started_at")
    hashes = [json.loads(row["settings"])["text_sha256"] for row in runs.to_pylist()]
    assert len(set(hashes)) == 2
    assert [json.loads(row["notes"])["text_sha256"] for row in runs.to_pylist()] == hashes
    shown = "SELECT value FROM phase_metrics WHERE metric = 'bytes' AND domain = 'mine'"
    assert Store(home.store).table(shown)["value"].to_pylist() == [18.0]


def test_fetching_the_optimizer_state_later_measures_nothing_again(home):
    asked = ProbeRequest("small", phases="2", probes="weights")
    assert jobs(probe_suite(asked, home)) == [(2, "weights")]
    for row in pull_suite("small", "2", home, with_optimizer=True):
        assert row["status"] == "on disk"
    assert list((home.root / "hub" / "models--o--two").glob("snapshots/*/latest_universal"))
    assert not jobs(probe_suite(asked, home))


def test_unpublished_and_unpulled_phases_are_told_apart(home):
    result = probe_suite(ProbeRequest("small", probes="weights"), home)
    assert jobs(result) == [(1, "weights"), (2, "weights"), (4, "weights")]
    assert "no published checkpoint for phase 3" in result.summary()
    assert "Not on disk: `workbench pull small --phases 5`." in result.summary()
    assert [row["weights"] for row in coverage("small", home)] == [
        "measured",
        "measured",
        "absent",
        "measured",
        "missing",
    ]


def test_a_failing_phase_is_recorded_stops_no_other_and_can_be_retried(home):
    repair = break_weights(home)
    result = probe_suite(ASKED, home)
    status = {(row["phase"], row["probe"]): row["status"] for row in result.rows()}
    assert status == {(p, b): "failed" if p == 2 else "measured" for p, b in jobs(result)}
    assert all("model.safetensors is damaged" in o.error for o in result.failed)
    assert result.summary().startswith("4 measured; 2 failed;")

    recorded = failed_runs("small", home)
    assert [(row["phase"], row["probe"]) for row in recorded] == [(2, "loss"), (2, "weights")]
    assert all(row["error"].startswith("Traceback") for row in recorded)
    assert all("model.safetensors is broken or truncated" in row["error"] for row in recorded)
    assert coverage("small", home)[1]["loss"] == "failed"
    shown = Store(home.store).table("SELECT DISTINCT phase FROM phase_metrics ORDER BY phase")
    assert shown["phase"].to_pylist() == [1, 4]

    assert shlex.split(result.retry_command()) == [
        "workbench", "probe", "small", "--phases", "2", "--probes", "loss,weights",
        "--set", "loss.window=256", "--set", QUICK,
    ]  # fmt: skip
    repair()
    retried = probe_suite(ASKED, home)
    assert jobs(retried) == [(2, "weights"), (2, "loss")]
    assert not retried.failed
    assert failed_runs("small", home) == []
    assert coverage("small", home)[1]["loss"] == "measured"


def test_the_retry_command_asks_for_the_same_and_is_accepted(home):
    break_weights(home)
    settings = ("loss.window=256", "attention.window=16")
    once = ProbeRequest("small", phases="1", probes="loss", settings=(QUICK,), dtype="bfloat16")
    probe_suite(once, home)
    asked = ProbeRequest(
        "small", "2", "attention,loss", settings, device="cpu", dtype="bfloat16", force=True
    )
    result = probe_suite(asked, home)
    only_loss = [o for o in result.outcomes if o.job.probe.id == "loss"]
    words = shlex.split(type(result)(asked, result.plan, only_loss, []).retry_command())
    assert words[2:] == [
        "small", "--phases", "2", "--probes", "loss", "--set", "loss.window=256",
        "--device", "cpu", "--dtype", "bfloat16", "--force",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"suite": "none"}, "no suite named 'none'"),
        ({"phases": "1-9"}, "has no phase 1-9"),
        ({"probes": "weights,spectre"}, "no probe 'spectre': choose among .*weights"),
        ({"probes": ","}, "no probe named"),
        ({"settings": ("loss.width=3",)}, "--set loss.width: .*its settings are text, window"),
        ({"settings": ("loss.window=many",)}, "--set loss.window: .*integer"),
        ({"settings": ("loss.window",)}, "not of the form probe.field=value"),
        ({"settings": ("attention.window=4",)}, "one of the chosen probes"),
        ({"device": "abacus"}, "--device abacus cannot be used here"),
        ({"dtype": "int4"}, "--dtype int4 is unknown"),
    ],
)
def test_wrong_requests_are_usage_errors(home, change, says):
    fields = {"suite": "small", "probes": "loss"} | change
    with pytest.raises(UsageError, match=says) as refusal:
        probe_suite(ProbeRequest(**fields), home)
    assert "\n" not in str(refusal.value)
    runs = Store(home.store).table("SELECT * FROM runs")
    assert runs.num_rows == 0


def test_probes_devices_and_metrics_by_name(home):
    assert [probe.id for probe in select_probes("loss, weights,loss")] == ["loss", "weights"]
    assert [probe.id for probe in select_probes("all")] == [
        "activations",
        "attention",
        "benchmarks",
        "changes",
        "loss",
        "optimizer",
        "spectra",
        "weights",
    ]
    assert resolve_device("cpu") == "cpu"
    assert {probe for probe, _ in find_metrics("loss")} == {"loss"}
    with pytest.raises(UsageError, match=r"no metric or probe 'bits_per_bite': did you mean bits_"):
        find_metrics("bits_per_bite")
    assert load_suite("small", home).phases[0].label == "phase 1"


def test_going_back_to_former_settings_shows_their_values_again(home):
    def shown():
        sql = "SELECT value FROM phase_metrics WHERE metric = 'bytes' AND domain = 'web'"
        return Store(home.store).table(sql)["value"].to_pylist()

    def measure(*settings):
        return probe_suite(ProbeRequest("small", "1", "loss", (*settings, QUICK)), home)

    assert len(measure("loss.window=64").outcomes) == 1
    first = Store(home.store).table("SELECT run_id FROM phase_metrics").to_pylist()[0]
    assert len(measure("loss.window=256").outcomes) == 1
    assert len(measure("loss.window=64").outcomes) == 1
    assert Store(home.store).table("SELECT run_id FROM phase_metrics").to_pylist()[0] != first
    assert measure("loss.window=64").outcomes == []
    assert len(shown()) == 1


class Unstorable(LossProbe):
    """The loss probe with a value that the store refuses."""

    def measure(self, checkpoint, settings, measuring):
        found = super().measure(checkpoint, settings, measuring)
        found.rows[0]["value"] = float("inf")
        return found


def test_values_that_the_store_refuses_fail_their_job_alone(home):
    store = Store(home.store)
    suite = load_suite("small", home)
    phases = suite.select("1,2")
    supply = Supply(suite, phases, FileHashes())
    plan = plan_jobs(suite, phases, [Unstorable, LossProbe], store, supply.sources,
                     settings={"loss": {"bytes_per_domain": 4000}},
                     device="cpu", dtype="float32")  # fmt: skip
    outcomes = run_jobs(plan.jobs, store, supply)
    assert [outcome.error is None for outcome in outcomes] == [False, True, False, True]
    assert "phase 1" in outcomes[0].error
    failed = store.table("SELECT run_id FROM runs WHERE status = 'failed'")["run_id"].to_pylist()
    kept = store.table("SELECT DISTINCT run_id FROM data.measurement")["run_id"].to_pylist()
    assert len(failed) == len(kept) == 2
    assert not set(failed) & set(kept)
