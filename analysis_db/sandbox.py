"""SQL of the user's: read-only, no other files, bounded in time, rows and memory.

A query runs in a process of its own (``sandbox_child``), because DuckDB cannot be interrupted
within one huge string function: at the limit the process is killed. It ends with its parent too.
"""

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast
from unicodedata import east_asian_width

from analysis_db import errors
from analysis_db.errors import QueryError

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec

    import pyarrow as pa

    from analysis_db.store import Store

# Without the site module: 20 ms sooner. The standard library comes first and the folders of the
# packages that a query needs after it, so no file of a working directory or script is imported.
_BOOT = (
    "import sys, json; sys.path += json.loads(sys.argv[1]); "
    "from analysis_db.sandbox_child import main; main()"
)
_PACKAGES = ("analysis_db", "duckdb", "pyarrow")
MEMORY_GB = 2
"""Memory limit of a query, where none is chosen."""
_LINE = 100
"""Longest excerpt of a query in an error."""


@dataclass(frozen=True)
class Answer:
    """The rows of a query and whether more were left off."""

    table: "pa.Table"
    truncated: bool


@dataclass
class Rows:
    """The rows of a query as they come; ``truncated`` is known at the end."""

    schema: "pa.Schema"
    batches: "Iterator[pa.RecordBatch]" = field(repr=False)
    truncated: bool = False


def run_sql(
    store: "Store",
    sql: str,
    params: Mapping[str, Any] | None = None,
    *,
    max_rows: int | None = None,
    timeout_s: float | None = 60.0,
    memory_gb: int = MEMORY_GB,
    max_bytes: int | None = None,
) -> Answer:
    """Run one query with ``$name`` parameters; raises QueryError and what ``Store.read`` raises.

    ``max_bytes`` bounds the answer that is held in memory.
    """
    import pyarrow as pa

    with stream_sql(
        store, sql, params, max_rows=max_rows, timeout_s=timeout_s, memory_gb=memory_gb
    ) as rows:
        batches, size = [], 0
        for batch in rows.batches:
            batches.append(batch)
            size += batch.nbytes
            if max_bytes is not None and size > max_bytes:
                raise QueryError(
                    f"The answer is larger than {max_bytes / 1e6:,.0f} MB: ask for less, or write "
                    "it to a file with `workbench export`."
                )
    return Answer(pa.Table.from_batches(batches, rows.schema), rows.truncated)


@contextmanager
def stream_sql(
    store: "Store",
    sql: str,
    params: Mapping[str, Any] | None = None,
    *,
    max_rows: int | None = None,
    timeout_s: float | None = 60.0,
    memory_gb: int = MEMORY_GB,
    text: Sequence[str] = (),
) -> Iterator[Rows]:
    """As ``run_sql``, the rows in batches while they come; the time includes their consumer's.

    Columns whose type is, or contains, one of the types ``text`` come as text.
    """
    request = {
        "path": str(store.path.absolute()),
        "sql": sql,
        "params": dict(params or {}),
        "max_rows": None if max_rows is None else max_rows + 1,
        "memory_gb": memory_gb,
        "text": list(text),
    }
    line = json.dumps(request, default=str).encode() + b"\n"
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _BOOT, json.dumps(_folders())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    stopped = threading.Event()

    def stop() -> None:
        stopped.set()
        process.kill()

    def failure() -> errors.StoreError:
        process.wait()  # the time limit may be what ends it
        return _failure(process, sql, timeout_s if stopped.is_set() else None, memory_gb)

    timer = threading.Timer(timeout_s, stop) if timeout_s is not None else None
    try:
        with suppress(BrokenPipeError):  # it could not start; its exit code is told below
            process.stdin.write(line)
            process.stdin.flush()
        import pyarrow as pa  # while the other process starts

        if process.stdout.read(1) and timer is not None:
            timer.start()  # the store is open; waiting for it does not count
        try:
            reader = pa.ipc.open_stream(process.stdout)
        except (pa.ArrowException, OSError):
            reader = None
        if reader is None:
            raise failure()
        rows = Rows(reader.schema, iter(()))

        def batches() -> Iterator[pa.RecordBatch]:
            left = max_rows
            try:
                for batch in reader:
                    if left is not None and batch.num_rows > left:
                        rows.truncated = True
                        batch = batch.slice(0, left)
                    if left is not None:
                        left -= batch.num_rows
                    if batch.num_rows:
                        yield batch
            except (pa.ArrowException, EOFError):
                pass  # broken off; how the process ended says why
            if process.wait() != 0:
                raise failure()

        rows.batches = batches()
        yield rows
    finally:
        if timer is not None:
            timer.cancel()
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            with suppress(BrokenPipeError):  # what was left to say to a process that has ended
                cast("IO[bytes]", pipe).close()


def _folders() -> list[str]:
    """The folders that the packages of a query's process are imported from, each once."""
    origins = [cast("ModuleSpec", find_spec(name)).origin for name in _PACKAGES]
    return list(dict.fromkeys(str(Path(cast("str", origin)).parents[1]) for origin in origins))


def _failure(
    process: "subprocess.Popen[bytes]", sql: str, timeout_s: float | None, memory_gb: int
) -> errors.StoreError:
    """Why the process ended as it did; ``timeout_s`` is given when it was stopped."""
    code = process.wait()
    if timeout_s is not None:
        return QueryError(
            f"The query was stopped after {timeout_s:g} s, the time limit: ask for less, or raise "
            f"the limit, e.g. `workbench sql --timeout {10 * timeout_s:g}`."
        )
    assert process.stderr is not None
    said = process.stderr.read()
    try:
        told = json.loads(said)
    except ValueError:
        return _unreported(code, said.decode(errors="replace"), memory_gb)
    error: errors.StoreError = getattr(errors, told["kind"])(
        told["message"] + (excerpt(sql, *told["where"]) if told["where"] else "")
    )
    return error


def _unreported(code: int, said: str, memory_gb: int) -> QueryError:
    """Why a process ended that did not report an error itself."""
    if "alloc" in said.lower():  # std::bad_alloc, in a thread of DuckDB's
        return errors.memory_limit(memory_gb)
    how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    if code == -signal.SIGKILL:
        return QueryError(
            f"The system ended the query ({how}), most likely because the machine has less free "
            f"memory than the query's memory limit of {memory_gb} GB: ask for less, or lower the "
            "limit (`workbench sql --memory`)."
        )
    if code == -signal.SIGSEGV:
        return QueryError(
            f"The query ended its process ({how}), most likely because it is nested too deeply: "
            "split it into steps with WITH."
        )
    last = said.strip().rpartition("\n")[2]
    return QueryError(f"The query ended its process ({how}; {last or 'no message'}): simplify it.")


def excerpt(sql: str, offset: int, length: int) -> str:
    """The line of the query at a byte offset, with what is wrong in it underlined; as two lines."""
    before = sql.encode()[:offset].decode(errors="ignore")
    marked = sql.encode()[offset : offset + length].decode(errors="ignore").partition("\n")[0]
    number, head = before.count("\n") + 1, before.rpartition("\n")[2].replace("\t", " ")
    line = head + sql[len(before) :].partition("\n")[0].replace("\t", " ")
    cut = max(0, len(head) - _LINE // 2)
    shown = ("..." if cut else "") + line[cut : cut + _LINE]
    shown += "..." if len(line) > cut + _LINE else ""
    label = f"  line {number}: "
    indent = " " * (len(label) + (3 if cut else 0) + _width(head[cut:]))
    return f"\n{label}{shown}\n{indent}{'^' * max(1, _width(marked[: _LINE // 2]))}"


def _width(text: str) -> int:
    """Columns of a terminal."""
    return sum(2 if east_asian_width(sign) in "WF" else 1 for sign in text)
