"""The tensors of one checkpoint: read by offset, in ranges from the Hub, or out of pickled files.

A safetensors file is not mapped: the pages of a mapped file stay resident once they were read, so
that going through a checkpoint would take its whole size. Read by offset, it takes one tensor.
"""

import pickle
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from threading import Event
from typing import NamedTuple, Protocol

import torch

from workbench.checkpoints.files import (
    PICKLED,
    SAFETENSORS,
    File,
    Folder,
    Storage,
    promised,
    weight_files,
)
from workbench.errors import CheckpointError
from workbench.hub.headers import HeaderError, TensorEntry, read_header

CONNECTIONS = 6
RANGE = 32 * 2**20
"""Bytes of the longest range that is asked for at once."""
WINDOW = 32 * 2**20
"""Tensors that are read one after the other are fetched together up to this many bytes."""
LARGEST_WINDOW = 128 * 2**20
"""A group of more bytes is fetched in parts; a larger tensor is a part by itself."""
AHEAD = 256 * 2**20
"""Bytes on their way, or waiting to be used, before no further window is asked for."""
GAP = 64 * 2**10
"""Bytes between two tensors that are fetched along rather than left out."""

_DTYPES = {
    "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3": torch.float8_e4m3fn, "I16": torch.int16, "U16": torch.uint16, "F16": torch.float16,
    "BF16": torch.bfloat16, "I32": torch.int32, "U32": torch.uint32, "F32": torch.float32,
    "I64": torch.int64, "U64": torch.uint64, "F64": torch.float64,
}  # fmt: skip


class Tensors(Protocol):
    """What a checkpoint reads its weights from."""

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of every tensor by name."""

    @property
    def dtypes(self) -> dict[str, torch.dtype]:
        """Of every tensor by name."""

    def read(self, groups: Sequence[Sequence[str]]) -> Iterator[torch.Tensor]:
        """The named tensors one after the other; those of a group are used close together."""


class Located(NamedTuple):
    """A tensor and the safetensors file that holds it."""

    file: File
    entry: TensorEntry

    @property
    def bytes(self) -> int:
        return self.entry.stop - self.entry.start


def open_tensors(storage: Storage, what: str) -> Tensors:
    """Find every tensor; reads the headers, no weight of a safetensors file.

    Raises CheckpointError for files that are missing, truncated, or not what their header says.
    """
    if isinstance(storage, Folder) and not _has(storage, SAFETENSORS) and _has(storage, PICKLED):
        return PickledTensors(storage, what)
    located: dict[str, Located] = {}
    for name, names in weight_files(storage, SAFETENSORS, what).items():
        file = storage.file(name)
        try:
            header = read_header(file)
        except HeaderError as error:
            raise CheckpointError(
                f"{what}: {name} is broken or truncated ({error}); {storage.remedy}."
            ) from error
        held = {tensor: Located(file, entry) for tensor, entry in header.items()}
        located |= promised(names, held, name, storage, what)
    return SafeTensors(located) if isinstance(storage, Folder) else RangedTensors(located)


def _has(folder: Folder, single: str) -> bool:
    return folder.has(single) or folder.has(f"{single}.index.json")


class SafeTensors:
    """Of safetensors files on disk; one tensor is in memory at a time."""

    def __init__(self, located: dict[str, Located]) -> None:
        self._located = located
        self.shapes = {name: found.entry.shape for name, found in located.items()}
        self.dtypes = {name: _DTYPES[found.entry.dtype] for name, found in located.items()}

    def read(self, groups: Sequence[Sequence[str]]) -> Iterator[torch.Tensor]:
        for name in (name for group in groups for name in group):
            file, entry = self._located[name]
            content = _room(entry.stop - entry.start)
            file.read_into(entry.start, content.numpy().data)
            yield _shaped(content, entry)


def _room(size: int) -> torch.Tensor:
    return torch.empty(size, dtype=torch.uint8, device="cpu")  # whatever the default device is


def _shaped(content: torch.Tensor, entry: TensorEntry) -> torch.Tensor:
    """The bytes of a tensor as that tensor; shares their memory where it is aligned."""
    dtype = _DTYPES[entry.dtype]
    if content.storage_offset() % dtype.itemsize:
        content = content.clone()
    return content.view(dtype).reshape(entry.shape)


class RangedTensors(SafeTensors):
    """Of safetensors files on the Hub: neighbours in one range, several ranges at once.

    Each byte is moved once. In memory are at most AHEAD bytes and one window more.
    """

    def read(self, groups: Sequence[Sequence[str]]) -> Iterator[torch.Tensor]:
        windows = deque(self._windows(groups))
        fetched: deque[_Fetch] = deque()
        stop = Event()
        pool = ThreadPoolExecutor(CONNECTIONS, "ranges")
        try:
            while windows or fetched:
                while windows and sum(fetch.bytes for fetch in fetched) < AHEAD:
                    names = windows.popleft()
                    fetched.append(_Fetch([self._located[n] for n in names], pool, stop))
                yield from fetched[0].tensors()
                fetched.popleft()
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)

    def _windows(self, groups: Sequence[Sequence[str]]) -> Iterator[list[str]]:
        """The names cut into lists that are fetched together; small groups join."""
        window: list[str] = []
        size = 0
        for group in groups:
            for name in group:
                more = self._located[name].bytes
                if window and size + more > LARGEST_WINDOW:
                    yield window
                    window, size = [], 0
                window.append(name)
                size += more
            if size >= WINDOW:
                yield window
                window, size = [], 0
        if window:
            yield window


class _Fetch:
    """One window under way: neighbours share a buffer, which is filled range by range."""

    def __init__(self, wanted: Sequence[Located], pool: ThreadPoolExecutor, stop: Event) -> None:
        self._wanted = wanted
        self._spans: list[_Span] = []
        for file, entry in sorted(set(wanted), key=lambda w: (id(w.file), w.entry.start)):
            last = self._spans[-1] if self._spans else None
            if last is not None and last.file is file and entry.start - last.stop <= GAP:
                last.stop = max(last.stop, entry.stop)
            else:
                self._spans.append(_Span(file, entry.start, entry.stop))
        for span in self._spans:
            span.fetch(pool, stop)
        self.bytes = sum(span.stop - span.start for span in self._spans)

    def tensors(self) -> Iterator[torch.Tensor]:
        for file, entry in self._wanted:
            span = next(s for s in self._spans if s.file is file and s.stop >= entry.stop)
            yield _shaped(span.content(entry.start, entry.stop), entry)


class _Span:
    """Bytes of one file that lie side by side."""

    def __init__(self, file: File, start: int, stop: int) -> None:
        self.file, self.start, self.stop = file, start, stop
        self._fetches: list[Future[None]] = []

    def fetch(self, pool: ThreadPoolExecutor, stop: Event) -> None:
        size = self.stop - self.start
        self._buffer = _room(size)
        view = self._buffer.numpy().data
        pieces = -(-size // RANGE)
        cuts = [size * piece // pieces for piece in range(pieces)] + [size]
        self._fetches = [
            pool.submit(self.file.read_into, self.start + first, view[first:last], stop)
            for first, last in pairwise(cuts)
        ]

    def content(self, start: int, stop: int) -> torch.Tensor:
        for fetch in self._fetches:
            fetch.result()
        return self._buffer[start - self.start : stop - self.start]


class PickledTensors:
    """Of ``pytorch_model.bin``, one file or shards; nothing but tensors is unpickled."""

    def __init__(self, folder: Folder, what: str) -> None:
        self._tensors: dict[str, torch.Tensor] = {}
        for name, names in weight_files(folder, PICKLED, what).items():
            try:
                held = torch.load(
                    folder.path / name, map_location="cpu", mmap=True, weights_only=True
                )
            except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError) as error:
                raise CheckpointError(  # torch's own text is how to load it all the same
                    f"{what}: {name} is broken or holds more than tensors; {folder.remedy}."
                ) from error
            if not isinstance(held, dict) or not all(
                isinstance(tensor, torch.Tensor) for tensor in held.values()
            ):
                raise CheckpointError(f"{what}: {name} holds no table of tensors; {folder.remedy}.")
            self._tensors |= promised(names, held, name, folder, what)
        self.shapes = {name: tuple(tensor.shape) for name, tensor in self._tensors.items()}
        self.dtypes = {name: tensor.dtype for name, tensor in self._tensors.items()}

    def read(self, groups: Sequence[Sequence[str]]) -> Iterator[torch.Tensor]:
        return (self._tensors[name].detach() for group in groups for name in group)
