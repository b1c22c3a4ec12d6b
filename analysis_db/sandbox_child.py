"""The process that a user's query runs in: it answers one question and ends.

It is started by ``analysis_db.sandbox``, which may kill it at any moment. One line of JSON comes on
stdin: path, sql, params, max_rows, memory_gb, text (types to write as text). The answer goes to
the pipe that was stdout, where nothing else can write: one byte when the query starts, then an
Arrow stream. What went wrong goes to stderr as JSON and makes the exit code FAILED.

Before the text of the user is looked at, the process gives up opening anything: with no file
descriptor left to have, the kernel refuses files and sockets, whatever DuckDB would do.
"""

import json
import os
import re
import resource
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

sys.modules["numpy"] = None  # type: ignore[assignment]  # pyarrow does without; 80 ms sooner

import duckdb  # noqa: E402
import pyarrow as pa  # noqa: E402
from duckdb.sqltypes import DuckDBPyType  # noqa: E402

from analysis_db.errors import QueryError, StoreError, memory_limit  # noqa: E402
from analysis_db.parameters import parameter_names, with_literals  # noqa: E402
from analysis_db.store import READER_CONFIG, Store  # noqa: E402
from analysis_db.store_file import is_damage  # noqa: E402

FAILED = 3
BATCH = 10_000
"""Rows in a batch of the answer."""
EXTRA_SPACE = 2 << 30
"""Bytes of address space beyond the memory limit, which does not count every huge value. 1 GB of
it is taken at the start."""
CONFIG = READER_CONFIG | {"errors_as_json": "true", "python_enable_replacements": "false"}
_NO_PARAMETERS = "pivot elements extracted from the data cannot have parameters"
# MULTI is PIVOT without IN, which DuckDB takes apart; EXPLAIN of a change is refused when it runs.
_ALLOWED = ("SELECT", "EXPLAIN", "MULTI")


def main() -> None:
    """Answer the request on stdin."""
    out = _private_stdout()
    request = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    config = CONFIG | {"memory_limit": f"{request['memory_gb']}GB"}
    try:
        with Store(Path(request["path"])).read(config) as connection:
            connection.sql("SELECT 1").to_arrow_reader().read_all()  # imports all it will need
            _give_up_the_world(request["memory_gb"])
            out.write(b"!")
            out.flush()
            _answer(connection, request, out)
    except StoreError as error:
        _fail(type(error).__name__, str(error), None)
    except (MemoryError, duckdb.OutOfMemoryException):
        _fail("QueryError", str(memory_limit(request["memory_gb"])))
    except duckdb.Error as error:
        message, where = _told(error)
        _fail("QueryError", message, where)


def _private_stdout() -> IO[bytes]:
    """The pipe of stdout, which leads nowhere from then on.

    DuckDB prints a progress bar to stdout when a statement that it runs at once takes more than
    two seconds: PIVOT without IN, SUMMARIZE. In the answer that would be damage.
    """
    out = os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
    return out


def _end_with_parent() -> None:
    """Wait for the end of stdin, which the parent holds open as long as it lives."""
    while os.read(0, 1):
        pass
    os._exit(FAILED)


def _give_up_the_world(memory_gb: int) -> None:
    for limit, value in (
        (resource.RLIMIT_AS, memory_gb * 10**9 + EXTRA_SPACE),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, 0),
    ):
        resource.setrlimit(limit, (value, value))


def _answer(
    connection: duckdb.DuckDBPyConnection, request: Mapping[str, Any], out: IO[bytes]
) -> None:
    sql, params = _expandable(connection, request["sql"], request["params"])
    kind = _check(connection, sql, params)
    if kind == "MULTI":
        sql, params = with_literals(sql, params), {}
    try:
        relation = connection.sql(sql, params=params or None)
        assert relation is not None  # a statement that is allowed has rows
        relation = relation.project(", ".join(_columns(relation, request["text"])))
        if request["max_rows"] is not None:
            relation = relation.limit(request["max_rows"])
        reader = relation.to_arrow_reader(BATCH)
    except duckdb.Error as error:
        if isinstance(error, duckdb.OutOfMemoryException):
            raise
        if is_damage(error):
            raise duckdb.IOException(_told(error)[0]) from None
        # The relation is a query around the user's, so places are those of another text.
        where = _place(connection, sql, params) if kind == "SELECT" else None
        return _fail("QueryError", _told(error)[0], where)
    with pa.ipc.new_stream(out, reader.schema) as stream:
        while True:
            try:
                batch = reader.read_next_batch()
            except StopIteration:
                break
            except (pa.ArrowException, OSError) as error:  # DuckDB's, wrapped in Arrow's
                message = _told(error)[0]
                if is_damage(error):
                    raise duckdb.IOException(message) from None
                if "alloc" in message.lower() or "Out of Memory" in message:
                    raise MemoryError from None
                return _fail("QueryError", message, None)
            stream.write_batch(batch)
    out.flush()
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


def _expandable(
    connection: duckdb.DuckDBPyConnection, sql: str, params: Mapping[str, Any]
) -> tuple[str, Mapping[str, Any]]:
    """The query and its parameters; below PIVOT without IN, DuckDB accepts only literals."""
    try:
        connection.extract_statements(sql)
    except duckdb.ParserException as error:
        if _NO_PARAMETERS not in str(error):
            raise
        _check_names(parameter_names(sql), params)
        return with_literals(sql, params), {}
    return sql, params


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
    _check_names(set(statements[0].named_parameters), params)
    return str(kind)


def _check_names(wanted: set[str], params: Mapping[str, Any]) -> None:
    if missing := sorted(wanted - params.keys()):
        raise QueryError(f"The query asks for ${missing[0]}: give it with -p {missing[0]}=VALUE.")
    if unknown := sorted(params.keys() - wanted):
        raise QueryError(f"The query has no ${unknown[0]}: remove it from the parameters.")


def _columns(relation: duckdb.DuckDBPyRelation, text: list[str]) -> Iterator[str]:
    """Each column under a name of its own; types that contain one of ``text`` as text.

    Integers of more than 38 digits that Arrow has no type for are always text: DuckDB returns a
    wrong number for UHUGEINT, and the bytes of BIGNUM.
    """
    as_text = {*text, "uhugeint", "bignum"}
    taken: set[str] = set()
    for number, (column, kind) in enumerate(zip(relation.columns, relation.types, strict=True), 1):
        name, again = column, 0
        while name in taken:
            again += 1
            name = f"{column}_{again}"
        taken.add(name)
        quoted = '"' + name.replace('"', '""') + '"'
        plain = not as_text.isdisjoint(_kinds(kind))
        yield f"CAST(#{number} AS VARCHAR) AS {quoted}" if plain else f"#{number} AS {quoted}"


def _kinds(kind: DuckDBPyType) -> Iterator[str]:
    """The name of a type and of all types inside it."""
    yield kind.id
    if kind.id in ("list", "array", "struct", "map", "union"):
        for _, inner in kind.children:
            if isinstance(inner, DuckDBPyType):  # the size of an array is a number
                yield from _kinds(inner)


def _told(error: Exception) -> tuple[str, tuple[int, int] | None]:
    """What DuckDB says, and the place in the query: (offset, length) in bytes."""
    kind, _, said = str(error).partition(": ")
    try:
        told = json.loads(str(error)[str(error).index("{") :])  # errors of damage have no kind
    except ValueError:
        told = {"exception_message": said or kind}
    where = json.loads(told["location"]) if "location" in told else None
    return _sentence(told["exception_message"]), where


def _sentence(message: str) -> str:
    """The first line of an error, and the hint that stands below it."""
    message = re.sub(r' Use "SET .*', "", message)  # no setting can be changed here
    first, *rest = [line.strip() for line in message.splitlines() if line.strip()] or ["Unknown."]
    hint = [line for line in rest if line.startswith(("Did you mean", "Candidate bindings"))]
    if "Candidate functions:" in rest:
        functions = rest[rest.index("Candidate functions:") + 1 :][:3]
        hint = [f"There are: {'; '.join(functions)}."]
    return " ".join([first, *hint])


def _fail(kind: str, message: str, where: tuple[int, int] | None = None) -> None:
    sys.stderr.write(json.dumps({"kind": kind, "message": message, "where": where}))
    sys.stderr.flush()
    os._exit(FAILED)
