"""How alike two layers' activations are: linear CKA with the unbiased HSIC, from Gram matrices.

The biased estimator grows with the number of features over that of tokens (0.5 for independent
Gaussians at n = d) and is not used. Kornblith et al. 2019 (CKA), Song et al. 2012 (HSIC1).

Legend: n tokens; gram_NN = X X^T for activations X_ND; a trailing P counts phases.
"""

import numpy as np

SHUFFLES = 100
SEED = 20241217


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
    (value,) = cka_matrix([gram_a_NN], [gram_b_NN]).reshape(-1)
    return None if np.isnan(value) else float(value)


def cka_matrix(grams_a: list[np.ndarray], grams_b: list[np.ndarray]) -> np.ndarray:
    """CKA of each of the first with each of the second; NaN where it does not exist."""
    return _unit(grams_a) @ _unit(grams_b).T


def shuffled(
    grams_a: list[np.ndarray], grams_b: list[np.ndarray], *, shuffles: int = SHUFFLES
) -> np.ndarray:
    """CKA with the tokens of the first shuffled, what it would be by chance; shuffles first."""
    n = len(grams_a[0])
    random = np.random.default_rng(SEED)
    # float32 is enough: the spread of the null is of the order 1/n.
    first = _unit(grams_a).astype(np.float32).reshape(-1, n, n)
    second = _unit(grams_b).astype(np.float32)
    found = np.empty((shuffles, len(first), len(second)))
    for i in range(shuffles):
        order = random.permutation(n)
        turned = first[:, order[:, None], order].reshape(len(first), -1)
        found[i] = turned @ second.T
    return found


def _unit(grams: list[np.ndarray]) -> np.ndarray:
    """The centred matrices as rows of length 1; NaN where there is nothing but rounding."""
    rows = np.stack([centred(gram).reshape(-1) for gram in grams])
    lengths = np.linalg.norm(rows, axis=1)
    sizes = np.array([np.linalg.norm(gram) for gram in grams])
    # The Gram matrices are stored in float32: what is below its rounding is no direction.
    lengths[lengths <= 1e-6 * sizes] = np.nan
    return rows / lengths[:, None]
