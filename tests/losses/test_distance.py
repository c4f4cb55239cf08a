import numpy as np
import pytest
import torch

from medgen.losses.distance import distance


def test_distances_equal_their_formulas():
    a, b = np.random.default_rng(0).normal(size=(2, 3, 2, 4, 5, 6))
    cosine = [(x * y).sum() / np.linalg.norm(x) / np.linalg.norm(y) for x, y in zip(a, b, strict=True)]
    wanted = {"l1": np.abs(a - b).mean(), "l2": ((a - b) ** 2).mean(), "cosine": 1 - np.mean(cosine)}
    for kind, value in wanted.items():
        assert distance(kind, torch.tensor(a), torch.tensor(b)).item() == pytest.approx(value, rel=1e-5)
