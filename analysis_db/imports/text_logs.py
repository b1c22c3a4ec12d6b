"""Training logs of one record a line or one pattern a line: JSONL, trainer_state.json, text."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from analysis_db.errors import StoreError
from analysis_db.imports.documents import Document, DuplicateKeyError, unique_keys
from analysis_db.imports.files import encoding_of
from analysis_db.imports.runs import Columns, Records, StepRows, whole

TRAINER_STATE = "trainer_state.json"
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


def read_jsonl(path: Path, columns: Columns, rows: StepRows) -> list[str]:
    """Add the values of a file with one JSON object a line; remarks on what it never logged.

    A value in an object within it is named after both. null was not logged; a column whose first
    value is no number is skipped, unless it was asked for. Raises StoreError naming the file, line
    and field that is wrong.
    """
    records: Records | None = None
    nulls: dict[str, None] = {}
    rows.begin(path)
    for rows.number, line in _lines(path):
        if line.isspace():
            continue
        where = f"{path}, line {rows.number}"
        try:
            record = json.loads(line, object_pairs_hook=unique_keys)
        except json.JSONDecodeError as error:
            raise StoreError(
                f"{where}: not valid JSON ({error.msg}); nothing was imported."
            ) from None
        except DuplicateKeyError as error:
            raise _wrong(where, error.key, "is there twice") from None
        if not isinstance(record, dict):
            raise StoreError(f"{where}: not a JSON object; nothing was imported.")
        try:
            record = unique_keys(list(_flat(record, "")))
        except DuplicateKeyError as error:
            raise _wrong(where, error.key, "is there twice, once as an object") from None
        nulls |= {column: None for column, value in record.items() if value is None}
        if records is None:
            # all but the step may be logged for the first time later on
            later = filter(None, (columns.tokens, *columns.metrics))
            settled = columns.settle(list(dict.fromkeys([*record, *later])), where)
            records = Records(rows, settled)
        wrong = records.add(record)
        if wrong:
            raise _wrong(where, *wrong)
    if records is None:
        return [f"{path} has no record."]
    _all_met(columns, records, path)
    unlogged = [c for c in nulls if c not in records.metrics and settled.name_of(c) is not None]
    return [f"{path}: left out {', '.join(unlogged)}, always null."] if unlogged else []


def trainer_state_file(path: Path) -> tuple[Path, list[str]]:
    """(the trainer_state.json to read, remarks): ``path`` itself, or the newest in a folder.

    Of checkpoint-N folders, the one with the largest N holds the longest history. Raises StoreError
    when a folder has none.
    """
    if not path.is_dir():
        return path, []
    states = {}
    for folder in (path, *path.glob("checkpoint-*")):
        file, number = folder / TRAINER_STATE, folder.name.removeprefix("checkpoint-")
        if folder == path and file.is_file():
            states[file] = _global_step(file)
        elif file.is_file() and number.isdecimal():
            states[file] = int(number)
    if not states:
        raise StoreError(
            f"{path} holds no {TRAINER_STATE}, nor does a folder checkpoint-N in it; nothing was "
            "imported."
        )
    newest = max(states, key=lambda file: (states[file], file.parent == path))
    if len(states) == 1:
        return newest, [f"Read {newest}."]
    others = ", ".join(str(f.parent) for f in sorted(states, key=states.__getitem__) if f != newest)
    return newest, [f"Read {newest}, the newest, of step {states[newest]:,}; left out those in "
                    f"{others}."]  # fmt: skip


def _global_step(file: Path) -> int:
    document = Document.read(file)
    step = whole(document.at("global_step"))
    if step is None:
        raise document.wrong(["global_step"], "is not a whole number from 0 on")
    return step


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
    rows.begin(path, "entry of log_history")
    for index, record in enumerate(history):
        rows.number = index + 1
        if not isinstance(record, dict):
            raise document.wrong(["log_history", index], "is not an object")
        wrong = records.add(record)
        if wrong:
            field, what = wrong
            if field in record:
                raise document.wrong(["log_history", index, field], what)
            raise document.wrong(["log_history", index], f"lacks {field!r}")
    _all_met(columns, records, path)


def read_text_log(path: Path, pattern: re.Pattern[str], rows: StepRows) -> list[str]:
    """Add what the named groups of ``pattern`` match, line by line; remarks on what they missed.

    The group ``step`` is required, ``tokens`` counts all tokens so far, every other group is a
    metric; a group that takes no part in a match was not logged. Lines without a match are ignored.
    Raises StoreError naming the file, line and field that is wrong, or when no line matches.
    """
    lines = matched = again = 0
    met: set[str] = set()
    rows.begin(path)
    for lines, line in _lines(path):
        found = pattern.search(line)
        if found is None:
            continue
        matched, rows.number = matched + 1, lines
        where = f"{path}, line {lines}"
        groups = {n.rstrip("_"): text for n, text in found.groupdict().items() if text is not None}
        met |= groups.keys()
        step = _whole(where, "step", groups.pop("step", None))
        text = groups.pop("tokens", None)
        tokens = None if text is None else _whole(where, "tokens", text)
        for metric, text in groups.items():
            try:
                value = float(text)
            except ValueError:
                raise _wrong(where, metric, f"is {text!r}, not a number") from None
            rows.add(metric, step, value, tokens)
        second = pattern.search(line, found.end())
        again += second is not None and bool(second.group())
    if not matched:
        raise StoreError(
            f"No line of {path} matches the pattern {pattern.pattern}; nothing was imported."
        )
    names = dict.fromkeys(name.rstrip("_") for name in pattern.groupindex)
    unmet = [name for name in names if name not in met]
    remarks = [f"{path}: {matched:,} of {lines:,} lines match the pattern."]
    if unmet:
        named = f"group {unmet[0]}" if len(unmet) == 1 else f"groups {', '.join(unmet)}"
        remarks.append(f"{path}: the {named} of the pattern never matched: nothing was imported "
                       f"for {'it' if len(unmet) == 1 else 'them'}.")  # fmt: skip
    if again:
        remarks.append(
            f"{path}: {again:,} lines match the pattern more than once; the first match of each "
            "was imported."
        )
    return remarks


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
        with path.open(encoding=encoding_of(path)) as lines:
            yield from enumerate(lines, start=1)
    except (OSError, UnicodeError) as error:
        raise StoreError(f"{path} cannot be read ({error}); nothing was imported.") from None


def _flat(record: dict[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in record.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}/")
        else:
            yield prefix + key, value
