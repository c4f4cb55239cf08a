"""Fréchet distance of n rows of 2048 features, compared with scipy: eigenvalues, and sqrtm as in pytorch-fid."""

import warnings

import numpy as np
from scipy.linalg import eigh, eigvalsh, sqrtm
from timing import compare, largest_relative, size

from medgen.evaluation.distribution.frechet import frechet_distance

FEATURES = size(2048, 128)


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


def main() -> None:
    for n in size((500, 2000, 4096), (50, 200)):
        x, y = feature_rows(n, 0), feature_rows(n, 1)
        for route, peer in (("eigenvalues", by_eigenvalues), ("sqrtm", by_square_root)):
            if route == "sqrtm" and n > FEATURES / 2:
                continue  # it takes long, and the other route is faster
            compare(
                __file__,
                f"Fréchet distance, {n} × {FEATURES} (scipy, {route})",
                lambda x=x, y=y: frechet_distance(x, y),
                lambda x=x, y=y, peer=peer: peer(x, y),
                tolerance=size(1e-4, 1e-2),  # relative; the square root of a singular product is not more accurate
                difference=largest_relative,
                rounds=2 if route == "sqrtm" else 3,
                warm_up=route != "sqrtm",
            )


if __name__ == "__main__":
    main()
