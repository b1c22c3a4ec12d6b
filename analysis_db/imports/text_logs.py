"""Training logs of one record a line or one pattern a line: JSONL, trainer_state.json, text."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from analysis_db.errors import StoreError
from analysis_db.imports.documents import Document
from analysis_db.imports.runs import Columns, Records, StepRows, whole

PATTERNS = {
    "modded-nanogpt": r"step:(?P<step>\d+)/\d+(?: train_loss:(?P<loss>\S+))?"
    r"(?: val_loss:(?P<val_loss>\S+))?",
    "nanogpt": r"(?:iter (?P<step>\d+): loss (?P<loss>[^\s,]+)"
    r"|step (?P<step_>\d+): train loss (?P<train_loss>[^\s,]+), val loss (?P<val_loss>[^\s,]+))",
    "megatron": r"iteration\s+(?P<step>\d+)/\s*\d+ \|.*?learning rate: (?P<lr>\S+) \|"
    r".*?lm loss: (?P<loss>\S+) \|(?:.*?grad norm: (?P<grad_norm>\S+) \|)?",
}
"""Name -> pattern of well-known logs. A name that ends in _ is that name without it, since Python
allows a name once in a pattern."""


def read_jsonl(path: Path, columns: Columns, rows: StepRows) -> None:
    """Add the values of a file with one JSON object a line; objects in it are parts of the name.

    null was not logged; a column whose first value is no number is skipped, unless it was asked
    for. Raises StoreError naming the file, line and field that is wrong.
    """
    records: Records | None = None
    for number, line in _lines(path):
        if line.isspace():
            continue
        where = f"{path}, line {number}"
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise StoreError(
                f"{where}: not valid JSON ({error.msg}); nothing was imported."
            ) from None
        if not isinstance(record, dict):
            raise StoreError(f"{where}: not a JSON object; nothing was imported.")
        record = dict(_flat(record, ""))
        if records is None:
            # all but the step may be logged for the first time later on
            later = filter(None, (columns.tokens, *columns.metrics))
            settled = columns.settle(list(dict.fromkeys([*record, *later])), where)
            records = Records(rows, settled)
        wrong = records.add(record)
        if wrong:
            raise _wrong(where, *wrong)
    if records is not None:
        _all_met(columns, records, path)


def read_trainer_state(path: Path, columns: Columns, rows: StepRows) -> None:
    """Add the log_history of a trainer_state.json of Hugging Face's Trainer.

    Raises StoreError naming the file, line and field that is wrong.
    """
    document = Document.read(path)
    history = document.at("log_history")
    if not isinstance(history, list):
        raise document.wrong(["log_history"], "is not a list")
    tokens = any(isinstance(r, dict) and "num_input_tokens_seen" in r for r in history)
    columns = Columns("step", "num_input_tokens_seen" if tokens else None, columns.metrics)
    records = Records(rows, columns)
    for index, record in enumerate(history):
        if not isinstance(record, dict):
            raise document.wrong(["log_history", index], "is not an object")
        wrong = records.add(record)
        if wrong:
            field, what = wrong
            if field in record:
                raise document.wrong(["log_history", index, field], what)
            raise document.wrong(["log_history", index], f"lacks {field!r}")
    _all_met(columns, records, path)


def read_text_log(path: Path, pattern: re.Pattern[str], rows: StepRows) -> None:
    """Add what the named groups of ``pattern`` find, line by line.

    The group ``step`` is needed, ``tokens`` counts all tokens so far, every other group is a
    metric; a group that takes no part was not logged. Lines without a match are no log lines.
    Raises StoreError naming the file, line and field that is wrong, or when no line matches.
    """
    matched = False
    for number, line in _lines(path):
        found = pattern.search(line)
        if found is None:
            continue
        matched = True
        where = f"{path}, line {number}"
        groups = {n.rstrip("_"): text for n, text in found.groupdict().items() if text is not None}
        step = _whole(where, "step", groups.pop("step", None))
        text = groups.pop("tokens", None)
        tokens = None if text is None else _whole(where, "tokens", text)
        for metric, text in groups.items():
            try:
                value = float(text)
            except ValueError:
                raise _wrong(where, metric, f"is {text!r}, not a number") from None
            rows.add(metric, step, value, tokens)
    if not matched:
        raise StoreError(
            f"No line of {path} matches the pattern {pattern.pattern}; nothing was imported."
        )


def _whole(where: str, field: str, text: str | None) -> int:
    if text is None:
        raise _wrong(where, field, "took no part in the match")
    try:
        number = whole(float(text))
    except ValueError:
        number = None
    if number is None:
        raise _wrong(where, field, f"is {text!r}, not a whole number from 0 on")
    return number


def _wrong(where: str, field: str, what: str) -> StoreError:
    return StoreError(f"{where}: field {field} {what}; nothing was imported.")


def _all_met(columns: Columns, records: Records, path: Path) -> None:
    missing = [column for column in columns.metrics if column not in records.metrics]
    if missing:
        raise StoreError(f"{path} has no value of {missing[0]!r}; nothing was imported.")


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        with path.open(encoding="utf-8-sig") as lines:
            yield from enumerate(lines, start=1)
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(f"{path} cannot be read ({error}); nothing was imported.") from None


def _flat(record: dict[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in record.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}/")
        else:
            yield prefix + key, value
