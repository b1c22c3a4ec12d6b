"""The metrics store: one DuckDB file, opened for moments only.

DuckDB lets one process write or many read. Every connection here is short and is retried with
growing, jittered pauses, and a writer that waits comes before new readers (``turns``), so that a
dashboard, a probe run and a notebook share the file. Readers are sealed: no file, no settings, a
bound on memory. Times are UTC.
"""

import os
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import duckdb
import pyarrow as pa

from analysis_db.errors import StoreBusy, StoreError, StoreTooNew
from analysis_db.store_file import file_trouble
from analysis_db.turns import is_free, pauses, writers_turn

if TYPE_CHECKING:
    import pandas as pd

PATIENCE_S = 10.0
# The same for every reader: DuckDB refuses two configurations of one file in one process.
READER_CONFIG: dict[str, Any] = {
    "enable_external_access": "false",
    "memory_limit": "2GB",
    "threads": "2",
    "temp_directory": "",  # a query too large for the memory fails; it never fills the disk
}
# enable_external_access alone leaves the store's own file open to COPY ... TO, which overwrites
# it even on a read-only connection. Once the file is open no file system is needed any more.
_SEAL = (
    "SET GLOBAL TimeZone = 'UTC'",
    "SET disabled_filesystems = 'LocalFileSystem'",
    "SET lock_configuration = true",
)
# The texts of DuckDB 2.0 for "somebody else has the file right now": another process, or a
# connection of the other kind in this process.
_BUSY_TEXTS = ("Could not set lock on file", "different configuration")
_NEWS = "run `workbench demo`, or `workbench probe`, to make one."

_opening = threading.Lock()
"""Held while a connection is opened and sealed: all readers of a process share one database."""
_writing = threading.Lock()
"""Held for a whole write: threads of a process take turns; between processes DuckDB's lock does."""

_RECORD_OF = """
SELECT definition, suite IN (FROM data.suite_with_results) FROM data.suite WHERE suite = $name
"""
_TABLES = {
    "measurements": "measurement",
    "histograms": "histogram",
    "benchmarks": "benchmark",
    "sketches": "sketch",
}
# What a page asks for lies together: DuckDB skips the row groups that cannot hold it.
_ORDERS = {"measurements": ("metric", "view", "module", "layer", "head", "domain")}


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
    """complete or failed; ``mark_damaged`` makes it damaged."""
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
    part: str = ""
    """The piece of the probe's work, where it has several, such as one benchmark task."""
    verified: bool | None = None
    """Whether each file was compared with its hash in file_hashes."""


def schema_scripts() -> list[tuple[int, str]]:
    """(number, SQL) of every schema file, ascending."""
    folder = resources.files("analysis_db") / "schema"
    names = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".sql"))
    return [(int(name[:3]), (folder / name).read_text(encoding="utf-8")) for name in names]


class Store:
    """The store at ``path``. A write makes the file; an older schema is brought up to date."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._session: ExitStack | None = None
        self._shared: duckdb.DuckDBPyConnection | None = None
        self._definitions: dict[str, str] = {}
        """Of the suites that were put here, to refuse results once a name is another's."""

    @contextmanager
    def session(self) -> Iterator["Store"]:
        """A store whose reads share one connection, opened by the first of them; for one thread.

        Opening takes longer than most queries. Writers wait until the session ends.
        """
        with ExitStack() as stack:
            session = Store(self.path)
            session._session = stack
            yield session

    @contextmanager
    def read(
        self, config: Mapping[str, Any] = READER_CONFIG
    ) -> Iterator[duckdb.DuckDBPyConnection]:
        """A short, read-only, sealed connection; one ``config`` for all readers of a process.

        Raises StoreError when there is no store or it is damaged, StoreTooNew and StoreBusy.
        """
        try:
            if self._session is None:
                with self._reader(config) as connection:
                    yield connection
                return
            if self._shared is None:
                self._shared = self._session.enter_context(self._reader(config))
            yield self._shared
        except duckdb.Error as error:
            self._raise_trouble(error)

    @contextmanager
    def _reader(self, config: Mapping[str, Any]) -> Iterator[duckdb.DuckDBPyConnection]:
        if not self.path.exists():
            raise StoreError(f"There is no metrics store at {self.path}: {_NEWS}")
        connection = self._connect(config, _deadline())
        try:
            if self._check_version(connection) < schema_scripts()[-1][0]:
                connection.close()
                with self.write():
                    pass  # every view that a reader may ask for is there from now on
                connection = self._connect(config, _deadline())
            yield connection
        finally:
            connection.close()

    @contextmanager
    def write(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """A short connection inside one transaction: all of it happens, or nothing.

        Raises StoreTooNew, StoreBusy, and StoreError when the file cannot be written.
        """
        with _writing:
            if not self.path.exists():
                self._create()
            deadline = _deadline()
            with writers_turn(self.path.parent, deadline) as taken:
                if not taken:
                    raise self._busy()
                connection = self._connect(None, deadline)
                try:
                    found = self._check_version(connection)
                    connection.execute("BEGIN")
                    _migrate(connection, found)
                    yield connection
                    connection.execute("COMMIT")
                except duckdb.Error as error:
                    self._raise_trouble(error)
                finally:
                    connection.close()  # an open transaction is rolled back

    def frame(self, sql: str, params: Mapping[str, Any] | None = None) -> "pd.DataFrame":
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

    def put_suite(
        self,
        suite: Mapping[str, str],
        phases: Sequence[Mapping[str, Any]],
        *,
        definition: str | None = None,
        without: Collection[str] = (),
    ) -> None:
        """Replace a suite and its phases.

        ``definition`` identifies what defines the suite; None keeps what the store has. ``without``
        are the tables of facts (data_mix, published_score) that the suite does not bring: its rows
        there are removed, but for imported ones. Raises StoreError, with nothing changed, when
        there are results of another definition under this name.
        """
        name = {"name": suite["name"]}
        with self.write() as connection:
            before = connection.execute(_RECORD_OF, name).fetchall()
            known, results = before[0] if before else (None, False)
            if results and None not in (known, definition) and known != definition:
                raise StoreError(
                    f"The name {suite['name']} belongs to the suite of {known}, which has results "
                    f"in the store: rename {definition} to store its results under another name."
                )
            for table in ("suite", "phase"):
                connection.execute(f"DELETE FROM data.{table} WHERE suite = $name", name)
            for table in without:
                connection.execute(
                    f"DELETE FROM data.{table} WHERE suite = $name AND imported_from IS NULL", name
                )
            row = dict(suite) | {"definition": definition or known}
            connection.execute(
                "INSERT INTO data.suite BY NAME SELECT $name AS suite, $title AS title, "
                "$about AS about, $licence AS licence, $definition AS definition",
                row,
            )
            insert(connection, "phase", [{"suite": suite["name"], **row} for row in phases])
        if definition is not None:
            self._definitions[suite["name"]] = definition

    def _check_owner(self, connection: duckdb.DuckDBPyConnection, suite: str) -> None:
        """Raise StoreError when another process has given the name to another definition since."""
        own = self._definitions.get(suite)
        if own is None:
            return
        known = connection.execute(_RECORD_OF, {"name": suite}).fetchall()
        if known and known[0][0] != own:
            raise StoreError(
                f"The name {suite} was given to the suite of {known[0][0]} while {own} was in use: "
                "nothing more was stored; rename one of the two and repeat the command."
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

    def put_benchmark_tasks(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Replace which task measures which published benchmark.

        Rows have benchmark (None for a task that no author prints), task_group, task, shots,
        metric and reason.
        """
        with self.write() as connection:
            connection.execute("DELETE FROM data.benchmark_task")
            insert(connection, "benchmark_task", rows)

    def write_run(self, record: RunRecord, tables: Mapping[str, pa.Table]) -> None:
        """A run and all its rows, in one transaction; tables as ``probes.base`` defines them.

        Raises StoreError for a value that is not finite, or missing without a reason.
        """
        try:
            with self.write() as connection:
                self._check_owner(connection, record.suite)
                insert(connection, "run", [asdict(record)])
                for name, table in tables.items():
                    run_ids = pa.array([record.run_id] * table.num_rows, pa.string())
                    table = table.append_column("run_id", run_ids)
                    insert(connection, _TABLES[name], table, _ORDERS.get(name, ()))
                connection.execute(
                    "INSERT INTO data.measured FROM data.measured_of_values WHERE run_id = $id",
                    {"id": record.run_id},
                )
        except duckdb.ConstraintException as error:
            raise StoreError(
                f"The probe {record.probe} returned a row for phase {record.phase} that the store "
                f"refuses ({_first_line(error)}): nothing of the run was stored; report it to the "
                "probe's author."
            ) from None

    def put_audits(
        self,
        suite: str,
        audits: Sequence[Mapping[str, Any]],
        findings: Sequence[Mapping[str, Any]],
        *,
        audited_at: datetime,
    ) -> None:
        """Replace what the last audit of these phases found; that of other phases stays.

        ``audits`` has phase, repo_id, revision, commit_sha, bytes_read; ``findings`` has phase,
        severity, check_id, message, evidence (JSON), of the same phases.
        """
        with self.write() as connection:
            self._check_owner(connection, suite)
            for table in ("audit", "audit_finding"):
                connection.execute(
                    f"DELETE FROM data.{table} WHERE suite = $suite AND phase IN $phases",
                    {"suite": suite, "phases": [row["phase"] for row in audits]},
                )
            stamped = {"suite": suite, "audited_at": audited_at}
            insert(connection, "audit", [{**stamped, **row} for row in audits])
            insert(connection, "audit_finding", [{"suite": suite, **row} for row in findings])

    def mark_damaged(self, repo_id: str, name: str, address: str, since: datetime | None) -> int:
        """Mark the complete runs that rest on a damaged file, so that no view shows their values.

        They are those of the repository with this content address in their file_hashes that
        started at ``since`` or later (None: at any time). Comparisons made with them are removed.
        Returns the number of runs.
        """
        if not self.path.exists():
            return 0
        reason = f"{name} was found damaged after this run had read it: measure again."
        sql = """
            UPDATE data.run SET status = 'damaged', error = $reason
            WHERE status = 'complete' AND repo_id = $repo_id AND contains(file_hashes, $address)
              AND ($since IS NULL OR started_at >= $since)
            RETURNING suite, phase, started_at
        """
        given = {"reason": reason, "repo_id": repo_id, "address": address, "since": since}
        with self.write() as connection:
            marked = connection.execute(sql, given).fetchall()
            for suite, phase, started_at in marked:
                for table in ("pair_measurement", "pair_run"):
                    connection.execute(
                        f"""
                        DELETE FROM data.{table} WHERE run_id IN (
                            SELECT run_id FROM data.pair_run
                            WHERE suite = $suite AND $phase IN (phase_a, phase_b)
                              AND computed_at >= $started_at
                        )
                        """,
                        {"suite": suite, "phase": phase, "started_at": started_at},
                    )
        return len(marked)

    def complete_jobs(self, suite: str) -> set[tuple[int, str, str]]:
        """(phase, part, fingerprint) of the runs that the views show; empty without a store."""
        if not self.path.exists():
            return set()
        sql = "SELECT phase, part, fingerprint FROM data.newest_run WHERE suite = $suite"
        rows = self.table(sql, {"suite": suite}).to_pylist()
        return {(row["phase"], row["part"], row["fingerprint"]) for row in rows}

    def _connect(
        self, reader_config: Mapping[str, Any] | None, deadline: float
    ) -> duckdb.DuckDBPyConnection:
        waits = pauses(deadline)
        while True:
            try:
                if reader_config is None or is_free(self.path.parent):
                    return _open(self.path, reader_config)
            except (duckdb.Error, OSError) as error:
                if not any(text in str(error) for text in _BUSY_TEXTS):
                    raise StoreError(self._unusable(error)) from None
            if next(waits, None) is None:
                raise self._busy()

    def _busy(self) -> StoreBusy:
        return StoreBusy(
            f"{self.path} has been in use by another program for {PATIENCE_S:.0f} s: close it, or "
            "try again."
        )

    def _create(self) -> None:
        """Make the file beside its place and link it there: it appears complete, or not at all."""
        draft = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            _remove(draft)  # of a process that was killed and had our number
            with _open(draft, None) as connection:
                connection.execute("BEGIN")
                _migrate(connection, 0)
                connection.execute("COMMIT")
                connection.execute("CHECKPOINT")  # here, not on closing, where no error is told
            os.link(draft, self.path)
        except FileExistsError:
            if not self.path.is_file():  # else another process was first, and its file is as good
                raise StoreError(
                    f"{self.path} cannot be made, a file is in the way: choose another folder."
                ) from None
        except (duckdb.Error, OSError) as error:
            raise StoreError(self._unusable(error)) from None
        finally:
            _remove(draft)

    def _check_version(self, connection: duckdb.DuckDBPyConnection) -> int:
        found, known = _version(connection), schema_scripts()[-1][0]
        if found > known:
            raise StoreTooNew(
                f"{self.path} was made by a newer workbench (schema {found}, this one knows "
                f"{known}): update the workbench; the store was not touched."
            )
        if found == 0:
            raise StoreError(
                f"{self.path} is a DuckDB database but no metrics store; it was not touched: set "
                f"WORKBENCH_HOME to another folder, or move the file away and {_NEWS}"
            )
        return found

    def _raise_trouble(self, error: duckdb.Error) -> NoReturn:
        """Raise the error: as a sentence when the store's file is what causes it."""
        if said := file_trouble(self.path, error, opened=True):
            raise StoreError(said) from None
        raise error

    def _unusable(self, error: Exception) -> str:
        return file_trouble(self.path, error, opened=False) or (
            f"{self.path} cannot be opened as a metrics store ({_first_line(error)}): check that "
            "the folder is there and yours to write."
        )


def _deadline() -> float:
    return time.monotonic() + PATIENCE_S


def _open(path: Path, reader_config: Mapping[str, Any] | None) -> duckdb.DuckDBPyConnection:
    """To read with that configuration, or to write."""
    with _opening:
        connection = duckdb.connect(
            path, read_only=reader_config is not None, config=dict(reader_config or {})
        )
        if reader_config is None:
            connection.execute(_SEAL[0])
        elif not _value(connection, "SELECT current_setting('lock_configuration')"):
            for statement in _SEAL:
                connection.execute(statement)
        return connection


def _remove(path: Path) -> None:
    for leftover in (path, path.with_name(f"{path.name}.wal")):
        if leftover.exists():
            leftover.unlink()


def _migrate(connection: duckdb.DuckDBPyConnection, found: int) -> None:
    for number, script in schema_scripts():
        if number > found:
            connection.execute(script)
            connection.execute("INSERT INTO schema_version VALUES ($n, now())", {"n": number})


def insert(
    connection: duckdb.DuckDBPyConnection,
    table: str,
    rows: pa.Table | Sequence[Mapping[str, Any]],
    order: Sequence[str] = (),
) -> None:
    """Append rows to ``data.table`` by column name, in this order of columns."""
    if not isinstance(rows, pa.Table):
        if not rows:
            return
        rows = pa.Table.from_pylist([dict(row) for row in rows])
    connection.register("incoming", rows)
    ordered = f"ORDER BY {', '.join(order)}" if order else ""
    connection.execute(f"INSERT INTO data.{table} BY NAME SELECT * FROM incoming {ordered}")
    connection.unregister("incoming")


def _version(connection: duckdb.DuckDBPyConnection) -> int:
    try:
        return int(_value(connection, "SELECT coalesce(max(number), 0) FROM schema_version"))
    except duckdb.CatalogException:  # no such table
        return 0


def _value(connection: duckdb.DuckDBPyConnection, sql: str) -> Any:
    return connection.execute(sql).fetchall()[0][0]


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]
