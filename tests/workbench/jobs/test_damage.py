"""Values rest on verified bytes; equal phases and failed attempts are told apart.

Everything goes through the commands, in this process.
"""

import json
import os
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import workbench.checkpoints.files as files
from analysis_db.store import Store
from tests.fixtures.tiny_checkpoint import write_yulan
from workbench.cli import app
from workbench.hub import hashes
from workbench.settings import Home

TOML = (
    'title = "Small"\nphases = "small/phases.csv"\nlocal_hub = "small/hub"\ncache_dir = "../hub"\n'
)
PHASES = "phase,repo_id,model_type\n1,o/one,miniyulan\n2,o/two,miniyulan\n3,o/twin,miniyulan\n"
WEIGHTS = ("probe", "small", "--probes", "weights")


@pytest.fixture(scope="module")
def pulled(tmp_path_factory):
    """A home with three phases on disk; the weights of phases 2 and 3 are equal."""
    home = Home(tmp_path_factory.mktemp("damage") / "home")
    hub = home.suites / "small" / "hub" / "o"
    write_yulan(hub / "one", seed=1)
    write_yulan(hub / "two", seed=2)
    shutil.copytree(hub / "two", hub / "twin")
    (home.suites / "small.toml").write_text(TOML)
    (home.suites / "small" / "phases.csv").write_text(PHASES)
    call(home, "pull", "small")
    return home


@pytest.fixture
def home(pulled, tmp_path):
    shutil.copytree(pulled.root, tmp_path / "home", symlinks=True)
    return Home(tmp_path / "home")


def call(home, *words, expect=0):
    """What a command prints, its lines joined; the standard output alone of one with --json."""
    done = CliRunner().invoke(app, words, env={"WORKBENCH_HOME": str(home.root)})
    assert done.exit_code == expect, (done.output, done.exception)
    return done.stdout if "--json" in words else " ".join(done.output.split())


def query(home, sql):
    return Store(home.store).table(sql).to_pylist()


def weights_of(home, repository) -> Path:
    (link,) = (home.root / "hub" / f"models--o--{repository}").glob("snapshots/*/model.safetensors")
    return link.resolve()


def flip(path: Path, *, bit: int = 1, at: int = -100) -> None:
    """Change one bit of a file where it is, as a bad disk does; its times are set back."""
    stat = path.stat()
    with path.open("r+b") as content:
        content.seek(at, os.SEEK_END)
        (byte,) = content.read(1)
        content.seek(at, os.SEEK_END)
        content.write(bytes([byte ^ bit]))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def shown(home) -> dict[int, float]:
    sql = "SELECT phase, value FROM phase_metrics WHERE metric = 'rms' AND module = 'embed'"
    return {row["phase"]: row["value"] for row in query(home, f"{sql} AND view = 'stored'")}


def test_equal_phases_are_measured_each_and_alarm(home):
    said = call(home, "probe", "small", "--probes", "weights,changes")
    assert "6 measured" in said
    assert shown(home).keys() == {1, 2, 3}
    assert shown(home)[2] == shown(home)[3] != shown(home)[1]
    runs = query(home, "SELECT DISTINCT phase, repo_id FROM runs WHERE phase > 1 ORDER BY phase")
    assert [(row["phase"], row["repo_id"]) for row in runs] == [(2, "o/two"), (3, "o/twin")]
    assert "phase 2 and phase 3 hold the same weights" in said
    pairs = query(home, "SELECT phase_a, phase_b FROM pair_runs ORDER BY ALL")
    assert [(row["phase_a"], row["phase_b"]) for row in pairs] == [(1, 2), (1, 3), (2, 3)]
    assert "0 measured; 6 measured before" in call(
        home, "probe", "small", "--probes", "weights,changes"
    )


def test_content_that_another_phase_had_is_measured_again(home):
    call(home, *WEIGHTS)
    before = shown(home)
    hub = home.suites / "small" / "hub" / "o"
    shutil.rmtree(hub / "one")
    shutil.copytree(hub / "two", hub / "one")
    call(home, "pull", "small", "--phases", "1")
    assert "1 measured; 2 measured before" in call(home, *WEIGHTS)
    assert shown(home) == before | {1: before[2]}


def test_one_flipped_bit_is_refused_repaired_and_measured(home):
    call(home, *WEIGHTS)
    before = shown(home)
    flip(weights_of(home, "two"))
    said = call(home, *WEIGHTS, "--phases", "2", "--force", expect=1)
    assert (
        "Phase 2 of suite small: model.safetensors is damaged (sha256 differs from the Hub's). "
        "Run `workbench pull small --phases 2` to fetch it again." in said
    )
    assert "Nothing was left" not in said
    # The bytes changed after the runs before had read and verified them: their values stand.
    assert shown(home) == before
    assert json.loads(call(home, "status", "small", "--json"))[1]["weights"] == (
        "measured, newer attempt failed"
    )
    assert "model.safetensors is damaged" in call(home, "failures", "small")

    rows = json.loads(call(home, "pull", "small", "--json"))
    assert [row["status"] for row in rows] == ["on disk", "repaired", "on disk"]
    assert rows[1]["message"].endswith("model.safetensors was damaged and has been fetched again.")
    assert "1 measured" in call(home, *WEIGHTS, "--phases", "2", "--force")
    assert shown(home) == before
    assert json.loads(call(home, "status", "small", "--json"))[1]["weights"] == "measured"
    assert "No job has failed" in call(home, "failures", "small")


def test_damage_before_the_first_read_is_never_measured(home):
    home.hashes.unlink()
    flip(weights_of(home, "two"))
    said = call(home, "probe", "small", "--probes", "weights,loss", expect=1)
    assert "4 measured; 2 failed" in said
    assert shown(home).keys() == {1, 3}
    assert query(home, "SELECT count(*) AS n FROM data.measurement JOIN data.run USING (run_id) "
                       "WHERE phase = 2") == [{"n": 0}]  # fmt: skip
    verified = query(home, "SELECT DISTINCT verified FROM runs WHERE status = 'complete'")
    assert verified == [{"verified": True}]


def test_runs_on_bytes_that_were_never_verified_are_marked(home):
    """Those of a version that did not verify: nothing is remembered of the file."""
    call(home, "probe", "small", "--probes", "weights,changes")
    home.hashes.unlink()
    flip(weights_of(home, "two"))
    message = json.loads(call(home, "pull", "small", "--phases", "2", "--json"))[0]["message"]
    assert message.endswith(
        "2 runs may have read the damaged bytes and no longer count as measured: "
        "run `workbench probe small --phases 2`."
    )
    assert shown(home).keys() == {1, 3}
    assert query(home, "SELECT DISTINCT phase FROM runs WHERE status = 'damaged'") == [{"phase": 2}]
    assert query(home, "SELECT * FROM pair_metrics WHERE 2 IN (phase_a, phase_b)") == []
    assert query(home, "SELECT * FROM pair_metrics WHERE phase_a = 1 AND phase_b = 3")
    assert json.loads(call(home, "status", "small", "--json"))[1]["weights"] == "failed"
    assert "model.safetensors was found damaged" in call(home, "failures", "small")
    assert "2 measured; 4 measured before" in call(
        home, "probe", "small", "--probes", "weights,changes"
    )
    assert shown(home).keys() == {1, 2, 3}
    assert query(home, "SELECT * FROM identity_alarms")
    assert "No job has failed" in call(home, "failures", "small")


def test_rot_after_verification_marks_the_runs_since(home):
    """The next pull detects a flipped bit that left the file's times unchanged."""
    call(home, *WEIGHTS)
    state = hashes.file_state(weights_of(home, "two"))
    flip(weights_of(home, "two"))
    rotten = hashes.file_state(weights_of(home, "two"))
    known = home.hashes.read_text()
    assert f'"ctime_ns": {state.ctime_ns}' in known
    home.hashes.write_text(known.replace(str(state.ctime_ns), str(rotten.ctime_ns)))
    assert "1 measured" in call(home, *WEIGHTS, "--phases", "2", "--force")  # no way to know yet
    first, second = query(home, "SELECT run_id FROM runs WHERE phase = 2 ORDER BY started_at")
    call(home, "pull", "small", "--phases", "2")
    status = {row["run_id"]: row["status"] for row in query(home, "SELECT * FROM runs")}
    assert status[second["run_id"]] == "damaged"
    assert status[first["run_id"]] == "complete"  # the file was verified while it ran
    assert "0 measured; 3 measured before" in call(home, *WEIGHTS)


def test_a_small_file_is_verified_as_well(home):
    (config,) = (home.root / "hub" / "models--o--two").glob("snapshots/*/config.json")
    blob = config.resolve()
    blob.write_text(blob.read_text().replace("48", "49", 1))
    said = call(home, *WEIGHTS, "--phases", "2", expect=1)
    assert "config.json is damaged (git blob id differs from the Hub's)" in said


def test_damage_is_named_where_it_breaks_the_probe(home):
    path = weights_of(home, "two")
    path.write_bytes(path.read_bytes()[:1000])
    said = call(home, *WEIGHTS, "--phases", "2", expect=1)
    assert "model.safetensors is damaged" in said
    assert "truncated" in query(home, "SELECT error FROM runs WHERE phase = 2")[0]["error"]


def test_exact_comparison_and_conversion_refuse_damage(home):
    call(home, "probe", "small", "--probes", "changes", "--no-exact", "--phases", "1,2")
    flip(weights_of(home, "two"))
    assert "model.safetensors is damaged" in failing(home, "compare", "small", "1", "2")
    assert not query(home, "SELECT * FROM pair_runs WHERE exact")
    out = home.root / "converted"
    assert "model.safetensors is damaged" in failing(
        home, "convert", "2", str(out), "--to", "llama", "--suite", "small"
    )
    assert not out.exists()


def failing(home, *words) -> str:
    done = CliRunner().invoke(app, words, env={"WORKBENCH_HOME": str(home.root)})
    assert done.exception is not None
    return str(done.exception)


def test_a_file_that_changes_while_it_is_measured_is_refused(home, monkeypatch):
    read_into = files.LocalFile.read_into

    def read_and_touch(self, *args, **kwargs):
        os.utime(weights_of(home, "two"))
        return read_into(self, *args, **kwargs)

    monkeypatch.setattr(files.LocalFile, "read_into", read_and_touch)
    said = call(home, *WEIGHTS, "--phases", "2", expect=1)
    assert "changed while it was measured" in said
    assert not query(home, "SELECT * FROM phase_metrics")


def test_a_file_is_hashed_once(home, monkeypatch):
    hashed = []
    digest_of = hashes.digest_of
    monkeypatch.setattr(
        hashes, "digest_of", lambda path, *rest: hashed.append(path.name) or digest_of(path, *rest)
    )
    home.hashes.unlink()
    call(home, *WEIGHTS, "--phases", "1")
    assert sorted(hashed) == sorted({*hashed})
    assert "model.safetensors" in hashed
    hashed.clear()
    call(home, *WEIGHTS, "--phases", "1", "--force")
    call(home, "probe", "small", "--probes", "loss", "--phases", "1")
    assert hashed == []
    with home.hashes.open("a") as memo:
        memo.write('{"path": "cut off')
    call(home, *WEIGHTS, "--phases", "1", "--force")
    assert hashed == []


def test_folders_are_hashed_once_and_again_when_they_change(tmp_path, monkeypatch):
    home = Home(tmp_path / "home")
    write_yulan(tmp_path / "runs" / "step-1", seed=1)
    home.suites.mkdir(parents=True)
    (home.suites / "own.toml").write_text(
        f'title = "Own"\n[[phases]]\nfolder = "{tmp_path}/runs/step-1"\n'
    )
    probe = ("probe", "own", "--probes", "weights")
    assert "1 measured" in call(home, *probe)
    hashed = []
    digest_of = hashes.digest_of
    monkeypatch.setattr(
        hashes, "digest_of", lambda path, *rest: hashed.append(path.name) or digest_of(path, *rest)
    )
    assert "1 measured before" in call(home, *probe)
    assert hashed == []
    flip(tmp_path / "runs" / "step-1" / "model.safetensors")
    assert "1 measured; 0 measured before" in call(home, *probe)
    assert hashed == ["model.safetensors"]


def test_a_link_out_of_a_folder_states_no_hash(tmp_path):
    """A checkpoint that is a link has the hash of its content, not the name of its target."""
    home = Home(tmp_path / "home")
    folder = write_yulan(tmp_path / "run", seed=1)
    away = tmp_path / ("0" * 64)
    (folder / "model.safetensors").rename(away)
    (folder / "model.safetensors").symlink_to(away)
    home.suites.mkdir(parents=True)
    (home.suites / "own.toml").write_text(f'title = "Own"\n[[phases]]\nfolder = "{folder}"\n')
    call(home, "probe", "own", "--probes", "weights")
    (run,) = query(home, "SELECT file_hashes FROM runs")
    address = json.loads(run["file_hashes"])["model.safetensors"]
    assert address == hashes.digest_of(away, 64)


def test_a_failed_attempt_after_a_success_is_shown(home):
    call(home, *WEIGHTS)
    (config,) = (home.root / "hub" / "models--o--two").glob("snapshots/*/tokenizer.json")
    call(home, "probe", "small", "--probes", "loss", "--phases", "1-2")
    config.resolve().write_text("{}")
    loss = ("probe", "small", "--probes", "loss", "--phases", "2", "--force")
    call(home, *loss, expect=1)
    assert "values of an older run are shown" in call(home, "failures", "small")
    coverage = query(home, "SELECT phase, status, reason FROM coverage WHERE probe = 'loss'")
    assert [row["reason"] for row in coverage if row["phase"] == 2] == ["newer attempt failed"]
    assert [row["status"] for row in coverage if row["phase"] < 3] == ["measured", "measured"]
    call(home, "pull", "small", "--phases", "2")
    call(home, *loss)
    assert "No job has failed" in call(home, "failures", "small")


def test_a_stream_repairs_what_it_finds_damaged_and_says_so(home):
    call(home, *WEIGHTS)
    before = shown(home)
    home.hashes.unlink()
    flip(weights_of(home, "two"))
    said = call(home, "probe", "small", "--probes", "loss", "--stream")
    assert "Phase 2 of suite small: model.safetensors was damaged and is fetched again." in said
    assert shown(home).keys() == {1, 3}
    assert "1 measured; 2 measured before" in call(home, *WEIGHTS)
    assert shown(home) == before


def test_nothing_measured_is_not_nothing_left(home):
    shutil.rmtree(home.root / "hub")
    said = call(home, *WEIGHTS, expect=1)
    assert "Nothing could be measured." in said
    assert "Nothing was left" not in said


def test_all_probes_read_the_files_that_an_index_names(tmp_path):
    """Beside model.safetensors, and under any name: content and values are those of the shards."""
    home = Home(tmp_path / "home")
    folder = write_yulan(tmp_path / "run", seed=1)
    other = write_yulan(tmp_path / "other", seed=2)
    tensors = load_file(other / "model.safetensors")
    save_file(tensors, folder / "part.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(tensors, "part.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(
        json.dumps(
            json.loads((folder / "config.json").read_text())
            | {"transformers_weights": "model.safetensors"}
        )
    )
    home.suites.mkdir(parents=True)
    (home.suites / "own.toml").write_text(
        f'title = "Own"\n[[phases]]\nfolder = "{folder}"\n[[phases]]\nfolder = "{other}"\n'
    )
    call(home, "probe", "own", "--probes", "weights,loss")
    values = query(
        home,
        "SELECT phase, probe, count(value) AS n, sum(value) AS total FROM phase_metrics "
        "GROUP BY ALL ORDER BY probe, phase",
    )
    for first, second in zip(values[::2], values[1::2], strict=True):
        assert (first["n"], first["total"]) == (second["n"], second["total"])
    (run, *_) = query(home, "SELECT file_hashes FROM runs WHERE phase = 1")
    assert "part.safetensors" in json.loads(run["file_hashes"])
    flip(folder / "part.safetensors")
    assert "2 measured; 2 measured before" in call(home, "probe", "own", "--probes", "weights,loss")
