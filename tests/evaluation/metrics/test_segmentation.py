import warnings
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.metrics import (
    compute_average_surface_distance,
    compute_dice,
    compute_hausdorff_distance,
    compute_surface_dice,
)
from refusal import refused
from scipy.ndimage import gaussian_filter

from medgen.evaluation.metrics.segmentation import dice_scores, segmentation_scores

ORGANS = Path(__file__).parents[4] / "shared/data/ct/abdomen_noncontrast/organs_small.nii.gz"
SCORES = ("dice", "hd95", "assd", "surface_dice")


def _monai(reference, prediction, spacing, labels, tolerance_mm=2.0, percentile=95.0):
    """{label: [dice, hd, assd, surface dice]} of labels that are in both volumes."""
    y, y_pred = (torch.stack([torch.from_numpy(v == k) for k in labels])[None].float() for v in (reference, prediction))
    every = {"include_background": True}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of labels that are absent
        values = [
            compute_dice(y_pred, y, **every),
            compute_hausdorff_distance(y_pred, y, percentile=percentile, spacing=spacing, **every),
            compute_average_surface_distance(y_pred, y, symmetric=True, spacing=spacing, **every),
            compute_surface_dice(y_pred, y, [tolerance_mm] * len(labels), spacing=spacing, **every),
        ]
    return dict(zip(labels, torch.cat(values).T.tolist(), strict=True))


def _assert_equals_monai(reference, prediction, spacing, **options):
    labels = sorted(set(np.unique(reference)) & set(np.unique(prediction)) - {0})
    scores = segmentation_scores(reference, prediction, spacing, **options)
    expected = _monai(reference, prediction, spacing, labels, **options) if labels else {}
    for label, values in expected.items():
        ours = [value for name, value in scores[label].items() if not name.startswith("volume")]
        assert ours == pytest.approx(values, rel=1e-4, abs=1e-4), label


def _blobs(shape, labels, sigma, rng):
    """Labels 0..n of smooth noise; sigma 0 gives scattered voxels."""
    noise = gaussian_filter(rng.standard_normal(shape), sigma) if sigma else rng.random(shape)
    return np.digitize(noise, np.quantile(noise, np.linspace(0, 1, labels + 2)[1:-1])).astype(np.int16)


sides = st.integers(1, 17)
steps = st.floats(0.2, 6)


@settings(deadline=None, max_examples=40)
@given(
    st.tuples(sides, sides, sides),
    st.tuples(steps, steps, steps),
    st.integers(1, 4),
    st.sampled_from([0, 0.7, 2.0]),
    st.sampled_from([(2.0, 95.0), (0.0, 50.0), (5.5, 100.0)]),
    st.integers(0, 10**6),
)
def test_equals_monai_on_any_shape_and_spacing(shape, spacing, labels, sigma, asked, seed):
    rng = np.random.default_rng(seed)
    reference, prediction = (_blobs(shape, labels, sigma, rng) for _ in range(2))
    _assert_equals_monai(reference, prediction, spacing, tolerance_mm=asked[0], percentile=asked[1])


@settings(deadline=None, max_examples=12)
@given(st.tuples(steps, steps, steps), st.tuples(*[st.integers(-9, 9)] * 3), st.integers(0, 10**6))
def test_equals_monai_where_the_prediction_lies_far_away(spacing, shift, seed):
    rng = np.random.default_rng(seed)
    reference = np.zeros((30, 28, 26), np.uint8)
    reference[10:20, 10:19, 10:17] = _blobs((10, 9, 7), 2, 1.0, rng)
    _assert_equals_monai(reference, np.roll(reference, shift, (0, 1, 2)), spacing)


@pytest.mark.skipif(not ORGANS.is_file(), reason="../shared/data/ct is absent")
def test_equals_monai_on_organs_of_a_real_ct():
    image = nib.load(ORGANS)
    labels = np.asarray(image.dataobj)
    moved = np.roll(labels, (2, -3, 1), (0, 1, 2))
    _assert_equals_monai(labels, moved, [float(s) for s in image.header.get_zooms()[:3]])


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.7, 1.3, 4.0)])
def test_equals_simpleitk(spacing):
    rng = np.random.default_rng(3)
    volumes = [np.pad(_blobs((14, 17, 11), 1, 1.5, rng), 2) for _ in range(2)]
    images = [sitk.GetImageFromArray(v.T.astype(np.uint8)) for v in volumes]
    for image in images:
        image.SetSpacing(spacing)
    ours = segmentation_scores(*volumes, spacing, percentile=100)[1]

    overlap = sitk.LabelOverlapMeasuresImageFilter()
    overlap.Execute(*images)
    assert ours["dice"] == pytest.approx(overlap.GetDiceCoefficient(1))
    contours = [sitk.LabelContour(image, fullyConnected=False) for image in images]
    distance = sitk.HausdorffDistanceImageFilter()
    distance.Execute(*contours)
    assert ours["hd100"] == pytest.approx(distance.GetHausdorffDistance(), rel=1e-5)
    shape = sitk.LabelShapeStatisticsImageFilter()
    for image, key in zip(images, ("volume_reference", "volume_prediction"), strict=True):
        shape.Execute(image)
        assert ours[key] == pytest.approx(shape.GetPhysicalSize(1) / 1000)


def test_a_box_shifted_by_k_voxels():
    n, k, spacing = 12, 3, (1.5, 1.0, 0.8)
    reference = np.zeros((30, 20, 20), np.uint8)
    reference[5 : 5 + n, 4 : 4 + n, 4 : 4 + n] = 6
    scores = segmentation_scores(reference, np.roll(reference, k, 0), spacing)[6]
    assert scores["dice"] == pytest.approx((n - k) / n)
    assert scores["hd95"] == pytest.approx(k * 1.5)
    assert scores["volume_reference"] == pytest.approx(n**3 * 1.2 / 1000)
    assert scores["volume_error"] == 0


@pytest.mark.parametrize(("spacing", "k"), [(0.7, 10), (0.1, 3), (1.1, 7), (2.5, 1)])
def test_surface_distance_of_two_sheets_is_their_separation(spacing, k):
    reference = np.zeros((16, 6, 7), bool)
    reference[2] = True
    prediction = np.roll(reference, k, 0)
    at, below = (
        segmentation_scores(reference, prediction, (spacing, 5, 5), tolerance_mm=t)[1]
        for t in (round(k * spacing, 6), 0.999 * k * spacing)
    )
    assert at["dice"] == 0
    assert at["hd95"] == pytest.approx(k * spacing) and at["assd"] == pytest.approx(k * spacing)
    assert at["surface_dice"] == 1, "a deviation of just the tolerance counts as none, whatever its rounding"
    assert below["surface_dice"] == 0


def test_concentric_spheres():
    spacing, r, R = np.array([0.5, 0.5, 1.0]), 9.0, 12.0
    places = (np.indices((60, 60, 30)) - np.array([30, 30, 15])[:, None, None, None]) * spacing[:, None, None, None]
    distance = np.sqrt((places**2).sum(0))
    scores = segmentation_scores(distance <= r, distance <= R, tuple(spacing), tolerance_mm=R - r + 1)[1]
    small, large = (4 / 3 * np.pi * radius**3 / 1000 for radius in (r, R))
    assert scores["volume_reference"] == pytest.approx(small, rel=0.01)
    assert scores["volume_error"] == pytest.approx(large - small, rel=0.01)
    assert scores["dice"] == pytest.approx(2 * small / (small + large), rel=0.01)
    assert scores["assd"] == pytest.approx(R - r, abs=0.5) and scores["hd95"] == pytest.approx(R - r, abs=1)
    assert scores["surface_dice"] == 1


def test_one_voxel_objects_and_the_volumes_corners():
    reference, prediction = np.zeros((2, 7, 8, 9), np.uint8)
    reference[0, 0, 0] = prediction[6, 7, 8] = 1
    reference[3, 3, 3] = prediction[3, 3, 3] = 2
    scores = segmentation_scores(reference, prediction, (1, 2, 3))
    diagonal = np.linalg.norm([6, 14, 24])
    assert [scores[1][name] for name in SCORES] == pytest.approx([0, diagonal, diagonal, 0])
    assert [scores[2][name] for name in SCORES] == [1, 0, 0, 1]
    assert scores[2]["volume_reference"] == pytest.approx(0.006)


def test_a_volume_that_is_all_label_has_its_faces_for_surface():
    reference = np.ones((5, 5, 5), np.uint8)
    prediction = reference.copy()
    prediction[2, 2, 2] = 0
    scores = segmentation_scores(reference, prediction, (1, 1, 1))[1]
    # Around the hole 6 of the 98 + 6 surface voxels of the prediction lie one voxel below the faces.
    assert scores["assd"] == pytest.approx(6 / (98 + 98 + 6))
    _assert_equals_monai(reference, prediction, (1, 1, 1))


def test_labels_that_are_absent():
    reference, prediction = np.zeros((2, 4, 5, 6), np.int32)
    reference[1:3, 1:3, 1:3] = 300
    prediction[0, 0, 0] = 2
    scores = segmentation_scores(reference, prediction, (1, 1, 2), labels=[7, 300, 2])
    assert list(scores) == [2, 7, 300]
    for label in (2, 300):
        assert [scores[label][name] for name in SCORES] == [0, np.inf, np.inf, 0]
    assert all(np.isnan(scores[7][name]) for name in SCORES)
    assert [scores[k]["volume_error"] for k in (2, 7, 300)] == pytest.approx([0.002, 0, -0.016])
    assert dice_scores(reference, prediction) == {2: 0, 300: 0}
    empty = np.zeros((4, 5, 6), np.uint8)
    assert segmentation_scores(empty, empty, (1, 1, 1)) == {} == dice_scores(empty, empty)
    assert np.isnan(segmentation_scores(empty, empty, (1, 1, 1), labels=[1])[1]["hd95"])


def test_selected_labels_have_the_same_scores_as_among_all():
    rng = np.random.default_rng(0)
    reference, prediction = (_blobs((9, 10, 11), 4, 1.0, rng) for _ in range(2))
    every = segmentation_scores(reference, prediction, (1, 2, 3))
    assert segmentation_scores(reference, prediction, (1, 2, 3), labels=iter([4, 2])) == {2: every[2], 4: every[4]}
    assert dice_scores(reference, prediction) == {label: scores["dice"] for label, scores in every.items()}


@pytest.mark.parametrize("kind", ["u1", "<i8", ">i2", "f4", "f8"])
def test_type_and_order_of_the_arrays_do_not_matter_and_they_are_left_alone(kind):
    rng = np.random.default_rng(1)
    reference, prediction = (_blobs((9, 10, 11), 3, 1.0, rng) for _ in range(2))
    expected = segmentation_scores(reference, prediction, (1, 2, 3))
    other = np.asfortranarray(reference.astype(kind))
    other.setflags(write=False)
    assert segmentation_scores(other, prediction, (1, 2, 3)) == expected
    turned = segmentation_scores(other.transpose(2, 0, 1), prediction.transpose(2, 0, 1), (3, 1, 2))
    assert {k: pytest.approx(v) for k, v in turned.items()} == expected


GOOD = np.ones((3, 4, 5), np.uint8)


@pytest.mark.parametrize(
    ("reference", "prediction", "options", "code", "names"),
    [
        (GOOD, GOOD[:2], {}, "labels-shapes-differ", ("(3, 4, 5)", "(2, 4, 5)")),
        (GOOD[0], GOOD[0], {}, "labels-shape-invalid", "(4, 5)"),
        (GOOD[:0], GOOD[:0], {}, "labels-shape-invalid", "(0, 4, 5)"),
        (GOOD * 0.5, GOOD, {}, "labels-values-invalid", "reference"),
        (GOOD, GOOD * np.nan, {}, "labels-values-invalid", "prediction"),
        (GOOD, GOOD * -1.0, {}, "labels-values-invalid", "[-1, -1]"),
        (GOOD, GOOD * np.int32(70000), {}, "labels-values-invalid", "70000"),
        (GOOD, GOOD, {"spacing": (1, 0, 1)}, "volume-spacing-invalid", "spacing"),
        (GOOD, GOOD, {"spacing": (1, 1)}, "volume-spacing-invalid", "spacing"),
        (GOOD, GOOD, {"spacing": (1, np.nan, 1)}, "volume-spacing-invalid", "spacing"),
        (GOOD, GOOD, {"tolerance_mm": -1}, "metric-tolerance-range", "tolerance_mm"),
        (GOOD, GOOD, {"percentile": 0}, "metric-percentile-range", "percentile"),
        (GOOD, GOOD, {"labels": [0, 1]}, "metric-wanted-labels-invalid", "[0, 1]"),
    ],
)
def test_what_cannot_be_measured_is_refused(reference, prediction, options, code, names):
    with refused(code, names=names):
        segmentation_scores(reference, prediction, **{"spacing": (1, 1, 1), **options})
