"""Files that are no store, stores that are too new, and disks that are full."""

import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

from analysis_db import Store, StoreError, StoreTooNew
from analysis_db.store import schema_scripts
from tests.analysis_db.conftest import put_suite
from tests.analysis_db.rows import measurements, run


def sentence(path: Path, *, write: bool) -> str:
    with pytest.raises(StoreError) as caught:  # noqa: SIM117
        with Store(path).write() if write else Store(path).read():
            pass
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_reading_where_no_store_is_says_how_to_make_one(tmp_path):
    said = sentence(tmp_path / "none" / "metrics.duckdb", write=False)
    assert "workbench demo" in said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"", b"phase,value\n1,2\n" * 1000])
@pytest.mark.parametrize("write", [False, True])
def test_file_that_is_no_database(tmp_path, content, write):
    path = tmp_path / "metrics.duckdb"
    path.write_bytes(content)
    assert "restore a backup" in sentence(path, write=write)
    assert path.read_bytes() == content


@pytest.mark.parametrize("write", [False, True])
def test_database_of_something_else_is_left_alone(tmp_path, write):
    path = tmp_path / "metrics.duckdb"
    with duckdb.connect(path) as connection:
        connection.execute("CREATE TABLE mine AS SELECT 1 AS a")
    assert "no metrics store" in sentence(path, write=write)
    with duckdb.connect(path) as connection:
        assert connection.execute("SHOW TABLES").fetchall() == [("mine",)]


def test_folder_and_file_in_the_way(tmp_path):
    (tmp_path / "metrics.duckdb").mkdir()
    sentence(tmp_path / "metrics.duckdb", write=True)
    (tmp_path / "file").write_text("")
    sentence(tmp_path / "file" / "metrics.duckdb", write=True)


@pytest.mark.parametrize("write", [False, True])
def test_store_of_a_newer_version_is_not_touched(store, write):
    with store.write() as connection:
        connection.execute("INSERT INTO schema_version VALUES (999, now())")
    before = store.path.read_bytes()
    with pytest.raises(StoreTooNew, match=f"schema 999, this one knows {schema_scripts()[-1][0]}"):
        put_suite(store) if write else store.schema_version()
    assert store.path.read_bytes() == before
    assert [p.name for p in store.path.parent.iterdir()] == [store.path.name]


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from analysis_db import Store, StoreError
from tests.analysis_db.rows import measurements, run

limit = int(sys.argv[2])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write past the limit is then an error
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
store = Store(Path(sys.argv[1]))
try:
    for i in range(40):
        store.write_run(run(f"run-{i}"), measurements(*(j * 0.7 % 1 + i for j in range(2000))))
        print(f"run-{i}")
except StoreError as error:
    sys.exit(str(error))
"""


def fill(path: Path, limit: int) -> tuple[list[str], str]:
    """Names of the runs that were stored before the disk was full, and the error."""
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(path), str(limit)],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    return done.stdout.split(), done.stderr


def test_full_disk_loses_only_the_run_that_did_not_fit(store):
    """The kernel's file size limit stands in for the full disk: a real write that really fails."""
    stored, said = fill(store.path, store.path.stat().st_size + 20_000)
    assert "full" in said
    assert "nothing of it was stored" in said
    assert stored
    rows = store.table(
        "SELECT run_id, count(*) AS n FROM data.measurement FULL JOIN data.run USING (run_id) "
        "GROUP BY run_id"
    ).to_pylist()
    assert {row["run_id"]: row["n"] for row in rows} == dict.fromkeys(stored, 2000)
    store.write_run(run("after"), measurements(0.5))  # with room again it goes on


def test_full_disk_leaves_no_half_made_store(tmp_path):
    stored, said = fill(tmp_path / "metrics.duckdb", 20_000)
    assert stored == []
    assert "full" in said
    assert list(tmp_path.iterdir()) == []


def test_reader_cannot_overwrite_the_store(store):
    """DuckDB lets a read-only connection without external access COPY over its own file."""
    before = store.path.read_bytes()
    for target in (store.path, f"{store.path}.wal"):
        for sql in ("COPY (SELECT 1) TO", "EXPLAIN ANALYZE COPY (SELECT 1) TO"):
            with store.read() as connection, pytest.raises(duckdb.PermissionException):
                connection.execute(f"{sql} '{target}' (USE_TMP_FILE false)")
    with store.read() as connection, pytest.raises(duckdb.PermissionException):
        connection.execute(f"SELECT * FROM read_blob('{store.path}')")
    assert store.path.read_bytes() == before
    assert [p.name for p in store.path.parent.iterdir()] == [store.path.name]


def python(*arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        text=True,
    )


def said(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_two_processes_make_the_store_at_the_same_time(tmp_path):
    path = tmp_path / "new" / "metrics.duckdb"
    writers = [python("-m", "tests.analysis_db.rows", str(path), "0") for _ in range(2)]
    try:
        assert [said(writer) for writer in writers] == ["0", "0"]
    finally:
        for writer in writers:
            writer.kill()
            writer.wait()
    assert Store(path).table("SELECT * FROM runs WHERE run_id = 'run 0'").num_rows == 2
    versions = Store(path).table("SELECT number FROM schema_version ORDER BY number")
    assert versions["number"].to_pylist() == [number for number, _ in schema_scripts()]


def test_killed_in_mid_transaction_leaves_nothing_of_it(store):
    code = (
        "import pathlib, sys, time\n"
        "from analysis_db import Store\n"
        "with Store(pathlib.Path(sys.argv[1])).write() as connection:\n"
        "    connection.execute('DELETE FROM data.phase')\n"
        "    print('deleted', flush=True)\n"
        "    time.sleep(60)\n"
    )
    writer = python("-c", code, str(store.path))
    try:
        assert said(writer) == "deleted"
    finally:
        writer.kill()
        writer.wait()
    assert store.table("SELECT * FROM phases").num_rows == 3
