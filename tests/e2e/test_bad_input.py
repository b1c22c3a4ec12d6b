"""Wrong input through the real command: one sentence, the right exit code, nothing half-written."""

import json
import socket

import duckdb
import pytest

from analysis_db import Store
from tests.e2e.command import error_of, workbench
from tests.fixtures.tiny_checkpoint import write_yulan
from workbench.settings import Home

PHASES = """\
phase,stage,repo_id,model_type
1,stable,tiny/one,miniyulan
2,stable,tiny/two,miniyulan
"""


@pytest.fixture
def home(tmp_path):
    """A home with a suite of two tiny phases on a local Hub."""
    folder = tmp_path / "home"
    for number, name in enumerate(("one", "two")):
        write_yulan(folder / "suites/tiny/hub/tiny" / name, seed=number)
    (folder / "suites/tiny/phases.csv").write_text(PHASES)
    (folder / "suites/tiny.toml").write_text(
        'name = "tiny"\ntitle = "Tiny"\nphases = "tiny/phases.csv"\n'
        'local_hub = "tiny/hub"\ncache_dir = "../hub"\n'
    )
    return folder


def repository(home, name="two"):
    return home / "suites/tiny/hub/tiny" / name


def test_unknown_suite(home):
    said = error_of("phases", "yulan", home=home, expect=2)
    assert "no suite named 'yulan'" in said
    assert "yulan-mini" in said
    assert not Home(home).store.exists()


@pytest.mark.parametrize("phases", ["3", "2-9", "cooldown", "1,,x", "0"])
def test_unknown_phase(home, phases):
    for command in ("pull", "probe"):
        said = error_of(command, "tiny", "--phases", phases, home=home, expect=2)
        assert "phase" in said
        assert "1-2" in said
    assert not Home(home).store.exists()
    assert not (home / "hub").exists()


def test_unknown_probe(home):
    said = error_of("probe", "tiny", "--probes", "weights,wieghts", home=home, expect=2)
    assert "no probe 'wieghts'" in said
    assert "weights" in said
    assert not Home(home).store.exists()


def test_unknown_setting(home):
    said = error_of("probe", "tiny", "--set", "loss.windw=3", home=home, expect=2)
    assert "loss.windw" in said
    assert not Home(home).store.exists()


def test_unknown_metric(home):
    said = error_of("metrics", "frobenios", home=home, expect=2)
    assert "no metric or probe 'frobenios'" in said
    assert "frobenius" in said


def test_query_with_an_unknown_column(home):
    workbench("pull", "tiny", home=home)
    done = workbench("sql", "SELECT metrik FROM phase_metrics", home=home, expect=1)
    said, line, place = done.stderr.splitlines()
    assert "metrik" in said
    assert line == "  line 1: SELECT metrik FROM phase_metrics"
    assert place == "                 ^^^^^^"


def test_no_store_yet(home):
    said = error_of("sql", "SELECT 1", home=home, expect=1)
    assert "workbench demo" in said
    assert not Home(home).store.exists()


def failed_probe(home):
    """Pull and probe; the job on phase 2 fails, the one on phase 1 does not. Returns its error."""
    workbench("pull", "tiny", home=home)
    done = workbench("probe", "tiny", "--probes", "weights", "--json", home=home, expect=1)
    assert [row["status"] for row in json.loads(done.stdout)] == ["measured", "failed"]
    assert "workbench probe tiny --phases 2 --probes weights" in done.stderr
    assert "Traceback" not in done.stderr
    store = Store(Home(home).store)
    sql = "SELECT DISTINCT phase FROM data.measurement JOIN data.run USING (run_id)"
    assert [row["phase"] for row in store.table(sql).to_pylist()] == [1]
    failures = json.loads(workbench("failures", "tiny", "--json", home=home).stdout)
    assert [(row["phase"], row["probe"]) for row in failures] == [(2, "weights")]
    assert "Traceback" in failures[0]["error"]
    return next(line for line in done.stderr.splitlines() if line.startswith("phase 2, weights"))


def test_broken_safetensors(home):
    weights = repository(home) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    assert "model.safetensors" in failed_probe(home)


def test_config_of_another_architecture(home):
    config = repository(home) / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"model_type": "gpt2"}))
    said = failed_probe(home)
    assert "gpt2" in said
    assert "config.json" in said


def test_store_of_a_newer_version(home):
    workbench("pull", "tiny", home=home)
    path = Home(home).store
    with duckdb.connect(path) as connection:
        connection.execute("INSERT INTO schema_version VALUES (999, now())")
    before = path.read_bytes()
    for words in (("sql", "SELECT 1"), ("status", "tiny"), ("probe", "tiny"), ("pull", "tiny")):
        assert "newer workbench (schema 999" in error_of(*words, home=home, expect=1)
    assert path.read_bytes() == before


def test_port_in_use(home):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        said = error_of("app", "--port", str(port), home=home, expect=1)
    assert str(port) in said
    assert "--port" in said


def test_no_room_on_the_disk(home):
    """The Hub announces a file of a petabyte (as a git-LFS pointer)."""
    (repository(home) / "model.safetensors").write_text(
        f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize {10**15}\n"
    )
    done = workbench("pull", "tiny", "--json", home=home, expect=1)
    assert [row["status"] for row in json.loads(done.stdout)] == ["on disk", "failed"]
    assert "1,000,000.0 GB" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (home / "hub/models--tiny--two").exists()


def test_repository_that_the_hub_does_not_have(home):
    (home / "suites/tiny/phases.csv").write_text(PHASES.replace("tiny/two", "tiny/gone"))
    done = workbench("pull", "tiny", "--json", home=home, expect=1)
    assert [row["status"] for row in json.loads(done.stdout)] == ["on disk", "failed"]
    assert "no public repository tiny/gone" in done.stderr


def test_suite_file_with_a_wrong_field(home):
    (home / "suites/tiny.toml").write_text('name = "tiny"\ntitel = "Tiny"\n')
    said = error_of("phases", "tiny", home=home, expect=1)
    assert "tiny.toml" in said


def test_demo_of_another_seed(home):
    run = home / "runs/demo/run.json"
    run.parent.mkdir(parents=True)
    run.write_text('{"seed": 3, "status": "running"}')
    said = error_of("demo", "--seed", "4", home=home, expect=2)
    assert "seed 3" in said


def test_unknown_option_is_wrong_usage(home):
    done = workbench("probe", "--phasen", "1", home=home, expect=2)
    assert "--phasen" in done.stderr
