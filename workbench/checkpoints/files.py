"""The files of one checkpoint, in a folder or on the Hub: config, index, and who holds a tensor."""

import os
import weakref
from collections.abc import Iterable
from pathlib import Path
from threading import Event
from typing import Any, Protocol, TypeVar

from workbench.errors import CheckpointError
from workbench.hub.shards import foreign_shard
from workbench.json_text import LONGEST, InvalidJSON, parse_json

CONFIG = "config.json"
SAFETENSORS = "model.safetensors"
PICKLED = "pytorch_model.bin"

Held = TypeVar("Held")


class File(Protocol):
    """One weight file of which any bytes can be had, from several threads at once."""

    @property
    def size(self) -> int: ...

    def read(self, start: int, stop: int) -> bytes: ...

    def read_into(self, start: int, buffer: memoryview, stop: Event | None = None) -> None:
        """Fill ``buffer`` with the bytes from ``start`` on; may give up once ``stop`` is set."""


class Storage(Protocol):
    """Where the files of a checkpoint are; ``hub.remote.RemoteSnapshot`` is one on the Hub."""

    @property
    def remedy(self) -> str:
        """What the user can do about a file that is missing or broken, as the end of a sentence."""

    def has(self, name: str) -> bool: ...

    def content(self, name: str) -> bytes:
        """A whole small file."""

    def file(self, name: str) -> File: ...


class Folder:
    """The storage on this machine."""

    remedy = "pull the checkpoint again"

    def __init__(self, path: Path) -> None:
        self.path = path

    def has(self, name: str) -> bool:
        return (self.path / name).is_file()

    def content(self, name: str) -> bytes:
        return (self.path / name).read_bytes()

    def file(self, name: str) -> "LocalFile":
        return LocalFile(self.path / name)


class LocalFile:
    """Read by offset: a mapped file would stay resident as far as it has been read."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._file)
        self._name = path.name
        self.size = os.fstat(self._file).st_size

    def read(self, start: int, stop: int) -> bytes:
        return os.pread(self._file, stop - start, start)

    def read_into(self, start: int, buffer: memoryview, stop: Event | None = None) -> None:
        done = 0
        while done < len(buffer):
            read = os.preadv(self._file, [buffer[done:]], start + done)
            if not read:
                raise CheckpointError(
                    f"{self._name} became shorter while it was read; {Folder.remedy}."
                )
            done += read


def read_json(storage: Storage, name: str, what: str) -> dict[str, Any]:
    """A JSON object; ``what`` names the checkpoint in the error."""
    if not storage.has(name):
        raise CheckpointError(f"{what} has no {name}; {storage.remedy}.")
    size = storage.file(name).size
    if size > LONGEST:
        raise CheckpointError(
            f"{what}: {name} has {size:,} bytes, and at most {LONGEST:,} of a text are read; "
            f"{storage.remedy}."
        )
    try:
        parsed = parse_json(storage.content(name))
    except InvalidJSON as error:
        raise CheckpointError(
            f"{what}: {name} is not valid JSON ({error}); {storage.remedy}."
        ) from error
    if not isinstance(parsed, dict):
        raise CheckpointError(f"{what}: {name} holds no JSON object; {storage.remedy}.")
    return parsed


def weight_files(storage: Storage, single: str, what: str) -> dict[str, set[str]]:
    """Weight file -> the tensors that it must hold (none named: whatever it holds).

    ``single`` is the name of the one file; an index beside it names shards in its place, each by
    the plain name of a file of the same folder.
    """
    index = f"{single}.index.json"
    found: dict[str, set[str]] = {}
    if storage.has(index):
        weight_map = read_json(storage, index, what).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise CheckpointError(f"{what}: {index} has no weight_map; {storage.remedy}.")
        if foreign := foreign_shard(weight_map, single):
            raise CheckpointError(f"{what}: {foreign}; {storage.remedy}.")
        if single == PICKLED and storage.has(single) and single not in weight_map.values():
            raise CheckpointError(  # transformers would load the single file, other probes not
                f"{what} has {single} and {index}, which names other files; remove one of the two."
            )
        for tensor, name in weight_map.items():
            found.setdefault(name, set()).add(tensor)
    else:
        found[single] = set()
    for name in found:
        if not storage.has(name):
            raise CheckpointError(f"{what} lacks the weight file {name}; {storage.remedy}.")
    return found


def promised(
    names: Iterable[str], held: dict[str, Held], file: str, storage: Storage, what: str
) -> dict[str, Held]:
    """Of what a weight file holds, what the index promises of it; without an index all of it."""
    names = sorted(names)
    for tensor in names:
        if tensor not in held:
            raise CheckpointError(
                f"{what}: {file} lacks the tensor {tensor} that the index promises; "
                f"{storage.remedy}."
            )
    return {tensor: held[tensor] for tensor in names} if names else held
