"""Odd answers of a Hub, through the real commands: a sentence each, and the others go on."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.e2e.command import WORKBENCH, environment
from tests.faults.faults import drip, drip_head, json_body
from tests.faults.faulty_hub import Exchange, Fault, FaultyHub, Rule
from tests.faults.odd import DEEP, FILES, LISTINGS, WEIGHTS, Odd, Odds, linked, serve
from tests.fixtures.tiny_checkpoint import write_llama

DONE = subprocess.CompletedProcess[str]


def command(odds: Odds, *words: str, start: Sequence[str] = (WORKBENCH,), **variables: str) -> DONE:
    given = environment(odds.home) | {"HF_ENDPOINT": odds.hub.endpoint} | variables
    done = subprocess.run(
        [*start, *words], env=given, capture_output=True, text=True, check=False, timeout=300
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


@pytest.fixture(scope="module")
def listings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Odds]:
    with serve(tmp_path_factory.mktemp("listings"), LISTINGS) as odds:
        yield odds


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Odds]:
    with serve(tmp_path_factory.mktemp("files"), FILES) as odds:
        yield odds


def pulled(odds: Odds, *words: str) -> dict[str, tuple[str, str]]:
    """Status and message of each repository's phase."""
    done = command(odds, "pull", "odd", "--json", *words)
    rows = json.loads(done.stdout)
    rows = rows["phases"] if isinstance(rows, dict) else rows
    return {odds.names[row["phase"] - 1]: (row["status"], row["message"]) for row in rows}


@pytest.fixture(scope="module")
def pull_of_listings(listings: Odds) -> dict[str, tuple[str, str]]:
    return pulled(listings)


@pytest.mark.parametrize("name", LISTINGS)
def test_pull_names_what_is_odd_and_goes_on(
    name: str, listings: Odds, pull_of_listings: dict[str, tuple[str, str]]
) -> None:
    status, message = pull_of_listings[name]
    if not LISTINGS[name].says:
        assert (status, message) == ("on disk", "")
        return
    assert status == "failed"
    start = f"Phase {listings.phase(name)} of suite odd: "
    assert re.search(f"^{re.escape(start)}{LISTINGS[name].says}", message)
    assert message.isprintable()
    assert pull_of_listings["Sound"] == ("on disk", "")


def test_dry_run_names_what_is_odd(listings: Odds) -> None:
    rows = pulled(listings, "--dry-run")
    failed = {name for name, (status, _) in rows.items() if status == "failed"}
    assert failed == {name for name, odd in LISTINGS.items() if odd.says}


def test_audit_names_what_is_odd(listings: Odds) -> None:
    done = command(listings, "audit", "odd", "--json")
    found = json.loads(done.stdout)["findings"]
    errors = {f["phase"]: f for f in found if f["check"] == "unreachable"}
    for name, odd in LISTINGS.items():
        if odd.says:
            message = errors[listings.phase(name)]["message"]
            assert re.search(odd.says, message, re.IGNORECASE)
    assert len(errors) == sum(bool(odd.says) for odd in LISTINGS.values())


def test_remote_probe_names_what_is_odd_and_measures_the_rest(listings: Odds) -> None:
    done = command(listings, "probe", "odd", "--probes", "weights", "--remote", "--json")
    assert {row["phase"] for row in json.loads(done.stdout)} == {
        1, *(listings.phase(name) for name, odd in LISTINGS.items() if not odd.says)
    }  # fmt: skip
    for name, odd in LISTINGS.items():
        if odd.says:
            phase = rf"(Phase {listings.phase(name)}|Phases [\d,-]+) of suite odd: "
            assert re.search(phase + odd.says, done.stderr)
    deep = [line for line in done.stderr.splitlines() if "nested too deeply" in line]
    assert len(deep) == 1  # two phases, one reason
    assert deep[0].startswith("Phases ")


def test_pull_refuses_files_that_lead_elsewhere(files: Odds) -> None:
    rows = pulled(files)
    assert rows["Sound"] == ("on disk", "")
    for name, odd in FILES.items():
        if name.startswith("shard") or name == "deep-index":
            status, message = rows[name]
            assert status == "failed"
            assert re.search(f"^Phase {files.phase(name)} of suite odd: {odd.says}", message)
            assert message.isprintable()
            (cached,) = (files.home.parent / "huggingface" / "hub").glob(f"models--owner--{name}")
            assert not any(path.suffix == ".safetensors" for path in cached.rglob("*"))
    for words in (("status",), ("probe", "--probes", "weights")):
        done = command(files, words[0], "odd", *words[1:])
        shards = [name for name in FILES if name.startswith("shard")]
        for name in [*shards, "deep-index"]:
            phase = rf"(Phase {files.phase(name)}|Phases [\d,-]+) of suite odd: "
            assert re.search(phase + FILES[name].says, done.stderr)
        assert "Not on disk" not in done.stdout
    rows = json.loads(command(files, "sql", SQL, "--json").stdout)
    assert rows == [{"phase": 1}]


SQL = "SELECT DISTINCT phase FROM phase_metrics ORDER BY phase"


@pytest.mark.parametrize("way", ["--remote", "--stream"])
def test_a_probe_from_the_hub_refuses_them_too(way: str, tmp_path: Path) -> None:
    some = ("deep-config", "deep-header", "deep-index", "shard-0", "shard-10")
    with serve(tmp_path, {name: FILES[name] for name in some}) as odds:
        done = command(odds, "probe", "odd", "--probes", "weights", way, "--json")
        status = {row["phase"]: row["status"] for row in json.loads(done.stdout)}
        assert status == {1: "measured"} | dict.fromkeys(map(odds.phase, some), "failed")
        for name in some:
            phase = f"(?i)phases? [^:]*{odds.phase(name)}.*"
            assert re.search(phase + FILES[name].says, done.stderr)


def test_audit_names_files_that_lead_elsewhere(files: Odds) -> None:
    done = command(files, "audit", "odd", "--json")
    found = json.loads(done.stdout)["findings"]
    for name, odd in FILES.items():
        about = [f for f in found if f["phase"] == files.phase(name)]
        assert any(re.search(odd.says, f["message"]) for f in about), name
        assert not any(f["check"] == "missing-shard" for f in about)
    sound = {f["check"] for f in found if f["phase"] == 1 and f["severity"] == "error"}
    assert sound == {"identical-weights"}  # all have those of the sound one


def test_the_token_stays_with_the_endpoint(tmp_path: Path) -> None:
    """A next page at another host, or at another port of the same one, is not asked for."""
    token = "hf_of_the_user"
    with FaultyHub("http://127.0.0.1:9", host="localhost") as other:
        away = {
            "host": other.endpoint,
            "port": f"http://127.0.0.1:{other.port}",
            "user": f"http://127.0.0.1@localhost:{other.port}",
            "no-scheme": f"//localhost:{other.port}",
        }
        odd = {
            name: Odd("its next page is at", tree=linked(_next_at(at))) for name, at in away.items()
        }
        with serve(tmp_path, odd) as odds:
            done = command(odds, "pull", "odd", "--json", HF_TOKEN=token)
        rows = {row["phase"]: row for row in json.loads(done.stdout)}
        assert rows[1]["status"] == "on disk"
        for name in odd:
            assert "its next page is at" in rows[odds.phase(name)]["message"]
        assert other.requests == []
    assert {r.headers.get("authorization") for r in odds.hub.requests} == {f"Bearer {token}"}


def _next_at(base: str) -> Callable[[str], str]:
    return lambda at: f'<{base}{at}>; rel="next"'


def test_no_redirect_takes_the_token_along(tmp_path: Path) -> None:
    """From the endpoint to another host, back to the endpoint, and once more to the other."""
    token = "hf_of_the_user"

    def on_to(hub: FaultyHub, step: int) -> Fault:
        def fault(exchange: Exchange) -> None:
            path = exchange.handler.path
            if f"step={step}" in path or f"step={step + 1}" in path:
                exchange.handler.pass_on(exchange.hub.upstream)
                return
            at = path.replace(f"step={step - 1}", f"step={step}")
            joined = at if "step=" in at else f"{at}{'&' if '?' in at else '?'}step={step}"
            exchange.send((307, {"Location": f"{hub.endpoint}{joined}"}, b""))

        return fault

    with serve(tmp_path, {}) as odds, FaultyHub(odds.hub.upstream, host="localhost") as other:
        odds.hub.rules = (Rule(on_to(other, 1), kind="any", times=None),)
        other.rules = (Rule(on_to(odds.hub, 2), kind="any", times=None),)
        done = command(odds, "pull", "odd", "--json", HF_TOKEN=token)
        assert json.loads(done.stdout)[0]["status"] == "on disk"
        assert len(other.requests) > 3
        assert not any("authorization" in request.headers for request in other.requests)


@pytest.mark.parametrize("where", ["info", "tree", "file", "refusal", "head"])
def test_a_drip_ends(where: str, tmp_path: Path) -> None:
    """Two bytes at a time; the minimum rate is that of the command, its period shorter."""
    odd = Odd("only .* bytes came in", tree=drip if where == "tree" else None)
    with serve(tmp_path, {"Slow": odd}) as odds:
        rules = {
            "info": Rule(drip, kind="info", path="*/Slow/*", times=None),
            "head": Rule(drip_head, kind="info", path="*/Slow/*", times=None),
            "file": Rule(drip, path=f"/owner/Slow/*/{WEIGHTS}", times=None),
            "refusal": Rule(partial(drip, status=503), kind="info", path="*/Slow/*", times=None),
        }
        odds.hub.rules = (*odds.hub.rules, *([rules[where]] if where in rules else []))
        for words in (("pull",), ("audit",), ("probe", "--probes=weights", "--remote")):
            done = command(odds, words[0], "odd", *words[1:], "--json", start=QUICK)
            if words[0] == "pull":
                rows = json.loads(done.stdout)
                assert [row["status"] for row in rows] == ["on disk", "failed"]
            says = {"refusal": r"the Hub refused \(503", "head": "the head of the answer"}
            said = done.stderr + done.stdout
            assert re.search(says.get(where, odd.says), said, re.IGNORECASE)


def test_a_slow_and_steady_connection_is_waited_for(tmp_path: Path) -> None:
    with serve(tmp_path, {}) as odds:
        odds.hub.rules = (Rule(partial(drip, size=4096, pause=0.05), path="*", times=None),)
        done = command(odds, "pull", "odd", "--json", start=QUICK)
        assert json.loads(done.stdout)[0]["status"] == "on disk"
        asked = [request.file for request in odds.hub.requests if request.kind == "file"]
        assert len(asked) == len(set(asked))


QUICK = [
    sys.executable,
    "-c",
    "from huggingface_hub import constants; constants.HF_HUB_DOWNLOAD_TIMEOUT = 2; "
    "from workbench.hub import transfer; transfer.PERIOD = 0.6; transfer.WAITS = (0.01,) * 2; "
    "from workbench.cli import main; main()",
]


@pytest.mark.parametrize(
    ("words", "again"),
    [
        (("pull",), "pull again"),
        (("pull", "--dry-run"), "pull again"),
        (("probe", "--probes", "weights", "--remote"), "start again"),
        (("probe", "--probes", "weights", "--stream"), "pull again"),
        (("audit",), "audit again"),
    ],
)
def test_offline_and_out_of_reach_are_said_once(
    words: tuple[str, ...], again: str, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    (home / "suites").mkdir(parents=True)
    (home / "suites" / "odd.toml").write_text('title = "Odd"\nphases = "odd.csv"\n')
    rows = [f"{n},{f'owner/m{n}' if n != 26 else ''}\n" for n in range(1, 28)]
    (home / "suites" / "odd.csv").write_text("phase,repo_id\n" + "".join(rows))
    for variables, says in (
        ({"HF_HUB_OFFLINE": "1"}, f"the Hub cannot be asked .* HF_HUB_OFFLINE .* and {again}"),
        ({"HF_ENDPOINT": "http://127.0.0.1:9"}, rf"the Hub cannot be reached \(.* {again}"),
    ):
        given = environment(home) | variables
        done = subprocess.run(
            [WORKBENCH, words[0], "odd", *words[1:]], env=given, capture_output=True, text=True
        )
        assert done.returncode == 1
        lines = [line for line in done.stderr.splitlines() if "Hub cannot" in line]
        assert len(lines) == 1, done.stderr
        span = "" if words[0] == "audit" and "OFFLINE" in says else "Phases 1-25,27 of suite odd: "
        assert re.search(f"^(Error: )?{span}{says}", lines[0])


def test_a_list_of_revisions_that_is_odd(tmp_path: Path) -> None:
    """Neither as it comes from the Hub nor as it is kept."""
    home = tmp_path / "home"
    (home / "suites").mkdir(parents=True)
    found = '[[phases]]\nrepo_id = "owner/Sound"\npattern = "main"\n'
    (home / "suites" / "found.toml").write_text(f'title = "Found"\n{found}')
    with serve(tmp_path / "hub", {}) as odds:
        odds.home = home
        for body in (DEEP, '{"tags": [], "branches": [5]}', '{"tags": {}, "branches": []}', "5"):
            odds.hub.rules = (Rule(json_body(body), kind="other", path="*/refs", times=None),)
            done = command(odds, "phases", "found")
            assert (done.returncode, done.stderr.count("\n")) == (1, 1)
            assert "The revisions of owner/Sound cannot be listed: what ans" in done.stderr
        odds.hub.rules = ()
        assert command(odds, "phases", "found").returncode == 0
        (home / "listings" / "found.json").write_text(DEEP)
        done = command(odds, "phases", "found")
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert "found.json, the list of the phases of suite found, cannot be read" in done.stderr


@pytest.mark.parametrize("single", ["model.safetensors", "pytorch_model.bin"])
def test_a_folder_whose_index_leads_elsewhere(single: str, tmp_path: Path) -> None:
    """The weights of the sound phase would be measured as those of the other."""
    home, run = tmp_path / "home", tmp_path / "run"
    sound = write_llama(run / "a", num_hidden_layers=1)
    state = load_file(sound / WEIGHTS)
    if single != WEIGHTS:
        torch.save(state, sound / single)
        (sound / WEIGHTS).unlink()
    shutil.copytree(sound, run / "b")
    (run / "b" / single).unlink()
    weight_map = dict.fromkeys(state, f"../a/{single}")
    (run / "b" / f"{single}.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (home / "suites").mkdir(parents=True)
    blocks = "".join(f'[[phases]]\nfolder = "{run / name}"\n' for name in "ab")
    (home / "suites" / "mine.toml").write_text(f'title = "Mine"\n{blocks}')
    says = f"B of suite mine: {single}.index.json names '../a/{single}' as the file of"
    for words, code in (
        (("pull", "mine"), 1),
        (("pull", "mine", "--dry-run"), 1),
        (("probe", "mine", "--probes", "weights"), 1),
        (("status", "mine"), 0),
        (("compare", "mine", "1", "2"), 2),
        (("convert", "2", str(tmp_path / "out"), "--to", "llama", "--suite", "mine"), 2),
    ):
        done = subprocess.run(
            [WORKBENCH, *words], env=environment(home), capture_output=True, text=True, check=False
        )
        assert says in done.stderr, (words, done.stdout, done.stderr)
        assert (done.returncode, "Traceback" in done.stderr) == (code, False)
    asked = [WORKBENCH, "sql", SQL, "--json"]
    rows = subprocess.run(asked, env=environment(home), capture_output=True, check=True).stdout
    assert json.loads(rows) == [{"phase": 1}]
