"""Attempts to escape the SQL sandbox and how each ended, as markdown; and what a query costs.

    python -m bench.sandbox

Exits with 1 when an attempt ended otherwise than it has to, or anything was changed by it.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

from analysis_db.errors import QueryError
from analysis_db.sandbox import run_sql
from analysis_db.store import Store
from tests.analysis_db.escapes import BOUNDED, EMPTY, ESCAPES, REFUSED, VALUE, Escape
from tests.analysis_db.rows import SUITE, phase

LIMIT_S = 2.0


def stage(folder: Path) -> Store:
    """A store, and beside it the files that the attempts are after."""
    store = Store(folder / "home" / "metrics.duckdb")
    store.put_suite(SUITE, [phase(1)])
    Store(folder / "other.duckdb").put_suite(SUITE, [])
    (folder / "secret.csv").write_text("a\nsecret\n")
    (folder / "link.csv").symlink_to(folder / "secret.csv")
    return store


def attempt(store: Store, folder: Path, escape: Escape) -> tuple[str, str]:
    """(how it ended, what was said)."""
    sql = escape.sql
    if "{folder}" in sql or "{store}" in sql or "{{" in sql:
        sql = sql.format(folder=folder, store=store.path)
    try:
        table = run_sql(store, sql, max_rows=100, timeout_s=LIMIT_S).table
    except QueryError as error:
        said = str(error).partition("\n")[0].replace(str(folder), "...")
        limits = ("stopped after", "memory", "nesting", "depth", "allocat")
        return (BOUNDED if any(word in said for word in limits) else REFUSED), said
    return (VALUE if table.num_rows else EMPTY), f"{table.num_rows} rows"


def state(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def main() -> int:
    wrong = 0
    print("| attempt | ended | said |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        store = stage(folder)
        before = state(folder)
        for escape in ESCAPES:
            ended, said = attempt(store, folder, escape)
            changed = state(folder) != before
            fine = ended == escape.ends and not changed
            wrong += not fine
            mark = "" if fine else " **NOT AS IT HAS TO BE**"
            print(f"| {escape.what} | {ended}{mark} | {said[:110].replace('|', '/')} |", flush=True)
        seconds = []
        for _ in range(15):
            started = time.perf_counter()
            run_sql(store, "SELECT 1")
            seconds.append(time.perf_counter() - started)
    print(f"\n{len(ESCAPES)} attempts, {wrong} not as they have to be.")
    print(f"SELECT 1 with its process: {1e3 * statistics.median(seconds):.0f} ms, median of 15.")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
