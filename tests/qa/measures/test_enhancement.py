import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from medgen.phantom.cohort import LABELS, PHASES, make_patient
from medgen.qa.measures.enhancement import (
    RANGES,
    darkened_dense,
    measure_organs,
    phase,
    residual_enhancement,
    structure_of,
)

NAMES = {value: name for name, value in LABELS.items()}
MM = (2.5, 2.5, 2.5)


@pytest.fixture(scope="module")
def patient():
    return make_patient(1030, size=(150, 112, 40))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("kidney_left", "kidney"),
        ("Inferior Vena Cava", "inferior_vena_cava"),
        ("portal-vein", "portal_vein"),
        ("PortalVein", "portal_vein"),
        ("VenaCavaInferior", "inferior_vena_cava"),
        ("hepatic_vessels", "vein"),
        ("renal artery left", "artery"),
        ("liver_vessels", "vein"),
        ("adrenal_glands", None),
        ("lesion_hypervascular", None),
        ("kidney_cyst", None),
        ("liver_tumor", None),
        ("bone", None),
    ],
)
def test_names(name, expected):
    assert structure_of(name) == expected


def test_an_organ_has_the_mean_of_its_region_and_the_median_of_its_core():
    labels = np.zeros((20, 20, 20), int)
    labels[4:16, 4:16, 4:16] = 5
    image = np.full(labels.shape, 55.0)
    image[4, :, :] = 300  # the border, and a lesion
    image[8:10, 8:10, 8:10] = 0
    (liver,) = measure_organs([image, image + 7], labels, {5: "liver"}, MM)
    assert liver.core == (55, 62) and liver.voxels == 12**3
    assert liver.region[0] == pytest.approx(image[labels == 5].mean())
    assert labels[tuple(round(p / 2.5) for p in liver.place)] == 5
    assert measure_organs([image], labels, {5: "bone"}, MM) == []


def test_what_the_truth_shows_to_take_up_contrast_is_judged_whatever_its_name():
    labels = np.zeros((12, 12, 12), int)
    labels[1:5, 1:11, 1:11], labels[7:11, 1:11, 1:11] = 1, 2
    truth = np.full(labels.shape, 40.0)
    source, names = np.where(labels == 1, 90.0, truth), {1: "pancreas", 2: "muscle"}
    assert [organ.name for organ in measure_organs([source, source, truth], labels, names, MM)] == ["pancreas"]
    assert (
        measure_organs([source, source], labels, names, MM)
        == measure_organs([source] * 2 + [truth], labels, {1: "tumor"}, MM)
        == []
    )


@given(st.floats(3, 8), st.floats(-150, 150), st.integers(0, 10**6))
@settings(max_examples=8, deadline=None)
def test_partial_volume_of_a_vessel_of_any_size_and_surroundings(radius, contrast, seed):
    """Random tubes in 2.5 mm voxels, labelled where they fill half a voxel: the HU of their blood is recovered."""
    rng, lost, found = np.random.default_rng(seed), 0.0, 0.0
    grid = (np.stack(np.meshgrid(*[np.arange(60)] * 3, indexing="ij"), -1) - 29.5) * 0.625
    for _ in range(6):
        axis, fine = rng.normal(size=3), grid - rng.uniform(-1.25, 1.25, 3)
        axis /= np.linalg.norm(axis)
        away = np.linalg.norm(fine - (fine @ axis)[..., None] * axis, axis=-1)
        share = (away < radius).reshape(15, 4, 15, 4, 15, 4).mean((1, 3, 5))
        (vessel,) = measure_organs([40 + contrast * (1 - share)], (share >= 0.5).astype(int), {1: "artery"}, MM)
        lost, found = lost + vessel.region[0] - 40, found + vessel.partial[0]
    assert abs(lost - found) <= 0.5 * abs(lost) and lost * contrast >= 0


def test_truth_lies_in_the_ranges_and_contrast_does_not(patient):
    found = [organ for organ in measure_organs([patient.contrast, patient.noncontrast], patient.labels, NAMES, MM)]
    assert {structure_of(organ.name) for organ in found} == {*RANGES, None}
    for organ in found:
        if (kind := structure_of(organ.name)) not in (None, "collecting_system"):
            low, high = RANGES[kind]
            enhanced, plain = (mean - part for mean, part in zip(organ.region, organ.partial, strict=True))
            assert low <= plain <= high < enhanced, organ.name
            assert organ.core is None or low <= organ.core[1] <= high < organ.core[0], organ.name


@pytest.mark.parametrize("name", PHASES)
def test_phase_of_the_embedded_patients(name):
    for seed in (1031, 1032):
        p = make_patient(seed, size=(150, 112, 40), phase=name if name != "none" else "late")
        image = p.noncontrast if name == "none" else p.contrast
        hu = {organ.name: (organ.core or organ.region)[0] for organ in measure_organs([image], p.labels, NAMES, MM)}
        assert phase(hu, float(np.median(image[p.labels == LABELS["collecting_system"]]))) == name


def test_phase_without_vessels_is_unknown():
    assert phase({"liver": 100.0}) == "unknown"
    assert phase({"aorta": 330.0, "inferior_vena_cava": 80.0}) == "arterial"


def test_left_over_enhancement_is_found_without_labels(patient):
    body = np.ones(patient.labels.shape, bool)
    nothing = residual_enhancement(patient.contrast, patient.noncontrast, body, MM)
    assert sum(region.volume_ml for region in nothing) < 8
    kidneys = np.isin(patient.labels, [LABELS["kidney_left"], LABELS["kidney_right"]])
    half = patient.noncontrast + 0.5 * (patient.contrast - patient.noncontrast) * kidneys
    found = residual_enhancement(patient.contrast, half, body, MM)
    at = tuple(round(p / 2.5) for p in found[0].place)
    assert found[0].volume_ml > 20 and kidneys[at] and found[0].source > found[0].output > 75


def test_a_liver_at_the_upper_end_of_its_range_is_not_left_over(patient):
    """69 HU and the iodine of a slim patient add up to 145 HU."""
    liver, body = patient.labels == LABELS["liver"], np.ones(patient.labels.shape, bool)
    before, after = (float(np.median(image[liver])) for image in (patient.contrast, patient.noncontrast))
    source, output = patient.contrast + (145 - before) * liver, patient.noncontrast + (69 - after) * liver
    assert sum(region.volume_ml for region in residual_enhancement(source, output, body, MM)) < 7
    assert sum(region.volume_ml for region in residual_enhancement(source, output + 12 * liver, body, MM)) > 100


def test_an_aorta_with_calcium_in_its_wall_is_not_taken_for_bone(patient):
    """The aorta is unchanged, and its wall is in parts as rough as bone."""
    inside, body = patient.labels == LABELS["aorta"], np.ones(patient.labels.shape, bool)
    wall = inside & ~ndimage.binary_erosion(inside) & (np.random.default_rng(0).random(inside.shape) < 0.08)
    source = patient.contrast + 300.0 * wall
    output = np.where(inside, source, patient.noncontrast)
    assert sum(region.volume_ml for region in residual_enhancement(source, output, body, MM)) > 7


def test_bone_that_loses_density_is_found_without_labels(patient):
    body = np.ones(patient.labels.shape, bool)
    correct = darkened_dense(patient.contrast, patient.noncontrast, body, MM)
    assert sum(region.volume_ml for region in correct) < 5
    bone = (patient.labels == LABELS["bone"]) & (patient.contrast > 200)
    darker = patient.noncontrast - 0.4 * (patient.noncontrast - 50) * bone
    found = darkened_dense(patient.contrast, darker, body, MM)
    assert sum(region.volume_ml for region in found) > 20
    assert found[0].source - 40 > found[0].output > 120


def test_half_removed_contrast_is_found_without_labels(patient):
    body, aorta = np.ones(patient.labels.shape, bool), patient.labels == LABELS["aorta"]
    source, half = (np.where(aorta, hu, patient.noncontrast) for hu in (400.0, 200.0))
    (first, *_) = darkened_dense(source, half, body, MM)
    assert first.volume_ml > 8


def test_the_place_of_what_is_left_lies_in_it():
    """The centroid of a shell is in its hole."""
    grid = np.indices((40, 40, 40)) - 20
    away = np.sqrt((grid**2).sum(0))
    shell = (away > 8) & (away < 17)
    source, output = np.where(shell, 140.0, 40.0), np.where(shell, 120.0, 40.0)
    (region, *_) = residual_enhancement(source, output, np.ones(shell.shape, bool), (3.0, 3.0, 3.0))
    assert shell[tuple(round(p / 3) for p in region.place)]


@pytest.mark.parametrize("seed", [4, 5])
def test_left_over_is_found_in_coarse_voxels(seed):
    """With 6 mm voxels no roughness is measured, and all unchanged tissue was taken for bone."""
    patient = make_patient(seed, size=(64, 52, 34), spacing=6.0)
    body = patient.noncontrast > -500
    unconverted, truth = (
        sum(region.volume_ml for region in residual_enhancement(patient.contrast, output, body, (6.0, 6.0, 6.0)))
        for output in (patient.contrast, patient.noncontrast)
    )
    assert unconverted > 14 and truth < 3.5


def test_a_scan_without_soft_tissue_has_no_left_over_enhancement():
    air = np.full((12, 12, 12), -1000.0)
    assert residual_enhancement(air, air, np.ones(air.shape, bool), MM) == []


def test_marrow_is_not_left_over():
    """Trabeculae make marrow rougher than soft tissue, also where nothing but marrow is bright; a lumen is smooth."""
    rng = np.random.default_rng(0)
    grid = np.indices((44, 40, 40)) - 20
    noise = rng.normal(0, 15, grid.shape[1:])
    inside = np.sqrt(grid[0] ** 2 + grid[1] ** 2) + 0 * grid[2] < 10
    body = np.ones(inside.shape, bool)
    lumen = np.where(inside, 170.0, 40.0) + noise
    trabeculae = 1.5 * 60 * ndimage.gaussian_filter(rng.normal(size=inside.shape), 0.5) / 0.5
    found, marrow = (
        sum(region.volume_ml for region in residual_enhancement(v, v, body, (1.5, 1.5, 1.5)))
        for v in (lumen, lumen + trabeculae * inside)
    )
    assert found > 10 and marrow < 0.1 * found


@pytest.mark.parametrize("spacing", [1.5, 2.0, 3.0])
def test_a_kidney_in_a_bright_cortex_is_left_over(spacing):
    """A medulla of 130 HU in a cortex of 330 HU is not as rough as marrow."""
    grid = (np.indices([int(66 / spacing)] * 3) - int(33 / spacing)) * spacing
    radius = np.sqrt((grid**2).sum(0))
    kidney = np.select([radius < 16, radius < 24], [130.0, 330.0], 30.0)
    kidney = kidney + np.random.default_rng(0).normal(0, 12, radius.shape)
    found = residual_enhancement(kidney, kidney, np.ones(radius.shape, bool), (spacing,) * 3)
    assert sum(region.volume_ml for region in found) > 1


@pytest.mark.parametrize("phase", ["arterial", "portal_venous", "late"])
def test_a_scan_that_was_not_converted_is_left_over(phase):
    one = make_patient(1033, size=(150, 112, 40), phase=phase)
    found = residual_enhancement(one.contrast, one.contrast, np.ones(one.labels.shape, bool), MM)
    bone = one.labels == LABELS["bone"]
    organs = [region for region in found if not bone[tuple(round(p / 2.5) for p in region.place)]]
    assert sum(region.volume_ml for region in organs) > 50
