"""Deformed and recombined label maps keep the parts and cavities of each structure: synthetic shapes and real maps."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from medgen.data.labels.deformation import deform, recombine, warp
from medgen.data.labels.topology import CORNERS, topology_of

REAL = Path(__file__).parents[4] / "shared/data/hippocampus/labels"
SHAPE = (40, 40, 36)
X, Y, Z = np.indices(SHAPE)


def away(x, y, z, spacing=(1, 1, 1)):
    return np.sqrt(sum(((i - c) * s) ** 2 for i, c, s in zip((X, Y, Z), (x, y, z), spacing, strict=True)))


def sheet():
    labels = np.zeros(SHAPE, np.uint8)
    labels[8:32, 8:32, 18] = 1
    return labels


def tube():
    """A winding vessel one voxel wide, of voxels that share faces."""
    labels = np.zeros(SHAPE, np.uint8)
    labels[6:34, 10, 8] = labels[33, 10:30, 8] = labels[33, 29, 8:28] = labels[8:34, 29, 27] = 3
    return labels


def touching():
    """Two halves of a bent rod."""
    near = np.abs(away(20, 20, 18) - 11) < 2.6
    return np.where(near & (X < 20), 1, np.where(near & (Y < 26), 2, 0)).astype(np.uint8) * (np.abs(Z - 18) < 4)


def shell():
    """A closed wall about one voxel thick around a core of another label, with a gap between."""
    r = away(20, 20, 18)
    return np.where(np.abs(r - 10.3) < 0.9, 1, np.where(r < 5, 2, 0)).astype(np.uint8)


def lesions():
    """Many small parts of one label, some of them two voxels from each other."""
    labels = np.where(away(20, 20, 18) < 15, 1, 0).astype(np.uint8)
    for x, y, z in ((14, 20, 18), (17, 20, 18), (26, 22, 14), (20, 28, 20), (20, 11, 22), (20, 20, 28)):
        labels[x : x + 2, y, z] = 2
    return labels


def forms(labels):
    return {int(v): topology_of(labels == v) for v in np.unique(labels) if v} | {0: topology_of(labels > 0)}


@pytest.mark.parametrize("shape", [sheet, tube, touching, shell, lesions])
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (1.0, 1.0, 2.5)])
def test_synthetic_shapes_stay_in_one_piece(shape, spacing):
    labels = shape()
    before = forms(labels)
    for seed in range(3):
        after = forms(deform(labels, spacing, seed))
        assert after.keys() == before.keys()
        for value, form in before.items():
            assert after[value].parts == form.parts and after[value].by_faces <= form.by_faces, (seed, value)
            assert after[value].tight == form.tight, (seed, value)


def test_rounding_alone_would_break_them():
    """The measures above detect the errors they were written for."""
    labels = tube()
    shift = np.stack([0.45 * np.sin(Y / 3 + Z / 5), 0.45 * np.cos(X / 3), 0.45 * np.sin(X / 4)]).astype(np.float32)
    assert ndimage.label(warp(labels, shift + 0.2) > 0, CORNERS)[1] > 1


def test_a_repair_changes_few_voxels():
    labels = touching()
    for seed in range(3):
        kept, plain = deform(labels, (1, 1, 1), seed), deform(labels, (1, 1, 1), seed, keep=())
        assert (kept != plain).sum() < 0.01 * (plain > 0).sum()


@pytest.mark.skipif(not REAL.is_dir(), reason="../shared/data/hippocampus is absent")
def test_a_hippocampus_stays_in_one_piece():
    for n, path in enumerate(sorted(REAL.glob("*.nii.gz"))[:20]):
        image = nib.load(path)
        labels = np.asarray(image.dataobj).astype(np.uint8)
        before, after = forms(labels), forms(deform(labels, image.header.get_zooms(), n))
        for value, form in before.items():
            assert after[value].parts == form.parts and after[value].by_faces <= form.by_faces, (path, value)
            assert after[value].cavities <= form.cavities, (path, value)


@pytest.mark.skipif(not REAL.is_dir(), reason="../shared/data/hippocampus is absent")
def test_interpolating_two_hippocampi_gives_one_hippocampus():
    maps = [np.asarray(nib.load(p).dataobj).astype(np.uint8) for p in sorted(REAL.glob("*.nii.gz"))[:6]]
    sides = np.min([m.shape for m in maps], 0)
    maps = [m[tuple(slice((n - s) // 2, (n - s) // 2 + s) for n, s in zip(m.shape, sides, strict=True))] for m in maps]
    for a, b in zip(maps, maps[1:], strict=False):
        made, either = forms(recombine(a, b, 0.4, (1, 1, 1))), (forms(a), forms(b))
        for value in (0, 1, 2):
            assert made[value].parts <= max(f[value].parts for f in either)
            assert made[value].by_faces <= max(f[value].by_faces for f in either)
