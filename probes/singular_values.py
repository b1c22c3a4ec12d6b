"""All singular values of a matrix, quickly and with a bound on their error: pure functions.

An accurate SVD costs several times what the eigenvalues of the Gram matrix cost, and the Gram
matrix squares the condition number. So three methods are tried, the cheapest first, and the first
is kept whose bound on the relative error of the smallest singular value is within ``TOLERANCE``:

``gram-float32``  The off-diagonal products are summed in float32, the diagonal and the eigenvalues
    are float64: the rounding of a diagonal is a sum of squares and has a bias, that of the rest has
    none. No eigenvalue moves by more than |E|_2, the spectral norm of the Gram matrix's error. A
    power iteration in float64 from a few random vectors finds 70 % of it and more; the bound is
    ``_SAFETY`` times what it finds. On the CPU, and where the matrix is long enough to be well
    conditioned.
``gram-float64``  The same in float64; the bound on every eigenvalue is 2 sqrt(N) u s_1^2, u the
    unit roundoff, N the longer side.
``svd-float64``  QR, then the SVD of the triangle; the bound on every value is 8 sqrt(N) u s_1. What
    is smaller than that over ``TOLERANCE`` is not told apart from zero.

Each leaves 4 sqrt(N) u of relative error to every value as well.

Legend: tall_NR the matrix with its longer side first, r its shorter side, V some vectors,
heads_HDE the H slices that belong to attention heads, D the model's width, E the head's.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from probes.finite import not_finite

TOLERANCE = 1e-5
"""Largest relative error that a singular value may have to be used where it alone counts."""

_SAFETY = 2.0
_VECTORS = 4
_STEPS = 3
_ROWS = 1200  # summed in float32 before float64 takes over
_CACHED = 2**18  # elements in float64 that stay near the processor while they are used twice
_COLUMNS = 240  # of the Gram matrix made at a time: only its lower triangle is needed
_LONG = 1.5  # a squarer matrix has smallest singular values that float32 cannot resolve
_UNIT_64 = 2.0**-53


@dataclass(frozen=True)
class Spectrum:
    """The singular values of a matrix of ``shape`` and how far they can be trusted."""

    values: np.ndarray
    """min(shape) of them in float64, descending."""
    shape: tuple[int, int]
    method: str
    trusted: int
    """How many, from the largest on, are within TOLERANCE of the true value."""
    error: float
    """Bound on the relative error of the trusted ones."""


def singular_values(matrix: torch.Tensor, device: str = "cpu") -> Spectrum | str:
    """The spectrum of a matrix in any floating dtype; a string is the reason that it has none.

    Memory beside the matrix: two float64 matrices of the shorter side, and some rows.
    """
    shape = (matrix.shape[0], matrix.shape[1])
    low, high = (float(end) for end in matrix.aminmax())
    if not (math.isfinite(low) and math.isfinite(high)):
        return not_finite(matrix).reason(matrix.numel())
    peak = max(-low, high)
    if peak == 0:
        return Spectrum(np.zeros(min(shape)), shape, "exact", 0, 0.0)
    tall_NR = matrix if shape[0] >= shape[1] else matrix.T
    # A power of two brings the largest element near one: exact, and nothing overflows.
    exponent = max(math.frexp(peak)[1], -1000)
    for values, errors, method in _attempts(tall_NR, exponent, device):
        trusted = int((errors <= TOLERANCE).sum())
        if trusted == len(values) or method == "svd-float64":
            break
    return Spectrum(np.ldexp(values, exponent), shape, method, trusted, float(errors[trusted - 1]))


def _attempts(
    tall_NR: torch.Tensor, exponent: int, device: str
) -> Iterator[tuple[np.ndarray, np.ndarray, str]]:
    """Singular values (descending), bounds on their relative errors, and the method."""
    n, r = tall_NR.shape
    chunks = _Chunks(tall_NR, exponent, device)
    fits_float32 = tall_NR.element_size() <= 4 and abs(exponent) < 100
    if fits_float32 and device == "cpu" and n >= _LONG * r:
        gram_RR = chunks.gram(torch.float32)
        gram_RR.diagonal().copy_(chunks.diagonal())
        moved = _SAFETY * chunks.error(gram_RR)
        values = _roots(gram_RR)
        # An eigenvalue's error, over twice the eigenvalue, is the relative one of its root.
        yield values, _relative(moved / 2, values**2, n), "gram-float32"
    values = _roots(chunks.gram(torch.float64))
    moved = 2 * n**0.5 * _UNIT_64 * values[0] ** 2
    yield values, _relative(moved / 2, values**2, n), "gram-float64"
    values = torch.linalg.svdvals(chunks.triangle()).cpu().numpy()
    yield values, _relative(svd_bound(n, values[0]), values, n), "svd-float64"


def svd_bound(n: int, largest: float) -> float:
    """Bound on the error of every singular value that QR and SVD give; n the longer side."""
    return 8 * n**0.5 * _UNIT_64 * largest


def _roots(gram_RR: torch.Tensor) -> np.ndarray:
    """Roots of the eigenvalues, descending, from the lower triangle."""
    if gram_RR.device.type == "cpu":  # torch's own eigvalsh leaves the second core idle
        eigenvalues = np.linalg.eigvalsh(gram_RR.numpy())
    else:
        eigenvalues = torch.linalg.eigvalsh(gram_RR).cpu().numpy()
    return np.sqrt(eigenvalues[::-1].clip(min=0))


def _relative(bound: float, values: np.ndarray, n: int) -> np.ndarray:
    """The bound over the values, infinite where they are zero, and what rounding leaves anyway."""
    over = np.divide(bound, values, out=np.full(len(values), np.inf), where=values > 0)
    return over + 4 * n**0.5 * _UNIT_64


class _Chunks:
    """A tall matrix that is worked on some rows at a time, scaled by a power of two."""

    def __init__(self, tall_NR: torch.Tensor, exponent: int, device: str) -> None:
        self._tall_NR, self._exponent, self._device = tall_NR, exponent, device

    def _rows(self, rows: int, dtype: torch.dtype) -> Iterator[torch.Tensor]:
        for chunk in self._tall_NR.split(rows):
            yield chunk.to(self._device, dtype) * 2.0**-self._exponent

    def _zeros(self, *shape: int) -> torch.Tensor:
        return torch.zeros(shape, dtype=torch.float64, device=self._device)

    def gram(self, dtype: torch.dtype) -> torch.Tensor:
        """The Gram matrix in float64, products summed in ``dtype``; lower blocks only."""
        r = self._tall_NR.shape[1]
        gram_RR = self._zeros(r, r)
        for x_NR in self._rows(_ROWS, dtype):
            for i in range(0, r, _COLUMNS):
                gram_RR[i:, i : i + _COLUMNS] += x_NR[:, i:].T @ x_NR[:, i : i + _COLUMNS]
        return gram_RR

    def diagonal(self) -> torch.Tensor:
        """The squared norms of the columns, in float64."""
        diagonal_R = self._zeros(self._tall_NR.shape[1])
        for x_NR in self._cached_rows():
            diagonal_R += x_NR.square().sum(0)
        return diagonal_R

    def error(self, gram_RR: torch.Tensor) -> float:
        """About the spectral norm of what is wrong with the Gram matrix, never more than it."""
        seed = torch.Generator().manual_seed(0)
        start_VR = torch.randn(_VECTORS, len(gram_RR), dtype=torch.float64, generator=seed)
        off_VR = start_VR.to(self._device)
        for _ in range(_STEPS):
            v_VR = torch.linalg.qr(off_VR.T).Q.T.contiguous()
            off_VR = torch.zeros_like(v_VR)
            for x_NR in self._cached_rows():
                off_VR -= (v_VR @ x_NR.T) @ x_NR
            for i in range(0, len(gram_RR), _COLUMNS):
                low, block = i + _COLUMNS, slice(i, i + _COLUMNS)
                off_VR[:, block] += v_VR[:, i:] @ gram_RR[i:, block]
                off_VR[:, low:] += v_VR[:, block] @ gram_RR[low:, block].T
        return float(torch.linalg.matrix_norm(off_VR, 2))

    def _cached_rows(self) -> Iterator[torch.Tensor]:
        return self._rows(max(1, _CACHED // self._tall_NR.shape[1]), torch.float64)

    def triangle(self) -> torch.Tensor:
        """The triangular factor of a QR, which has the same singular values; float64."""
        r = self._tall_NR.shape[1]
        triangle_RR = self._zeros(0, r)
        for x_NR in self._rows(max(_ROWS, 2 * r), torch.float64):
            triangle_RR = torch.linalg.qr(torch.cat([triangle_RR, x_NR]), mode="r").R
        return triangle_RR


def head_triangles(
    matrix: torch.Tensor, heads: int, side: Literal["rows", "columns"], device: str = "cpu"
) -> torch.Tensor:
    """Triangles (float64) with the singular values of each head's rows or columns of a matrix.

    The result is H x E x E for heads of E rows or columns, up to the model's width. Of the slices
    A and B of two matrices, ``|A B'| = |R_A R_B'|``, R the triangles: see ``product_norms``.
    """
    heads_HDE = _slices(matrix, heads, side)
    return torch.linalg.qr(heads_HDE.to(device, torch.float64), mode="r").R


def finite_heads(
    matrix: torch.Tensor, heads: int, side: Literal["rows", "columns"]
) -> tuple[torch.Tensor, dict[int, str]]:
    """The matrix with zeros for each head that is not finite, and the reason of each such head."""
    matrix = matrix.clone()
    reasons = {}
    for head, slice_DE in enumerate(_slices(matrix, heads, side)):
        if found := not_finite(slice_DE):
            reasons[head] = found.reason(slice_DE.numel())
            slice_DE.zero_()
    return matrix, reasons


def _slices(matrix: torch.Tensor, heads: int, side: Literal["rows", "columns"]) -> torch.Tensor:
    """The heads' rows or columns as views of the matrix: heads_HDE."""
    if side == "rows":
        return matrix.unflatten(0, (heads, -1)).transpose(1, 2)
    return matrix.unflatten(1, (heads, -1)).transpose(0, 1)


def head_spectra(triangles_HEE: torch.Tensor, width: int) -> list[Spectrum]:
    """The spectrum of every head from its triangle; ``width`` is the length of the other side."""
    size = triangles_HEE.shape[2]
    found = []
    for values in torch.linalg.svdvals(triangles_HEE).cpu().numpy():
        n = max(width, size)
        errors = _relative(svd_bound(n, values[0]), values, n)
        trusted = int((errors <= TOLERANCE).sum())
        error = float(errors[trusted - 1]) if trusted else 0.0
        found.append(Spectrum(values, (size, width), "svd-float64", trusted, error))
    return found


def product_norms(a_HEE: torch.Tensor, b_GEE: torch.Tensor, width: int) -> list[float | str]:
    """Spectral norms of the heads' products of two matrices, from the triangles of their slices.

    There may be fewer heads in b, each shared by as many neighbours in a. A string is the reason
    that a product has none: it is too small against its factors to be told from zero.
    """
    b_HEE = b_GEE.repeat_interleave(a_HEE.shape[0] // b_GEE.shape[0], dim=0)
    products = a_HEE @ b_HEE.transpose(1, 2)
    norms, a, b = (torch.linalg.svdvals(x)[:, 0].tolist() for x in (products, a_HEE, b_HEE))
    bounds = (svd_bound(width, of_a * of_b) for of_a, of_b in zip(a, b, strict=True))
    return [
        norm if bound <= TOLERANCE * norm else "float64 cannot tell the product from zero"
        for norm, bound in zip(norms, bounds, strict=True)
    ]
