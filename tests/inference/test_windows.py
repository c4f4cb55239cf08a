import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.inferers import sliding_window_inference
from torch import nn

from medgen.inference.windows import slide


@settings(max_examples=25, deadline=None)
@given(
    sides=st.tuples(*[st.integers(3, 20)] * 3),
    window=st.tuples(*[st.sampled_from([4, 6, 8])] * 3),
    overlap=st.sampled_from([0.0, 0.25, 0.5, 0.8]),
    batch=st.integers(1, 3),
    channels=st.integers(1, 2),
)
def test_windows_and_weights_are_monais(sides, window, overlap, batch, channels):
    torch.manual_seed(0)
    x = torch.randn(1, channels, *sides)
    network = nn.Sequential(nn.Conv3d(channels, 3, 3, padding=1), nn.InstanceNorm3d(3))  # depends on the window
    options = {"overlap": overlap, "mode": "gaussian", "padding_mode": "replicate"}
    with torch.inference_mode():
        expected = sliding_window_inference(x, window, batch, network, **options)
        found = slide(x, network, window=window, overlap=overlap, batch=batch, device=torch.device("cpu"))
    assert found.shape == (1, 3, *sides)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("batch", [1, 3])
def test_the_network_gets_as_many_windows_as_asked(batch):
    sizes = []

    def network(windows):
        sizes.append(len(windows))
        return windows

    x = torch.randn(1, 1, 8, 8, 20)
    y = slide(x, network, window=(8, 8, 8), overlap=0.5, batch=batch, device=torch.device("cpu"))
    assert sizes == ([1] * 4 if batch == 1 else [3, 1])
    torch.testing.assert_close(y, x)
