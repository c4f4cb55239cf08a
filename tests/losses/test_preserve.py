import numpy as np
import pytest
import torch

from medgen.losses.preserve import Preserve, PreserveSettings, segmentation_loss
from medgen.losses.structure import gradient_correlation_loss, mind_loss
from medgen.types import DataShape


def build(dims=3, classes=None, **weights):
    return Preserve(PreserveSettings(**weights), spatial_dims=dims, data=DataShape(classes=classes))


def images(channels=1, dims=3):
    torch.manual_seed(0)
    return torch.rand(2, 2, channels, *(8,) * dims)


@pytest.mark.parametrize("dims", [2, 3])
def test_terms_are_weighed_and_named(dims):
    x, y = images(dims=dims)
    losses, total = build(dims, weight_gradient=2.0, weight_mind=3.0)(x, y, {})
    assert losses["gradient"] == gradient_correlation_loss(x, y) and losses["mind"] == mind_loss(x, y)
    assert total.item() == pytest.approx(2 * losses["gradient"].item() + 3 * losses["mind"].item())


def test_zero_weights_give_zero_loss():
    x, y = images()
    preserve = build()
    losses, total = preserve(x, y, {})
    assert losses == {} and total == 0 and preserve.networks == {}
    assert preserve.learn(x, y, {}, lambda *_: pytest.fail("no network to update")) == {}


def test_the_first_of_several_input_contrasts_is_compared():
    x, y = images(channels=2)
    losses, _ = build(weight_gradient=1.0)(x, y[:, :1], {})
    assert losses["gradient"] == gradient_correlation_loss(x[:, :1], y[:, :1])


def test_segmenter_learns_in_its_own_step_and_is_frozen_in_the_generator_step():
    x, y = images()
    y.requires_grad_()
    labels = {"labels": (x > 0.5).long()}
    preserve = build(weight_segmentation=1.0, classes=2)
    S = preserve.networks["S"]

    def update(name, loss):
        assert name == "S"
        loss.backward()

    preserve.learn(x, y, labels, update)
    assert all(p.grad is not None for p in S.parameters()) and y.grad is None
    S.zero_grad(set_to_none=True)
    preserve(x, y, labels)[1].backward()
    assert y.grad.abs().max() > 0 and all(p.grad is None for p in S.parameters())


def test_labels_without_classes_are_refused():
    with pytest.raises(ValueError, match=r"data\.labels"):
        build(weight_segmentation=1.0)


def test_segmentation_loss_equals_its_formula():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(2, 4, 3, 5)), rng.integers(0, 3, size=(2, 1, 3, 5))  # class 3 is absent
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    cross = -np.mean([np.log(p[b, labels[b, 0, i, j], i, j]) for b in range(2) for i in range(3) for j in range(5)])
    dice = []
    for k in range(3):
        t = labels[:, 0] == k
        dice.append(2 * p[:, k][t].sum() / (p[:, k].sum() + t.sum()))
    found = segmentation_loss(torch.tensor(logits), torch.tensor(labels))
    assert found.item() == pytest.approx(cross + 1 - np.mean(dice), rel=1e-5)
