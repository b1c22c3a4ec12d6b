"""A store in which every name from outside holds Markdown, HTML and LaTeX; made by the writers.

Suite, phases, probes, metrics, modules, domains, tasks, models, runs, series, warnings, errors and
findings: ``name(slot)`` is what a page shows of a slot.
"""

import json
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa

from analysis_db.imports.csv_log import read_csv_log
from analysis_db.imports.runs import Columns, StepRows, store_imported_runs
from analysis_db.imports.tables import import_data_mix, import_published_scores
from analysis_db.imports.training_log import import_training_log
from analysis_db.pairs import update_weights
from analysis_db.spikes import find_spikes, write_spikes
from analysis_db.store import RunRecord, Store, insert
from probes.base import MEASUREMENTS, Measurements

HOST = "http://hostile.invalid"
PHASES = (1, 2, 3, 4)
ABSENT = 4


def name(slot: str) -> str:
    """A name that fetches, links, formats and expands itself wherever it is not escaped."""
    return (
        f"![{slot}]({HOST}/{slot}.png) <img src={HOST}/i> "
        f"<span style='background:url({HOST}/s)'>s</span> $\\frac{{1}}{{2}}$ :red[r] "
        ":material_home: %{y} **b** `c` -> www.hostile.invalid &lt; layer_0*q"
    )


SUITE, RUN, LOG = name("suite"), name("run"), name("log")


def build(folder: Path) -> Store:
    """Write the store into ``folder`` (a WORKBENCH_HOME)."""
    store = Store(folder / "metrics.duckdb")
    store.put_suite(
        {"name": SUITE, "title": name("title"), "about": name("about"), "licence": name("licence")},
        [_phase(phase) for phase in PHASES],
    )
    metrics = [
        *(("weights", m) for m in ("rms", "mean")),
        ("activations", "variance_mean"),
        ("attention", "max_logit"),
        ("loss", "nll"),
        ("changes", "relative_change"),
        (name("probe"), name("metric")),
    ]
    store.register_probes(
        [{"probe": p, "version": 1, "title": name("about"), "needs": "model"}
         for p in (*dict(metrics), "benchmarks")],
        [{"metric": m, "probe": p, "version": 1, "formula": name("formula"), "unit": name("unit"),
          "source": name("source")} for p, m in metrics],
    )  # fmt: skip
    for phase in PHASES[:-1]:
        for probe, rows in _measurements(phase).items():
            failed = probe == "attention" and phase == 2
            tables = {"measurements": _table(rows)}
            store.write_run(_run(phase, probe, failed), {} if failed else tables)
        store.write_run(_run(phase, "benchmarks"), {"benchmarks": _benchmarks(phase)})
        found = Measurements()
        found.add_sketch(
            "weight", pa.array([1.0, phase]).to_numpy(), view="effective", layer=0,
            module=name("module"), n=1000, norm=float(phase), digest=str(min(phase, 2)),
        )  # fmt: skip
        store.write_run(_run(phase, "changes"), found.tables())
    update_weights(store, SUITE, code_version="0")
    _facts(store, folder)
    _logs(store, folder)
    (folder / "queries").mkdir()
    (folder / "queries/select.sql").write_text(f"SELECT '{name('answer').replace(chr(39), '')}'")
    return store


def _phase(phase: int) -> dict[str, object]:
    return {
        "phase": phase, "label": name(f"label{phase}"), "stage": name("stage"),
        "repo_id": None if phase == ABSENT else name("repo"), "revision": name("revision"),
        "start_step": 20 * phase - 20, "step": 20 * phase, "step_basis": name("basis"),
        "phase_tokens_b": 1.0, "tokens_b": float(phase), "context_length": 256,
        "rope_theta": 10000.0, "form": name("form"), "has_optimizer": False,
        "on_disk": phase == 1, "evidence": name("evidence"), "overrides": "{}",
    }  # fmt: skip


def _run(phase: int, probe: str, failed: bool = False) -> RunRecord:
    return RunRecord(
        run_id=f"{probe}-{phase}", fingerprint=f"{probe}-{phase}", suite=SUITE, phase=phase,
        probe=probe, probe_version=1, settings="{}", settings_hash="0",
        status="failed" if failed else "complete",
        started_at=datetime(2026, 11, 24, 12, phase, tzinfo=UTC), seconds=1.0, device="cpu",
        dtype="float32", host="here", repo_id=name("repo"), commit_sha="0" * 40,
        file_hashes="{}", overrides="{}", code_version="0",
        notes=json.dumps({"warning": name("warning"), "token_set_sha256": str(phase)}),
        error=f"ValueError: {name('error')}" if failed else None,
    )  # fmt: skip


def _measurements(phase: int) -> dict[str, list[dict[str, object]]]:
    module, domain = name("module"), name("domain")
    two = [
        {"metric": "rms", "view": view, "layer": layer, "module": module, "value": phase + layer}
        for layer in (0, 1)
        for view in ("effective", "stored")
    ]
    gap: dict[str, object] = {"metric": "rms", "view": "effective", "layer": 2, "module": module}
    whole = [{"metric": "nll", "domain": d, "value": 4.0 - phase / 9} for d in (domain, "web")]
    parts = [row | {"module": f"position {part}"} for row in whole for part in ("1-15", "16-31")]
    counts = [row | {"metric": "tokens", "value": 100.0} for row in parts]
    return {
        "weights": [*two, gap | {"value": None, "reason": name("reason")}],
        "activations": [
            {"metric": "variance_mean", "layer": la, "module": module, "value": phase * 1.5}
            for la in (0, 1)
        ],
        "attention": [
            {"metric": "max_logit", "layer": 0, "module": module, "head": h, "value": phase * 2.5}
            for h in (0, 1)
        ],
        "loss": [*whole, *parts, *counts],
        name("probe"): [
            {"metric": name("metric"), "module": module, "domain": domain, "value": phase * 0.5}
        ],
    }


def _table(rows: list[dict[str, object]]) -> pa.Table:
    return pa.Table.from_pylist(
        [{**row, "value": None if row["value"] is None else float(str(row["value"]))}
         for row in rows],
        schema=MEASUREMENTS,
    )  # fmt: skip


def _benchmarks(phase: int) -> pa.Table:
    fixed = {"n": 200, "shots": 0, "task_version": "1", "task_hash": "0", "harness_version": "0"}
    return pa.Table.from_pylist(
        [{"task": name("task"), "metric": name("score"), "value": 0.1 * phase, "stderr": 0.01,
          "higher_is_better": True, **fixed}]
    )  # fmt: skip


def _facts(store: Store, folder: Path) -> None:
    mix = ["phase,run,mix_id,source,group,category,bucket,tokens_b"]
    scores = ["model,phase,benchmark,setting,score,footnote,source"]
    for phase in PHASES:
        for run in (name("mixrun"), "b") if phase == ABSENT else ("a",):
            for part, tokens in ((name("category"), 1 + phase), ("web", 3)):
                mix.append(f"{phase},{run},m,{name('source')},g,{part},{part}-SFT,{tokens}")
        scores.append(f"{name('model')},{phase},{name('bench')},0-shot,{10 * phase},,table")
    (folder / "mix.csv").write_text("\n".join(mix))
    import_data_mix(store, SUITE, folder / "mix.csv")
    (folder / "scores.csv").write_text("\n".join(scores))
    import_published_scores(store, SUITE, folder / "scores.csv")
    store.put_benchmark_tasks(
        [{"benchmark": name("bench"), "task_group": name("group"), "task": name("task"),
          "metric": name("score"), "shots": 0, "reason": name("why")}]
    )  # fmt: skip
    elsewhere = {
        "suite": SUITE, "phase": 3, "task": name("task"), "metric": name("score"), "value": 0.4,
        "stderr": 0.02, "n": 10, "shots": 0, "model": name("model"),
        "imported_from": name("file"), "file_sha256": "0",
    }  # fmt: skip
    with store.write() as connection:
        insert(connection, "imported_score", [elsewhere])
    store.put_audits(
        SUITE,
        [{"phase": 1, "repo_id": name("repo"), "revision": "main", "commit_sha": "0" * 40,
          "bytes_read": 1}],
        [{"phase": 1, "severity": "error", "check_id": name("check"), "message": name("finding"),
          "evidence": "{}"}],
        audited_at=datetime(2026, 11, 24, tzinfo=UTC),
    )  # fmt: skip


def _logs(store: Store, folder: Path) -> None:
    """A log of our trainer, with a layered series, and an imported one with restart and spike."""
    about = {
        "run": RUN, "suite": SUITE, "recipe": name("recipe"), "recipe_json": {}, "seed": 0,
        "status": "complete", "started_at": "2026-11-24T08:00:00+00:00",
        "finished_at": "2026-11-24T08:03:00+00:00", "parameters": 9, "code_version": "0",
    }  # fmt: skip
    (folder / "run.json").write_text(json.dumps(about))
    lines = [
        {"step": step, "tokens": step, "phase": 1, "values": {"loss": 3 + 1 / step},
         "layers": {name("layered"): {name("module"): [1.0, step]}}}
        for step in range(1, 81)
    ]  # fmt: skip
    (folder / "log.jsonl").write_text("\n".join(map(json.dumps, lines)))
    import_training_log(store, folder)
    steps = [*range(1, 3001), *range(2901, 3101)]
    values = [90.0 if step == 2000 else 3 + (step % 7) / 100 for step in steps]
    with (folder / "log.csv").open("w") as table:
        table.write(f'step,loss,"{name("series")}"\n')
        for step, value in zip(steps, values, strict=True):
            table.write(f"{step},{value},{value}\n")
    rows = StepRows()
    read_csv_log(folder / "log.csv", Columns(None, None, {}), rows)
    store_imported_runs(store, {LOG: rows}, [folder / "log.csv"])
    write_spikes(store, find_spikes(store, LOG))
