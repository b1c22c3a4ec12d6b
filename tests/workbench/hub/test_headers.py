"""Headers of safetensors files: as the library reads them, and every lie is found."""

import json
from itertools import pairwise

import pytest
from safetensors import safe_open

from tests.fixtures.tiny_checkpoint import write_yulan
from workbench.checkpoints.files import LocalFile
from workbench.hub import headers
from workbench.hub.headers import HeaderError, TensorEntry, read_header


class Held:
    """A file in memory."""

    def __init__(self, content: bytes) -> None:
        self.content, self.size, self.reads = content, len(content), 0

    def read(self, start: int, stop: int) -> bytes:
        self.reads += 1
        return self.content[start:stop]


def file_of(header, data: bytes = bytes(16), length: int | None = None) -> Held:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return Held((len(text) if length is None else length).to_bytes(8, "little") + text + data)


def entry(first: int, last: int, shape=(2,), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [first, last]}


def test_as_the_library_reads_it(tmp_path):
    path = write_yulan(tmp_path / "yulan") / "model.safetensors"
    found = read_header(LocalFile(path))
    with safe_open(path, framework="pt") as file:
        assert set(found) == set(file.keys())
        for name, told in found.items():
            held = file.get_slice(name)
            assert (list(told.shape), told.dtype) == (held.get_shape(), held.get_dtype())
    order = list(found.values())
    assert order[-1].stop == path.stat().st_size
    assert all(one.stop == two.start for one, two in pairwise(order))


def test_order_of_bytes_empty_tensors_and_metadata():
    header = {
        "__metadata__": {"format": "pt"},
        "b": entry(8, 16),
        "a": entry(0, 8, (), "F64"),
        "none": entry(8, 8, (0, 3)),
    }
    file = file_of(header)
    begin = file.size - 16
    found = read_header(file)
    assert list(found) == ["a", "none", "b"]
    assert found["a"] == TensorEntry("F64", (), begin, begin + 8)
    assert file.reads == 1


def test_a_long_header_takes_a_second_read(monkeypatch):
    monkeypatch.setattr(headers, "GUESS", 20)
    file = file_of({"a": entry(0, 8), "b": entry(8, 16)})
    assert set(read_header(file)) == {"a", "b"}
    assert file.reads == 2


LIES = {
    "beyond the file": (file_of({"a": entry(0, 8), "b": entry(8, 800, (198,))}), "promises"),
    "overlap": (file_of({"a": entry(0, 8), "b": entry(4, 12)}), "b begins at byte"),
    "hole": (file_of({"a": entry(0, 8), "b": entry(12, 16, (1,))}), "b begins at byte"),
    "late start": (file_of({"a": entry(8, 16)}), "a begins at byte"),
    "data left over": (file_of({"a": entry(0, 8)}), "bytes where the header promises"),
    "truncated": (file_of({"a": entry(0, 16, (4,))}, bytes(9)), "bytes where the header promises"),
    "huge header": (file_of({}, length=2**62), "a header of 4,611,686,018,427,387,904 bytes"),
    "header past the end": (file_of({"a": entry(0, 16, (4,))}, length=5000), "a header of 5,000"),
    "above the format's limit": (file_of({}, length=100_000_001), "a header of 100,000,001"),
    "empty file": (Held(b""), "a header of 0 bytes in a file of 0"),
    "no JSON": (file_of(b"{not json"), "not valid JSON"),
    "no text": (file_of(b"\xff\xfe\x00"), "not valid JSON"),
    "a list": (file_of([1]), "no JSON object"),
    "unknown dtype": (file_of({"a": entry(0, 16, (4,), "F3")}), "a is of the unknown dtype F3"),
    "shape and bytes": (file_of({"a": entry(0, 16, (5,))}), r"a cannot be F32 \[5\] in bytes"),
    "negative shape": (file_of({"a": entry(0, 16, (-2, -2))}), r"a cannot be F32 \[-2, -2\]"),
    "reversed": (file_of({"a": entry(16, 0, (4,))}), "a cannot be F32"),
    "text for numbers": (file_of({"a": entry("0", "16", (4,))}), "a cannot be F32"),
    "no entry": (file_of({"a": 7}), "a has no dtype, shape and data_offsets"),
    "dtype a list": (file_of({"a": entry(0, 16, (4,), ["F32"])}), "a has no dtype"),
    "three offsets": (
        file_of({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 8, 16]}}),
        "a has no dtype",
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_header_that_lies_is_found(lie):
    file, said = LIES[lie]
    with pytest.raises(HeaderError, match=said):
        read_header(file)
