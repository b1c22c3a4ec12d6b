"""The header of a safetensors file: which tensor lies where, checked before a weight is read."""

from dataclasses import dataclass
from math import prod
from typing import Any, Protocol

from workbench.json_text import InvalidJSON, parse_json
from workbench.text import printable

GUESS = 128 * 1024
"""Bytes of the first read: the header of 56 layers fits, so that one read is enough."""
_LONGEST = 100_000_000  # the format's own limit

BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "I16": 16, "U16": 16, "F16": 16,
    "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64,
}  # fmt: skip
"""Bits of an element by the format's name of the dtype."""


class HeaderError(ValueError):
    """The header contradicts itself or the file's size; the message says how."""


class Readable(Protocol):
    """A file of known size of which any bytes can be had."""

    @property
    def size(self) -> int: ...

    def read(self, start: int, stop: int) -> bytes: ...


@dataclass(frozen=True)
class TensorEntry:
    """One tensor of a file."""

    dtype: str
    """The format's name, a key of BITS."""
    shape: tuple[int, ...]
    start: int
    """Its first byte, counted from the beginning of the file."""
    stop: int
    """The byte after its last."""


def read_header(file: Readable) -> dict[str, TensorEntry]:
    """The tensors of a file by name, in the order of their bytes.

    The tensors fill the file from the end of the header to its end without hole or overlap, and
    each takes the bytes that its shape and dtype ask for; anything else raises HeaderError.
    """
    head = file.read(0, min(GUESS, file.size))
    length = int.from_bytes(head[:8], "little")
    begin = 8 + length
    if len(head) < 8 or length > _LONGEST or begin > file.size:
        raise HeaderError(f"a header of {length:,} bytes in a file of {file.size:,}")
    if begin > len(head):
        head += file.read(len(head), begin)
    try:
        listed = parse_json(head[8:begin])
    except InvalidJSON as error:
        raise HeaderError(f"the header is not valid JSON: {error}") from None
    if not isinstance(listed, dict):
        raise HeaderError("the header is no JSON object")
    listed.pop("__metadata__", None)
    entries = {name: _entry(printable(name), told, begin) for name, told in listed.items()}
    entries = dict(sorted(entries.items(), key=lambda item: (item[1].start, item[1].stop)))
    end = begin
    for name, entry in entries.items():
        if entry.start != end:
            raise HeaderError(f"{printable(name)} begins at byte {entry.start:,}, not at {end:,}")
        end = entry.stop
    if end != file.size:
        raise HeaderError(f"{file.size:,} bytes where the header promises {end:,}")
    return entries


def _entry(name: str, told: Any, begin: int) -> TensorEntry:
    try:
        dtype, shape, (first, last) = told["dtype"], tuple(told["shape"]), told["data_offsets"]
        if dtype not in BITS:
            raise HeaderError(f"{name} is of the unknown dtype {printable(str(dtype))}")
        numbers = (*shape, first, last)
        sound = all(type(number) is int and 0 <= number < 1 << 63 for number in numbers)
    except (TypeError, KeyError, ValueError) as error:
        if isinstance(error, HeaderError):
            raise
        raise HeaderError(f"{name} has no dtype, shape and data_offsets") from None
    if not sound or last - first != prod(shape) * BITS[dtype] // 8:
        raise HeaderError(f"{name} cannot be {dtype} {list(shape)} in bytes {first} to {last}")
    return TensorEntry(dtype, shape, begin + first, begin + last)
