"""A store without any model: 27 phases as in the published suite, with every kind of gap.

Suite ``small`` has phase 26 absent, phase 12 not measured, a failed loss run at phase 9, an unknown
step at phase 14, and an audit that found phases 1 and 2 the same; suite ``bare`` has two phases and
nothing else.
"""

import json
import math
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa

from analysis_db.imports.tables import import_data_mix, import_published_scores
from analysis_db.imports.training_log import import_training_log
from analysis_db.pairs import update_weights
from analysis_db.store import RunRecord, Store, insert
from probes.base import MEASUREMENTS, Measurements

SUITE, ABSENT, MISSING, FAILED, NO_STEP = "small", 26, 12, 9, 14
LAYERS, STEPS, TOKENS_PER_STEP = 6, 20, 2048
PROBES = ("activations", "attention", "benchmarks", "loss", "weights")
DOMAINS = {"chinese": 3.9, "code": 2.6, "maths": 2.1, "web": 3.3}
BUCKETS = {
    "Web": ("english-web", 0.45),
    "General-Pretrain": ("english-general", 0.15),
    "Code-Pretrain": ("code", 0.2),
    "Math-Pretrain": ("math", 0.1),
    "Chinese": ("chinese", 0.1),
}
FORMULAS = [
    ("weights", "rms", "sqrt(mean w^2) = frobenius / sqrt(mn)", ""),
    ("weights", "mean", "mean w", ""),
    ("weights", "alpha", "the learnable scale that multiplies the stored matrix", ""),
    ("activations", "variance_mean", "mean over tokens of var over features", ""),
    *(
        ("activations", f"top{rank}_{name}", f"rank {rank}: {name}", "")
        for rank in (1, 2, 3)
        for name in ("abs", "position", "feature", "token")
    ),
    ("activations", "median_abs", "median of |x|", ""),
    ("activations", "residual_growth", "variance_mean(last) / variance_mean(first)", ""),
    ("attention", "max_logit", "max over visible pairs of scale * q.k", ""),
    ("changes", "relative_change", "|W_b - W_a|_F / |W_a|_F", ""),
    ("loss", "nll", "nll_sum / tokens", "nats/token"),
    ("loss", "bits_per_byte", "nll_sum / (ln 2 * bytes)", "bits/byte"),
]


def stage(phase: int) -> str:
    return "warmup" if phase == 1 else "stable" if phase < 26 else "annealing"


def build(folder: Path) -> Store:
    """Write the store into ``folder`` (a WORKBENCH_HOME)."""
    store = Store(folder / "metrics.duckdb")
    store.put_suite(
        {"name": SUITE, "title": "Small synthetic suite", "about": "Made up.", "licence": "MIT"},
        [_phase(phase) for phase in range(1, 28)],
    )
    store.put_suite(
        {"name": "bare", "title": "A bare suite", "about": "", "licence": ""},
        [{**_phase(phase), "step": None, "tokens_b": None} for phase in (1, 2)],
    )
    store.register_probes(
        [{"probe": p, "version": 1, "title": p, "needs": "model"} for p in PROBES],
        [
            {"metric": m, "probe": p, "version": 1, "formula": f, "unit": u, "source": "made up"}
            for p, m, f, u in FORMULAS
        ],
    )
    for phase in range(1, 28):
        if phase in (ABSENT, MISSING):
            continue
        tables = {
            "weights": {"measurements": _rows(_weights(phase)), "histograms": _histograms(phase)},
            "activations": {"measurements": _rows(_activations(phase))},
            "attention": {"measurements": _rows(_attention(phase))},
            "loss": {"measurements": _rows(_loss(phase))},
            "benchmarks": {"benchmarks": _benchmarks(phase)},
        }
        for probe, found in tables.items():
            failed = probe == "loss" and phase == FAILED
            store.write_run(_run(phase, probe, failed), {} if failed else found)
    _changes(store)
    _import_facts(store, folder)
    _benchmark_tasks(store)
    _audit(store)
    return store


def _changes(store: Store) -> None:
    """Sketches of a random walk; phase 21 is phase 20 once more, phase 5 has another width."""
    random = np.random.default_rng(0)
    walk = {layer: random.standard_normal(64) for layer in range(LAYERS)}
    for phase in range(1, 28):
        if phase in (ABSENT, MISSING):
            continue
        found = Measurements()
        for layer in walk:
            if phase != 21:
                walk[layer] = walk[layer] + 0.1 * random.standard_normal(64)
            values = walk[layer][: 32 if phase == 5 else 64]
            found.add_sketch(
                "weight", values, view="effective", layer=layer, module="q_proj", n=1000,
                norm=float(np.linalg.norm(values)), digest=str(values.sum()),
            )  # fmt: skip
        store.write_run(_run(phase, "changes", False), found.tables())
    update_weights(store, SUITE, code_version="0")


def _benchmark_tasks(store: Store) -> None:
    """Which task stands for which published benchmark, and a score measured elsewhere."""
    tasks = [
        {"benchmark": None, "task_group": "shipped", "task": "cloze", "metric": None},
        {"benchmark": None, "task_group": "shipped", "task": "next_word", "metric": None},
        {"benchmark": "LAMBADA", "task_group": "published", "task": "lambada_openai",
         "metric": "acc", "shots": 0},
        {"benchmark": "GSM8K", "task_group": "published", "task": "gsm8k", "metric": "exact_match",
         "shots": 4},
    ]  # fmt: skip
    store.put_benchmark_tasks([{"shots": None, "reason": None, **task} for task in tasks])
    elsewhere = {
        "suite": SUITE, "phase": 5, "task": "lambada_openai", "metric": "acc", "value": 0.4,
        "stderr": 0.02, "n": 5153, "shots": 0, "imported_from": "results.json", "file_sha256": "0",
        "model": "small/phase-5", "own": True,
    }  # fmt: skip
    with store.write() as connection:
        other = {"model": "gpt2", "own": False, "value": 0.9}
        unknown = {"model": None, "own": None, "value": 0.8}
        insert(connection, "imported_score", [elsewhere, elsewhere | other, elsewhere | unknown])


def _audit(store: Store) -> None:
    audits = [
        {"phase": p, "repo_id": f"small/phase-{p}", "revision": "main", "commit_sha": "0" * 40,
         "bytes_read": 1000}
        for p in (1, 2, 3, 5)
    ]  # fmt: skip
    same = "Phases 1-2 have the same weights."
    findings = [
        {"phase": p, "severity": severity, "check_id": check, "message": said, "evidence": "{}"}
        for p, severity, check, said in (
            (1, "error", "identical-weights", same),
            (2, "error", "identical-weights", same),
            (5, "note", "tied-stored-twice", "Stored twice."),
        )
    ]
    store.put_audits(SUITE, audits, findings, audited_at=datetime(2026, 11, 24, 12, tzinfo=UTC))


def _phase(phase: int) -> dict[str, object]:
    step = phase * STEPS
    return {
        "phase": phase,
        "label": "before annealing" if phase == 25 else f"phase {phase}",
        "stage": stage(phase),
        "repo_id": None if phase == ABSENT else f"small/phase-{phase}",
        "revision": "main",
        "start_step": step - STEPS,
        "step": None if phase == NO_STEP else step,
        "step_basis": "made up",
        "phase_tokens_b": STEPS * TOKENS_PER_STEP / 1e9,
        "tokens_b": step * TOKENS_PER_STEP / 1e9,
        "context_length": 256 if phase < 26 else 512,
        "rope_theta": 10000.0 if phase < 26 else 490000.0,
        "form": "merged" if phase == 27 else "reparameterised",
        "has_optimizer": phase in (20, 25),
        "on_disk": phase not in (ABSENT, MISSING),
        "evidence": "",
        "overrides": "{}",
    }


def _run(phase: int, probe: str, failed: bool) -> RunRecord:
    return RunRecord(
        run_id=f"{probe}-{phase}",
        fingerprint=f"{probe}-{phase}",
        suite=SUITE,
        phase=phase,
        probe=probe,
        probe_version=1,
        settings="{}",
        settings_hash="0",
        status="failed" if failed else "complete",
        started_at=datetime(2026, 11, 24, tzinfo=UTC) + timedelta(minutes=phase),
        seconds=1.5,
        device="cpu",
        dtype="float32",
        host="here",
        repo_id=f"small/phase-{phase}",
        commit_sha="0" * 40,
        file_hashes="{}",
        overrides="{}",
        notes=json.dumps(
            {
                "token_set_sha256": "a" if phase < 26 else "b",
                "token_text": json.dumps({"1": "<s>"}),
            }
        ),
        code_version="0",
        error="ValueError: the tokenizer has no start token" if failed else None,
    )


Row = tuple[str, str | None, int | None, str | None, int | None, str | None, float | None]


def _rows(rows: list[Row]) -> pa.Table:
    names = ("metric", "view", "layer", "module", "head", "domain", "value")
    found = [
        {**dict(zip(names, row, strict=True)), "reason": "made up" if row[-1] is None else None}
        for row in rows
    ]
    return pa.Table.from_pylist(found, schema=MEASUREMENTS)


def _weights(phase: int) -> list[Row]:
    rows: list[Row] = []
    merged = phase == 27
    for layer in range(LAYERS):
        for k, module in enumerate(("q_proj", "o_proj", "down_proj")):
            effective = 0.02 * (1 + 0.1 * layer + 0.05 * k) * (1 + math.log(phase))
            alpha = 0.36 + 0.02 * phase
            stored = effective if merged else effective / alpha
            rows.append(("rms", "effective", layer, module, None, None, effective))
            rows.append(("rms", "stored", layer, module, None, None, stored))
            drift = 1e-4 * math.sin(phase + layer)
            rows.append(("mean", "effective", layer, module, None, None, drift))
            if not merged:
                rows.append(("alpha", "stored", layer, module, None, None, alpha))
    rows.append(("rms", "effective", None, "embed", None, None, 0.1 * math.sqrt(phase)))
    rows.append(("rms", "stored", None, "embed", None, None, 0.01 * math.sqrt(phase)))
    return rows


def _histograms(phase: int) -> pa.Table:
    edges = [-4 + i / 10 for i in range(41)]
    centre = -2.5 + phase / 30
    counts = [int(1000 * math.exp(-4 * (edge - centre) ** 2)) for edge in edges[:-1]]
    row = {"metric": "log10_abs", "view": "effective", "module": "q_proj"}
    rows = [{**row, "layer": la, "edges": edges, "counts": counts} for la in range(LAYERS)]
    schema = pa.schema(
        [
            ("metric", pa.string()),
            ("view", pa.string()),
            ("layer", pa.int16()),
            ("module", pa.string()),
            ("edges", pa.list_(pa.float64())),
            ("counts", pa.list_(pa.int64())),
        ]
    )
    return pa.Table.from_pylist(rows, schema=schema)


def _activations(phase: int) -> list[Row]:
    rows: list[Row] = []
    for layer in range(LAYERS):
        for k, module in enumerate(("residual", "mlp")):
            value = (layer + 1) ** 1.5 * (1 + phase / 10) / (k + 1)
            rows.append(("variance_mean", None, layer, module, None, None, value))
        for rank in (1, 2, 3):
            place = {"abs": 900.0 / rank, "position": 0.0, "feature": 5.0 + rank, "token": 1.0}
            rows += [
                (f"top{rank}_{name}", None, layer, "residual", None, None, value)
                for name, value in place.items()
            ]
        rows.append(("median_abs", None, layer, "residual", None, None, 0.5))
    growth = None if phase == 3 else 4.0 + phase / 27
    rows.append(("residual_growth", None, None, "residual", None, None, growth))
    return rows


def _attention(phase: int) -> list[Row]:
    return [
        ("max_logit", None, layer, "attention", head, None, 2.0 + layer + head + phase / 3)
        for layer in range(LAYERS)
        for head in range(2)
    ]


def _loss(phase: int) -> list[Row]:
    rows: list[Row] = []
    for domain, floor in DOMAINS.items():
        nll = floor + 4 / phase - (0.3 if phase == 27 else 0)
        rows.append(("nll", None, None, None, None, domain, nll))
        rows.append(("bits_per_byte", None, None, None, None, domain, nll / math.log(2) / 4))
        buckets = ("1-15", "16-31", "32-63", "64-127", "128-255", "256-511")
        for number, bucket in enumerate(buckets[: 5 if phase < 26 else 6]):
            module = f"position {bucket}"
            rows.append(("nll", None, None, module, None, domain, nll + 0.5 - number / 5))
            rows.append(("tokens", None, None, module, None, domain, 1000.0 * 2**number))
    return rows


def _benchmarks(phase: int) -> pa.Table:
    rows = [
        {"task": "cloze", "metric": "acc", "value": 0.25 + 0.012 * phase, "stderr": 0.03},
        {"task": "next_word", "metric": "acc", "value": 0.01 * phase, "stderr": 0.015},
        {"task": "next_word", "metric": "perplexity", "value": 300 / phase, "stderr": 4.0},
        {"task": "lambada_openai", "metric": "acc", "value": 0.02 * phase, "stderr": 0.01},
    ]
    fixed = {
        "n": 200,
        "shots": 0,
        "task_version": "1",
        "task_hash": "0" * 64,
        "harness_version": "0.4.13",
    }
    return pa.Table.from_pylist(
        [{**row, **fixed, "higher_is_better": row["metric"] == "acc"} for row in rows]
    )


def _import_facts(store: Store, folder: Path) -> None:
    mix = ["phase,run,mix_id,source,group,category,bucket,tokens_b"]
    for phase in range(1, 28):
        for run in ("26-28k", "26-4k") if phase == 26 else (str(phase),):
            shift = 0.003 * phase + 0.004 * math.sin(phase)
            for bucket, (category, share) in BUCKETS.items():
                part = share - shift if bucket == "Web" else share + shift / 4
                mix.append(f"{phase},{run},m,{bucket}/all,{bucket},{category},{bucket},{part * 40}")
    (folder / "mix.csv").write_text("\n".join(mix))
    import_data_mix(store, SUITE, folder / "mix.csv")
    scores = ["model,phase,benchmark,setting,score,footnote,source"]
    for phase in (5, 10, 15, 20, 25, 26, 27):
        scores.append(f"Small-{phase},{phase},LAMBADA,acc 0-shot,{50 + phase / 2},,table")
        scores.append(f"Small-{phase},{phase},GSM8K,4-shot,{2 * phase},,table")
    scores.append("Other-1B,,GSM8K,4-shot,12.5,,table")
    (folder / "scores.csv").write_text("\n".join(scores))
    import_published_scores(store, SUITE, folder / "scores.csv")
    run = {
        "run": "small",
        "suite": SUITE,
        "recipe": "small",
        "recipe_json": {},
        "seed": 0,
        "status": "complete",
        "started_at": "2026-11-24T08:00:00+00:00",
        "finished_at": "2026-11-24T08:03:00+00:00",
        "parameters": 946000,
        "code_version": "0",
    }
    (folder / "run.json").write_text(json.dumps(run))
    lines = []
    for step in range(1, 27 * STEPS + 1):
        done = step / (27 * STEPS)
        lr = min(step / STEPS, 1.0) * 0.01 * (1.0 if done < 25 / 27 else 1 - math.sqrt(done) + 0.04)
        values = {
            "loss": 3 + 4.6 * math.exp(-step / 60) + 0.1 * math.sin(step) - (done > 0.93) * 0.2,
            "lr": lr,
            "grad_norm": 0.4 + 3 / step + 0.05 * math.cos(3 * step),
        }
        variance = [(layer + 1) * (0.1 + done) for layer in range(LAYERS)]
        lines.append(
            json.dumps(
                {
                    "step": step,
                    "tokens": step * TOKENS_PER_STEP,
                    "phase": (step - 1) // STEPS + 1,
                    "values": values,
                    "layers": {"hidden_variance": {"residual": variance}},
                }
            )
        )
    (folder / "log.jsonl").write_text("\n".join(lines))
    import_training_log(store, folder)
