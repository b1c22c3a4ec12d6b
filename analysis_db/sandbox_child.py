"""The process that a user's query runs in: it answers one question and ends.

It is started by ``analysis_db.sandbox``, which may kill it at any moment. One line of JSON comes on
stdin: path, sql, params, max_rows, text (types to write as text). The answer goes to stdout: one
byte when the query starts, then an Arrow stream. What went wrong goes to stderr as JSON and makes
the exit code FAILED.

Before the text of the user is looked at, the process gives up opening anything: with no file
descriptor left to have, the kernel refuses files and sockets, whatever DuckDB would do.
"""

import json
import os
import resource
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

sys.modules["numpy"] = None  # type: ignore[assignment]  # pyarrow does without; 80 ms sooner

import duckdb  # noqa: E402
import pyarrow as pa  # noqa: E402

from analysis_db.errors import QueryError, StoreError  # noqa: E402
from analysis_db.store import READER_CONFIG, Store  # noqa: E402

FAILED = 3
BATCH = 10_000
"""Rows in a batch of the answer."""
ADDRESS_SPACE = 4 << 30
"""Bytes; DuckDB's own limit of 2 GB does not count every huge value. 1 GB is taken at the start."""
CONFIG = READER_CONFIG | {"errors_as_json": "true", "python_enable_replacements": "false"}
# MULTI is PIVOT without IN, which DuckDB takes apart; EXPLAIN of a change is refused when it runs.
_ALLOWED = ("SELECT", "EXPLAIN", "MULTI")


def main() -> None:
    """Answer the request on stdin."""
    request = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        with Store(Path(request["path"])).read(CONFIG) as connection:
            connection.sql("SELECT 1").to_arrow_reader().read_all()  # imports all it will need
            _give_up_the_world()
            sys.stdout.buffer.write(b"!")
            sys.stdout.buffer.flush()
            _answer(connection, request)
    except StoreError as error:
        _fail(type(error).__name__, str(error), None)
    except (MemoryError, duckdb.OutOfMemoryException):
        _fail("QueryError", "The query needs more memory than a query may have: ask for less.")
    except duckdb.Error as error:
        message, where = _told(error)
        _fail("QueryError", message, where)


def _end_with_parent() -> None:
    """Wait for the end of stdin, which the parent holds open as long as it lives."""
    while os.read(0, 1):
        pass
    os._exit(FAILED)


def _give_up_the_world() -> None:
    for limit, value in (
        (resource.RLIMIT_AS, ADDRESS_SPACE),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, 0),
    ):
        resource.setrlimit(limit, (value, value))


def _answer(connection: duckdb.DuckDBPyConnection, request: Mapping[str, Any]) -> None:
    sql, params = request["sql"], request["params"]
    kind = _check(connection, sql, params)
    try:
        relation = connection.sql(sql, params=params or None)
        assert relation is not None  # a statement that is allowed has rows
        relation = relation.project(", ".join(_columns(relation, request["text"])))
        if request["max_rows"] is not None:
            relation = relation.limit(request["max_rows"])
        reader = relation.to_arrow_reader(BATCH)
    except duckdb.OutOfMemoryException:
        raise
    except duckdb.Error as error:
        # The relation is a query around the user's, so places are those of another text.
        where = _place(connection, sql, params) if kind == "SELECT" else None
        return _fail("QueryError", _told(error)[0], where)
    with pa.ipc.new_stream(sys.stdout.buffer, reader.schema) as stream:
        while True:
            try:
                batch = reader.read_next_batch()
            except StopIteration:
                break
            except (pa.ArrowException, OSError) as error:  # DuckDB's, wrapped in Arrow's
                message = _told(error)[0]
                if "alloc" in message.lower() or "Out of Memory" in message:
                    raise MemoryError from None
                return _fail("QueryError", message, None)
            stream.write_batch(batch)
    sys.stdout.buffer.flush()
    return None


def _place(
    connection: duckdb.DuckDBPyConnection, sql: str, params: Mapping[str, Any]
) -> tuple[int, int] | None:
    """(offset, length) in bytes of what is wrong in a query, where planning it finds that out."""
    explain = "EXPLAIN "
    try:
        connection.execute(explain + sql, params)
    except duckdb.Error as error:
        where = _told(error)[1]
        return (where[0] - len(explain), where[1]) if where else None
    return None


def _check(connection: duckdb.DuckDBPyConnection, sql: str, params: Mapping[str, Any]) -> str:
    """The kind of the one statement; raises QueryError and what the parser says."""
    statements = connection.extract_statements(sql)
    if not statements:
        raise QueryError("There is no query: ask with SELECT or FROM.")
    if len(statements) > 1:
        raise QueryError(f"One query at a time, please; these are {len(statements)}.")
    try:
        kind = statements[0].type.name
    except ValueError:  # a kind that DuckDB's own Python has no name for
        kind = sql.split()[0].upper()
    if kind not in _ALLOWED:
        raise QueryError(
            f"{kind} is not allowed, the store is only read here: ask with SELECT, FROM, WITH, "
            "PIVOT, DESCRIBE, SHOW, SUMMARIZE or EXPLAIN."
        )
    wanted = set(statements[0].named_parameters)
    if missing := sorted(wanted - params.keys()):
        raise QueryError(f"The query asks for ${missing[0]}: give it with -p {missing[0]}=VALUE.")
    if unknown := sorted(params.keys() - wanted):
        raise QueryError(f"The query has no ${unknown[0]}: remove it from the parameters.")
    return str(kind)


def _columns(relation: duckdb.DuckDBPyRelation, text: list[str]) -> Iterator[str]:
    """Each column under a name of its own; types that begin as in ``text`` as text ([]: lists)."""
    taken: set[str] = set()
    for number, (column, kind) in enumerate(
        zip(relation.columns, map(str, relation.types), strict=True), 1
    ):
        name, again = column, 0
        while name in taken:
            again += 1
            name = f"{column}_{again}"
        taken.add(name)
        quoted = '"' + name.replace('"', '""') + '"'
        plain = kind.startswith(tuple(text)) or ("[]" in text and kind.endswith("]"))
        yield f"CAST(#{number} AS VARCHAR) AS {quoted}" if plain else f"#{number} AS {quoted}"


def _told(error: Exception) -> tuple[str, tuple[int, int] | None]:
    """What DuckDB says, and the place in the query: (offset, length) in bytes."""
    kind, _, said = str(error).partition(": ")
    try:
        told = json.loads(said)
    except ValueError:
        told = {"exception_message": said or kind}
    where = json.loads(told["location"]) if "location" in told else None
    return _sentence(told["exception_message"]), where


def _sentence(message: str) -> str:
    """The first line of an error, and the hint that stands below it."""
    first, *rest = [line.strip() for line in message.splitlines() if line.strip()] or ["Unknown."]
    hint = [line for line in rest if line.startswith(("Did you mean", "Candidate bindings"))]
    if "Candidate functions:" in rest:
        functions = rest[rest.index("Candidate functions:") + 1 :][:3]
        hint = [f"There are: {'; '.join(functions)}."]
    return " ".join([first, *hint])


def _fail(kind: str, message: str, where: tuple[int, int] | None = None) -> None:
    sys.stderr.write(json.dumps({"kind": kind, "message": message, "where": where}))
    sys.stderr.flush()
    sys.stdout.flush()
    os._exit(FAILED)
