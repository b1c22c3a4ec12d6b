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

    Raises StoreError naming the file and line that is wrong; then nothing is stored. A value that
    is not finite is stored as NULL: a diverged step is a fact, but NaN is no number.
    """
    run = _read_json(folder / "run.json", _read_text(folder / "run.json"), 1)
    if not isinstance(run.get("run"), str):
        raise StoreError(f"{folder / 'run.json'}: field run is missing; nothing was imported.")
    rows: list[tuple[Any, ...]] = []
    log = folder / "log.jsonl"
    for number, line in enumerate(_read_text(log).splitlines(), start=1):
        record = _read_json(log, line, number)
        try:
            at = (run["run"], operator.index(record["step"]), operator.index(record["tokens"]))
            rows += [(*at, metric, None, None, _finite(value))
                     for metric, value in record["values"].items()]  # fmt: skip
            rows += [
                (*at, metric, layer, module, _finite(value))
                for metric, modules in record.get("layers", {}).items()
                for module, values in modules.items()
                for layer, value in enumerate(values)
            ]
        except (KeyError, TypeError, AttributeError) as error:
            raise StoreError(
                f"{log}, line {number}: {error} is missing or of the wrong kind; nothing was "
                "imported."
            ) from None
    columns = [list(column) for column in zip(*rows, strict=True)] or [[] for _ in _STEP_SCHEMA]
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


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(f"{path} cannot be read ({error}); nothing was imported.") from None


def _read_json(path: Path, text: str, line: int) -> dict[str, Any]:
    try:
        record = json.loads(text)
    except json.JSONDecodeError as error:
        raise StoreError(
            f"{path}, line {line}: not valid JSON ({error.msg}); nothing was imported."
        ) from None
    if not isinstance(record, dict):
        raise StoreError(f"{path}, line {line}: not a JSON object; nothing was imported.")
    return record


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
