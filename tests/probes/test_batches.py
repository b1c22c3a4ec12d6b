"""The batch size that fits: real allocation failures on the CPU, and the GPU's own exception."""

import weakref

import pytest
import torch

from probes.batches import FIRST_GUESS, FIRST_GUESS_ELSEWHERE, with_batch_size
from workbench.errors import WorkbenchError

TOO_MUCH = 2**60
"""Bytes that no machine has."""


def fits_up_to(limit, fail, tried):
    """A measurement that takes the sizes it is called with down and fails above ``limit``."""

    def measure(size):
        tried.append(size)
        if size > limit:
            fail()
        return f"measured by {size}"

    return measure


def ask_the_cpu_for_too_much():
    torch.empty(TOO_MUCH, dtype=torch.uint8)


def fail_as_a_gpu():
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")


def fail_as_cublas():
    raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`")


def fail_as_python():
    bytearray(TOO_MUCH)


def fail_inside_another_error():
    try:
        ask_the_cpu_for_too_much()
    except RuntimeError as error:
        raise RuntimeError("the trace failed") from error


@pytest.mark.parametrize(
    "fail",
    [
        ask_the_cpu_for_too_much,
        fail_as_a_gpu,
        fail_as_cublas,
        fail_as_python,
        fail_inside_another_error,
    ],
)
def test_out_of_memory_halves_until_it_fits(fail):
    tried = []
    measure = fits_up_to(3, fail, tried)
    assert with_batch_size(measure, 16, device="cpu", windows=100) == "measured by 2"
    assert tried == [16, 8, 4, 2]


def test_one_window_that_does_not_fit_is_one_sentence_that_says_what_to_do():
    tried = []
    with pytest.raises(WorkbenchError, match=r"cuda:1 .* one window: set a smaller `window`"):
        with_batch_size(fits_up_to(0, fail_as_a_gpu, tried), 5, device="cuda:1", windows=9)
    assert tried == [5, 2, 1]


def test_another_error_is_passed_on_at_once():
    tried = []

    def fail():
        raise RuntimeError("shape '[3, 4]' is invalid")

    with pytest.raises(RuntimeError, match="is invalid"):
        with_batch_size(fits_up_to(0, fail, tried), 8, device="cpu", windows=8)
    assert tried == [8]


@pytest.mark.parametrize(
    ("device", "windows", "size"),
    [
        ("cpu", 100, FIRST_GUESS_ELSEWHERE),
        ("cuda:0", 100, FIRST_GUESS["cuda"]),
        ("cuda", 5, 5),
        ("cpu", 0, 1),
    ],
)
def test_without_a_wish_the_size_is_a_guess_no_larger_than_the_text(device, windows, size):
    assert with_batch_size(lambda size: size, None, device=device, windows=windows) == size


def test_what_a_failed_try_held_is_let_go_before_the_next():
    held = []

    def measure(size):
        mine = torch.zeros(size)
        assert all(reference() is None for reference in held)
        held.append(weakref.ref(mine))
        if size > 1:
            ask_the_cpu_for_too_much()
        return size

    assert with_batch_size(measure, 4, device="cpu", windows=4) == 1
    assert len(held) == 3
