import pytest
import torch

from medgen.losses.feature_matching import feature_matching_loss


def test_feature_matching_equals_the_value_by_hand():
    real = [[torch.tensor([1.0, 3.0]), torch.tensor([0.0])], [torch.tensor([[2.0]]), torch.tensor([5.0, 5.0])]]
    fake = [[torch.tensor([2.0, 6.0]), torch.tensor([4.0])], [torch.tensor([[2.0]]), torch.tensor([5.0, 6.0])]]
    for layers in (*real, *fake):
        for f in layers:
            f.requires_grad_()
    loss = feature_matching_loss(real, fake)
    assert loss.item() == pytest.approx(((1 + 3) / 2 + 4 + 0 + 1 / 2) / 2)
    loss.backward()
    assert all(f.grad is None for layers in real for f in layers)
    assert all(f.grad is not None for layers in fake for f in layers)
