"""Scalars of TensorBoard's event files, through the package of the extra ``tensorboard``."""

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from struct import unpack
from typing import Any

from analysis_db.errors import StoreError
from analysis_db.imports.runs import StepRows, whole

_HEAD, _FRAME = 12, 16
"""Bytes before a record, its length and a checksum of that, and with the record's own behind it."""


def event_files(paths: Sequence[Path]) -> list[Path]:
    """The event files among ``paths`` and in the folders among them, in the order of writing.

    Raises StoreError when a folder has none, or has event files of several runs in it.
    """
    files: list[Path] = []
    for path in paths:
        if not path.is_dir():
            files.append(path)
            continue
        found = sorted(path.rglob("*tfevents*"), key=lambda file: file.name)
        folders = sorted({file.parent for file in found})
        if not found:
            raise StoreError(f"{path} holds no event file of TensorBoard; nothing was imported.")
        if len(folders) > 1:
            raise StoreError(
                f"{path} holds the runs {', '.join(map(str, folders))}: import one at a time; "
                "nothing was imported."
            )
        files += found
    return files


def read_events(path: Path, metrics: Mapping[str, str], rows: StepRows) -> list[str]:
    """Add the scalars of an event file; remarks on it.

    ``metrics`` maps tags to metrics; empty takes every scalar under its tag. Steps that were
    logged again after a restart are all kept. A file whose last record was cut off, as when a run
    is killed, is read up to there. Raises StoreError when the package is missing, and naming file
    and record when a record is damaged or its value no number.
    """
    loader, events, tensors, records = _library()
    if not path.is_file():
        raise StoreError(f"There is no event file {path}; nothing was imported.")
    read = number = 0
    scalars: dict[str, bool] = {}
    for number, record in enumerate(loader.RawEventFileLoader(str(path)).Load(), start=1):
        read += _FRAME + len(record)
        where = f"{path}, record {number}"
        try:
            event = events.Event.FromString(record)
        except Exception as error:  # protobuf's own, whose module differs between its versions
            raise StoreError(f"{where}: not an event ({error}); nothing was imported.") from None
        for value in event.summary.value:
            kind = value.WhichOneof("value")
            if value.tag not in scalars:  # only the first value of a tag says of what plugin it is
                plugin = value.metadata.plugin_data.plugin_name
                scalars[value.tag] = kind == "simple_value" or plugin == "scalars"
            name = metrics.get(value.tag) if metrics else value.tag
            if name is None:
                continue
            if not scalars[value.tag]:
                rows.skipped[value.tag] = None
                continue
            step = whole(event.step)
            if step is None:
                raise _wrong(where, value.tag, f"is of step {event.step}")
            rows.add(name, step, _number(value, kind, tensors, where))
    missing = [tag for tag in metrics if not scalars.get(tag)]
    if missing:
        raise StoreError(f"{path} has no scalar {missing[0]!r}; nothing was imported.")
    return _rest(path, read, number + 1, records.masked_crc32c)


def _number(value: Any, kind: str, tensors: Any, where: str) -> float:
    if kind == "simple_value":
        return float(value.simple_value)
    try:
        return float(tensors.make_ndarray(value.tensor).item())
    except (TypeError, ValueError):
        raise _wrong(where, value.tag, "is not one number") from None


def _rest(path: Path, read: int, number: int, checksum: Callable[[bytes], int]) -> list[str]:
    """What the library passes over in silence: a file that does not end where it should."""
    size = path.stat().st_size
    if read == size:
        return []
    with path.open("rb") as file:
        file.seek(read)
        head = file.read(_HEAD)
    if len(head) == _HEAD:
        length, stated = unpack("<QI", head)
        if checksum(head[:8]) != stated or read + _FRAME + length <= size:
            raise StoreError(
                f"{path}, record {number}: its checksum is wrong, the file is damaged or no event "
                "file; nothing was imported."
            )
    return [f"The last record of {path} was cut off; what comes before it is there."]


def _wrong(where: str, field: str, what: str) -> StoreError:
    return StoreError(f"{where}: field {field} {what}; nothing was imported.")


def _library() -> tuple[Any, Any, Any, Any]:
    try:
        return (
            import_module("tensorboard.backend.event_processing.event_file_loader"),
            import_module("tensorboard.compat.proto.event_pb2"),
            import_module("tensorboard.util.tensor_util"),
            import_module("tensorboard.compat.tensorflow_stub.pywrap_tensorflow"),
        )
    except ImportError:
        raise StoreError(
            "Event files are read by the package tensorboard, which is not installed: "
            "`pip install 'training-dynamics-workbench[tensorboard]'`."
        ) from None
