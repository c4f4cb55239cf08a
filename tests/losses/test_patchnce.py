import numpy as np
import pytest
import torch
from scipy.special import logsumexp

from medgen.losses.patchnce import patch_nce, sample_places


def unit(rng, *shape):
    v = rng.normal(size=shape)
    return v / np.linalg.norm(v, axis=-1, keepdims=True)


def test_equals_cross_entropy_written_out():
    """-log[exp(z·v⁺/τ) / (exp(z·v⁺/τ) + Σ exp(z·v⁻/τ))], one query at a time, in numpy."""
    rng = np.random.default_rng(0)
    z, v = unit(rng, 2, 7, 5), unit(rng, 2, 7, 5)
    terms = []
    for b in range(2):
        for s in range(7):
            positive = z[b, s] @ v[b, s] / 0.07
            negatives = [z[b, s] @ v[b, t] / 0.07 for t in range(7) if t != s]
            terms.append(logsumexp([positive, *negatives]) - positive)
    assert patch_nce(torch.tensor(z), torch.tensor(v), 0.07).item() == pytest.approx(np.mean(terms), rel=1e-5)


def test_negatives_come_from_the_same_image_only():
    rng = np.random.default_rng(1)
    z, v = torch.tensor(unit(rng, 2, 6, 4)), torch.tensor(unit(rng, 2, 6, 4))
    apart = (patch_nce(z[:1], v[:1]) + patch_nce(z[1:], v[1:])) / 2
    assert patch_nce(z, v).item() == pytest.approx(apart.item(), rel=1e-6)


def test_patchnce_keys_have_no_gradient():
    z, v = torch.randn(1, 4, 3, requires_grad=True), torch.randn(1, 4, 3, requires_grad=True)
    patch_nce(z, v).backward()
    assert z.grad.abs().max() > 0 and v.grad is None


def test_a_perfect_match_has_the_lowest_loss():
    z = torch.eye(6)[None]
    assert patch_nce(z, z) < 1e-4 < patch_nce(z, z.roll(1, 1))


def test_places_are_shared_and_unrepeated():
    layers = [torch.zeros(2, 3, 8, 8, 8), torch.zeros(2, 5, 2, 2, 2)]
    places = sample_places(layers, 100, step=4)
    assert [len(p) for p in places] == [100, 8]
    assert all(len(p.unique()) == len(p) for p in places)
    again = sample_places(layers, 100, step=4)
    assert all(torch.equal(a, b) for a, b in zip(places, again, strict=True))
    assert not torch.equal(places[0], sample_places(layers, 100, step=5)[0])
