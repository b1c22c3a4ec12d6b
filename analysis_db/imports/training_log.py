"""Import the log of a training run: run.json and log.jsonl, as our trainer writes them."""

import json
import math
import operator
from pathlib import Path
from typing import Any

import pyarrow as pa

from analysis_db.errors import StoreError
from analysis_db.imports.runs import STEP_SCHEMA, digest, replace_run
from analysis_db.store import Store

_RUN_FIELDS = (
    "run", "suite", "recipe", "seed", "status", "started_at", "finished_at", "parameters",
    "code_version",
)  # fmt: skip
_UNCHANGED = """
SELECT (SELECT count(*) FROM training_steps s WHERE s.run = r.run) AS n
FROM training_runs r WHERE r.run = $run AND r.log_sha256 = $log_sha256"""


def import_training_log(store: Store, folder: Path) -> int:
    """Replace a training run and all its steps; returns the number of values stored.

    A run whose files have not changed since is left as it is, with the spikes found in it. Raises
    StoreError naming the file and line that is wrong; then nothing is changed. A value that is not
    finite is stored as NULL: a diverged step is a fact, but NaN is no number.
    """
    run_file, log = folder / "run.json", folder / "log.jsonl"
    try:
        run = _object(run_file, run_file.read_text(encoding="utf-8"))
        if not isinstance(run.get("run"), str):
            raise StoreError(f"{run_file} has no name under run; nothing was imported.")
        name = {"run": run["run"], "log_sha256": digest((run_file, log))}
        if store.path.exists():
            unchanged = store.table(_UNCHANGED, name)["n"].to_pylist()
            if unchanged:
                return int(unchanged[0])
        rows: list[tuple[Any, ...]] = []
        with log.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                rows += _values(run["run"], _object(log, line, number), f"{log}, line {number}")
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(
            f"The training log in {folder} cannot be read ({error}); nothing was imported."
        ) from None
    columns = list(zip(*rows, strict=True)) or [()] * len(STEP_SCHEMA)
    steps = pa.table(
        [pa.array(c, f.type) for c, f in zip(columns, STEP_SCHEMA, strict=True)],
        schema=STEP_SCHEMA,
    )
    row = {field: run.get(field) for field in _RUN_FIELDS} | name
    row["recipe_json"] = json.dumps(run.get("recipe_json"), sort_keys=True)
    with store.write() as connection:
        replace_run(connection, row, steps)
    return steps.num_rows


def _values(run: str, record: dict[str, Any], where: str) -> list[tuple[Any, ...]]:
    """Rows of ``STEP_SCHEMA`` from one line of the log."""
    try:
        at = (run, operator.index(record["step"]), operator.index(record["tokens"]))
        return [
            (*at, metric, None, None, _finite(value)) for metric, value in record["values"].items()
        ] + [
            (*at, metric, layer, module, _finite(value))
            for metric, modules in record.get("layers", {}).items()
            for module, values in modules.items()
            for layer, value in enumerate(values)
        ]
    except KeyError as error:
        raise StoreError(f"{where}: {error} is missing; nothing was imported.") from None
    except (TypeError, AttributeError) as error:
        raise StoreError(
            f"{where}: a value is of the wrong kind ({error}); nothing was imported."
        ) from None


def _object(path: Path, text: str, line: int | None = None) -> dict[str, Any]:
    try:
        record = json.loads(text)
    except json.JSONDecodeError as error:
        raise StoreError(
            f"{path}, line {line or error.lineno}: not valid JSON ({error.msg}); nothing was "
            "imported."
        ) from None
    if not isinstance(record, dict):
        raise StoreError(f"{path}, line {line or 1}: not a JSON object; nothing was imported.")
    return record


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
