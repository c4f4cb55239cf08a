import torch

from medgen.networks.conditional import Conditional


class Seen(torch.nn.Module):
    divisor = smallest = 1

    def forward(self, x):
        return x


def test_class_is_a_channel_of_ones_beside_the_image():
    x = torch.randn(2, 1, 3, 4)
    seen = Conditional(Seen(), 3)(x, torch.tensor([2, 0]))
    assert torch.equal(seen[:, :1], x)
    assert torch.equal(seen[:, 1:].amax((2, 3)), torch.tensor([[0.0, 0, 1], [1, 0, 0]]))
    assert torch.equal(seen[:, 1:].amin((2, 3)), seen[:, 1:].amax((2, 3)))
    assert torch.equal(Conditional(Seen(), 3)(x), Conditional(Seen(), 3)(x, torch.tensor([0, 0])))
