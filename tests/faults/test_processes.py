"""Pulls that are killed, or that meet each other: real processes and real signals."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.counting import sent_again, sent_of
from tests.faults.faulty_hub import FaultyHub
from tests.faults.processes import begin, fetch_twice_at_once, kill_often
from tests.faults.stage import Stage, set_up
from workbench.hub.cache import find_snapshot


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with set_up(tmp_path_factory.mktemp("large"), size=24_000_000) as stage:
        yield stage


def test_fifty_kills_at_random_moments(large: Stage, tmp_path: Path) -> None:
    """The measures are a sixteenth of the real ones: so is the limit of 16 MiB a file and kill."""
    report = kill_often(large, tmp_path / "cache", kills=50, rate=8e6)
    assert report.killed == 50
    suite, phase = large.suite(tmp_path / "cache")
    snapshot = find_snapshot(suite, phase)
    assert snapshot is not None
    assert large.wrong_with(snapshot) == []
    assert max(report.again) <= 1 << 20
    assert report.total < 2 * large.size  # it did go on: from the start it would be much more


def test_two_processes_fetch_one_phase_once(stage: Stage, tmp_path: Path) -> None:
    codes, sent = fetch_twice_at_once(stage, tmp_path / "cache")
    assert codes == [0, 0]
    assert sent == stage.size
    suite, phase = stage.suite(tmp_path / "cache")
    snapshot = find_snapshot(suite, phase)
    assert snapshot is not None
    assert stage.wrong_with(snapshot) == []


def test_one_of_two_is_killed_and_the_other_takes_over(stage: Stage, tmp_path: Path) -> None:
    with FaultyHub(stage.hub.endpoint, rate=4e6) as hub:
        first = begin(hub, tmp_path / "cache")
        while sum(sent_of(hub.requests).values()) < stage.size // 4:
            time.sleep(0.005)
        second = begin(hub, tmp_path / "cache")
        time.sleep(0.1)
        first.kill()
        for process in (first, second):
            process.join()
        assert second.exitcode == 0
        again = sent_again(hub.settled())
    suite, phase = stage.suite(tmp_path / "cache")
    snapshot = find_snapshot(suite, phase)
    assert snapshot is not None
    assert stage.wrong_with(snapshot) == []
    assert max(again.values()) < 1 << 20
