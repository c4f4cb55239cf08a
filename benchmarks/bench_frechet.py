"""The Fréchet distance of n rows of 2048 features beside scipy's matrix square root, as pytorch-fid takes it."""

import warnings

import numpy as np
from scipy.linalg import sqrtm
from timing import best_of, row

from medgen.evaluation.frechet import frechet_distance

FEATURES = 2048


def feature_rows(n: int, seed: int) -> np.ndarray:
    """Rows whose spectrum falls off as that of network features does: the k-th deviation is 1 / √k."""
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(n, FEATURES)) + 0.01 * seed) / np.sqrt(1 + np.arange(FEATURES))


def by_square_root(x: np.ndarray, y: np.ndarray) -> float:
    a, b = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the singular product
        root = sqrtm(a @ b)
    return float(((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(a) + np.trace(b) - 2 * np.trace(root.real))


def compare(n: int) -> None:
    x, y = feature_rows(n, 0), feature_rows(n, 1)
    ours, peer = frechet_distance(x, y), by_square_root(x, y)
    name = f"Fréchet distance, {n} × {FEATURES} (scipy sqrtm; {ours:.6f} and {peer:.6f})"
    row(name, best_of(lambda: frechet_distance(x, y)), best_of(lambda: by_square_root(x, y), times=1))


def main() -> None:
    for n in (500, 2000):
        compare(n)


if __name__ == "__main__":
    main()
