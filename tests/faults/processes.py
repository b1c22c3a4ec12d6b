"""Pulls in processes of their own that are killed, or that meet."""

import multiprocessing
import random
import signal
import subprocess
import time
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path

from tests.e2e.command import WORKBENCH, environment
from tests.faults import puller
from tests.faults.counting import Coverage, sent_again, sent_of
from tests.faults.faulty_hub import FaultyHub
from tests.faults.stage import Stage

# Every process is forked from one that has loaded all that a pull needs: it starts at once.
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload([puller.__name__, "huggingface_hub.hf_api", "filelock"])


def begin(hub: FaultyHub, cache: Path) -> BaseProcess:
    process = _FORKS.Process(target=puller.in_a_fork, args=(hub.endpoint, cache))
    process.start()
    return process


@dataclass
class Kills:
    """What killing a pull again and again has cost."""

    killed: int = 0
    again: list[int] = field(default_factory=list)
    """The most bytes of one file that a process fetched although they had been sent before."""
    total: int = 0
    """Bytes that were sent, in all."""


def kill_often(stage: Stage, cache: Path, kills: int, rate: float, seed: int = 0) -> Kills:
    """Begin the pull and kill it at random moments of its transfer, then let it end."""
    chance = random.Random(seed)
    report = Kills()
    known: dict[str, Coverage] = {}
    with FaultyHub(stage.hub.endpoint, rate=rate) as hub:
        while True:
            before = len(hub.settled())
            process = begin(hub, cache)
            if report.killed < kills:
                _wait_for_request(hub, before, process)
                time.sleep(chance.uniform(0, 0.1))
                process.kill()
            process.join()
            again = sent_again(hub.settled()[before:], known)
            report.again.append(max(again.values(), default=0))
            if process.exitcode == 0:
                report.total = sum(sent_of(hub.requests).values())
                return report
            assert process.exitcode == -9, f"the pull ended with {process.exitcode}"
            report.killed += 1


def fetch_twice_at_once(stage: Stage, cache: Path) -> tuple[list[int | None], int]:
    """Two processes pull the same phase: their exit codes, and the bytes that were sent to both."""
    with FaultyHub(stage.hub.endpoint, rate=8e6) as hub:
        pulls = [begin(hub, cache) for _ in range(2)]
        for process in pulls:
            process.join()
        return [process.exitcode for process in pulls], sum(sent_of(hub.settled()).values())


@dataclass
class Interrupted:
    """What Ctrl-C does to the real command, and what the same command does then."""

    code: int
    said: str
    """All that stood on stderr."""
    again: int
    """Bytes that were sent to both."""


def interrupt(stage: Stage, home: Path) -> Interrupted:
    """Press Ctrl-C in the middle of ``workbench pull``, then run it once more to its end."""
    command = [WORKBENCH, "pull", "tiny", "--json"]
    with FaultyHub(stage.hub.endpoint, rate=1e6) as hub:
        variables = environment(home) | {"HF_ENDPOINT": hub.endpoint}
        process = subprocess.Popen(
            command, env=variables, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        while sum(sent_of(hub.requests).values()) < stage.size // 2 and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate()
        hub.settled()
        hub.rate = None
        subprocess.run(command, env=variables, stdout=subprocess.DEVNULL, check=True)
        return Interrupted(process.returncode, said, sum(sent_again(hub.settled()).values()))


def _wait_for_request(hub: FaultyHub, before: int, process: BaseProcess) -> None:
    while len(hub.requests) == before and process.is_alive():
        time.sleep(0.002)
