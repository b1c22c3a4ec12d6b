"""Tensors by offset, in ranges and out of pickled files: the same bits, in bounded memory."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.fixtures.tiny_checkpoint import write_yulan
from workbench.checkpoints import Checkpoint
from workbench.checkpoints.files import Folder
from workbench.checkpoints.tensors import open_tensors
from workbench.errors import CheckpointError
from workbench.hub.headers import BITS
from workbench.hub.remote import remote_snapshot
from workbench.hub.server import LocalHub
from workbench.suites import Phase, Suite

REPO_ID = "owner/odd"


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def write_raw(path: Path, contents: dict[str, tuple[str, tuple[int, ...], bytes]]) -> None:
    """A file whose tensors lie in the order given, aligned or not."""
    header, end = {}, 0
    for name, (dtype, shape, content) in contents.items():
        header[name] = {
            "dtype": dtype, "shape": shape, "data_offsets": [end, end := end + len(content)]
        }  # fmt: skip
    text = json.dumps(header).encode()
    data = b"".join(content for _, _, content in contents.values())
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


@pytest.fixture
def odd(tmp_path) -> Path:
    """Every dtype in one file, each behind a single byte; scalars and empty tensors as well."""
    folder = tmp_path / "hub" / REPO_ID
    folder.mkdir(parents=True)
    contents = {}
    for number, (dtype, size) in enumerate(BITS.items()):
        fill = bytes([1] * 6) if dtype == "BOOL" else bytes(range(6 * size // 8))
        contents[f"{dtype}.pad"] = ("U8", (1,), b"\x05")
        contents[f"{dtype}.matrix"] = (dtype, (2, 3), fill)
        contents[f"{dtype}.scalar"] = (dtype, (), fill[: size // 8])
        contents[f"{dtype}.none"] = (dtype, (0, number), b"")
    write_raw(folder / "model.safetensors", contents)
    (folder / "config.json").write_text("{}")
    return folder


def test_every_dtype_and_shape_wherever_it_lies(odd, tmp_path):
    expected = load_file(odd / "model.safetensors")
    names = sorted(expected)
    suite = Suite(name="odd", title="Odd", phases=(Phase(phase=1, repo_id=REPO_ID),))
    with LocalHub(tmp_path / "hub") as hub:
        for storage in (Folder(odd), remote_snapshot(suite, suite.phases[0], hub.endpoint)):
            tensors = open_tensors(storage, "odd")
            assert sorted(tensors.shapes) == names
            for name, tensor in zip(names, tensors.read([names]), strict=True):
                assert tensor.dtype == expected[name].dtype
                assert tensor.shape == expected[name].shape == tensors.shapes[name]
                assert bits(tensor) == bits(expected[name])


def resident_mib(kind: str) -> float:
    status = Path("/proc/self/status").read_text()
    return int(re.search(rf"{kind}:\s+(\d+) kB", status)[1]) / 1024


def test_reading_a_file_does_not_keep_it_resident(tmp_path):
    names = [f"weight{number:02}" for number in range(48)]
    save_file(
        {name: torch.randn(1024, 1024) for name in names}, tmp_path / "model.safetensors"
    )  # 192 MiB
    tensors = open_tensors(Folder(tmp_path), "big")
    before = resident_mib("RssFile"), resident_mib("RssAnon")
    for tensor in tensors.read([names]):
        tensor.sum()
    assert resident_mib("RssFile") - before[0] < 32
    assert resident_mib("RssAnon") - before[1] < 64


# --- pytorch_model.bin --------------------------------------------------------------------------


@pytest.fixture(scope="session")
def written(tmp_path_factory) -> Path:
    return write_yulan(tmp_path_factory.mktemp("written") / "yulan", dtype=torch.bfloat16)


@pytest.fixture
def pickled(written, tmp_path) -> Path:
    folder = shutil.copytree(written, tmp_path / "pickled")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return folder


def split(folder: Path) -> None:
    state = torch.load(folder / "pytorch_model.bin", weights_only=True)
    (folder / "pytorch_model.bin").unlink()
    weight_map = {}
    for number in range(2):
        file = f"pytorch_model-{number + 1:05}-of-00002.bin"
        names = sorted(state)[number::2]
        torch.save({name: state[name] for name in names}, folder / file)
        weight_map |= dict.fromkeys(names, file)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))


@torch.no_grad()
@pytest.mark.parametrize("sharded", [False, True])
def test_pickled_weights_are_the_same_checkpoint(sharded, pickled, written):
    if sharded:
        split(pickled)
    one, two = Checkpoint.open(pickled), Checkpoint.open(written)
    assert one.tensor_names() == two.tensor_names()
    assert one.alphas() == two.alphas()
    for (view, weight), (_, other) in zip(one.both_views(), two.both_views(), strict=True):
        assert (weight.name, weight.scale) == (other.name, other.scale), view
        assert bits(weight.tensor) == bits(other.tensor)
    ids = torch.arange(20)[None]
    assert torch.equal(one.load_model()(ids).logits, two.load_model()(ids).logits)


def test_safetensors_are_preferred(pickled, written):
    shutil.copy(written / "model.safetensors", pickled)
    (pickled / "pytorch_model.bin").write_bytes(b"no pickle")
    assert Checkpoint.open(pickled).tied


class Evil:
    def __reduce__(self):
        return (print, ("pickled code was run",))


BREAKAGES = {
    "code": (lambda f: torch.save({"a": Evil()}, f), "broken or holds more than tensors"),
    "no pickle": (lambda f: f.write_bytes(b"no pickle"), "broken or holds more than tensors"),
    "empty": (lambda f: f.write_bytes(b""), "broken or holds more than tensors"),
    "truncated": (
        lambda f: f.write_bytes(f.read_bytes()[:-5000]),
        "broken or holds more than tensors",
    ),
    "one tensor": (lambda f: torch.save(torch.ones(2), f), "holds no table of tensors"),
    "no tensors": (lambda f: torch.save({"a": 1}, f), "holds no table of tensors"),
    "index of one that is not there": (
        lambda f: (split(f.parent), next(f.parent.glob("*-00002-of-*")).unlink()),
        "lacks the weight file pytorch_model-00002-of-00002.bin",
    ),
}


@pytest.mark.parametrize("name", BREAKAGES)
def test_broken_pickles_are_one_sentence_and_run_nothing(name, pickled, capfd):
    break_it, said = BREAKAGES[name]
    break_it(pickled / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=said) as caught:
        Checkpoint.open(pickled, label="phase 7")
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith("pull the checkpoint again.")
    assert capfd.readouterr().out == ""
