import pytest
import torch

from medgen.losses.augment import augment

ALL = ("flip", "translate", "cutout", "intensity")


@pytest.mark.parametrize("shape", [(4, 2, 16, 12, 8), (4, 2, 16, 12)])
@pytest.mark.parametrize("change", ALL)
def test_keeps_shape_and_passes_gradients(shape, change):
    torch.manual_seed(0)
    x = torch.randn(shape, requires_grad=True)
    kept = x.detach().clone()
    y = augment(x, (change,))
    assert y.shape == x.shape and torch.equal(x, kept)
    y.sum().backward()
    assert x.grad.abs().max() > 0
    assert not torch.equal(y, x)


def test_none_is_the_identity():
    x = torch.randn(1, 1, 8, 8, 8)
    assert augment(x, ()) is x


def test_flip_only_moves_values():
    torch.manual_seed(0)
    x = torch.randn(3, 1, 8, 8, 8)
    y = augment(x, ("flip",))
    assert torch.equal(x.flatten(1).sort(1).values, y.flatten(1).sort(1).values)


def test_translate_moves_by_an_eighth_at_most():
    x = torch.zeros(32, 1, 16, 16)
    x[:, :, 8, 8] = 1
    y = augment(x, ("translate",))
    at = y[:, 0].nonzero()[:, 1:]
    assert len(at) == 32 and at.min() == 6 and at.max() == 10


def test_cutout_blanks_a_box_of_half_the_sides():
    torch.manual_seed(0)
    y = augment(torch.ones(16, 1, 8, 8, 8), ("cutout",))
    gone = (y == 0).flatten(1).sum(1)
    assert set(gone.tolist()) == {0, 64}


def test_images_of_a_batch_are_augmented_independently():
    torch.manual_seed(0)
    y = augment(torch.arange(64.0).reshape(1, 1, 8, 8).repeat(8, 1, 1, 1), ("translate",))
    assert any(not torch.equal(y[0], other) for other in y[1:])


def test_channels_of_an_image_move_together():
    torch.manual_seed(0)
    x = torch.randn(4, 1, 8, 8, 8).repeat(1, 2, 1, 1, 1)
    y = augment(x, ("flip", "translate", "cutout"))
    assert torch.equal(y[:, 0], y[:, 1])
