"""A pull in a process of its own: forked, as a script on a disk of its own, as another user.

python -m tests.faults.puller ENDPOINT CACHE [small-disk|small-files|read-only]
"""

import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.faults.stage import REPO_ID, in_small
from workbench.hub.failures import HubError
from workbench.hub.pull import pull_phase
from workbench.suites import Phase, Suite

NOBODY = 65534


def pull(endpoint: str | None, cache: Path, fill_up: Path | None = None) -> str | None:
    """The sentence that the pull ends with, or None.

    With ``fill_up``, that file takes what is free on the disk once the pull has begun to write.
    """
    phase = Phase(phase=1, repo_id=REPO_ID)
    suite = Suite(name="tiny", title="Tiny", phases=(phase,), cache_dir=cache)

    def progress(done: int, total: int) -> None:
        if fill_up is not None and done > total // 4 and not fill_up.exists():
            disk = os.statvfs(cache)
            fill_up.write_bytes(bytes(disk.f_bavail * disk.f_frsize))

    try:
        pull_phase(suite, phase, endpoint=endpoint, progress=progress)
    except HubError as error:
        return str(error)
    return None


def in_a_fork(endpoint: str, cache: Path) -> None:
    """For a process forked from one that has this module loaded; exits with 0 or 1."""
    with in_small():
        sys.exit(0 if pull(endpoint, cache) is None else 1)


def on_own_disks() -> list[str] | None:
    """What starts a command with mounts that nobody else sees; None: the system has no such."""
    if shutil.which("unshare"):
        for rights in (["--mount"], ["--mount", "--map-root-user"]):
            command = ["unshare", *rights]
            trial = [*command, "mount", "-t", "tmpfs", "none", "/mnt"]
            if subprocess.run(trial, capture_output=True, check=False).returncode == 0:
                return command
    return None


def run(endpoint: str, cache: Path, how: str) -> tuple[list[str], str]:
    """Run this module as a script: the sentences that it prints, and how it could be run."""
    own = on_own_disks() if how == "small-disk" else []
    if own is None:  # the next best refusal of the system's own
        own, how = [], "small-files"
    command = [*own, sys.executable, "-m", __name__, endpoint, str(cache), how]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines(), how


@contextmanager
def public_folder(beside: Path | None = None) -> Iterator[Path]:
    """A temporary folder that other users may enter."""
    with tempfile.TemporaryDirectory(dir=beside) as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def main(endpoint: str, cache: Path, how: str) -> None:
    with in_small():
        match how:
            case "small-disk":
                # Room for all of it when the pull begins.
                cache.mkdir()
                size = ["-o", "size=4m"]
                subprocess.run(["mount", "-t", "tmpfs", *size, "none", str(cache)], check=True)
                print(pull(endpoint, cache, fill_up=cache / "ballast"))
                (cache / "ballast").unlink()
            case "small-files":
                signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
                _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
                resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, most))
                print(pull(endpoint, cache))
                resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
            case "read-only":
                # A cache that another pull has begun; loads all that a pull imports, too.
                assert pull(endpoint, cache) is None
                next(cache.glob("models--*/snapshots/*/config.json")).unlink()
                next(cache.glob("models--*/blobs/*")).unlink()
                _permit(cache, 0o555)
                if os.geteuid() == 0:  # whom no permission binds
                    os.seteuid(NOBODY)
                print(pull(endpoint, cache))
                if os.getuid() == 0:
                    os.seteuid(0)
                _permit(cache, 0o755)
        print(pull(endpoint, cache))


def _permit(folder: Path, mode: int) -> None:
    for path in (folder, *folder.rglob("*")):
        if path.is_dir():
            path.chmod(mode)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
