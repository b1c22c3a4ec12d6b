"""The real `workbench pull` and the variables of the Hub's client; Ctrl-C."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.command import WORKBENCH, environment
from tests.faults.faults import lead_to
from tests.faults.faulty_hub import FaultyHub, Rule
from tests.faults.processes import interrupt
from tests.faults.stage import Stage, write_suite
from workbench.hub.cache import Snapshot, find_snapshot

PULL = [WORKBENCH, "pull", "tiny", "--json"]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    write_suite(tmp_path / "home")
    return tmp_path / "home"


def pull(home: Path, expect: int = 0, **variables: str) -> tuple[dict[str, Any], str]:
    """The row of the phase, and what stood on stderr."""
    for_it = environment(home) | variables
    done = subprocess.run(PULL, env=for_it, capture_output=True, text=True, check=False)
    assert done.returncode == expect, done.stderr
    return json.loads(done.stdout)[0], done.stderr


def pulled(stage: Stage, home: Path) -> Snapshot:
    suite, phase = stage.suite(home.parent / "huggingface" / "hub")
    snapshot = find_snapshot(suite, phase)
    assert snapshot is not None
    assert stage.wrong_with(snapshot) == []
    return snapshot


def test_a_mirror_is_sent_the_token_and_another_host_is_not(stage: Stage, home: Path) -> None:
    token = "hf_of_the_user"
    with FaultyHub(stage.hub.endpoint, host="localhost") as other:
        leading = Rule(lead_to(other, 60), times=None)
        with FaultyHub(stage.hub.endpoint, (leading,)) as hub:
            row, _ = pull(home, HF_ENDPOINT=hub.endpoint, HF_TOKEN=token)
    assert row["status"] == "on disk"
    assert row["commit"] == pulled(stage, home).commit_sha[:12]
    assert {r.headers.get("authorization") for r in hub.requests} == {f"Bearer {token}"}
    assert {r.kind for r in other.requests} == {"signed"}
    assert {r.headers.get("authorization") for r in other.requests} == {None}
    assert not any(token in str(r) for r in other.requests)


def test_a_proxy_is_used(stage: Stage, home: Path) -> None:
    with FaultyHub(stage.hub.endpoint) as proxy:
        hub = "http://hub.invalid"
        pull(home, HF_ENDPOINT=hub, http_proxy=proxy.endpoint, no_proxy="", NO_PROXY="")
    pulled(stage, home)
    assert {request.headers["host"] for request in proxy.requests} == {"hub.invalid"}


def test_offline_asks_nobody(stage: Stage, home: Path) -> None:
    with FaultyHub(stage.hub.endpoint) as hub:
        row, _ = pull(home, expect=1, HF_ENDPOINT=hub.endpoint, HF_HUB_OFFLINE="1")
        assert "while HF_HUB_OFFLINE is set: unset it" in row["message"]
        assert not hub.requests
        pull(home, HF_ENDPOINT=hub.endpoint)
        asked = len(hub.requests)
        row, _ = pull(home, HF_ENDPOINT=hub.endpoint, HF_HUB_OFFLINE="1")
        assert row["status"] == "on disk"
        assert len(hub.requests) == asked


def test_ctrl_c(stage: Stage, home: Path) -> None:
    done = interrupt(stage, home)
    assert done.code == 130
    assert done.said == "Error: Stopped; run the same command again.\n"
    pulled(stage, home)
    assert done.again < stage.size // 4
