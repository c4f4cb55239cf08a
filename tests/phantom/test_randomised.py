"""Randomised patients: what the scans differ by is iodine, and a seed gives one patient."""

import json

import nibabel as nib
import numpy as np
import pytest
from refusal import refused

from medgen.data.cohort.read import read_cohort
from medgen.phantom.anatomy.labels import LABELS
from medgen.phantom.cohort import SCANS, write_cohort
from medgen.phantom.random_tissues import NO_IODINE, draw_tissues
from medgen.phantom.randomised import random_grid, random_scan

SIZE, SPACING = (40, 36, 32), (6.0, 6.0, 6.0)


@pytest.fixture(scope="module")
def scans():
    return {seed: random_scan(seed, SIZE, SPACING, draws=2) for seed in range(3)}


def test_same_seed_gives_the_same_scan_and_another_draw_another(scans):
    again = random_scan(1, SIZE, SPACING, draws=1)[0]
    assert np.array_equal(again.contrast, scans[1][0].contrast)
    assert not np.array_equal(scans[1][0].contrast, scans[1][1].contrast)
    assert np.array_equal(scans[1][0].labels, scans[1][1].labels)


def test_scans_differ_by_iodine_only(scans):
    """Noise, bias and kernel are shared: in most of the fat, which takes up none, the two scans agree."""
    for found in scans.values():
        for scan in found:
            difference = scan.contrast - scan.noncontrast
            fat = scan.labels == LABELS["fat"]
            assert np.median(np.abs(difference[fat])) < 2
            if scan.info["phase"] == "none":
                assert not difference.any()
            else:
                assert difference.max() > 20


@pytest.mark.parametrize("seed", range(20))
def test_tissues_that_take_up_no_iodine_get_none(seed):
    draw = draw_tissues(np.random.default_rng(seed))
    assert all(draw.iodine[name] == 0 for name in NO_IODINE)
    assert all(value >= 0 for value in draw.iodine.values())
    if draw.phase == "none":
        assert not any(draw.iodine.values())


@pytest.mark.parametrize("seed", range(40))
def test_grids_stay_within_the_limit_and_hold_no_sliver(seed):
    voxels, spacing = random_grid(seed, (64, 56, 48))
    assert np.prod(voxels) <= 1.2 * 64 * 56 * 48
    assert min(voxels) >= 16
    assert all(0.6 <= s <= 9 for s in spacing)


@pytest.mark.parametrize("height", range(8))
def test_every_part_of_the_body_can_be_drawn(height):
    """A crop may miss any organ: nothing may fail because a structure is out of view."""
    scan = random_scan(5000 + height, (24, 20, 16), (5.0, 5.0, 5.0))[0]
    assert np.isfinite(scan.contrast).all() and scan.contrast.min() >= -1024
    assert set(np.unique(scan.labels)) <= {0, *LABELS.values()}


def test_cohort_holds_three_scans_of_each_patient_and_resumes(tmp_path):
    out, given = tmp_path / "cohort", dict(patients=2, size=(24, 20, 16), seed=3, randomise=True)
    write_cohort(out, **given, workers=1)
    names = [f"patient_{n:03d}_{k}.nii.gz" for n in range(2) for k in range(SCANS)]
    for part in ("source", "target", "labels"):
        assert sorted(p.name for p in (out / part).iterdir()) == names
    (out / "source" / names[4]).unlink()
    before = (out / "source" / names[3]).read_bytes()
    write_cohort(out, **given, workers=1)
    assert (out / "source" / names[4]).exists() and (out / "source" / names[3]).read_bytes() == before
    records = json.loads((out / "patients.json").read_text())["patients"]
    assert [len(record["phases"]) for record in records.values()] == [SCANS, SCANS]
    patients = {case.name: case.patient for case in read_cohort(out).cases}
    assert patients == {f"patient_{n:03d}_{k}": f"patient_{n:03d}" for n in range(2) for k in range(SCANS)}
    image = nib.load(out / "source" / names[0])
    assert np.allclose(image.header.get_zooms(), records["patient_000"]["spacing"], atol=1e-3)


def test_contradicting_options_are_refused(tmp_path):
    with refused("phantom-randomise-conflict"):
        write_cohort(tmp_path / "a", patients=1, randomise=True, unpaired=True)
