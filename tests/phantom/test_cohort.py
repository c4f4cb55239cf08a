"""The phantom cohort: one seed gives one patient, HU match the literature, only iodine adds contrast."""

import json
import os

import nibabel as nib
import numpy as np
import pytest
from refusal import refused
from scipy import ndimage

from medgen.data.body_mask import body_mask
from medgen.phantom.cohort import LABELS, PHASES, build_anatomy, make_patient, render, write_cohort
from medgen.phantom.ct_physics import noise

TINY = {"size": (24, 20, 16), "spacing": 4.0}  # a part of the abdomen: fewer organs to draw
# HU without contrast, and HU that contrast adds at the portal venous phase, from a radiology textbook.
PLAIN = {
    "liver": (45, 68),
    "spleen": (40, 56),
    "kidney_left": (24, 40),
    "kidney_right": (24, 40),
    "aorta": (30, 60),
    "inferior_vena_cava": (30, 50),
    "heart": (30, 55),
    "gallbladder": (-5, 30),
    "muscle": (35, 62),
    "fat": (-115, -85),
    "lung": (-880, -740),
    "bone": (150, 450),
}
PORTAL = {
    "liver": (38, 75),
    "spleen": (48, 95),
    "kidney_left": (95, 185),
    "kidney_right": (95, 185),
    "aorta": (75, 150),
    "inferior_vena_cava": (65, 130),
    "portal_vein": (80, 160),
    "muscle": (4, 18),
    "fat": (0, 3),
    "lung": (3, 22),
    "bone": (2, 12),
    "lesion_hypovascular": (5, 40),
}


@pytest.fixture(scope="module")
def full():
    return make_patient(1)


@pytest.fixture(scope="module")
def truth():
    return [make_patient(seed, size=(100, 80, 60), spacing=4.0, noise_free=True) for seed in (1, 2)]


def core(patient, name):
    mask = patient.labels == LABELS[name]
    inner = ndimage.binary_erosion(mask)
    return inner if inner.sum() > 20 else mask


def test_the_default_patient_has_the_size_types_and_every_structure(full):
    assert full.contrast.shape == full.noncontrast.shape == full.labels.shape == (160, 128, 96)
    assert full.contrast.dtype == full.noncontrast.dtype == np.float32 and full.labels.dtype == np.uint8
    assert np.isfinite(full.contrast).all() and full.contrast.min() >= -1024
    assert set(np.unique(full.labels)) == {0, *LABELS.values()}
    assert len(set(LABELS.values())) == len(LABELS)


def test_the_affine_has_the_spacing_on_ras_axes_and_a_patient_specific_origin(full):
    assert np.allclose(full.affine[:3, :3], np.diag([2.5] * 3))
    assert not np.allclose(full.affine, make_patient(2, **TINY).affine)


def test_organs_are_at_anatomical_positions(full):
    def centre(name):
        return full.affine[:3] @ [*np.argwhere(full.labels == LABELS[name]).mean(0), 1]

    assert centre("liver")[0] > centre("spleen")[0] + 100
    assert centre("kidney_right")[0] > centre("kidney_left")[0] + 80
    assert centre("inferior_vena_cava")[0] > centre("aorta")[0]
    assert centre("heart")[2] > centre("liver")[2] > centre("kidney_right")[2]
    assert centre("bone")[1] < centre("aorta")[1] < centre("stomach")[1]
    volume = {name: (full.labels == value).sum() * 2.5**3 / 1000 for name, value in LABELS.items()}  # ml
    assert 900 < volume["liver"] < 2300 and 60 < volume["spleen"] < 400 and 80 < volume["kidney_left"] < 260


def test_the_table_lies_outside_the_body_mask_and_the_organs_inside(full):
    mask = body_mask(full.noncontrast)
    assert mask[full.labels > 0].mean() > 0.97
    outside = (full.noncontrast > -300) & (full.labels == 0)
    back = np.argwhere(full.labels > 0)[:, 1].min()
    assert outside[:, : back - 1].sum() > 1000  # the table is visible
    assert not mask[:, : back - 1].any()


def test_same_seed_same_patient_other_seed_another():
    a, b, c = (make_patient(seed, **TINY) for seed in (5, 5, 6))
    assert np.array_equal(a.contrast, b.contrast) and np.array_equal(a.noncontrast, b.noncontrast)
    assert np.array_equal(a.labels, b.labels) and a.info == b.info
    assert (a.labels != c.labels).mean() > 0.05


def test_the_anatomy_does_not_depend_on_the_grid():
    coarse = make_patient(4, size=(60, 48, 36), spacing=6.0, noise_free=True)
    fine = make_patient(4, size=(90, 72, 54), spacing=4.0, noise_free=True)
    for name in ("liver", "spleen", "kidney_left", "lung", "heart"):
        volumes = [(p.labels == LABELS[name]).sum() * s**3 for p, s in ((coarse, 6.0), (fine, 4.0))]
        assert volumes[0] == pytest.approx(volumes[1], rel=0.06), name


def test_hu_without_contrast_match_the_literature(truth):
    for patient in truth:
        for name, (low, high) in PLAIN.items():
            assert low <= patient.noncontrast[core(patient, name)].mean() <= high, name


def test_portal_venous_enhancement_matches_the_literature(truth):
    for patient in truth:
        for name, (low, high) in PORTAL.items():
            added = (patient.contrast - patient.noncontrast)[core(patient, name)].mean()
            assert low <= added <= high, (name, added)


def test_without_noise_contrast_adds_iodine_and_changes_nothing_else(truth):
    for patient in truth:
        added = patient.contrast - patient.noncontrast
        assert added.min() > -0.01
        assert np.abs(added[patient.labels == 0]).max() < 6  # a voxel of the skin's edge may hold some skin
        deep = ndimage.binary_erosion(patient.labels == 0, iterations=2)
        assert np.abs(added[deep]).max() == 0
        assert np.abs(np.median(added[patient.labels == LABELS["fat"]])) < 0.01
        cysts = ndimage.binary_erosion(patient.labels == LABELS["cyst"])
        assert cysts.sum() > 0 and np.median(np.abs(added[cysts])) < 0.01


def test_phases_of_one_anatomy_follow_the_passage_of_iodine():
    anatomy = build_anatomy(3, (96, 80, 60), (4.0, 4.0, 4.0))
    plain = render(anatomy, "none", noise_free=True)
    added = {p: render(anatomy, p, noise_free=True) - plain for p in ("arterial", "portal_venous", "late")}

    def mean(phase, name):
        return added[phase][ndimage.binary_erosion(anatomy.labels == LABELS[name])].mean()

    assert 200 < mean("arterial", "aorta") < 380
    assert mean("arterial", "aorta") > mean("portal_venous", "aorta") > mean("late", "aorta") > 40
    assert mean("portal_venous", "liver") > mean("late", "liver") > mean("arterial", "liver")
    assert mean("portal_venous", "portal_vein") > mean("arterial", "portal_vein")
    assert mean("arterial", "lesion_hypervascular") > mean("arterial", "liver") + 40
    assert mean("late", "collecting_system") > 150 > mean("portal_venous", "collecting_system")
    kidney = ndimage.binary_erosion(anatomy.labels == LABELS["kidney_left"])
    spread = {phase: np.ptp(np.percentile(added[phase][kidney], (10, 90))) for phase in added}
    assert spread["arterial"] > 60 > spread["portal_venous"]  # cortex before medulla


def test_patients_differ_in_enhancement():
    aorta = []
    for seed in range(4):
        p = make_patient(seed, size=(32, 26, 20), spacing=12.0, noise_free=True)
        aorta.append((p.contrast - p.noncontrast)[p.labels == LABELS["aorta"]].max())
    assert np.std(aorta) > 4


def test_the_noise_of_the_two_scans_is_independent_and_of_the_size_of_real_scans():
    size = {"size": (96, 80, 48), "spacing": 2.5}
    noisy, clean = make_patient(7, **size), make_patient(7, **size, noise_free=True)
    liver = ndimage.binary_erosion(clean.labels == LABELS["liver"])
    a, b = (noisy.contrast - clean.contrast)[liver], (noisy.noncontrast - clean.noncontrast)[liver]
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.1
    assert 7 < a.std() < 16 and 7 < b.std() < 16
    assert abs(a.mean()) < 6 and abs(b.mean()) < 6


def test_noise_has_the_spectrum_of_filtered_back_projection():
    field = noise((96, 96, 24), (1.0, 1.0, 2.5), np.random.default_rng(0))
    assert field.std() == pytest.approx(1, abs=1e-3)
    power = np.abs(np.fft.fft2(field, axes=(0, 1))) ** 2
    f = np.hypot(*np.meshgrid(np.fft.fftfreq(96), np.fft.fftfreq(96), indexing="ij"))
    bands = [power[(f > low) & (f <= high)].mean() for low, high in ((0.005, 0.03), (0.12, 0.2), (0.45, 0.5))]
    assert bands[1] > 1.5 * bands[0] and bands[1] > 5 * bands[2]  # rises as a ramp, then is cut off
    between = np.corrcoef(field[:, :, :-1].ravel(), field[:, :, 1:].ravel())[0, 1]
    assert 0.01 < between < 0.5


def test_border_voxels_have_mixed_intensities(truth):
    hu = truth[0].noncontrast
    shape = [n // 2 for n in hu.shape]
    line = hu[:, shape[1], shape[2]]
    edge = line[: int(np.argmax(line > -300)) + 1]
    assert ((line > -900) & (line < -150)).any() and edge[0] < -990


@pytest.mark.parametrize("size, spacing", [((8, 8, 8), 2.5), ((33, 40, 80), (5, 5, 1.5)), ((40, 32, 9), 12)])
def test_any_size_and_spacing(size, spacing):
    patient = make_patient(0, size=size, spacing=spacing)
    assert patient.contrast.shape == size and np.isfinite(patient.contrast).all()
    assert np.allclose(np.diag(patient.affine)[:3], spacing)


def test_lesions_can_be_left_out():
    patient = make_patient(2, size=(48, 40, 30), spacing=8.0, lesions=False)
    lesions = [value for name, value in LABELS.items() if name == "cyst" or name.startswith("lesion")]
    assert not np.isin(patient.labels, lesions).any() and patient.info["lesions"] == []


def test_a_written_cohort_equals_the_patients(tmp_path):
    seen = []
    write_cohort(tmp_path, patients=2, seed=9, workers=1, progress=lambda *a: seen.append(a), **TINY)
    assert seen == [(1, 2, "patient_000"), (2, 2, "patient_001")]
    assert json.loads((tmp_path / "labels.json").read_text()) == LABELS
    record = json.loads((tmp_path / "patients.json").read_text())["patients"]
    assert record["patient_000"]["seed"] != record["patient_001"]["seed"]
    for case, info in record.items():
        patient = make_patient(info["seed"], phase=info["phase"], **TINY)
        parts = {"source": patient.contrast, "target": patient.noncontrast, "labels": patient.labels}
        for part, expected in parts.items():
            image = nib.load(tmp_path / part / f"{case}.nii.gz")
            assert image.get_data_dtype() == (np.uint8 if part == "labels" else np.int16)
            assert np.array_equal(np.asanyarray(image.dataobj), np.rint(expected))
            assert np.allclose(image.affine, patient.affine, atol=1e-4)
            assert nib.aff2axcodes(image.affine) == ("R", "A", "S")
            assert image.header["sform_code"] == image.header["qform_code"] == 1
            assert image.header.get_xyzt_units()[0] == "mm"


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*.gz"))}


def test_a_patient_does_not_depend_on_the_number_of_workers_or_patients(tmp_path):
    write_cohort(tmp_path / "a", patients=3, seed=1, workers=2, phase="mixed", **TINY)
    write_cohort(tmp_path / "b", patients=2, seed=1, workers=1, phase="mixed", **TINY)
    a, b = contents(tmp_path / "a"), contents(tmp_path / "b")
    assert len(a) == 9 and len(b) == 6
    assert all(a[name] == b[name] for name in b)


def test_mixed_phases_and_unpaired_sides(tmp_path):
    write_cohort(tmp_path, patients=3, seed=0, unpaired=True, phase="mixed", workers=1, **TINY)
    cases = {part: {p.name for p in (tmp_path / part).iterdir()} for part in ("source", "target", "labels")}
    assert len(cases["source"]) == len(cases["target"]) == 3
    assert not cases["source"] & cases["target"] and cases["labels"] == cases["source"] | cases["target"]
    record = json.loads((tmp_path / "patients.json").read_text())["patients"]
    assert len({r["seed"] for r in record.values()}) == 6
    assert {r["phase"] for r in record.values()} == {"arterial", "portal_venous", "late"}


def test_all_phases_show_the_same_patients_with_independent_noise(tmp_path):
    write_cohort(tmp_path, patients=2, seed=3, phase="all", workers=1, **TINY)
    assert {p.name for p in tmp_path.iterdir() if p.is_dir()} == {*PHASES, "labels"}
    for case, info in json.loads((tmp_path / "patients.json").read_text())["patients"].items():
        anatomy = build_anatomy(info["seed"], TINY["size"], (TINY["spacing"],) * 3)
        images = {part: nib.load(tmp_path / part / f"{case}.nii.gz") for part in (*PHASES, "labels")}
        assert np.array_equal(images["labels"].get_fdata(), anatomy.labels)
        noise = {}
        for phase in PHASES:
            assert np.array_equal(images[phase].affine, images["labels"].affine)
            assert np.array_equal(images[phase].get_fdata(), np.rint(render(anatomy, phase)))
            noise[phase] = (images[phase].get_fdata() - render(anatomy, phase, noise_free=True))[anatomy.labels > 0]
        between = np.corrcoef(list(noise.values()))
        assert np.abs(between - np.eye(4)).max() < 0.2


def test_unpaired_phases_have_different_patients(tmp_path):
    write_cohort(tmp_path, patients=2, phase="all", unpaired=True, workers=1, **TINY)
    cases = [sorted(p.name[8:11] for p in (tmp_path / phase).iterdir()) for phase in PHASES]
    assert cases == [["000", "004"], ["001", "005"], ["002", "006"], ["003", "007"]]
    assert len(list((tmp_path / "labels").iterdir())) == 8
    record = json.loads((tmp_path / "patients.json").read_text())["patients"]
    assert len({r["seed"] for r in record.values()}) == 8
    assert [r["sides"] for r in record.values()] == [[phase] for phase in PHASES] * 2
    late, seed = tmp_path / "late/patient_003.nii.gz", record["patient_003"]["seed"]
    assert np.array_equal(nib.load(late).get_fdata(), np.rint(make_patient(seed, phase="late", **TINY).contrast))


def test_an_interrupted_cohort_continues_and_keeps_written_scans(tmp_path):
    write_cohort(tmp_path, patients=2, workers=1, **TINY)
    before = contents(tmp_path)
    lost, kept = tmp_path / "target/patient_001.nii.gz", tmp_path / "source/patient_000.nii.gz"
    lost.unlink()
    os.utime(kept, (1, 1))
    write_cohort(tmp_path, patients=2, workers=1, **TINY)
    assert contents(tmp_path) == before and kept.stat().st_mtime == 1
    write_cohort(tmp_path, patients=3, workers=1, **TINY)
    assert contents(tmp_path).items() >= before.items() and len(contents(tmp_path)) == 9
    assert not list(tmp_path.rglob("*.part"))


def test_a_folder_with_another_cohort_is_refused(tmp_path):
    write_cohort(tmp_path, patients=1, workers=1, **TINY)
    before = contents(tmp_path)
    for change in ({"seed": 2}, {"size": (16, 9, 9)}, {"spacing": 9.0}, {"phase": "all"}, {"unpaired": True}):
        with refused("folder-not-empty", names=next(iter(change))):
            write_cohort(tmp_path, patients=1, workers=1, **{**TINY, **change})
    assert contents(tmp_path) == before


def test_scans_of_unknown_origin_and_fewer_patients_are_refused(tmp_path):
    (tmp_path / "x/source").mkdir(parents=True)
    (tmp_path / "x/source/real.nii.gz").write_bytes(b"precious")
    with refused("folder-not-empty", names="source"):
        write_cohort(tmp_path / "x", patients=1, **TINY)
    write_cohort(tmp_path / "y", patients=2, workers=1, **TINY)
    with refused("phantom-too-many-cases"):
        write_cohort(tmp_path / "y", patients=1, workers=1, **TINY)


def test_a_folder_that_cannot_be_written_is_refused_by_name(tmp_path):
    (tmp_path / "file").write_text("here already")
    with refused("output-is-file"):
        write_cohort(tmp_path / "file", patients=1, workers=1, **TINY)


@pytest.mark.parametrize(
    "bad, code",
    [
        ({"patients": 0}, "phantom-patients-range"),
        ({"phase": "nephrographic"}, "phantom-phase-unknown"),
        ({"size": (4, 20, 20)}, "phantom-size-range"),
        ({"size": (20, 20)}, "phantom-size-range"),
        ({"spacing": 0.0}, "phantom-spacing-range"),
        ({"spacing": (1.0, 2.0)}, "phantom-spacing-range"),
        ({"seed": -1}, "phantom-seed-negative"),
        ({"workers": 0}, "phantom-workers-range"),
    ],
)
def test_invalid_arguments_are_refused(tmp_path, bad, code):
    with refused(code):
        write_cohort(tmp_path / "out", **{"patients": 1, **TINY, **bad})
    assert not (tmp_path / "out").exists()
