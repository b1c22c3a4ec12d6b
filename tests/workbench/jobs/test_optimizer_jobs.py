"""Jobs of a probe that reads the optimizer's state: only where there is one, and resting on it."""

import json
import shutil

import pytest

from analysis_db.store import Store
from tests.e2e.command import workbench
from tests.fixtures.optimizer_states import BETAS, EPS, train, write_state, write_trainer
from tests.fixtures.tiny_checkpoint import write_yulan
from workbench.downloads import pull_suite
from workbench.errors import UsageError
from workbench.jobs import ProbeRequest, absences, coverage, probe_suite
from workbench.settings import Home

TOML = (
    'name = "small"\ntitle = "Small"\nphases = "small/phases.csv"\n'
    'local_hub = "small/hub"\ncache_dir = "../hub"\n'
    f"[settings.optimizer]\nlr = 0.01\neps = {EPS}\nbeta1 = {BETAS[0]}\nbeta2 = {BETAS[1]}\n"
)
PHASES = (
    "phase,stage,repo_id,model_type,has_optimizer\n"
    "1,stable,o/p1,miniyulan,false\n"
    "2,stable,o/p2,miniyulan,true\n"
    "3,annealing,,yulanmini,false\n"
    "4,annealing,o/p4,miniyulan,true\n"
)
NONE = "no optimizer state was published"


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Home:
    """Phases 1, 2 and 4 on a local Hub, 2 and 4 with a state, nothing on disk. Only read it."""
    home = Home(tmp_path_factory.mktemp("states") / "home")
    (home.suites / "small").mkdir(parents=True)
    (home.suites / "small.toml").write_text(TOML)
    (home.suites / "small" / "phases.csv").write_text(PHASES)
    for n in (1, 2, 4):
        write_yulan(home.suites / f"small/hub/o/p{n}", seed=n)
    for n in (2, 4):
        write_state(home.suites / f"small/hub/o/p{n}")
    return home


@pytest.fixture
def home(served, tmp_path) -> Home:
    shutil.copytree(served.root, tmp_path / "home")
    return Home(tmp_path / "home")


def asked(phases="all", probes="optimizer", **more) -> ProbeRequest:
    return ProbeRequest("small", phases=phases, probes=probes, **more)


def jobs(result):
    return [(job.phase.phase, job.probe.id) for job in result.plan.jobs]


def values(home):
    sql = "SELECT phase, metric, module, layer, value FROM phase_metrics ORDER BY ALL"
    return Store(home.store).table(sql).to_pylist()


def test_only_phases_with_a_state_are_planned(home):
    pull_suite("small", "all", home)
    before = probe_suite(asked(), home)
    assert (jobs(before), [p.phase for p in before.plan.stateless]) == ([], [1])
    assert before.summary() == (
        f"0 measured; 0 measured before; no published checkpoint for phase 3; {NONE} for phase 1. "
        "Not on disk: `workbench pull small --phases 2,4 --with-optimizer`."
    )
    pull_suite("small", "2", home, with_optimizer=True)
    result = probe_suite(asked(), home)
    assert jobs(result) == [(2, "optimizer")]
    assert not result.failed
    assert "--phases 4 --with-optimizer" in result.summary()
    assert {row["phase"] for row in values(home)} == {2}
    assert jobs(probe_suite(asked(), home)) == []


def test_coverage_says_why(home):
    pull_suite("small", "all", home, with_optimizer=True)
    words = ["absent", "missing", "absent", "missing"]
    assert [row["optimizer"] for row in coverage("small", home)] == words
    probe_suite(asked("2", "optimizer"), home)
    assert [row["optimizer"] for row in coverage("small", home)] == [
        "absent", "measured", "absent", "missing",
    ]  # fmt: skip
    rows = Store(home.store).table("FROM coverage WHERE probe = 'optimizer' ORDER BY phase")
    assert rows["reason"].to_pylist() == [NONE, None, "no checkpoint was published", None]
    weights = Store(home.store).table("FROM coverage WHERE probe = 'weights' ORDER BY phase")
    assert weights["status"].to_pylist() == ["missing", "missing", "absent", "missing"]
    assert absences("small", home) == [
        "Absent: no checkpoint was published for phase 3.",
        f"Absent for optimizer: {NONE} for phase 1.",
    ]


def test_settings_of_the_suite_are_the_default_and_in_the_run(home):
    pull_suite("small", "2", home, with_optimizer=True)
    probe_suite(asked("2"), home)
    probe_suite(asked("2", settings=("optimizer.lr=0.5", "optimizer.matrix_lr=0.25")), home)
    runs = Store(home.store).table("SELECT settings FROM runs ORDER BY started_at").to_pylist()
    first, second = (json.loads(run["settings"]) for run in runs)
    assert first == {
        "lr": 0.01, "matrix_lr": None, "eps": EPS, "beta1": BETAS[0], "beta2": BETAS[1],
    }  # fmt: skip
    assert second == first | {"lr": 0.5, "matrix_lr": 0.25}
    shown = {r["module"]: r["value"] for r in values(home) if r["metric"] == "update_ratio"}
    assert shown.keys() >= {"embed", "q_proj", "q_proj_alpha"}


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ("[settings.optimizer]\nlr = 'fast'\n", r"\[settings\] of suite small: optimizer.lr: "),
        ("[settings.optimizer]\nrate = 1\n", "optimizer.rate: .*its settings are lr, matrix_lr"),
        ("[settings.optimiser]\nlr = 1.0\n", "there is no probe 'optimiser'"),
    ],
)
def test_wrong_settings_in_a_suite_are_told(home, settings, says):
    (home.suites / "small.toml").write_text(TOML.partition("[settings")[0] + settings)
    with pytest.raises(UsageError, match=says):
        probe_suite(asked("1", "weights,optimizer"), home)


def test_the_state_is_among_what_the_run_rests_on(home):
    pull_suite("small", "2", home, with_optimizer=True)
    probe_suite(asked("2", "weights,optimizer"), home)
    sql = "SELECT probe, file_hashes FROM runs"
    hashes = {
        r["probe"]: json.loads(r["file_hashes"]) for r in Store(home.store).table(sql).to_pylist()
    }
    state = "global_step3_universal/zero/model.norm.weight/exp_avg.pt"
    assert state in hashes["optimizer"]
    assert "model.safetensors" in hashes["optimizer"]
    assert "latest_universal" in hashes["optimizer"]
    assert not [name for name in hashes["weights"] if "universal" in name]
    (path,) = (home.root / "hub").glob(f"models--o--p2/snapshots/*/{state}")
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content + b"\0")
    again = probe_suite(asked("2", "weights,optimizer"), home)
    assert [job.probe.id for job in again.plan.jobs] == ["optimizer"]


def test_a_stream_fetches_the_state_and_removes_it(home):
    result = probe_suite(asked(probes="weights,optimizer", stream=True), home)
    assert not result.failed
    assert jobs(result) == [
        (1, "weights"), (2, "weights"), (2, "optimizer"), (4, "weights"), (4, "optimizer"),
    ]  # fmt: skip
    assert [p for p in (home.root / "hub").glob("models--*/**/*") if not p.is_dir()] == []
    streamed = values(home)
    home.store.unlink()
    pull_suite("small", "all", home, with_optimizer=True)
    probe_suite(asked(probes="weights,optimizer"), home)
    assert values(home) == streamed


def test_a_stream_leaves_states_where_they_are_not_needed(home):
    probe_suite(asked("2", "optimizer", stream=True), home)
    seen = []
    probe_suite(
        asked("2", "weights,optimizer", stream=True),
        home,
        on_bytes=lambda phase, done, total: seen.append(total),
    )
    zero = home.suites / "small/hub/o/p2/global_step3_universal"
    states = sum(path.stat().st_size for path in zero.rglob("*") if path.is_file())
    whole = sum(
        p.stat().st_size for p in (home.suites / "small/hub/o/p2").rglob("*") if p.is_file()
    )
    assert set(seen)
    assert max(seen) <= whole - states


def test_a_state_that_has_no_room_keeps_no_other_probe_waiting(home):
    folder = home.suites / "small/hub/o/p2"
    weights = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
    result = probe_suite(
        asked("2", "weights,optimizer", stream=True, max_disk=weights + 50_000), home
    )
    assert [(o.job.probe.id, o.error) for o in result.outcomes] == [("weights", None)]
    ((phase, reason),) = result.refused
    assert phase.phase == 2
    assert "raise it to have the state measured" in reason
    assert "audit" not in result.summary()


def test_a_hub_without_the_promised_state_is_told_apart(home):
    shutil.rmtree(home.suites / "small/hub/o/p4/global_step3_universal")
    (home.suites / "small/hub/o/p4/latest_universal").unlink()
    result = probe_suite(asked("4", stream=True), home)
    assert "The Hub has no optimizer state of phase 4" in result.summary()
    assert "`workbench audit small`" in result.summary()


def test_a_folder_of_a_trainer_is_a_phase_with_its_state(tmp_path):
    home = Home(tmp_path / "home")
    home.suites.mkdir(parents=True)
    made = train(tmp_path / "output" / "checkpoint-3", "llama")
    write_trainer(made)
    (home.suites / "mine.toml").write_text(
        f'title = "Mine"\n[[phases]]\nfolder = "{tmp_path}/output"\n'
        "pattern = 'checkpoint-(?P<step>[0-9]+)'\nmodel_type = 'llama'\n"
    )
    result = probe_suite(ProbeRequest("mine", probes="optimizer"), home)
    assert not result.failed, result.failed[0].error
    assert [job.phase.has_optimizer for job in result.plan.jobs] == [True]
    ratios = [row for row in values(home) if row["metric"] == "update_ratio"]
    assert {"q_proj", "embed", "lm_head"} <= {row["module"] for row in ratios}


def test_the_commands_say_it(home):
    workbench("pull", "small", home=home.root)
    probed = workbench("probe", "small", "--probes", "optimizer", home=home.root, expect=1)
    assert "--phases 2,4 --with-optimizer" in " ".join(probed.stdout.split())
    status = workbench("status", "small", home=home.root)
    assert f"Absent for optimizer: {NONE} for phase 1." in " ".join(status.stderr.split())
