"""The store under processes that are killed, and with readers and writers beside each other."""

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from analysis_db.errors import StoreBusy
from analysis_db.store import Store
from analysis_db.turns import is_free
from tests.analysis_db.rows import ROWS, SUITE, measurements, phase, run

ROOT = Path(__file__).parents[2]


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "metrics.duckdb")
    store.put_suite(SUITE, [phase(1), phase(2)])
    return store


def value(store, sql):
    return store.table(sql).column(0).to_pylist()


def spawn(path, pause_s):
    return subprocess.Popen(
        [sys.executable, "-m", "tests.analysis_db.rows", str(path), str(pause_s)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_kill_9_in_a_write_loop_keeps_every_run_whole(tmp_path):
    path = tmp_path / "metrics.duckdb"
    said = 0
    for _ in range(2):
        writer = spawn(path, 0)
        said += [int(writer.stdout.readline()) for _ in range(12)][-1] + 1
        time.sleep(0.007)  # somewhere inside the next write
        writer.kill()
        writer.wait()
        runs = value(Store(path), "SELECT count(*) FROM data.run")[0]
        rows = value(Store(path), "SELECT count(*) FROM data.measurement GROUP BY run_id")
        assert runs >= said
        assert sum(rows) == runs * ROWS
        # Each writer numbers its runs from 0, so a number may stand for two runs.
        assert all(count % ROWS == 0 for count in rows)
        said = runs


def test_a_first_write_that_was_killed_leaves_nothing_in_the_way(tmp_path):
    path = tmp_path / "metrics.duckdb"
    for _ in range(2):
        writer = spawn(path, 0)
        while not list(tmp_path.iterdir()):
            time.sleep(0.001)
        writer.kill()
        writer.wait()
        Store(path).put_suite(SUITE, [])
        assert value(Store(path), "SELECT suite FROM suites") == ["s"]
        for file in tmp_path.iterdir():
            file.unlink()


def test_readers_in_threads_and_a_writing_process_get_along(store):
    writer = spawn(store.path, 0.1)
    stop, errors, seconds = threading.Event(), [], []

    def read():
        while not stop.is_set():
            started = time.monotonic()
            try:
                counts = value(
                    Store(store.path), "SELECT count(*) FROM data.measurement GROUP BY run_id"
                )
            except Exception as error:
                errors.append(error)
                return
            if set(counts) - {ROWS}:
                errors.append(counts)
            seconds.append(time.monotonic() - started)
            time.sleep(0.02)

    readers = [threading.Thread(target=read) for _ in range(3)]
    try:
        writer.stdout.readline()
        for reader in readers:
            reader.start()
        time.sleep(1)
        store.write_run(run("mine", phase=2), measurements(*[1.0] * ROWS))
        written = int(writer.stdout.readline())
    finally:
        stop.set()
        for reader in readers:
            reader.join()
        writer.kill()
        writer.wait()
    assert errors == []
    assert written >= 1
    assert len(seconds) >= 5
    assert max(seconds) < 8
    assert value(store, "SELECT count(*) FROM runs WHERE run_id = 'mine'") == [1]


def test_writers_in_threads_with_stores_of_their_own_lose_nothing(tmp_path):
    path = tmp_path / "new" / "metrics.duckdb"

    def write(first):
        for number in range(first, first + 4):
            Store(path).write_run(run(f"r{number}"), measurements(1.0, 2.0))

    threads = [threading.Thread(target=write, args=(first,)) for first in (0, 100, 200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert value(Store(path), "SELECT count(*) FROM data.run") == [12]
    assert value(Store(path), "SELECT count(*) FROM data.measurement") == [24]


def test_a_file_held_by_another_program_is_waited_for_then_named(store, monkeypatch):
    hold = (
        "import duckdb, sys; c = duckdb.connect(sys.argv[1]); print('held', flush=True); "
        "sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", hold, str(store.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    holder.stdout.readline()
    monkeypatch.setattr("analysis_db.store.PATIENCE_S", 0.3)
    with pytest.raises(StoreBusy, match="in use by another program"):
        store.frame("SELECT 1")
    holder.communicate("")
    assert value(store, "SELECT 1") == [1]


def test_a_failed_run_that_is_newer_hides_nothing(store):
    store.register_probes([{"probe": "loss", "version": 1, "title": "", "needs": "model"}], [])
    store.write_run(run("good", minutes=1), measurements(1.0))
    store.write_run(run("bad", minutes=9, status="failed"), {})
    assert value(store, "SELECT run_id FROM phase_metrics") == ["good"]
    assert value(store, "SELECT status FROM coverage WHERE phase = 1") == ["measured"]


READ_FOR_EVER = """
import pathlib, sys
from analysis_db import Store
store = Store(pathlib.Path(sys.argv[1]))
while True:
    with store.read() as connection:
        connection.execute("SELECT count(*) FROM phases, range(100000)").fetchall()
    print("read", flush=True)
"""


def test_readers_in_a_tight_loop_do_not_starve_a_writer(store):
    readers = [
        subprocess.Popen(
            [sys.executable, "-c", READ_FOR_EVER, str(store.path)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    try:
        for reader in readers:
            reader.stdout.readline()
        for number in range(5):
            store.write_run(run(f"mine {number}", phase=2), measurements(1.0))
    finally:
        for reader in readers:
            reader.kill()
            reader.wait()
    assert value(store, "SELECT count(*) FROM runs") == [5]


def test_a_writer_that_was_killed_while_it_had_the_turn_leaves_it(store):
    hold = (
        "import sys, time; from pathlib import Path; from analysis_db.turns import writers_turn\n"
        "with writers_turn(Path(sys.argv[1]), time.monotonic() + 60) as taken:\n"
        "    print(taken, flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", hold, str(store.path.parent)],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert holder.stdout.readline() == "True\n"
    assert not is_free(store.path.parent)
    holder.kill()
    holder.wait()
    assert is_free(store.path.parent)
    assert value(store, "SELECT 1") == [1]
