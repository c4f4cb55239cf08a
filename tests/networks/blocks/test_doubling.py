import pytest
import torch
from torch.nn import functional as nnf

from medgen.networks.blocks.doubling import upsampling_conv


@pytest.mark.parametrize("dims", [2, 3])
def test_equals_nearest_doubling_and_convolution_with_its_gradients(dims):
    torch.manual_seed(0)
    layer = upsampling_conv(dims, 3, 5).double()
    x = torch.randn(2, 3, *(4, 5, 3)[:dims], dtype=torch.float64, requires_grad=True)
    convolve = nnf.conv3d if dims == 3 else nnf.conv2d

    def plain():
        return convolve(nnf.interpolate(x, scale_factor=2, mode="nearest"), layer.weight, layer.bias, padding=1)

    weights = torch.randn_like(plain())
    ours, theirs = (
        torch.autograd.grad((y * weights).sum(), [x, layer.weight, layer.bias]) for y in (layer(x), plain())
    )
    torch.testing.assert_close(layer(x), plain())
    torch.testing.assert_close(ours, theirs)
