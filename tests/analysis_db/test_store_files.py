"""Files that are no store, stores that are too new, and disks that are full."""

import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

from analysis_db import Store, StoreError, StoreTooNew
from tests.analysis_db.samples import measured, put_suite, record


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
    assert "move the file away" in sentence(path, write=write)
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
    with pytest.raises(StoreTooNew, match="schema 999, this one knows 1"):
        put_suite(store) if write else store.schema_version()
    assert store.path.read_bytes() == before
    assert [p.name for p in store.path.parent.iterdir()] == [store.path.name]


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from analysis_db import Store, StoreError
from tests.analysis_db.samples import measured, record

limit = int(sys.argv[2])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write past the limit is then an error
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
store = Store(Path(sys.argv[1]))
try:
    for i in range(40):
        store.write_run(record(f"run-{i}", i), measured(*(j * 0.7 % 1 + i for j in range(2000))))
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
    store.write_run(record("after", 50), measured(0.5))  # with room again it goes on


def test_full_disk_leaves_no_half_made_store(tmp_path):
    stored, said = fill(tmp_path / "metrics.duckdb", 20_000)
    assert stored == []
    assert "full" in said
    assert list(tmp_path.iterdir()) == []
