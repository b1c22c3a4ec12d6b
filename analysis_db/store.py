"""The metrics store: one DuckDB file, opened for moments only.

DuckDB lets one process write or many read. Every connection here is short and is retried with
growing, jittered pauses, so that a dashboard, a probe run and a notebook share the file. Readers
are sandboxed: no access to other files, no changed settings.
"""

import random
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from importlib import resources
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa

from analysis_db.errors import StoreBusy, StoreError, StoreTooNew

FIRST_PAUSE_S, PAUSE_GROWTH, LONGEST_PAUSE_S, PATIENCE_S = 0.005, 1.6, 0.25, 10.0
READER_CONFIG: dict[str, Any] = {
    "enable_external_access": "false",
    "lock_configuration": "true",
    "memory_limit": "2GB",
    "threads": "2",
}
# The texts of DuckDB 2.0 for "somebody else has the file right now": another process, or a
# connection of the other kind in this process.
_BUSY_TEXTS = ("Could not set lock on file", "different configuration")

_TABLES = {"measurements": "measurement", "histograms": "histogram", "benchmarks": "benchmark"}


@dataclass(frozen=True)
class RunRecord:
    """One run of one probe on one checkpoint, with everything its numbers depend on."""

    run_id: str
    fingerprint: str
    suite: str
    phase: int
    probe: str
    probe_version: int
    settings: str
    """JSON, as are file_hashes, overrides and notes."""
    settings_hash: str
    status: str
    """complete or failed"""
    started_at: datetime
    seconds: float
    device: str
    dtype: str
    host: str
    repo_id: str
    commit_sha: str
    file_hashes: str
    overrides: str
    notes: str
    code_version: str
    error: str | None = None


def schema_scripts() -> list[tuple[int, str]]:
    """(number, SQL) of every schema file, ascending."""
    folder = resources.files("analysis_db") / "schema"
    names = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".sql"))
    return [(int(name[:3]), (folder / name).read_text(encoding="utf-8")) for name in names]


class Store:
    """The store at ``path``. The file is made, and its schema brought up to date, by a write."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()

    @contextmanager
    def read(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """A short, read-only, sandboxed connection.

        Raises StoreError when there is no store, StoreTooNew and StoreBusy.
        """
        nothing = StoreError(
            f"There is no metrics store at {self.path}: run `workbench demo`, or "
            "`workbench probe`, to make one."
        )
        if not self.path.exists():
            raise nothing
        connection = self._connect(read_only=True)
        try:
            if self._check_version(connection) == 0:  # its first write was killed half way
                raise nothing
            yield connection
        finally:
            connection.close()

    @contextmanager
    def write(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """A short connection inside one transaction: all of it happens, or nothing.

        Raises StoreTooNew, StoreBusy, and StoreError when the disk is full.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._lock:
            connection = self._connect(read_only=False)
            try:
                connection.execute("BEGIN")
                self._migrate(connection)
                yield connection
                connection.execute("COMMIT")
            except duckdb.Error as error:
                if "No space left" in str(error):
                    raise StoreError(
                        f"The disk of {self.path} is full: free some space and repeat the command; "
                        "nothing of it was stored."
                    ) from None
                raise
            finally:
                connection.close()  # an open transaction is rolled back

    def frame(self, sql: str, params: Mapping[str, Any] | None = None) -> pd.DataFrame:
        """The result of a query with ``$name`` parameters as a pandas frame."""
        with self.read() as connection:
            return connection.execute(sql, dict(params or {})).df()

    def table(self, sql: str, params: Mapping[str, Any] | None = None) -> pa.Table:
        """The result of a query with ``$name`` parameters as an Arrow table."""
        with self.read() as connection:
            return connection.sql(sql, params=dict(params or {})).to_arrow_table()

    def schema_version(self) -> int:
        """The number of the newest schema file that the store has."""
        with self.read() as connection:
            return _version(connection)

    def put_suite(self, suite: Mapping[str, str], phases: Sequence[Mapping[str, Any]]) -> None:
        """Replace a suite and its phases."""
        with self.write() as connection:
            for table in ("suite", "phase"):
                connection.execute(f"DELETE FROM data.{table} WHERE suite = $name",
                                   {"name": suite["name"]})  # fmt: skip
            connection.execute(
                "INSERT INTO data.suite VALUES ($name, $title, $about, $licence)", dict(suite)
            )
            insert(connection, "phase", [{"suite": suite["name"], **row} for row in phases])

    def set_on_disk(self, suite: str, on_disk: Mapping[int, bool]) -> None:
        """Note which phases' checkpoints are on disk."""
        with self.write() as connection:
            for phase, value in on_disk.items():
                connection.execute(
                    "UPDATE data.phase SET on_disk = $value "
                    "WHERE suite = $suite AND phase = $phase",
                    {"value": value, "suite": suite, "phase": phase},
                )

    def register_probes(
        self, probes: Sequence[Mapping[str, Any]], metrics: Sequence[Mapping[str, Any]]
    ) -> None:
        """Replace the definitions of these probes and of their metrics."""
        with self.write() as connection:
            for probe in probes:
                for table in ("probe", "metric"):
                    connection.execute(f"DELETE FROM data.{table} WHERE probe = $probe",
                                       {"probe": probe["probe"]})  # fmt: skip
            insert(connection, "probe", probes)
            insert(connection, "metric", metrics)

    def write_run(self, record: RunRecord, tables: Mapping[str, pa.Table]) -> None:
        """A run and all its rows, in one transaction."""
        with self.write() as connection:
            insert(connection, "run", [asdict(record)])
            for name, table in tables.items():
                run_ids = pa.array([record.run_id] * table.num_rows, pa.string())
                insert(connection, _TABLES[name], table.append_column("run_id", run_ids))

    def complete_fingerprints(self, suite: str) -> set[str]:
        """The fingerprints that have succeeded; empty when there is no store yet."""
        if not self.path.exists():
            return set()
        sql = "SELECT DISTINCT fingerprint FROM runs WHERE suite = $suite AND status = 'complete'"
        return set(self.table(sql, {"suite": suite})["fingerprint"].to_pylist())

    def _connect(self, *, read_only: bool) -> duckdb.DuckDBPyConnection:
        deadline = time.monotonic() + PATIENCE_S
        pause = FIRST_PAUSE_S
        while True:
            try:
                return duckdb.connect(
                    self.path, read_only=read_only, config=READER_CONFIG if read_only else {}
                )
            except (duckdb.IOException, duckdb.ConnectionException) as error:
                if not any(text in str(error) for text in _BUSY_TEXTS):
                    raise StoreError(
                        f"{self.path} cannot be opened as a metrics store "
                        f"({str(error).splitlines()[0]}): move it away to start a new one."
                    ) from None
                if time.monotonic() > deadline:
                    raise StoreBusy(
                        f"{self.path} has been in use by another program for {PATIENCE_S:.0f} s: "
                        "close it, or try again."
                    ) from None
            time.sleep(pause * random.uniform(0.5, 1.5))
            pause = min(pause * PAUSE_GROWTH, LONGEST_PAUSE_S)

    def _check_version(self, connection: duckdb.DuckDBPyConnection) -> int:
        found, known = _version(connection), schema_scripts()[-1][0]
        if found > known:
            raise StoreTooNew(
                f"{self.path} was made by a newer workbench (schema {found}, this one knows "
                f"{known}): update the workbench; the store was not touched."
            )
        return found

    def _migrate(self, connection: duckdb.DuckDBPyConnection) -> None:
        found = self._check_version(connection)
        for number, script in schema_scripts():
            if number > found:
                connection.execute(script)
                connection.execute(
                    "CREATE TABLE IF NOT EXISTS "
                    "schema_version (number INTEGER, applied TIMESTAMPTZ)"
                )
                connection.execute("INSERT INTO schema_version VALUES ($n, now())", {"n": number})


def insert(
    connection: duckdb.DuckDBPyConnection,
    table: str,
    rows: pa.Table | Sequence[Mapping[str, Any]],
) -> None:
    """Append rows to ``data.table`` by column name."""
    if not isinstance(rows, pa.Table):
        if not rows:
            return
        rows = pa.Table.from_pylist([dict(row) for row in rows])
    connection.register("incoming", rows)
    connection.execute(f"INSERT INTO data.{table} BY NAME SELECT * FROM incoming")
    connection.unregister("incoming")


def _version(connection: duckdb.DuckDBPyConnection) -> int:
    tables = "SELECT count(*) FROM duckdb_tables() WHERE table_name = 'schema_version'"
    if connection.execute(tables).fetchall()[0][0] == 0:
        return 0
    return int(connection.execute("SELECT max(number) FROM schema_version").fetchall()[0][0])
