"""Pulls through `olah`, a caching Hub proxy that is not ours, in front of the local Hub.

    python -m bench.olah [OLAH]

OLAH is its `olah-cli` (default: the one on the path; `pip install olah==0.5.4` into an environment
of its own). Says of two pulls, each into a fresh cache, whether all files arrived and are equal,
and how many bytes olah fetched for each: it has a cache of its own, so none for the second.
"""

import argparse
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import parse_qs, urlsplit
from urllib.request import urlopen

from tests.faults.counting import sent_of
from tests.faults.faults import json_body
from tests.faults.faulty_hub import Exchange, FaultyHub, Rule
from tests.faults.stage import set_up
from workbench.hub.failures import HubError
from workbench.hub.pull import pull_phase


def paths_info(exchange: Exchange) -> None:
    """What the Hub says of single files, from its tree: olah asks so, the local Hub has no such."""
    body = exchange.handler.rfile.read(int(exchange.request.headers["content-length"]))
    names = parse_qs(body.decode())["paths"]
    at = exchange.request.path.replace("/paths-info/", "/tree/")
    with urlopen(f"{exchange.hub.upstream}{at}?recursive=true") as answer:
        found = [entry for entry in json.load(answer) if entry["path"] in names]
    json_body(json.dumps(found))(exchange)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as trial:
        return int(trial.getsockname()[1])


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    while process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except ConnectionRefusedError:
            time.sleep(0.1)
    raise SystemExit(f"olah ended at once, with {process.returncode}.")


def main(olah: str, size: int) -> int:
    ended_well = True
    with tempfile.TemporaryDirectory() as temporary, set_up(Path(temporary), size) as stage:
        folder = Path(temporary)
        # Not faulty at all: it counts.
        asked_for_files = Rule(paths_info, kind="other", path="*/paths-info/*", times=None)
        with (
            FaultyHub(stage.hub.endpoint, (asked_for_files,)) as hub,
            (folder / "olah.log").open("wb") as log,
        ):
            port = free_port()
            host = urlsplit(hub.endpoint).netloc
            upstream = ["--hf-scheme", "http", "--hf-netloc", host, "--hf-lfs-netloc", host]
            mirror = ["--mirror-scheme", "http", "--mirror-netloc", f"127.0.0.1:{port}"]
            own = ["--host", "127.0.0.1", "--port", str(port), "--repos-path", str(folder / "olah")]
            command = [olah, *own, *upstream, *mirror, "--log-path", str(folder / "logs")]
            process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
            try:
                wait_for(port, process)
                for pull in (1, 2):
                    suite, phase = stage.suite(folder / f"cache{pull}")
                    before = len(hub.settled())
                    try:
                        snapshot = pull_phase(suite, phase, endpoint=f"http://127.0.0.1:{port}")
                        wrong = stage.wrong_with(snapshot)
                    except HubError as error:
                        wrong = [str(error)]
                    fetched = sum(sent_of(hub.settled()[before:]).values())
                    outcome = "; ".join(wrong) or "all files arrived and are equal"
                    print(f"pull {pull}: {outcome}; {fetched:,} of {stage.size:,} bytes upstream")
                    ended_well = ended_well and not wrong
            finally:
                process.terminate()
                process.wait()
    return 0 if ended_well else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("olah", nargs="?", default=shutil.which("olah-cli"))
    parser.add_argument("--size", type=int, default=50_000_000, help="bytes of the larger file")
    asked = parser.parse_args()
    if asked.olah is None:
        parser.error("there is no olah-cli on the path: name it")
    sys.exit(main(asked.olah, asked.size))
