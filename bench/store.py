"""The metrics store at size, against SQLite with an index that serves its queries.

    python -m bench.store [MILLIONS] [--no-sqlite]

27 phases, one run of the probe weights each with MILLIONS/27 million rows (400 tensors, and their
heads, by metric), beside smaller runs of four other probes; one transaction a run. Times are those
of the dashboard's own functions: each on its own, opening and closing included, and as a page asks
them, one after the other over a connection that the page opens. The two stores take turns.
"""

import argparse
import os
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from analysis_db import queries
from analysis_db.run_ids import new_run_id
from analysis_db.store import Store
from tests.analysis_db.rows import SUITE, phase, run

PHASES, LAYERS, HEADS = 27, 56, 30
MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
BY_HEAD = MODULES[:4]
OTHERS = ("spectra", "activations", "attention", "loss")
ROUNDS = 20


def rows_of_run(rows: int, seed: int) -> pa.Table:
    """Metrics by view, layer and module, whole tensors and heads, until there are so many rows."""
    tensors = [(layer, module, None) for layer in range(LAYERS) for module in MODULES]
    heads = [(la, m, h) for la in range(LAYERS) for m in BY_HEAD for h in range(HEADS)]
    places = tensors + heads
    each = 2 * len(places)
    metrics = max(1, rows // each)
    n = min(rows, metrics * each)
    at = np.arange(n)
    place = at % len(places)
    layer, module, head = (pd.Series(part) for part in zip(*places, strict=True))
    views = np.where(at // len(places) % 2, "effective", "stored")
    names = np.char.add("metric_", (at // each).astype(str))
    return pa.table(
        {
            "metric": names,
            "view": views,
            "layer": pa.array(layer.to_numpy()[place], pa.int16()),
            "module": module.to_numpy()[place],
            "head": pa.array(head.astype("Int16")[place]),
            "domain": pa.nulls(n, pa.string()),
            "value": np.random.default_rng(seed).standard_normal(n),
        }
    )


def fill(store: Store, millions: float) -> tuple[int, float, list[str]]:
    """Rows, seconds of writing and the ids of the runs."""
    store.put_suite(SUITE, [phase(number) for number in range(1, PHASES + 1)])
    probes = ("weights", *OTHERS)
    store.register_probes(
        [{"probe": p, "version": 1, "title": p, "needs": "tensors"} for p in probes],
        [{"metric": f"metric_{i}", "probe": "weights", "version": 1, "formula": "", "unit": "",
          "source": ""} for i in range(80)],
    )  # fmt: skip
    total, seconds, ids = 0, 0.0, []
    started = datetime(2026, 11, 24, tzinfo=UTC)
    for number in range(PHASES):
        for k, probe in enumerate(probes):
            share = 0.8 if k == 0 else 0.05
            table = rows_of_run(int(millions * 1e6 / PHASES * share), 5 * number + k)
            started += timedelta(seconds=20)
            ids.append(new_run_id(started))
            record = run(ids[-1], phase=number + 1, probe=probe, started_at=started)
            clock = time.perf_counter()
            store.write_run(record, {"measurements": table})
            seconds += time.perf_counter() - clock
            total += table.num_rows
    return total, seconds, ids


class Sqlite:
    """The same tables in SQLite, an index over what the queries look for."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def fill(self, store: Store, ids: list[str]) -> float:
        """Seconds, the index and its making included."""
        seconds = 0.0
        con = sqlite3.connect(self.path)
        con.execute("PRAGMA journal_mode = WAL")
        for name in ("run", "phase", "metric", "probe"):
            store.frame(f"FROM data.{name}").to_sql(name, con, index=False)
        con.execute(
            "CREATE TABLE measurement (run_id TEXT, metric TEXT, view TEXT, layer INT, module TEXT,"
            " head INT, domain TEXT, value REAL)"
        )
        con.execute("CREATE INDEX looked_for ON measurement (run_id, metric, view, module)")
        for run_id in ids:
            table = store.table(
                "SELECT run_id, metric, view, layer, module, head, domain, value "
                "FROM data.measurement WHERE run_id = $id", {"id": run_id},
            )  # fmt: skip
            rows = list(zip(*(table[c].to_pylist() for c in table.column_names), strict=True))
            clock = time.perf_counter()
            con.executemany("INSERT INTO measurement VALUES (?,?,?,?,?,?,?,?)", rows)
            con.commit()
            seconds += time.perf_counter() - clock
        con.close()
        return seconds

    def frame(self, sql: str, **params: object) -> pd.DataFrame:
        con = sqlite3.connect(self.path)
        try:
            return pd.read_sql_query(sql, con, params=params)
        finally:
            con.close()


_VIEW = (
    "FROM measurement m JOIN run r USING (run_id) JOIN phase p USING (suite, phase) "
    "WHERE r.status = 'complete' AND r.suite = 's' AND r.probe = 'weights' "
)
Asked = Callable[[], object]


def questions(store: Store, sqlite: Sqlite | None) -> dict[str, tuple[Asked, Asked | None]]:
    """What pages ask, in both."""
    metric = "metric_0"

    def both(ours: Asked, sql: str, **params: object) -> tuple[Asked, Asked | None]:
        return ours, (lambda: sqlite.frame(sql, **params)) if sqlite else None

    pick = _VIEW + "AND metric = :metric AND view = 'effective' AND module = 'down_proj'"
    return {
        "heat map of a metric": both(
            lambda: queries.metric_values(store, "s", "weights", metric, "effective", "down_proj"),
            f"SELECT r.phase, layer, head, value {pick}", metric=metric,
        ),
        "with its heads": both(
            lambda: queries.metric_values(store, "s", "weights", metric, "effective", "q_proj"),
            f"SELECT r.phase, layer, head, value {pick.replace('down', 'q')}", metric=metric,
        ),
        "both views (seam)": both(
            lambda: queries.seam(store, "s", metric, "down_proj"),
            "SELECT r.phase, view, avg(value) "
            f"{_VIEW} AND module = 'down_proj' AND metric IN (:metric, 'alpha') GROUP BY 1, 2",
            metric=metric,
        ),
        "menu of metrics": both(
            lambda: queries.metric_menu(store, "s", "weights"),
            "SELECT metric, view, module, max(layer IS NOT NULL), max(head IS NOT NULL) "
            f"{_VIEW} GROUP BY metric, view, module",
        ),
        "what does not exist": both(
            lambda: queries.missing_values(store, "s", "weights", metric, "effective", "q_proj"),
            f"SELECT r.phase, layer {pick} AND value IS NULL", metric=metric,
        ),
        "numbers of a suite": both(
            lambda: queries.totals(store, "s"),
            "SELECT count(*) FROM measurement m JOIN run r USING (run_id) WHERE r.suite = 's'",
        ),
        "coverage": both(
            lambda: queries.coverage(store, "s"), "SELECT phase, probe, status FROM run"
        ),
        "phases": both(lambda: queries.phases(store, "s"), "SELECT * FROM phase"),
        "largest 20 of a phase": both(
            lambda: store.frame(
                "SELECT layer, module, value FROM phase_metrics WHERE suite = 's' AND phase = 20 "
                "AND probe = 'weights' AND metric = $metric AND view = 'effective' "
                "AND head IS NULL ORDER BY value DESC LIMIT 20", {"metric": metric},
            ),
            f"SELECT layer, module, value {_VIEW} AND r.phase = 20 AND metric = :metric "
            "AND view = 'effective' AND head IS NULL ORDER BY value DESC LIMIT 20", metric=metric,
        ),
    }  # fmt: skip


def timed(ask: Asked) -> float:
    started = time.perf_counter()
    ask()
    return 1e3 * (time.perf_counter() - started)


def main(millions: float, with_sqlite: bool) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        store = Store(folder / "metrics.duckdb")
        rows, seconds, ids = fill(store, millions)
        sizes = {"store": os.path.getsize(store.path)}
        print(f"{rows:,} rows in {len(ids)} transactions\n\n| | store | SQLite |\n|---|---|---|")
        sqlite = Sqlite(folder / "metrics.sqlite") if with_sqlite else None
        slower = ""
        if sqlite is not None:
            taken = sqlite.fill(store, ids)
            sizes["sqlite"] = os.path.getsize(sqlite.path)
            slower = f"{taken:.0f} s, {rows / taken:,.0f} rows/s"
        print(f"| ingest | {seconds:.0f} s, {rows / seconds:,.0f} rows/s | {slower} |")
        print("| file | " + " | ".join(f"{size / 1e6:,.0f} MB" for size in sizes.values()) + " |")
        print_latencies(store, sqlite)


def print_latencies(store: Store, sqlite: Sqlite | None) -> None:
    """A row of the table for each question, and the store's percentiles over all of them."""
    alone: dict[str, list[float]] = {}
    in_page: dict[str, list[float]] = {}
    theirs: dict[str, list[float]] = {}
    opening = []
    for turn in range(ROUNDS):
        for name, (ours, other) in questions(store, sqlite).items():
            alone.setdefault(name, []).append(timed(ours))
            if other and (turn < 3 or statistics.median(theirs[name]) < 2000):
                theirs.setdefault(name, []).append(timed(other))
        with store.session() as page:
            opening.append(timed(lambda page=page: page.frame("SELECT 1")))
            for name, (ours, _) in questions(page, None).items():
                in_page.setdefault(name, []).append(timed(ours))
    print("\n| p50 / p95, ms | alone | in a page | SQLite |\n|---|---|---|---|")
    print(f"| opening | | {p50_p95(opening)} | |")
    for name in alone:
        sides = (p50_p95(side.get(name, [])) for side in (alone, in_page, theirs))
        print(f"| {name} | {' | '.join(sides)} |")
    every = ([ms for each in side.values() for ms in each] for side in (alone, in_page))
    print(f"| all | {' | '.join(map(p50_p95, every))} | |")


def p50_p95(ms: list[float]) -> str:
    return f"{statistics.median(ms):.1f} / {np.percentile(ms, 95):.1f}" if ms else ""


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("millions", type=float, nargs="?", default=5, help="million rows")
    parser.add_argument("--no-sqlite", action="store_true")
    arguments = parser.parse_args()
    main(arguments.millions, not arguments.no_sqlite)
