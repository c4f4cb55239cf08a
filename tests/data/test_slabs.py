import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from refusal import refused

from medgen.data.slabs import fold, fold_batch, unfold
from medgen.types import slab_axis


@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 4), *[st.integers(1, 6)] * 3),
    axis=st.integers(0, 2),
)
def test_unfold_is_the_inverse_of_fold(shape, axis):
    x = torch.arange(torch.Size(shape).numel()).reshape(shape)
    kept = x.clone()
    folded = fold(x, axis)
    sides = [n for i, n in enumerate(shape[2:]) if i != axis]
    assert folded.shape == (shape[0], shape[1] * shape[2 + axis], *sides)
    assert torch.equal(unfold(folded, axis, shape[2 + axis]), x) and torch.equal(x, kept)


@given(axis=st.integers(0, 2), contrast=st.integers(0, 1), i=st.integers(0, 2))
def test_channels_are_the_slices_of_the_first_contrast_then_of_the_next(axis, contrast, i):
    x = torch.randn(2, 2, *(3 if n == axis else 4 for n in range(3)))
    assert torch.equal(fold(x, axis)[:, 3 * contrast + i], x[:, contrast].select(axis + 1, i))


@pytest.mark.parametrize("patch, axis", [((128, 128, 3), 2), ((1, 96, 96), 0), ((64, 1, 32), 1), ((64, 96, 8), 2)])
def test_the_smallest_side_is_the_slab(patch, axis):
    assert slab_axis(patch) == axis


@pytest.mark.parametrize("patch", [(64, 64, 64), (1, 1, 64), (64, 32, 32)])
def test_patches_with_two_smallest_sides_are_refused(patch):
    with refused("config-slab-side-ambiguous", names="sampling.patch"):
        slab_axis(patch)


def test_names_of_a_batch_stay():
    batch = fold_batch({"source": torch.zeros(2, 1, 4, 4, 3), "source_case": ["a", "b"]}, 2)
    assert batch["source"].shape == (2, 3, 4, 4) and batch["source_case"] == ["a", "b"]
