import torch

from medgen.losses.image_pool import ImagePool


def test_image_pool_fills_first_then_returns_earlier_images():
    torch.manual_seed(0)
    pool = ImagePool(4)
    for i in range(4):
        assert pool(torch.full((1, 1), float(i))).item() == i
    shown = [pool(torch.full((1, 1), float(i))).item() for i in range(4, 204)]
    past = sum(s != i for i, s in enumerate(shown, start=4))
    assert 70 < past < 130  # half, binomial with sd 7


def test_size_zero_passes_through():
    batch = torch.randn(2, 3)
    assert torch.equal(ImagePool(0)(batch), batch)


def test_pool_content_is_part_of_the_state():
    pool = ImagePool(3)
    pool(torch.randn(2, 1, 4))
    other = ImagePool(3)
    other.load_state_dict(pool.state_dict())
    assert torch.equal(torch.stack(other.images), torch.stack(pool.images))
    empty = ImagePool(3)
    empty.load_state_dict(ImagePool(3).state_dict())
    assert empty.images == []
