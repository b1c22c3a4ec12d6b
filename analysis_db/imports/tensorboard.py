"""Scalars of TensorBoard's event files, through the package of the extra ``tensorboard``."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from heapq import merge
from importlib import import_module
from pathlib import Path
from struct import unpack
from typing import Any

from analysis_db.errors import StoreError
from analysis_db.imports.runs import StepRows, whole

_HEAD, _FRAME = 12, 16
"""Bytes before a record, its length and a checksum of that, and with the record's own behind it."""
_START = 1
"""Status of a session log: a writer begins, and what was logged from its step on is void."""


@dataclass(frozen=True)
class _Scalar:
    """One value of an event file."""

    wall_time: float
    """Seconds; never less than that of the value before it in the file."""
    path: Path
    record: int
    tag: str
    step: int
    value: float


def event_files(paths: Sequence[Path]) -> list[Path]:
    """The event files among ``paths`` and in the folders among them, in the order of writing.

    The folders that ``add_scalars`` makes in the folder of a run belong to the run. Raises
    StoreError when a folder has no event file, or has those of several runs in it.
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
        runs = [
            folder
            for folder in folders
            if not any(_is_part(file, folders) for file in found if file.parent == folder)
        ]
        if len(runs) > 1:
            raise StoreError(
                f"{path} holds the runs {', '.join(map(str, runs))}: import one at a time; nothing "
                "was imported."
            )
        files += found
    return files


def _is_part(file: Path, folders: Collection[Path]) -> bool:
    """Whether ``add_scalars`` made the folder of the file: its first scalar's tag says so."""
    if not _is_below(file, folders):
        return False
    scalar = next(_scalars(file, {}, {}), None)
    return scalar is not None and _part_name(file, scalar.tag, folders) is not None


def _is_below(file: Path, folders: Collection[Path]) -> bool:
    """Whether the folder of the file lies in another one of these."""
    return any(folder in file.parent.parents for folder in folders)


def _part_name(file: Path, tag: str, folders: Collection[Path]) -> str | None:
    """The series of a tag in a file below one of the ``folders`` of a run; None: of another run.

    ``add_scalars(tag, {key: value})`` writes ``tag`` into the folder ``tag_key``, with _ for / in
    the tag, below the run's own: that is the series tag/key.
    """
    for folder in folders:
        if folder in file.parent.parents:
            name = file.parent.relative_to(folder).as_posix()
            start = f"{tag.replace('/', '_')}_"
            if name.startswith(start):
                return f"{tag}/{name.removeprefix(start)}"
    return None


def read_event_files(
    files: Sequence[Path], metrics: Mapping[str, str], rows: StepRows
) -> list[str]:
    """Add the scalars of the event files of one run; remarks on them.

    ``metrics`` maps series to metrics; empty takes every series under its name, a tag or, of
    ``add_scalars``, tag/key. Files in several folders are read in the order of the time at which
    their values were written. Raises StoreError as ``read_events`` does, and when two tags would be
    one series.
    """
    folders = {file.parent for file in files}
    remarks: list[str] = []
    skipped: dict[str, None] = {}
    below = {file: _is_below(file, folders) for file in files}
    written_by: dict[str, str] = {}
    last: Path | None = None
    wanted = metrics if len(folders) == 1 else {}  # tags are not yet series in several folders

    def stream(folder: Path) -> Iterator[_Scalar]:
        for file in files:
            if file.parent == folder:
                yield from _scalars(file, wanted, skipped, remarks)

    streams = [stream(folder) for folder in sorted(folders)]
    for scalar in merge(*streams, key=lambda scalar: scalar.wall_time):
        series, writer = scalar.tag, "add_scalar"
        if below[scalar.path]:
            part = _part_name(scalar.path, scalar.tag, folders)
            if part is None:
                raise StoreError(
                    f"{scalar.path.parent} holds {scalar.tag}, which add_scalars did not write: "
                    "import it as a run of its own; nothing was imported."
                )
            series, writer = part, f"add_scalars({scalar.tag!r}, ...)"
        if written_by.setdefault(series, writer) != writer:
            raise StoreError(
                f"{scalar.path}: {written_by[series]} and {writer} both wrote the series {series}: "
                "import the folders one at a time; nothing was imported."
            )
        name = metrics.get(series) if metrics else series
        if name is None:
            continue
        if scalar.path != last:
            rows.begin(scalar.path, "record")
            last = scalar.path
        rows.number = scalar.record
        rows.add(name, scalar.step, scalar.value)
    missing = [series for series in metrics if series not in written_by]
    if missing:
        where = ", ".join(map(str, sorted(folders)))
        raise StoreError(f"{where} has no scalar {missing[0]!r}; nothing was imported.")
    if not metrics:
        rows.skipped |= skipped
    parts = sorted(series for series, writer in written_by.items() if writer != "add_scalar")
    if parts:
        remarks.append(f"Of add_scalars, each key a series: {', '.join(parts)}.")
    return remarks


def read_events(path: Path, metrics: Mapping[str, str], rows: StepRows) -> list[str]:
    """Add the scalars of an event file; remarks on it.

    ``metrics`` maps tags to metrics; empty takes every scalar under its tag. Steps that were
    logged again after a restart are all kept. A file whose last record was cut off, as when a run
    is killed, is read up to there. Raises StoreError when the package is missing, and naming file
    and record when a record is damaged or its value no number.
    """
    return read_event_files([path], metrics, rows)


def _scalars(
    path: Path,
    wanted: Mapping[str, str],
    skipped: dict[str, None],
    remarks: list[str] | None = None,
) -> Iterator[_Scalar]:
    """The scalars of an event file, of the tags in ``wanted`` unless that is empty."""
    loader, events, tensors, records = _library()
    if not path.is_file():
        raise StoreError(f"There is no event file {path}; nothing was imported.")
    read = number = 0
    clock = 0.0
    scalars: dict[str, bool] = {}
    for number, record in enumerate(loader.RawEventFileLoader(str(path)).Load(), start=1):
        read += _FRAME + len(record)
        where = f"{path}, record {number}"
        try:
            event = events.Event.FromString(record)
        except Exception as error:  # protobuf's own, whose module differs between its versions
            raise StoreError(f"{where}: not an event ({error}); nothing was imported.") from None
        clock = max(clock, event.wall_time)
        if remarks is not None and event.session_log.status == _START and event.step:
            remarks.append(
                f"{where}: the writer began again at step {event.step:,} (purge_step); values of "
                "later steps that it did not log again are still there."
            )
        for value in event.summary.value:
            kind = value.WhichOneof("value")
            if value.tag not in scalars:  # only the first value of a tag says of what plugin it is
                plugin = value.metadata.plugin_data.plugin_name
                scalars[value.tag] = kind == "simple_value" or plugin == "scalars"
            if wanted and value.tag not in wanted:
                continue
            if not scalars[value.tag]:
                skipped[value.tag] = None
                continue
            step = whole(event.step)
            if step is None:
                raise _wrong(where, value.tag, f"is of step {event.step}")
            number_of_value = _number(value, kind, tensors, where)
            yield _Scalar(clock, path, number, value.tag, step, number_of_value)
    rest = _rest(path, read, number + 1, records.masked_crc32c)
    if remarks is not None:
        remarks += rest


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
