"""A checkpoint written as a plain Llama, which serves without this package.

Memory holds one tensor at a time, whatever the size of the model: the header of a safetensors file
follows from the config, so that the file is written from its beginning to its end.
"""

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from math import inf, prod
from pathlib import Path
from typing import Any, TextIO

import torch

from workbench.checkpoints.checkpoint import Checkpoint, scaled
from workbench.errors import UsageError, WorkbenchError
from workbench.models.fold import effective_scales, llama_config

SHARD_BYTES = 5 * 10**9
"""Of a weight file; YuLan-Mini in bfloat16 is one file, as published."""
_AT_ONCE = 1 << 18
"""Numbers that are multiplied and written at once; they stay in the processor's cache."""
_IN_HEADER = {
    torch.bfloat16: "BF16", torch.float16: "F16", torch.float32: "F32", torch.float64: "F64",
}  # fmt: skip
_EMBED, _HEAD = "model.embed_tokens.weight", "lm_head.weight"
_ALONGSIDE = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*",
              "merges.txt", "chat_template*", "generation_config.json")  # fmt: skip

Shapes = dict[str, tuple[int, ...]]
Progress = Callable[[int, int], None]


def fold_to_llama(
    folder: Path,
    out: Path,
    overrides: Mapping[str, Any] | None = None,
    *,
    dtype: torch.dtype | None = None,
    shard_bytes: int = SHARD_BYTES,
    label: str = "",
    progress: Progress = lambda done, total: None,
) -> int:
    """Write the checkpoint in ``folder`` as a plain, untied LlamaForCausalLM folder ``out``.

    Config, safetensors and tokenizer files; the result needs nothing of this package. Every
    product is computed in float32 and rounded once, to ``dtype``, by default that of the stored
    projections. ``overrides`` replace fields of the config; ``label`` names the checkpoint in
    errors; ``progress`` is told (bytes written, bytes in all). Returns the bytes of all weights.
    ``out`` appears when it is complete, all at once.

    Raises UsageError when ``out`` exists or the checkpoint is a Llama already, CheckpointError
    when a file of ``folder`` is missing, broken or does not fit its config, and WorkbenchError
    when Llama or ``dtype`` cannot express the model, or the disk has no room.
    """
    what = f"{label} ({folder})" if label else str(folder)
    _refuse_existing(out)
    checkpoint = Checkpoint.open(folder, overrides=overrides, label=label)
    if checkpoint.form != "reparameterised":
        raise UsageError(f"{what} is a plain Llama already: use it as it is.")
    dtype = dtype or checkpoint.tensor("model.layers.0.self_attn.q_proj.weight").dtype
    try:
        config = llama_config(checkpoint.config, _word(dtype))
    except ValueError as error:
        raise WorkbenchError(f"{what} cannot be a plain Llama: {error}") from error
    scales = effective_scales(checkpoint.config, checkpoint.alphas())
    shapes = _shapes(config)
    total = sum(map(prod, shapes.values())) * dtype.itemsize
    _check_room(out, total)
    done = 0
    with _appearing(out) as part:
        shards = _cut(shapes, shard_bytes // dtype.itemsize)
        for file, held in shards.items():
            with (part / file).open("wb") as weights:
                weights.write(_header(held, dtype))
                for name, shape in held.items():
                    for numbers in _folded(checkpoint, name, shape, scales.get(name), dtype, what):
                        weights.write(numbers.view(torch.uint8).numpy().data)
                        done += numbers.nbytes
                        progress(done, total)
        if len(shards) > 1:
            weight_map = {name: file for file, held in shards.items() for name in held}
            index = {"metadata": {"total_size": total}, "weight_map": weight_map}
            _write_json(part / "model.safetensors.index.json", index)
        _write_json(part / "config.json", config)
        for path in (p for pattern in _ALONGSIDE for p in folder.glob(pattern)):
            if path.suffix != ".py":
                shutil.copy(path, part)
    return total


def _refuse_existing(out: Path) -> None:
    if os.path.lexists(out):
        raise UsageError(f"{out} exists already; remove it or name another folder.")


def _shapes(config: Mapping[str, Any]) -> Shapes:
    """Of every tensor that transformers' own Llama of this config has."""
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.device("meta"):
        llama = LlamaForCausalLM(LlamaConfig.from_dict(dict(config)))
    return {name: tuple(tensor.shape) for name, tensor in llama.state_dict().items()}


def _cut(shapes: Shapes, most: int) -> dict[str, Shapes]:
    """By the names of the weight files, each of at most so many numbers, or of one tensor."""
    shards: list[Shapes] = [{}]
    for name, shape in shapes.items():
        if shards[-1] and sum(map(prod, (*shards[-1].values(), shape))) > most:
            shards.append({})
        shards[-1][name] = shape
    if len(shards) == 1:
        return {"model.safetensors": shapes}
    return {
        f"model-{number:05}-of-{len(shards):05}.safetensors": shard
        for number, shard in enumerate(shards, start=1)
    }


def _header(shapes: Shapes, dtype: torch.dtype) -> bytes:
    """The beginning of a safetensors file in which the tensors follow one another."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + prod(shape) * dtype.itemsize
        listed = {"dtype": _IN_HEADER[dtype], "shape": shape, "data_offsets": (start, end)}
        entries[name] = listed
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the weights begin at a multiple of eight
    return len(text).to_bytes(8, "little") + text


def _folded(
    checkpoint: Checkpoint,
    name: str,
    shape: tuple[int, ...],
    scale: float | None,
    dtype: torch.dtype,
    what: str,
) -> Iterator[torch.Tensor]:
    """The numbers of one tensor of the Llama, some at a time."""
    if scale is None:
        assert name.endswith("o_proj.bias")  # which Llama wants when q, k and v have one
        yield torch.zeros(prod(shape), dtype=dtype)
        return
    # A tied head may be stored once or twice; a second copy that differs is the head.
    is_shared = name == _HEAD and _HEAD not in checkpoint.tensor_names()
    stored = checkpoint.tensor(_EMBED if is_shared else name)
    for numbers in stored.flatten().split(_AT_ONCE):
        product = scaled(numbers, scale)
        low, high = product.aminmax()
        largest = max(-low.item(), high.item())
        if inf > largest > torch.finfo(dtype).max:  # what is infinite or NaN as stored stays so
            raise WorkbenchError(
                f"{what}: {name} reaches {largest:,.0f}, more than {_word(dtype)} can hold; "
                "convert to bfloat16 or float32."
            )
        yield product.to(dtype)


def _word(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _check_room(out: Path, wanted: int) -> None:
    disk = next(parent for parent in out.absolute().parents if parent.exists())
    free = shutil.disk_usage(disk).free
    if wanted > free:
        raise WorkbenchError(
            f"{out} needs {wanted / 1e9:,.1f} GB and its disk has {free / 1e9:,.1f} GB free: free "
            "some space, or name a folder on another disk."
        )


@contextmanager
def _appearing(out: Path) -> Iterator[Path]:
    """A folder beside ``out`` that becomes it at the end, or goes; for one process at a time.

    What a process that was killed has left there is removed.
    """
    part = out.with_name(f".{out.name}.part")
    lock_path = out.with_name(f".{out.name}.lock")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with lock_path.open("w") as lock:
            _hold(lock, out)
            try:
                _refuse_existing(out)
                shutil.rmtree(part, ignore_errors=True)
                part.mkdir()
                yield part
                for path in part.iterdir():  # power that fails must not leave a name without data
                    with path.open("rb") as written:
                        os.fsync(written.fileno())
                part.rename(out)
            finally:
                shutil.rmtree(part, ignore_errors=True)
                lock_path.unlink()
    except OSError as error:
        raise WorkbenchError(
            f"{out} cannot be written ({error.strerror or error}): free some space or mend its "
            "permissions, or name another folder."
        ) from error


def _hold(lock: TextIO, out: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        alone = os.fstat(lock.fileno()).st_nlink > 0  # else it went when its holder was done
    except BlockingIOError:
        alone = False
    if not alone:
        raise WorkbenchError(f"Another process is writing {out}: wait for it.")


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
