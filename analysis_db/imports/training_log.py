"""Import the log of a training run: run.json and log.jsonl, as our trainer writes them."""

import json
import math
import operator
from pathlib import Path
from typing import Any

import pyarrow as pa

from analysis_db.errors import StoreError
from analysis_db.store import Store, insert

_RUN_FIELDS = (
    "run", "suite", "recipe", "seed", "status", "started_at", "finished_at", "parameters",
    "code_version",
)  # fmt: skip
_STEP_SCHEMA = pa.schema(
    [
        ("run", pa.string()),
        ("step", pa.int64()),
        ("tokens", pa.int64()),
        ("metric", pa.string()),
        ("layer", pa.int16()),
        ("module", pa.string()),
        ("value", pa.float64()),
    ]
)


def import_training_log(store: Store, folder: Path) -> int:
    """Replace a training run and all its steps; returns the number of values stored.

    Raises StoreError naming the file and line that is wrong; then nothing is changed. A value that
    is not finite is stored as NULL: a diverged step is a fact, but NaN is no number.
    """
    run_file, log = folder / "run.json", folder / "log.jsonl"
    try:
        run = _object(run_file, run_file.read_text(encoding="utf-8"))
        if not isinstance(run.get("run"), str):
            raise StoreError(f"{run_file} has no name under run; nothing was imported.")
        rows: list[tuple[Any, ...]] = []
        with log.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                rows += _values(run["run"], _object(log, line, number), f"{log}, line {number}")
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(
            f"The training log in {folder} cannot be read ({error}); nothing was imported."
        ) from None
    columns = list(zip(*rows, strict=True)) or [()] * len(_STEP_SCHEMA)
    steps = pa.table(
        [pa.array(c, f.type) for c, f in zip(columns, _STEP_SCHEMA, strict=True)],
        schema=_STEP_SCHEMA,
    )
    row = {name: run.get(name) for name in _RUN_FIELDS}
    row["recipe_json"] = json.dumps(run.get("recipe_json"), sort_keys=True)
    with store.write() as connection:
        for table in ("training_run", "training_step"):
            connection.execute(f"DELETE FROM data.{table} WHERE run = $run", {"run": run["run"]})
        insert(connection, "training_run", [row])
        insert(connection, "training_step", steps)
    return steps.num_rows


def _values(run: str, record: dict[str, Any], where: str) -> list[tuple[Any, ...]]:
    """Rows of ``_STEP_SCHEMA`` from one line of the log."""
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
