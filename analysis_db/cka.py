"""How alike two layers' activations are: linear CKA with the unbiased HSIC, from Gram matrices.

The biased estimator grows with the number of features over that of tokens (0.5 for independent
Gaussians at n = d) and is not used. Kornblith et al. 2019 (CKA), Song et al. 2012 (HSIC1).

Legend: n tokens; gram_NN = X X^T for activations X_ND; a trailing P counts phases.
"""

import math
from collections.abc import Sequence

import numpy as np

SHUFFLES = 100
SEED = 20241217
AT_A_TIME = 2**23
"""Elements of shuffled matrices that are in memory at once."""


def gram_from_triangle(values: np.ndarray, n: int) -> np.ndarray:
    """The symmetric matrix of a row-major upper triangle, diagonal included; float64."""
    gram = np.zeros((n, n))
    rows, columns = np.triu_indices(n)
    gram[rows, columns] = values
    gram[columns, rows] = values
    return gram


def centred(gram_NN: np.ndarray) -> np.ndarray:
    """The U-centred matrix: diagonal 0, every row sums to 0; n at least 4.

    HSIC1(K, L) of Song et al. is <centred(K), centred(L)> / (n (n - 3)) (Szekely & Rizzo 2014).
    """
    n = len(gram_NN)
    off = gram_NN - np.diag(np.diag(gram_NN))
    sums = off.sum(1) / (n - 2)
    result = off - sums[:, None] - sums[None, :] + off.sum() / ((n - 1) * (n - 2))
    np.fill_diagonal(result, 0.0)
    return result


def unbiased_cka(gram_a_NN: np.ndarray, gram_b_NN: np.ndarray) -> float | None:
    """CKA of two Gram matrices of the same tokens; may be negative.

    None where an HSIC1 of a matrix with itself is 0: all tokens are alike there.
    """
    first, second = directions([gram_a_NN, gram_b_NN])
    value = float(first @ second)
    return None if np.isnan(value) else value


def directions(grams: Sequence[np.ndarray]) -> np.ndarray:
    """The centred matrices as rows of length 1: the product of two is their CKA.

    NaN where there is nothing but rounding.
    """
    rows = np.stack([centred(gram).reshape(-1) for gram in grams])
    lengths = np.linalg.norm(rows, axis=1)
    sizes = np.array([np.linalg.norm(gram) for gram in grams])
    # The Gram matrices are stored in float32: what is below its rounding is no direction.
    lengths[lengths <= 1e-6 * sizes] = np.nan
    return rows / lengths[:, None]


def shuffled(one_K: np.ndarray, others_PK: np.ndarray, *, shuffles: int = SHUFFLES) -> np.ndarray:
    """CKA of one with each of the others, the one's tokens shuffled: what it is by chance.

    All are ``directions``, K = n^2. Shuffles first.
    """
    n = math.isqrt(len(one_K))
    random = np.random.default_rng(SEED)
    orders = np.stack([random.permutation(n) for _ in range(shuffles)])
    # float32 is enough: the spread of the null is of the order 1/n.
    one_NN = one_K.astype(np.float32).reshape(n, n)
    others = others_PK.astype(np.float32).T
    step = max(1, AT_A_TIME // n**2)
    found = []
    for start in range(0, shuffles, step):
        order = orders[start : start + step]
        turned = one_NN[order[:, :, None], order[:, None, :]].reshape(len(order), -1)
        found.append(turned @ others)
    return np.concatenate(found)
