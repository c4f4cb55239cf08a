from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.inferers import sliding_window_inference
from torch import nn

from medgen.inference.layout import fixed
from medgen.inference.windows import slide

CPU = torch.device("cpu")


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
        found = slide(x, network, fixed(sides, window, overlap), batch=batch, device=CPU)
    assert found.shape == (1, 3, *sides)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("batch", [1, 3])
def test_the_network_gets_as_many_windows_as_asked(batch):
    sizes = []

    def network(windows):
        sizes.append(len(windows))
        return windows

    x = torch.randn(1, 1, 8, 8, 20)
    y = slide(x, network, fixed((8, 8, 20), (8, 8, 8), 0.5), batch=batch, device=CPU)
    assert sizes == ([1] * 4 if batch == 1 else [3, 1])
    torch.testing.assert_close(y, x)


@settings(max_examples=25, deadline=None)
@given(
    sides=st.tuples(*[st.integers(3, 40)] * 3),
    overlap=st.sampled_from([0.0, 0.25, 0.8]),
    batch=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_a_result_in_the_memory_of_the_input_is_the_same(sides, overlap, batch, seed):
    """Rows are written while later windows are still cut from the volume."""
    torch.manual_seed(seed)
    x = torch.randn(1, 2, *sides)
    network = nn.Sequential(nn.Conv3d(2, 2, 3, padding=1), nn.InstanceNorm3d(2))
    layout = fixed(sides, (8, 4, 6), overlap)
    with torch.inference_mode():
        apart = slide(x.clone(), network, layout, batch=batch, device=CPU)
        same = slide(x, network, layout, batch=batch, device=CPU, overwrite=True)
    assert torch.equal(apart, same)
    padded = any(n < w for n, w in zip(sides, (8, 4, 6), strict=True))
    assert padded or same.data_ptr() == x.data_ptr()


def test_where_no_window_lies_the_result_is_zero():
    places = [place for place in fixed((24, 8, 8), (4, 4, 4), 0.5).places if 8 <= place[0].start < 12]
    layout = replace(fixed((24, 8, 8), (4, 4, 4), 0.5), places=places)
    y = slide(torch.ones(1, 1, 24, 8, 8), lambda window: window, layout, batch=2, device=CPU)
    assert torch.equal(y[0, 0, :, 0, 0], torch.tensor([0.0] * 8 + [1.0] * 6 + [0.0] * 10))
