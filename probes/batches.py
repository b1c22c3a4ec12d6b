"""How many windows go through a model at a time: as many as fit, found by trying."""

from collections.abc import Callable
from typing import TypeVar

import torch

from workbench.errors import WorkbenchError

T = TypeVar("T")

FIRST_GUESS = {"cuda": 64}
"""Windows to begin with, by kind of device: a GPU needs many to be busy."""
FIRST_GUESS_ELSEWHERE = 8
_SIGNS = ("can't allocate memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
"""What a RuntimeError says that was memory: the CPU's allocator, other devices, cuBLAS."""


def with_batch_size(
    measure: Callable[[int], T],
    asked: int | None,
    *,
    device: str,
    windows: int,
    remedy: str = "set a smaller `window` for the probe",
) -> T:
    """``measure(batch_size)``, with half the batch for as long as the memory runs out.

    ``asked`` is the size to begin with; None is a guess for the kind of device. No batch is larger
    than ``windows``, all there are. ``measure`` begins from nothing at every call, so what a failed
    call has counted is lost, never counted twice. WorkbenchError if a single window does not fit;
    ``remedy`` is the first thing to do that it names.
    """
    kind = device.partition(":")[0]
    size = min(asked or FIRST_GUESS.get(kind, FIRST_GUESS_ELSEWHERE), max(windows, 1))
    while True:
        try:
            return measure(size)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if size == 1:
                raise WorkbenchError(
                    f"The memory of {device} does not hold the model and one window: {remedy}, "
                    "compute in bfloat16 (--dtype bfloat16), or choose a device with more memory "
                    "(--device)."
                ) from error
        # Out here the error is gone, and with it the tensors that its frames held.
        if kind == "cuda":
            torch.cuda.empty_cache()
        size = size // 2


def is_out_of_memory(error: BaseException) -> bool:
    """Did this error, or one that it was raised from, come of too little memory?"""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, torch.OutOfMemoryError | MemoryError):
            return True
        if isinstance(cause, RuntimeError) and any(sign in str(cause) for sign in _SIGNS):
            return True
        cause = cause.__cause__
    return False
