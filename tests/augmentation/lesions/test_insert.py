"""Voxels outside mask and margin are unchanged, the label has the painted lesion, and the seed reproduces it."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lesion_cases import KINDS, NAMES, case, library
from refusal import refused
from scipy import ndimage

from medgen.augmentation.lesions.insert import blend_weight, insert_lesion, lesion_augmenter
from medgen.augmentation.lesions.library import build_library
from medgen.augmentation.lesions.procedural import Procedural
from medgen.io.volume import Volume

LIBRARY = library()
PAINTERS = ["cutpaste", "procedural"]


def augmented(painter, seed, images, label, **options):
    given = {"host": "organ", "per_case": (1, 2), **options}
    return lesion_augmenter(painter, LIBRARY, **given)(images, label, NAMES, np.random.default_rng(seed))


@settings(deadline=None, max_examples=12)
@given(
    seed=st.integers(0, 10**6),
    painter=st.sampled_from(PAINTERS),
    margin=st.sampled_from([None, 0.0, 3.0]),
    dtype=st.sampled_from([np.int16, np.float32]),
)
def test_outside_mask_and_margin_every_voxel_is_unchanged(seed, painter, margin, dtype):
    image, label = case(seed % 50, dtype=dtype)
    before, labels_before = image.data.copy(), label.data.copy()
    (new,), made, done = augmented(painter, seed, [image], label, margin_mm=margin)
    assert np.array_equal(image.data, before) and np.array_equal(label.data, labels_before), "the input was written to"
    assert new.dtype == image.dtype and np.array_equal(new.affine, image.affine)
    changed = made.data != label.data
    assert (label.data[changed] == NAMES["organ"]).all() and set(np.unique(made.data[changed])) <= {3, 4}
    width = 4.0 if margin is None else margin
    near = ndimage.distance_transform_edt(~changed, label.spacing) < max(width, 1e-6)
    assert new.data[~near].tobytes() == image.data[~near].tobytes()
    assert (new.data[changed] != image.data[changed]).mean() > 0.5
    assert (labels_before[near] == NAMES["organ"]).all(), "a blended voxel beyond the host or in another lesion"
    if dtype is np.int16:
        assert np.array_equal(new.data, np.rint(new.data))
    assert sum(d["volume_ml"] for d in done) == pytest.approx(changed.sum() * 0.01, abs=1e-3)


def test_record_has_the_lesion_and_its_position():
    image, label = case()
    _, made, done = augmented("procedural", 0, [image], label, per_case=(2, 2))
    json.dumps(done)
    assert len(done) == 2
    parts, count = ndimage.label((made.data != label.data), np.ones((3, 3, 3)))
    assert count == 2
    for record in done:
        assert made.data[tuple(record["site_voxel"])] == record["label_value"] == NAMES[record["kind"]]
        there = made.affine @ [*record["site_voxel"], 1]
        assert np.abs(there[:3] - record["site_mm"]).max() <= 1.25
        part = parts == parts[tuple(record["site_voxel"])]
        assert record["volume_ml"] == pytest.approx(part.sum() * 0.01)
        assert record["operation"] == "insert_lesion" and record["painter"] == "procedural"
        assert record["host"] == "organ" and np.sign(record["contrast"][0]) == (1 if record["kind"] == "bright" else -1)


def test_record_has_the_donor_of_the_lesion():
    image, label = case()
    known = {lesion.case for lesion in LIBRARY.lesions}
    taken = {p for seed in range(4) for r in augmented("cutpaste", seed, [image], label)[2] for p in r["patients"]}
    assert taken and taken <= known
    assert augmented("procedural", 0, [image], label)[2][0]["patients"] == []


@pytest.mark.parametrize("painter", PAINTERS)
def test_a_seed_gives_one_result_and_its_record_repeats_it(painter):
    image, label = case()
    (a,), la, done = augmented(painter, 5, [image], label, per_case=(1, 1))
    (b,), lb, _ = augmented(painter, 5, [image], label, per_case=(1, 1))
    (c,), lc, _ = augmented(painter, 6, [image], label, per_case=(1, 1))
    assert np.array_equal(a.data, b.data) and np.array_equal(la.data, lb.data)
    assert not np.array_equal(la.data, lc.data)
    from medgen.augmentation.lesions.insert import named_painter

    paint, draw = named_painter(painter, LIBRARY)
    (again,), _, record = insert_lesion(
        [image], label, NAMES, library=LIBRARY, kind=done[0]["kind"], host="organ", painter=paint, draw_shape=draw,
        rng=done[0]["seed"],
    )  # fmt: skip
    assert np.array_equal(again.data, a.data) and record["seed"] == done[0]["seed"]


def test_all_contrasts_get_the_lesion_at_one_place():
    image, label = case()
    second = image.replaced(image.data * 2)
    known = build_library([([image, second], label, "a")], NAMES, lesions=KINDS)
    augment = lesion_augmenter("procedural", known, host="organ", lesion="dark", per_case=(1, 1))
    new, made, (record,) = augment([image, second], label, NAMES, np.random.default_rng(0))
    inside = made.data != label.data
    first, twice = (float((n.data - v.data)[inside].mean()) for n, v in zip(new, (image, second), strict=True))
    assert first < -30 and twice == pytest.approx(2 * first, rel=0.3) and len(record["contrast"]) == 2


def test_a_host_mask_serves_as_host():
    image, label = case(lesions=False)
    half = np.zeros_like(label.data)
    half[8:20, 8:32, 6:26] = 1
    augment = lesion_augmenter("procedural", LIBRARY, host=label.replaced(half), per_case=(1, 1))
    _, made, (record,) = augment([image], label, NAMES, np.random.default_rng(0))
    assert half[made.data != label.data].all() and record["host"] == "mask"


def test_further_lesions_without_a_free_site_are_skipped():
    image, label = case(lesions=False)
    labels = np.where(label.data == NAMES["organ"], NAMES["body"], label.data)
    labels[10:25, 10:25, 10:23] = NAMES["organ"]
    _, made, done = augmented("procedural", 0, [image], label.replaced(labels), per_case=(9, 9))
    assert 1 <= len(done) < 9
    assert ndimage.label(made.data >= 3, np.ones((3, 3, 3)))[1] == len(done)


def test_missing_site_host_or_label_is_refused():
    image, label = case(lesions=False)
    labels = label.data.copy()
    labels[label.data == NAMES["organ"]] = NAMES["body"]
    with refused("lesions-host-absent"):
        augmented("cutpaste", 0, [image], label.replaced(labels))
    labels[20:24, 20:24, 10:14] = NAMES["organ"]
    with refused("lesions-no-room"):
        augmented("cutpaste", 0, [image], label.replaced(labels))
    augment = lesion_augmenter("cutpaste", LIBRARY, host="organ", lesion="dark")
    with refused("labels-name-unknown", names="dark"):
        augment([image], label, {"organ": 2}, np.random.default_rng(0))


def test_bad_settings_are_refused_before_any_scan_is_read(tmp_path):
    with refused("lesions-painter-unknown", names="brush"):
        lesion_augmenter("brush", LIBRARY, host="organ")
    with refused("lesions-kind-unknown", names="cyst"):
        lesion_augmenter("cutpaste", LIBRARY, host="organ", lesion="cyst")
    with refused("lesions-count-range", names="per_case"):
        lesion_augmenter("cutpaste", LIBRARY, host="organ", per_case=(2, 1))
    with refused("model-json-missing"):
        lesion_augmenter(tmp_path, LIBRARY, host="organ")


def test_integers_do_not_wrap_at_the_ends_of_their_type():
    image, label = case(lesions=False)
    dark = Volume(np.clip(np.where(label.data > 1, 30, 0) + image.data * 0, 0, 255), image.affine, np.uint8)
    (new,), made, record = insert_lesion(
        [dark], label, NAMES, library=LIBRARY, kind="dark", host="organ", painter=Procedural(LIBRARY), rng=0
    )
    assert new.data.min() == 0 and (new.data[made.data == 3] == 0).any()
    assert record["unlike_real"] == ["contrast"]  # 30 below the host at most, where real ones are 60


def of_patients(*patients):
    """A library of one dark and one bright lesion of each patient."""
    cases = [([image], label, patient) for patient, (image, label) in zip(patients, map(case, range(9)), strict=False)]
    return build_library(cases, NAMES, lesions=KINDS, host="organ")


@pytest.mark.parametrize("painter", PAINTERS)
def test_lesions_come_from_other_patients_where_others_have_some(painter):
    image, label = case(lesions=False)
    label = replace(label, path=Path("labels/p0_a.nii.gz"))
    options = {"host": "organ", "per_case": (2, 2), "patients": {label.path: "p0"}}
    for seed in range(4):
        augment = lesion_augmenter(painter, of_patients("p0", "p1", "p0", "p2"), **options)
        _, _, done = augment([image], label, NAMES, np.random.default_rng(seed))
        assert done and not any("p0" in step["patients"] or "warnings" in step for step in done)
        assert {step["donor"] for step in done} == {"another patient" if painter == "cutpaste" else "none"}
        assert all(set(step["patients"]) <= {"p1", "p2"} for step in done)


def test_the_patient_is_known_by_the_image_if_the_label_map_was_reoriented(tmp_path):
    image, label = case(lesions=False)
    image = replace(image, path=Path("images/p0_a.nii.gz"))  # the label map has no path
    augment = lesion_augmenter("cutpaste", of_patients("p0", "p1"), host="organ", patients={image.path: "p0"})
    _, _, done = augment([image], label, NAMES, np.random.default_rng(0))
    assert {step["donor"] for step in done} == {"another patient"}


def test_a_patients_own_lesion_is_inserted_with_a_warning_if_no_other_patient_has_one():
    image, label = case(lesions=False)
    label = replace(label, path=Path("labels/p0_a.nii.gz"))
    augment = lesion_augmenter("cutpaste", of_patients("p0"), host="organ", patients={label.path: "p0"}, lesion="dark")
    _, _, (step, *_) = augment([image], label, NAMES, np.random.default_rng(0))
    assert step["donor"] == "the patient" and step["patients"] == ["p0"]
    (warning,) = step["warnings"]
    assert "only p0 has lesions of kind dark" in warning and "one of the patient's own lesions" in warning
    _, _, (step, *_) = augmented("cutpaste", 0, [image], label.replaced(label.data))
    assert step["donor"] == "unknown"


def test_an_unrealistic_lesion_is_not_inserted(monkeypatch):
    """A painter that gives every lesion the wrong sign: the label must not have the lesion."""
    image, label = case(lesions=False)
    paint = Procedural.__call__
    monkeypatch.setattr(Procedural, "__call__", lambda self, patch, rng: 2 * patch.image - paint(self, patch, rng))
    with refused("lesions-not-realistic", names="contrast"):
        augmented("procedural", 0, [image], label, per_case=(1, 1))


def test_weight_falls_from_one_to_nothing_at_the_margin():
    mask = np.zeros((9, 1, 1), bool)
    mask[4] = True
    assert blend_weight(mask, (1, 1, 1), 2.0).ravel().tolist() == [0, 0, 0, 0.5, 1, 0.5, 0, 0, 0]
    assert np.array_equal(blend_weight(mask, (1, 1, 1), 0.0) > 0, mask)
