"""Where the workbench keeps its things: one folder, named by WORKBENCH_HOME."""

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Home:
    """The folders under WORKBENCH_HOME (default ``./workbench-data``)."""

    root: Path

    @classmethod
    def from_env(cls) -> "Home":
        return cls(Path(os.environ.get("WORKBENCH_HOME") or "workbench-data").absolute())

    @property
    def store(self) -> Path:
        return self.root / "metrics.duckdb"

    @property
    def suites(self) -> Path:
        """TOML files of the user's own suites, those that our trainer made included."""
        return self.root / "suites"

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    @property
    def hashes(self) -> Path:
        """What ``hub.hashes.FileHashes`` remembers of files that were hashed."""
        return self.root / "verified.jsonl"
