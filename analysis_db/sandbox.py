"""SQL of the user's: read-only, no other files, bounded in time, rows and memory."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import duckdb
import pyarrow as pa

from analysis_db.errors import QueryError
from analysis_db.store import Store


@dataclass(frozen=True)
class Answer:
    """The rows of a query and whether more were left off."""

    table: pa.Table
    truncated: bool


def run_sql(
    store: Store,
    sql: str,
    params: Mapping[str, Any] | None = None,
    *,
    max_rows: int | None = None,
    timeout_s: float = 60.0,
) -> Answer:
    """Run one query with ``$name`` parameters; raises QueryError in one sentence.

    What is forbidden is refused by the connection itself, not by looking at the text. The time
    limit is checked between DuckDB's chunks: one huge string function may run past it.
    """
    with store.read() as connection:
        timer = threading.Timer(timeout_s, connection.interrupt)
        timer.start()
        try:
            relation = connection.sql(sql, params=dict(params) if params else None)
            if relation is None:
                raise QueryError("The statement returned no rows: ask with SELECT.")
            if max_rows is not None:
                relation = relation.limit(max_rows + 1)
            table = relation.to_arrow_table()
        except duckdb.InterruptException:
            raise QueryError(
                f"The query was stopped after {timeout_s:g} s: ask for less, or raise the limit."
            ) from None
        except (duckdb.Error, RuntimeError) as error:
            raise QueryError(_first_sentence(error)) from None
        finally:
            timer.cancel()
            timer.join()  # it must not interrupt a connection that is closed
    truncated = max_rows is not None and table.num_rows > max_rows
    return Answer(table.slice(0, max_rows) if truncated else table, truncated)


def _first_sentence(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    hint = next((line for line in lines[1:] if line.startswith(("Did you mean", "Candidate"))), "")
    return f"{lines[0]} {hint}".strip()
