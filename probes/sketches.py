"""A sketch of a tensor: a random projection to a few thousand numbers that keeps distances.

A CountSketch (Charikar, Chen & Farach-Colton 2002). The flat tensor x_N is cut into rows of the
sketch's width K. Each element gets a random sign, each row is rotated by a random number of places,
and the rows are added up to y_K. For two tensors sketched alike |y - y'|^2 is an unbiased estimate
of |x - x'|^2: elements that meet in a place have independent signs, so that products of different
ones cancel on average. Two elements meet with a probability of at most 1/K (never in one row),
which bounds the variance by (2/K) |x - x'|^4.

Signs and rotations are splitmix64 (Steele, Lea & Flood 2014) of a place in the tensor and of a
seed, in integer arithmetic, and all sums are made one element after the other in one fixed order:
the same sketch on every machine and with any number of threads.

A 16-bit tensor takes its signs before it is widened, a bit flipped in place: about 2 ns an
element and thread, its checksum included (`make bench-changes`).
"""

import hashlib
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from probes.finite import not_finite, scale_reason

ROWS = 16
"""Rows that one hash of 16 bits a column gives signs to."""
CHUNK_ROWS = 4 * ROWS
"""Rows that are worked on together; about what a core's cache holds."""
SPAN_CHUNKS = 32
"""Chunks that are added up in one go; the threads' unit of work."""
GRAIN = 256
"""The width of a sketch is a multiple of it."""

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_SIGN = np.uint16(0x8000)


@dataclass(frozen=True)
class Sketch:
    values: np.ndarray
    """float32, K of them; a tensor of no more elements than that stands there as it is. None for
    a tensor with elements that are not finite, or too large for the sums in float32."""
    norm: float
    """Of the tensor, to about 1e-8; 0 where there are no values."""
    digest: str
    """Equal where dtype, shape, scale and all bytes are equal."""
    reason: str | None = None
    """Why there are no values."""


def splitmix64(counter: np.ndarray, seed: int) -> np.ndarray:
    """The splitmix64 numbers at these places (uint64) of the stream of ``seed``."""
    z = counter * _GOLDEN + np.uint64(seed)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def seed_of(name: str) -> int:
    """A seed of 64 bits; tensors of different names are projected independently."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")


def sketch(
    tensor: torch.Tensor,
    *,
    seed: int,
    width: int,
    scale: float | None = None,
    pool: ThreadPoolExecutor | None = None,
) -> Sketch:
    """The sketch of ``tensor`` times ``scale``; ``width`` is a multiple of GRAIN."""
    bits_N, kind = _bits(tensor)
    factor = 1.0 if scale is None else scale
    checksum = pool.submit(zlib.crc32, bits_N.data) if pool else None
    if bits_N.size <= width:
        exact = _widened(bits_N, kind).astype(np.float64)
        sums, square = exact, float(exact @ exact)
    else:
        span = SPAN_CHUNKS * CHUNK_ROWS * width
        starts = range(0, bits_N.size, span)

        def of_span(start: int) -> tuple[np.ndarray, float]:
            return _project(bits_N[start : start + span], kind, start // width, seed, width)

        parts = list(pool.map(of_span, starts) if pool else map(of_span, starts))
        sums = np.zeros(2 * width)
        for part, _ in parts:
            sums += part
        sums = sums[:width] + sums[width:]
        square = sum(square for _, square in parts)
    with np.errstate(over="ignore", invalid="ignore"):
        values = (sums * factor).astype(np.float32)
    norm = square**0.5 * abs(factor)
    about = f"{tensor.dtype} {tuple(tensor.shape)} {factor!r} "
    if not (np.isfinite(norm) and np.isfinite(values).all()):
        # The values tell such tensors not apart: NaN hides what is added to it.
        digest = hashlib.sha256(about.encode() + bits_N.tobytes()).hexdigest()
        return Sketch(np.empty(0, np.float32), 0.0, digest, _reason(tensor, factor))
    crc = checksum.result() if checksum else zlib.crc32(bits_N.data)
    about += f"{crc:08x} "
    # The checksum sees every change of up to 32 bits in a row, the projection the wider ones.
    digest = hashlib.sha256(about.encode() + values.tobytes()).hexdigest()
    return Sketch(values, norm, digest)


def _reason(tensor: torch.Tensor, scale: float) -> str:
    if found := not_finite(tensor):
        return found.reason(tensor.numel())
    return scale_reason(scale) or "elements are too large for the float32 sums of a sketch"


def _bits(tensor: torch.Tensor) -> tuple[np.ndarray, torch.dtype]:
    """The flat elements' bit patterns, 16 or 32 bits each, and the dtype they are of."""
    flat = tensor.detach().cpu().reshape(-1).contiguous()
    if flat.dtype in (torch.bfloat16, torch.float16):
        return flat.view(torch.int16).numpy().view(np.uint16), flat.dtype
    return flat.float().view(torch.int32).numpy().view(np.uint32), torch.float32


def _widened(bits: np.ndarray, kind: torch.dtype) -> np.ndarray:
    """The float32 values of bit patterns."""
    if kind is torch.float16:
        return bits.view(np.float16).astype(np.float32)
    if kind is torch.bfloat16:
        wide = bits.astype(np.uint32)
        wide <<= np.uint32(16)
        return wide.view(np.float32)
    return bits.view(np.float32)


def _project(
    bits_N: np.ndarray, kind: torch.dtype, first_row: int, seed: int, width: int
) -> tuple[np.ndarray, float]:
    """The sum of the signed, rotated rows in twice the width, not yet folded; and the squares."""
    rows = -(-bits_N.size // width)
    places = np.arange(first_row, first_row + rows, dtype=np.uint64)
    shifts = (splitmix64(places, seed ^ 0x5EED) % np.uint64(width)).tolist()
    sums, square, row = np.zeros(2 * width), 0.0, 0
    partial = np.zeros(2 * width, np.float32)
    for signed_RK in _signed(bits_N, kind, first_row // ROWS, seed, width):
        partial[:] = 0
        for signed_K in signed_RK[: rows - row]:
            shift = shifts[row]
            turned = partial[shift : shift + width]
            turned += signed_K
            row += 1
        sums += partial
        short = signed_RK.reshape(-1, GRAIN)  # few float32 squares add up before float64 takes over
        square += float(np.einsum("rk,rk->r", short, short).sum(dtype=np.float64))
    return sums, square


def _signed(
    bits_N: np.ndarray, kind: torch.dtype, first_block: int, seed: int, width: int
) -> Iterator[np.ndarray]:
    """The elements with their signs, CHUNK_ROWS rows at a time; the last rows are padded."""
    planes = np.arange(ROWS, dtype=np.uint16)[:, None]
    chunk, block = CHUNK_ROWS * width, first_block
    for start in range(0, bits_N.size, chunk):
        taken = bits_N[start : start + chunk]
        blocks = -(-taken.size // (ROWS * width))
        if taken.size < blocks * ROWS * width:
            taken = np.concatenate(
                [taken, np.zeros(blocks * ROWS * width - taken.size, taken.dtype)]
            )
        words = np.arange(block * width // 4, (block + blocks) * width // 4, dtype=np.uint64)
        hashed = splitmix64(words, seed).astype("<u8", copy=False).view("<u2")
        signs = np.left_shift(hashed.reshape(blocks, 1, width), planes)
        signs &= _SIGN
        flips = signs.reshape(-1)
        if taken.dtype == np.uint16:
            flips ^= taken
        else:
            flips = (flips.astype(np.uint32) << np.uint32(16)) ^ taken
        yield _widened(flips, kind).reshape(-1, width)
        block += blocks
