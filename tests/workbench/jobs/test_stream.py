"""A suite measured on a small disk: what comes, what goes, what stays, and what it costs."""

import json
import random
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

from analysis_db.store import Store
from tests.e2e.command import WORKBENCH, environment, error_of
from tests.fixtures.tiny_checkpoint import write_yulan
from workbench.downloads import plan_suite, pull_suite
from workbench.errors import UsageError, WorkbenchError
from workbench.hub.cache import find_snapshot
from workbench.hub.endpoint import hub_of
from workbench.hub.hashes import FileHashes
from workbench.hub.ledger import Ledger
from workbench.hub.pull import plan_pull
from workbench.hub.stream import Stream
from workbench.jobs import ProbeRequest, probe_suite
from workbench.settings import Home
from workbench.suites import load_suite

PHASES = 6
TOML = (
    'name = "small"\ntitle = "Small"\nphases = "small/phases.csv"\n'
    'local_hub = "small/hub"\ncache_dir = "../hub"\n'
)


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Home:
    """A home whose suite has six phases on a local Hub, and none on disk. Only read it."""
    home = Home(tmp_path_factory.mktemp("stream") / "home")
    (home.suites / "small").mkdir(parents=True)
    (home.suites / "small.toml").write_text(TOML)
    rows = [f"{n},o/p{n},miniyulan" for n in range(1, PHASES + 1)]
    (home.suites / "small/phases.csv").write_text("\n".join(["phase,repo_id,model_type", *rows]))
    for n in range(1, PHASES + 1):
        write_yulan(home.suites / f"small/hub/o/p{n}", seed=n)
    return home


@pytest.fixture
def home(served, tmp_path) -> Home:
    shutil.copytree(served.root, tmp_path / "home")
    return Home(tmp_path / "home")


@pytest.fixture(scope="module")
def checkpoint_bytes(served) -> int:
    """Of the largest phase."""
    plan = plan_suite("small", "all", served)
    return max(sum(file["bytes"] for file in row["each_file"]) for row in plan["phases"])


class Watch(threading.Thread):
    """Looks again and again how much lies in the cache."""

    def __init__(self, home: Home) -> None:
        super().__init__()
        self.folder = home.root / "hub"
        self.most = 0
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.wait(0.002):
            self.most = max(self.most, sum(blobs(self.folder).values()))

    def __enter__(self) -> "Watch":
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.over.set()
        self.join()


def blobs(folder: Path) -> dict[str, int]:
    """Bytes of the blobs in the cache, whole or on their way; the journals left out."""
    found = {}
    for path in folder.glob("models--*/blobs/*"):
        if not path.name.endswith(".done"):
            try:
                found[path.name] = path.stat().st_size
            except FileNotFoundError:  # gone meanwhile
                continue
    return found


def in_cache(home: Home) -> list[Path]:
    return [path for path in (home.root / "hub").glob("models--*/**/*") if not path.is_dir()]


def values(home: Home) -> list[tuple]:
    sql = "SELECT phase, metric, view, layer, module, head, value FROM phase_metrics ORDER BY ALL"
    return [tuple(row.values()) for row in Store(home.store).table(sql).to_pylist()]


def asked(**changes) -> ProbeRequest:
    return ProbeRequest("small", **({"probes": "weights", "stream": True} | changes))


@pytest.fixture(scope="module")
def local_values(served, tmp_path_factory) -> list[tuple]:
    shutil.copytree(served.root, tmp_path_factory.mktemp("local") / "home")
    home = Home(next(tmp_path_factory.getbasetemp().glob("local*")) / "home")
    pull_suite("small", "all", home)
    assert not probe_suite(ProbeRequest("small", probes="weights"), home).failed
    return values(home)


def test_a_budget_of_two_checkpoints_measures_all(home, checkpoint_bytes, local_values):
    with Watch(home) as watch:
        result = probe_suite(asked(max_disk=2 * checkpoint_bytes), home)
    assert not result.failed
    assert not result.refused
    assert [outcome.job.phase.phase for outcome in result.outcomes] == list(range(1, PHASES + 1))
    assert checkpoint_bytes < watch.most <= 2 * checkpoint_bytes
    assert in_cache(home) == []
    assert not (home.root / "stream/small.json").exists()
    assert values(home) == local_values
    again = probe_suite(asked(), home)
    assert (again.outcomes, len(again.plan.done)) == ([], PHASES)


def test_remote_reads_the_same_values_and_writes_nothing(home, local_values):
    result = probe_suite(asked(stream=False, remote=True), home)
    assert not result.failed
    assert not (home.root / "hub").exists()
    assert values(home) == local_values
    pull_suite("small", "2", home)  # the same files: measured before
    on_disk = probe_suite(asked(stream=False, phases="2"), home)
    assert (on_disk.outcomes, len(on_disk.plan.done)) == ([], 1)


def test_what_was_there_before_stays(home, checkpoint_bytes):
    pull_suite("small", "2,5", home)
    before = sorted(in_cache(home))
    assert not probe_suite(asked(max_disk=2 * checkpoint_bytes), home).failed
    assert sorted(in_cache(home)) == before
    suite = load_suite("small", home)
    assert [p.phase for p in suite.phases if find_snapshot(suite, p)] == [2, 5]


def test_a_file_that_was_there_before_stays_and_so_does_the_revision(home):
    """As another tool leaves it: a tokenizer alone, of a former commit of the phase."""
    suite = load_suite("small", home)
    with hub_of(suite) as endpoint:
        plan = plan_pull(suite, suite.phases[0], endpoint=endpoint)
    (tokenizer,) = [file for file in plan.files if file.name == "tokenizer.json"]
    source = home.suites / "small/hub/o/p1/tokenizer.json"
    (plan.root / "refs").mkdir(parents=True)
    (plan.root / "refs/main").write_text("0" * 40)
    old = plan.root / "snapshots" / ("0" * 40) / "tokenizer.json"
    for path in (plan.blob(tokenizer), old):
        path.parent.mkdir(parents=True)
    shutil.copy(source, plan.blob(tokenizer))
    old.symlink_to(f"../../blobs/{tokenizer.etag}")
    assert not probe_suite(asked(phases="1"), home).failed
    assert old.read_bytes() == source.read_bytes()
    assert (plan.root / "refs/main").read_text() == "0" * 40
    assert len(in_cache(home)) == 3


def test_a_phase_that_fails_stops_no_other(home, checkpoint_bytes):
    hub = home.suites / "small/hub/o"
    shutil.rmtree(hub / "p2")  # the Hub has no such repository
    weights = hub / "p4/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])  # arrives as published, cannot be read
    result = probe_suite(asked(max_disk=2 * checkpoint_bytes), home)
    assert [phase.phase for phase, _ in result.refused] == [2]
    assert "the Hub has no public repository o/p2" in result.refused[0][1]
    assert [outcome.job.phase.phase for outcome in result.failed] == [4]
    assert "broken or truncated" in result.failed[0].error
    assert {row[0] for row in values(home)} == {1, 3, 5, 6}
    assert result.retry_command() == (
        "workbench probe small --phases 4 --probes weights --stream "
        f"--max-disk {2 * checkpoint_bytes}"
    )
    write_yulan(hub / "p2", seed=2)
    weights.unlink()
    shutil.rmtree(hub / "p4")
    write_yulan(hub / "p4", seed=4)
    again = probe_suite(asked(max_disk=2 * checkpoint_bytes), home)
    assert [outcome.job.phase.phase for outcome in again.outcomes] == [2, 4]
    assert not again.failed
    assert in_cache(home) == []


def test_a_budget_for_less_than_one(home, checkpoint_bytes):
    result = probe_suite(asked(max_disk=checkpoint_bytes // 2, phases="1-2"), home)
    assert [outcome.job.phase.phase for outcome in result.failed] == [1, 2]
    assert "raise --max-disk or free some space" in result.failed[0].error
    assert in_cache(home) == []
    # For one alone there is room: nothing can be fetched ahead, and all is measured.
    with Watch(home) as watch:
        assert not probe_suite(asked(max_disk=checkpoint_bytes), home).failed
    assert watch.most <= checkpoint_bytes


def test_a_phase_and_its_predecessor_are_on_disk_together(home, checkpoint_bytes):
    suite = load_suite("small", home)
    seen = []
    with hub_of(suite) as endpoint:
        plans = [plan_pull(suite, phase, endpoint=endpoint) for phase in suite.phases]
        ledger = Ledger(home.root / "stream/small.json")
        with Stream(
            plans, ledger, endpoint=endpoint, budget=2 * checkpoint_bytes, hashes=FileHashes()
        ) as stream:
            for phase in suite.phases:
                stream.get(phase)
                seen.append([p.phase for p in suite.phases if find_snapshot(suite, p)])
                stream.release_before(phase)
                stream.done(phase, succeeded=True)
    assert seen == [[1], *([n - 1, n] for n in range(2, PHASES + 1))]
    assert in_cache(home) == []


def test_phases_of_one_repository_share_files(home, checkpoint_bytes):
    """Two phases with one tokenizer: removing the first must not break the second."""
    hub = home.suites / "small/hub/o"
    shutil.rmtree(hub / "p2")
    shutil.copytree(hub / "p1", hub / "p1@late")
    (hub / "p1@late/model.safetensors").unlink()
    shutil.copy(hub / "p3/model.safetensors", hub / "p1@late/model.safetensors")
    rows = "phase,repo_id,revision,model_type\n1,o/p1,main,miniyulan\n2,o/p1,late,miniyulan\n"
    (home.suites / "small/phases.csv").write_text(rows)
    assert not probe_suite(asked(max_disk=2 * checkpoint_bytes), home).failed
    assert {row[0] for row in values(home)} == {1, 2}
    assert in_cache(home) == []


def test_killed_again_and_again_it_goes_on_and_leaves_what_was_there(home, checkpoint_bytes):
    pull_suite("small", "3", home)
    before = sorted(in_cache(home))
    chance = random.Random(0)
    command = [WORKBENCH, "probe", "small", "--probes", "weights", "--stream"]
    command += ["--max-disk", str(2 * checkpoint_bytes)]
    held_before = sum(path.stat().st_size for path in before if not path.is_symlink())
    for attempt in range(4):
        with Watch(home) as watch:
            process = subprocess.Popen(
                command, env=environment(home.root), stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )  # fmt: skip
            if attempt < 3:
                time.sleep(chance.uniform(2.0, 4.5))
                process.send_signal(signal.SIGKILL)
            code = process.wait()
        assert watch.most <= 2 * checkpoint_bytes + held_before
    assert code == 0
    assert {row[0] for row in values(home)} == set(range(1, PHASES + 1))
    assert sorted(in_cache(home)) == before
    sql = "SELECT phase FROM runs WHERE status = 'complete' ORDER BY phase"
    assert Store(home.store).table(sql)["phase"].to_pylist() == list(range(1, PHASES + 1))


def test_what_the_user_pulls_meanwhile_stays(home, checkpoint_bytes):
    def pull(outcome):
        if outcome.job.phase.phase == 2:  # brought by the stream, and still on disk
            pull_suite("small", "2", home)

    assert not probe_suite(asked(), home, on_end=pull).failed
    suite = load_suite("small", home)
    assert [p.phase for p in suite.phases if find_snapshot(suite, p)] == [2]


def test_two_streams_of_one_suite(home):
    another = pytest.raises(WorkbenchError, match="is being streamed by another process")
    with Ledger(home.root / "stream/small.json").held(), another:
        probe_suite(asked(), home)
    assert not probe_suite(asked(), home).failed


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"remote": True}, "exclude each other"),
        ({"stream": False, "max_disk": 5}, "give both"),
        ({"stream": False, "remote": True, "probes": "weights,loss"}, "loss needs the whole"),
    ],
)
def test_ways_that_do_not_go_together(home, changes, sentence):
    with pytest.raises(UsageError, match=sentence):
        probe_suite(asked(**changes), home)


def test_a_size_that_is_none(served):
    said = error_of("pull", "small", "--max-disk", "much", home=served.root, expect=2)
    assert said == "--max-disk much is no size: give one such as 40GB or 500MiB."


def test_pull_within_a_budget(home, checkpoint_bytes):
    said = error_of(
        "pull", "small", "--max-disk", str(checkpoint_bytes * 2), home=home.root, expect=1
    )
    assert "phases 1 to 2 fit" in said
    assert in_cache(home) == []
    pull_suite("small", "1,2", home, max_disk=2 * checkpoint_bytes)
    plan = plan_suite("small", "1-3", home)
    assert [row["status"] for row in plan["phases"]] == ["on disk", "on disk", "fetch"]
    assert plan["fetch_bytes"] == checkpoint_bytes
    assert json.dumps(plan)
