"""Volumes as images: windows, three planes, squared in mm."""

import numpy as np
import torch
from refusal import refused
from torch.nn import functional

from medgen.evaluation.features.slices import plane_images, windowed

ALL = np.ones((6, 8, 10), bool)


def upright(slices):
    """(k, a, b) of two RAS axes → images."""
    return np.ascontiguousarray(slices.transpose(0, 2, 1)[:, ::-1, ::-1])


def test_a_window_is_linear_and_clips():
    volume = np.array([-1000.0, -160, 40, 240, 3000]).reshape(5, 1, 1)
    made = windowed(volume, np.ones_like(volume, bool), (-160, 240))
    assert made.ravel().tolist() == [0, 0, 0.5, 1, 1]
    with refused("features-window-order"):
        windowed(volume, np.ones_like(volume, bool), (3, 3))


def test_without_a_window_gain_and_offset_are_gone_and_a_constant_is_black():
    volume = np.random.default_rng(0).normal(size=ALL.shape)
    made = windowed(volume, ALL, None)
    assert made.min() == 0 and made.max() == 1
    np.testing.assert_allclose(windowed(volume * 1e5 + 7, ALL, None), made, atol=1e-6)
    assert not windowed(np.full(ALL.shape, 5.0), ALL, None).any()


def test_slices_of_three_planes_at_even_distances():
    volume = np.random.default_rng(0).uniform(size=ALL.shape).astype(np.float32)
    planes = list(plane_images(volume, ALL, (1, 1, 1), per_plane=3, size=10))
    assert [tuple(p.shape) for p in planes] == [(3, 1, 10, 10)] * 3
    plain = torch.from_numpy(upright(volume[[0, 2, 5]]))[:, None]  # 10 × 8: the longer side is 10 already
    assert torch.equal(planes[0][:, :, :, 1:9], plain)
    assert not planes[0][:, :, :, [0, 9]].any()


def test_slices_lie_as_radiologists_see_them():
    volume = np.zeros((9, 9, 9), np.float32)
    volume[8, 4, 4], volume[4, 7, 4], volume[4, 4, 6] = 1, 2, 3  # a mark at the patient's right, in front, at the head

    def place(image, mark):
        return tuple(np.argwhere(image[0].numpy() == mark)[0])

    planes = plane_images(volume, volume >= 0, (1, 1, 1), per_plane=9, size=9)
    sagittal, coronal, axial = (images[4] for images in planes)
    assert place(axial, 1) == (4, 0) and place(axial, 2) == (1, 4)  # right on the left, front above
    assert place(coronal, 1) == (4, 0) and place(coronal, 3) == (2, 4)  # right on the left, head above
    assert place(sagittal, 2) == (4, 1) and place(sagittal, 3) == (2, 4)  # front on the left, head above


def test_only_slices_that_meet_the_mask_count():
    mask = np.zeros(ALL.shape, bool)
    mask[2:4, 5, 7] = True
    assert [len(p) for p in plane_images(ALL.astype(np.float32), mask, (1, 1, 1), per_plane=3, size=4)] == [2, 1, 1]


def test_thick_slices_are_not_distorted():
    # 8 × 10 voxels of 1 × 4 mm are 8 mm wide and 40 mm high: at size 20 the image is 4 × 20
    images = next(iter(plane_images(np.ones(ALL.shape, np.float32), ALL, (1, 1, 4), per_plane=1, size=20)))
    assert images[0, 0].any(0).sum() == 4 and images[0, 0].any(1).sum() == 20


def test_it_resizes_as_the_fid_standard():
    volume = np.random.default_rng(0).uniform(size=(1, 30, 30)).astype(np.float32)
    made = next(iter(plane_images(volume, volume >= 0, (1, 1, 1), per_plane=1, size=13)))
    image = torch.from_numpy(upright(volume))[None]
    expected = functional.interpolate(image, (13, 13), mode="bilinear", align_corners=False)
    assert torch.equal(made, expected)
