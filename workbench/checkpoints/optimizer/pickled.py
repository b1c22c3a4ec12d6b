"""Files of ``torch.save``: what is in them first, their tensors by offset when they are asked for.

Loading onto the meta device gives every tensor its shape and the place of its bytes, and reads
none. The bytes are then read by offset, not mapped: pages of a mapped file stay resident, and a
state of 27 GB would come to lie in memory. Only tensors and plain containers are ever unpickled.
"""

import pickle
from pathlib import Path
from typing import Any

import torch

from workbench.checkpoints.files import LocalFile
from workbench.checkpoints.optimizer.state import Parameters


class Saved:
    """One file; ``content`` holds tensors without values, which :meth:`read` fetches."""

    def __init__(self, path: Path, parameters: Parameters) -> None:
        self.path = path
        try:
            self.content: Any = torch.load(path, map_location="meta", weights_only=True)
        except pickle.UnpicklingError as error:
            raise parameters.wrong(
                path,
                f"cannot be read as tensors alone ({_first_line(error)})",
                "nothing else is ever unpickled: save it anew as tensors and numbers, or pull it "
                "again",
            ) from None
        except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
            raise parameters.wrong(path, f"is broken or truncated ({_first_line(error)})") from None
        self._file = LocalFile(path)

    def read(self, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor of ``content`` with its values, contiguous; only its own bytes are read."""
        storage: Any = tensor.untyped_storage()
        span = 0
        if tensor.numel():
            span = 1 + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
        values = torch.empty(span, dtype=tensor.dtype)
        start = storage._checkpoint_offset + int(tensor.storage_offset()) * tensor.element_size()
        into: Any = values.view(torch.uint8).numpy()
        self._file.read_into(start, memoryview(into))
        return values.as_strided(tensor.shape, tensor.stride()).contiguous()

    def number(self, value: Any) -> float | None:
        """A plain number, or one in a tensor of one element; None for anything else."""
        if isinstance(value, torch.Tensor):
            if value.numel() != 1:
                return None
            return float(self.read(value).double().reshape(()))
        return float(value) if isinstance(value, int | float) else None


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
