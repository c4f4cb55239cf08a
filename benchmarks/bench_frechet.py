"""Fréchet distance of n rows of 2048 features, compared with scipy: eigenvalues, and sqrtm as in pytorch-fid."""

import warnings

import numpy as np
from scipy.linalg import eigh, eigvalsh, sqrtm
from timing import best_of, row

from medgen.evaluation.distribution.frechet import frechet_distance

FEATURES = 2048


def feature_rows(n: int, seed: int) -> np.ndarray:
    """Rows with a spectrum like that of network features: the k-th standard deviation is 1 / √k."""
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(n, FEATURES)) + 0.01 * seed) / np.sqrt(1 + np.arange(FEATURES))


def by_square_root(x: np.ndarray, y: np.ndarray) -> float:
    a, b = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the product is singular
        root = sqrtm(a @ b)
    return float(((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(a) + np.trace(b) - 2 * np.trace(root.real))


def by_eigenvalues(x: np.ndarray, y: np.ndarray) -> float:
    """Tr (AB)^½ as the sum of the square roots of the eigenvalues of the symmetric A^½ B A^½."""
    a, b = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    values, vectors = eigh(a)
    half = vectors * np.sqrt(values.clip(0))
    root = np.sqrt(eigvalsh(half.T @ b @ half).clip(0)).sum()
    return float(((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(a) + np.trace(b) - 2 * root)


def compare(n: int) -> None:
    x, y = feature_rows(n, 0), feature_rows(n, 1)
    ours, seconds = frechet_distance(x, y), best_of(lambda: frechet_distance(x, y))
    for route, peer in (("eigenvalues", by_eigenvalues), ("sqrtm", by_square_root)):
        name = f"Fréchet distance, {n} × {FEATURES} (scipy, {route}; {ours:.6f} and {peer(x, y):.6f})"
        row(name, seconds, best_of(lambda call=peer: call(x, y), times=1))


def main() -> None:
    for n in (500, 2000):
        compare(n)


if __name__ == "__main__":
    main()
