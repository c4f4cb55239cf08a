import numpy as np
import pytest

from medgen.data.phantom import LABELS, PHASES, make_patient
from medgen.evaluation.enhancement import RANGES, left_over, organ_hu, phase, structure_of

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
        ("hepatic_vessels", None),
        ("kidney_cyst", None),
        ("liver_tumor", None),
        ("bone", None),
    ],
)
def test_names(name, expected):
    assert structure_of(name) == expected


def test_organ_hu_is_the_median_of_the_inside():
    labels = np.zeros((20, 20, 20), int)
    labels[4:16, 4:16, 4:16] = 5
    image = np.full(labels.shape, 55.0)
    image[4, :, :] = 300  # the border, and a lesion
    image[8:10, 8:10, 8:10] = 0
    assert organ_hu([image, image + 7], labels, {5: "liver"}) == {"liver": [55.0, 62.0]}
    assert organ_hu([image], labels, {5: "bone"}) == {}


def test_truth_lies_in_the_ranges_and_contrast_does_not(patient):
    hu = organ_hu([patient.contrast, patient.noncontrast], patient.labels, NAMES)
    assert len(hu) == 7
    for name, (enhanced, plain) in hu.items():
        low, high = RANGES[structure_of(name)]
        assert low <= plain <= high < enhanced, name


@pytest.mark.parametrize("name", PHASES)
def test_phase_of_the_embedded_patients(name):
    for seed in (1031, 1032):
        p = make_patient(seed, size=(150, 112, 40), phase=name if name != "none" else "late")
        image = p.noncontrast if name == "none" else p.contrast
        hu = {k: v[0] for k, v in organ_hu([image], p.labels, NAMES).items()}
        assert phase(hu, float(np.median(image[p.labels == LABELS["collecting_system"]]))) == name


def test_phase_without_vessels_is_unknown():
    assert phase({"liver": 100.0}) == "unknown"
    assert phase({"aorta": 330.0, "inferior_vena_cava": 80.0}) == "arterial"


def test_left_over_finds_what_stayed_without_labels(patient):
    body = np.ones(patient.labels.shape, bool)
    nothing = left_over(patient.contrast, patient.noncontrast, body, MM)
    assert sum(region.volume_ml for region in nothing) < 8
    kidneys = np.isin(patient.labels, [LABELS["kidney_left"], LABELS["kidney_right"]])
    half = patient.noncontrast + 0.5 * (patient.contrast - patient.noncontrast) * kidneys
    found = left_over(patient.contrast, half, body, MM)
    at = tuple(round(p / 2.5) for p in found[0].place)
    assert found[0].volume_ml > 20 and kidneys[at] and found[0].source > found[0].output > 75


def test_left_over_of_a_scan_without_soft_tissue_is_nothing():
    air = np.full((12, 12, 12), -1000.0)
    assert left_over(air, air, np.ones(air.shape, bool), MM) == []
