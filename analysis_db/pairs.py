"""The comparisons of a suite's phases, made from the sketches in the store and kept beside them.

A pair of phases is compared once, and again when one of them has been measured anew. Where the two
checkpoints themselves were compared the values are exact and are not estimated any more.
"""

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from analysis_db.cka import directions, gram_from_triangle, shuffled
from analysis_db.pair_values import (
    PAIR_ROWS,
    ExactChange,
    Key,
    Rows,
    Tensors,
    compare_module,
    joined,
    pair_rows,
    with_exact,
)
from analysis_db.store import Store, insert

WEIGHT, GRAM = "weight", "activation_gram"
METHOD_VERSION = 1
"""Raised whenever a value between two phases may change: all are then computed again."""


@dataclass(frozen=True)
class SketchRun:
    """The newest run that kept sketches of a kind."""

    run_id: str
    phase: int
    probe: str
    fingerprint: str
    started_at: datetime
    file_hashes: str
    """JSON, as are overrides."""
    overrides: str
    token_set: str | None
    """Hash of the tokens that Gram matrices are of."""


class PairToDo(NamedTuple):
    a: SketchRun
    b: SketchRun


def sketch_runs(store: Store, suite: str, kind: str) -> list[SketchRun]:
    """The runs that hold sketches of a kind, by phase."""
    rows = store.table(
        "SELECT run_id, phase, probe, fingerprint, started_at, file_hashes, overrides, "
        "coalesce(json_extract_string(notes, '$.sampled_token_set_sha256'), "
        "json_extract_string(notes, '$.token_set_sha256')) AS token_set "
        "FROM data.newest_run SEMI JOIN (SELECT run_id FROM data.sketch WHERE kind = $kind) "
        "USING (run_id) WHERE suite = $suite ORDER BY phase",
        {"suite": suite, "kind": kind},
    )
    return [SketchRun(**row) for row in rows.to_pylist()]


def pairs_to_do(store: Store, suite: str, kind: str) -> list[PairToDo]:
    """Pairs that were never compared, or of which a side has been measured anew since."""
    runs = sketch_runs(store, suite, kind)
    known = store.table(
        "SELECT phase_a, phase_b, fingerprint_a, fingerprint_b, bool_or(exact) AS exact, "
        "max(computed_at) AS at FROM data.pair_run "
        "WHERE suite = $suite AND kind = $kind AND method_version = $version GROUP BY ALL",
        {"suite": suite, "kind": kind, "version": METHOD_VERSION},
    ).to_pylist()
    columns = ("phase_a", "phase_b", "fingerprint_a", "fingerprint_b")
    done = {tuple(row[column] for column in columns): row for row in known}
    found = []
    for i, a in enumerate(runs):
        for b in runs[i + 1 :]:
            row = done.get((a.phase, b.phase, a.fingerprint, b.fingerprint))
            fresh = row and (row["exact"] or row["at"] > max(a.started_at, b.started_at))
            if a.probe == b.probe and not fresh:
                found.append(PairToDo(a, b))
    return found


def exact_pairs(store: Store, suite: str) -> set[tuple[int, int]]:
    """Pairs of phases whose checkpoints themselves have been compared."""
    rows = store.table(
        "SELECT phase_a, phase_b FROM data.newest_pair_run WHERE suite = $suite AND kind = $kind "
        "AND exact AND method_version = $version",
        {"suite": suite, "kind": WEIGHT, "version": METHOD_VERSION},
    )
    return {(row["phase_a"], row["phase_b"]) for row in rows.to_pylist()}


def load_tensors(store: Store, runs: Sequence[SketchRun]) -> Tensors:
    """Compare the weights of these runs each with each, one kind of module in memory at a time."""
    ids, phases = [run.run_id for run in runs], [run.phase for run in runs]
    where = "FROM data.sketch WHERE kind = $kind AND list_contains($ids, run_id)"
    about: dict[str, Any] = {"kind": WEIGHT, "ids": ids}
    parts: list[Tensors] = []
    with store.read() as connection:
        modules = connection.execute(f"SELECT DISTINCT module {where} ORDER BY 1", about).fetchall()
        for (module,) in modules:
            rows = connection.sql(
                f'SELECT run_id, layer, "values", n, norm, digest {where} AND module = $module',
                params={**about, "module": module},
            ).to_arrow_table()
            parts.append(compare_module(module, rows, ids, phases))
    return joined(parts, phases)


def write_pairs(
    store: Store,
    suite: str,
    kind: str,
    pairs: Sequence[PairToDo],
    rows: Rows,
    *,
    exact: bool,
    view: str | None,
    code_version: str,
) -> None:
    """Store comparisons, all or nothing; ``rows.table`` numbers the pairs as they are given.

    An exact one takes the place of the pair's estimate.
    """
    now = datetime.now(UTC)
    ids = [uuid.uuid4().hex for _ in pairs]
    records = [
        {
            "run_id": run_id, "suite": suite, "phase_a": a.phase, "phase_b": b.phase,
            "kind": kind, "probe": a.probe, "fingerprint_a": a.fingerprint,
            "fingerprint_b": b.fingerprint, "exact": exact, "identical": bool(rows.identical[m]),
            "reason": rows.reasons[m], "method_version": METHOD_VERSION, "computed_at": now,
            "code_version": code_version,
        }
        for m, (run_id, (a, b)) in enumerate(zip(ids, pairs, strict=True))
    ]  # fmt: skip
    if not records:
        return
    table = rows.table
    numbers = table["pair"].combine_chunks()
    taken = {
        "run_id": pa.array(ids).dictionary_encode().dictionary.take(numbers),
        "phase_a": pa.array([a.phase for a, _ in pairs], pa.int32()).take(numbers),
        "phase_b": pa.array([b.phase for _, b in pairs], pa.int32()).take(numbers),
        "suite": pa.repeat(suite, len(numbers)),
        "view": pa.repeat(pa.scalar(view, pa.string()), len(numbers)),
    }
    table = table.drop_columns(["pair"])
    for name, column in taken.items():
        table = table.append_column(name, column)
    with store.write() as connection:
        insert(connection, "pair_run", pa.Table.from_pylist(records, schema=_RUNS))
        insert(connection, "pair_measurement", table)


_RUNS = pa.schema(
    [
        *((name, pa.string()) for name in ("run_id", "suite")),
        ("phase_a", pa.int32()), ("phase_b", pa.int32()),
        *((name, pa.string()) for name in ("kind", "probe", "fingerprint_a", "fingerprint_b")),
        ("exact", pa.bool_()), ("identical", pa.bool_()), ("reason", pa.string()),
        ("method_version", pa.int32()), ("computed_at", pa.timestamp("us", "UTC")),
        ("code_version", pa.string()),
    ]
)  # fmt: skip


def update_weights(store: Store, suite: str, *, code_version: str) -> int:
    """Estimate every pair of phases that is new; returns their number."""
    pairs = pairs_to_do(store, suite, WEIGHT)
    if pairs:
        runs = {run.phase: run for pair in pairs for run in pair}
        found = load_tensors(store, [runs[phase] for phase in sorted(runs)])
        rows = pair_rows(found, [(a.phase, b.phase) for a, b in pairs])
        write_pairs(
            store, suite, WEIGHT, pairs, rows, exact=False, view="effective",
            code_version=code_version,
        )  # fmt: skip
    return len(pairs)


def write_exact(
    store: Store, suite: str, pair: PairToDo, changes: Iterable[ExactChange], *, code_version: str
) -> None:
    """Store what two checkpoints gave that were compared tensor by tensor."""
    found = with_exact(load_tensors(store, pair), changes)
    rows = pair_rows(found, [(pair.a.phase, pair.b.phase)])
    write_pairs(
        store, suite, WEIGHT, [pair], rows, exact=True, view="effective", code_version=code_version
    )


def update_activations(store: Store, suite: str, *, code_version: str) -> int:
    """CKA of every pair of phases that is new, with its null; returns the number of pairs.

    Phases whose activations are not of the same tokens are not compared, and it says so.
    """
    pairs = pairs_to_do(store, suite, GRAM)
    reasons = [
        None if a.token_set and a.token_set == b.token_set else
        "The activations of the two phases are not of the same tokens: measure both with the same "
        "settings."
        for a, b in pairs
    ]  # fmt: skip
    asked = {(a.run_id, b.run_id): m for m, (a, b) in enumerate(pairs) if reasons[m] is None}
    tables = []
    gaps: dict[int, list[_Gap]] = {}
    for key in _sites(store, {run_id for ids in asked for run_id in ids}):
        site = _site_rows(store, key, asked)
        tables += site.tables
        for m, gap in site.gaps.items():
            gaps.setdefault(m, []).append(gap)
    for m, of_pair in gaps.items():
        reasons[m] = _gaps_reason(of_pair)
    table = pa.concat_tables(tables) if tables else PAIR_ROWS.empty_table()
    no = [False] * len(pairs)
    write_pairs(
        store, suite, GRAM, pairs, Rows(table, reasons, no), exact=False, view=None,
        code_version=code_version,
    )  # fmt: skip
    return len(pairs)


_GRAMS = "FROM data.sketch WHERE kind = $kind AND list_contains($ids, run_id)"


def _sites(store: Store, run_ids: set[str]) -> list[Key]:
    rows = store.table(
        f"SELECT DISTINCT module, layer {_GRAMS} ORDER BY ALL",
        {"kind": GRAM, "ids": sorted(run_ids)},
    )
    return [(row["module"], row["layer"]) for row in rows.to_pylist()]


class _Gap(NamedTuple):
    """A site at which a pair of phases has no CKA."""

    key: Key
    cause: str


class _Site(NamedTuple):
    tables: list[pa.Table]
    gaps: dict[int, _Gap]
    """By the number of the pair."""


def _gaps_reason(gaps: Sequence[_Gap]) -> str:
    """Why a pair has no CKA at some sites, causes in the order of their first site."""
    sites: dict[str, list[str]] = {}
    for (module, layer), cause in gaps:
        place = module if layer is None else f"{module} of layer {layer}"
        sites.setdefault(cause, []).append(place)
    clauses = [f"at {len(places):,} ({places[0]} first) {cause}" for cause, places in sites.items()]
    return f"{len(gaps):,} sites have no CKA: {', '.join(clauses)}."


def _site_rows(store: Store, key: Key, asked: dict[tuple[str, str], int]) -> _Site:
    """The rows of one site; its Gram matrices are in memory together."""
    module, layer = key
    rows = store.table(
        f'SELECT run_id, "values", n {_GRAMS} AND module IS NOT DISTINCT FROM $module '
        'AND layer IS NOT DISTINCT FROM $layer',
        {
            "kind": GRAM, "ids": sorted({run_id for ids in asked for run_id in ids}),
            "module": module, "layer": layer,
        },
    )  # fmt: skip
    present = rows["run_id"].to_pylist()
    run_ids, sizes, grams = [], [], []
    for run_id, values, n in zip(present, rows["values"], rows["n"].to_pylist(), strict=True):
        triangle = values.values.to_numpy()
        if len(triangle) and np.isfinite(triangle).all():
            run_ids.append(run_id)
            sizes.append(n)
            grams.append(gram_from_triangle(triangle, n))
    units = {run_id: unit for n in set(sizes) for run_id, unit in _directions_of(n, run_ids, grams)}
    gaps = {}
    for ids, m in asked.items():
        if not all(run_id in present for run_id in ids):
            gaps[m] = _Gap(key, "one phase has no sketch")
        elif broken := [
            side
            for side, run_id in zip(("earlier", "later"), ids, strict=True)
            if run_id not in units
        ]:
            which = "both phases" if len(broken) == 2 else f"the {broken[0]} phase"
            gaps[m] = _Gap(key, f"the activations of {which} have NaN or Inf")
    open_pairs = {ids for ids, m in asked.items() if m not in gaps}
    tables = []
    while open_pairs:
        # The run that most pairs are waiting for, with all its partners at once.
        waiting = [run_id for ids in open_pairs for run_id in ids]
        centre = max(sorted(set(waiting)), key=waiting.count)
        mine = sorted(ids for ids in open_pairs if centre in ids)
        open_pairs -= set(mine)
        partners = np.stack([units[b if a == centre else a] for a, b in mine])
        null = shuffled(units[centre], partners)
        found = {
            "cka": partners @ units[centre],
            "cka_null": null.mean(0),
            "cka_null_95": np.percentile(null, 95, axis=0),
        }
        numbers = np.array([asked[ids] for ids in mine])
        alike = _Gap(key, "all tokens are alike in one phase")
        gaps |= {int(m): alike for m in numbers[~np.isfinite(found["cka"])]}
        for metric, values in found.items():
            there = np.isfinite(values)
            n = int(there.sum())
            tables.append(
                pa.table(
                    [
                        pa.array(numbers[there], pa.int64()), pa.repeat(metric, n),
                        pa.repeat(pa.scalar(layer, pa.int16()), n),
                        pa.repeat(pa.scalar(module, pa.string()), n), pa.array(values[there]),
                        pa.repeat(True, n), pa.repeat(0.0, n),
                    ],
                    schema=PAIR_ROWS,
                )
            )  # fmt: skip
    return _Site(tables, gaps)


def _directions_of(
    n: int, run_ids: list[str], grams: list[np.ndarray]
) -> list[tuple[str, np.ndarray]]:
    """Run and direction of each matrix of n tokens."""
    chosen = [i for i, gram in enumerate(grams) if len(gram) == n]
    units = directions([grams[i] for i in chosen])
    return [(run_ids[i], unit) for i, unit in zip(chosen, units, strict=True)]


def identity_alarms(store: Store, suite: str) -> list[str]:
    """A sentence for every two phases of which all weights are equal."""
    rows = store.table(
        "SELECT * FROM identity_alarms WHERE suite = $suite ORDER BY phase_a, phase_b",
        {"suite": suite},
    )
    return [
        f"{row['label_a']} and {row['label_b']} hold the same weights: one of them is probably not "
        "the checkpoint that it is said to be."
        for row in rows.to_pylist()
    ]
