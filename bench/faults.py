"""The table of faults as markdown: what each did to a pull, as really seen.

    python -m bench.faults

A server's faults strike once, or always, at one repository of 2.6 MB, served over HTTP; the disk's
and the processes' are real ones. The last column says whether it ended as it has to.
"""

import argparse
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.faults import processes, puller
from tests.faults.cases import CASES, see
from tests.faults.stage import Stage, in_small, set_up, write_suite

NAMES = {
    "small-disk": "the disk fills up in mid-file",
    "small-files": "the system refuses to write on in mid-file",
    "read-only": "the cache cannot be written",
}
Row = tuple[str, str, bool]


def servers_faults(stage: Stage, folder: Path) -> Iterator[Row]:
    with in_small():
        for number, case in enumerate(CASES):
            try:
                seen = see(stage, case, folder / str(number))
            except Exception as error:
                yield case.name, f"a traceback ({type(error).__name__}: {error})", False
                continue
            wanted = (
                seen.message is None
                if case.sentence is None
                else seen.message is not None and re.search(case.sentence, seen.message) is not None
            )
            yield case.name, seen.outcome, wanted and not seen.wrong


def disks_faults(stage: Stage) -> Iterator[Row]:
    for how in ("small-disk", "small-files", "read-only"):
        with puller.public_folder() as folder:
            (said, after), how = puller.run(stage.hub.endpoint, folder / "cache", how)
        yield (
            NAMES[how],
            said,
            "cannot be written" in said and after == "None",
        )


def processes_faults(folder: Path) -> Iterator[Row]:
    with set_up(folder / "large", size=24_000_000) as large:
        done = processes.kill_often(large, folder / "killed", kills=50, rate=8e6)
        most = max(done.again)
        yield (
            "kill -9 at random moments, 50 times",
            f"the right files; at most {most:,} bytes of a file came twice for a kill",
            most <= 1 << 20,
        )
    with set_up(folder / "small") as stage:
        codes, sent = processes.fetch_twice_at_once(stage, folder / "both")
        yield (
            "two processes pull the same phase",
            f"exit codes {codes}, {sent - stage.size:,} bytes came twice",
            codes == [0, 0] and sent == stage.size,
        )
        write_suite(folder / "home")
        stopped = processes.interrupt(stage, folder / "home")
        yield (
            "Ctrl-C",
            f"exit code {stopped.code}; {stopped.said.strip()}; then the right files, "
            f"{stopped.again:,} bytes came twice",
            stopped.code == 130 and stopped.said.count("\n") == 1,
        )


def main() -> int:
    failed = 0
    print("| fault | outcome | as it has to be |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        with set_up(folder / "stage") as stage:
            rows = [servers_faults(stage, folder), disks_faults(stage), processes_faults(folder)]
            for part in rows:
                for name, outcome, fine in part:
                    failed += not fine
                    told = re.sub(r"\S+/cache|(?<=http://)[\w.]+:\d+", "...", outcome)
                    told = told.replace("|", "\\|")
                    print(f"| {name} | {told} | {'yes' if fine else 'NO'} |", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0]).parse_args()
    sys.exit(main())
