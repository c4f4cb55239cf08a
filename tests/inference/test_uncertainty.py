import json

import nibabel as nib
import numpy as np
import pytest
import torch
from refusal import refused
from small import SMALL_METHOD, make_model, merged, small_settings

from medgen.inference.cohort.run import convert
from medgen.inference.predict import translate_volume
from medgen.inference.uncertainty import source_of_samples, translate_samples
from medgen.io.volume import Volume

DROPPING = merged(SMALL_METHOD, {"generator": {"dropout": 0.5, "levels": 6, "residual": False}})
DENOISING = {"name": "diffusion", "generator": {"filters": 4, "levels": 2, "blocks": 1}, "steps": 2}


def scan(shape=(16, 18, 12)):
    data = np.random.default_rng(0).uniform(-900, 900, shape)
    return Volume(data, np.diag([-2.0, 2, 2, 1]), np.dtype(np.int16))


def models():
    yield "diffusion", make_model(small_settings(method=DENOISING, sampling={"patch": [16, 16, 16]}))
    yield "mirroring", make_model(small_settings(sampling={"patch": [16, 16, 16], "flip": ["x", "y"]}))


@pytest.mark.parametrize(("kind", "model"), models(), ids=lambda v: v if isinstance(v, str) else "")
def test_mean_and_deviation_have_the_scans_geometry_and_the_seeds_repeat(kind, model):
    volume = scan()
    assert source_of_samples(model, 3) == kind
    (mean,), (deviation,) = translate_samples(model, [volume], 3)
    for found in (mean, deviation):
        assert found.data.shape == volume.data.shape and np.array_equal(found.affine, volume.affine)
    assert (deviation.data >= 0).all() and deviation.data.max() > 0 and deviation.dtype == np.float32
    assert mean.dtype == np.int16
    (again,), (deviation_again,) = translate_samples(model, [volume], 3)
    assert np.array_equal(mean.data, again.data) and np.array_equal(deviation.data, deviation_again.data)


def test_mirrored_translations_have_the_mean_of_inference_mirror_and_the_deviation_of_numpy():
    flip = {"sampling": {"patch": [16, 16, 16], "flip": ["x"]}}
    plain = make_model(small_settings(**flip))
    mirrored = make_model(small_settings(**flip, inference={"mirror": ["x"]}))
    volume = scan((16, 16, 16))
    first = translate_volume(plain, volume).data
    (mean,), (deviation,) = translate_samples(plain, [volume], 2)
    np.testing.assert_allclose(mean.data, translate_volume(mirrored, volume).data, atol=0.02)
    second = 2 * mean.data - first
    np.testing.assert_allclose(deviation.data, np.std([first, second], 0, ddof=1), atol=0.05)
    (same,), _ = translate_samples(mirrored, [volume], 2)  # its own averaging is off, else both would be the same
    np.testing.assert_allclose(same.data, mean.data, atol=0.02)


def test_dropout_is_on_for_samples_only():
    settings = small_settings(method=DROPPING, sampling={"patch": [64, 64, 64]}, inference={"window": "whole"})
    model = make_model(settings)
    assert source_of_samples(model, 4) == "dropout"
    volume = scan((16, 16, 16))
    before = translate_volume(model, volume).data
    state = torch.random.get_rng_state()
    _, (deviation,) = translate_samples(model, [volume], 4)
    assert deviation.data.max() > 0
    assert torch.equal(state, torch.random.get_rng_state())
    assert np.array_equal(before, translate_volume(model, volume).data)


def test_models_without_enough_variety_are_refused():
    with refused("option-samples-many", names="omit --samples"):
        source_of_samples(make_model(), 2)
    model = make_model(small_settings(sampling={"patch": [16, 16, 16], "flip": ["x", "y"]}))
    with refused("option-samples-many", names="--samples 4 or fewer"):
        source_of_samples(model, 5)
    with refused("option-samples-few", names="at least 2"):
        source_of_samples(model, 1)


@pytest.fixture
def cohort(tmp_path):
    (tmp_path / "scans").mkdir()
    for name in ("a", "b"):
        image = nib.Nifti1Image(scan().data.astype(np.int16), np.diag([2.0, 2, 2, 1]))
        nib.save(image, tmp_path / "scans" / f"{name}.nii.gz")
    return tmp_path


def test_a_run_writes_means_and_deviations_and_says_so(cohort):
    model = make_model(small_settings(sampling={"patch": [16, 16, 16], "flip": ["x", "y"]}))
    convert(model, cohort / "scans", cohort / "out", samples=3)
    records = json.loads((cohort / "out/manifest.json").read_text())["cases"]
    assert records["a"]["samples"] == {"count": 3, "from": "mirroring"}
    for name in ("a", "b"):
        mean, deviation = (nib.load(cohort / "out" / part / f"{name}.nii.gz") for part in ("", "deviation"))
        np.testing.assert_allclose(mean.affine, deviation.affine)
        assert mean.shape == deviation.shape and deviation.get_fdata().max() > 0
        assert b"deviation" in deviation.header["descrip"].item()
    results = convert(model, cohort / "scans", cohort / "out", samples=3)
    assert {r.status for r in results} == {"skipped"}
    (cohort / "out/deviation/a.nii.gz").unlink()
    results = convert(model, cohort / "scans", cohort / "out", samples=3)
    assert [r.status for r in results] == ["converted", "skipped"]
    with refused("folder-not-empty", names="samples was 3, is now 4"):
        convert(model, cohort / "scans", cohort / "out", samples=4)


def test_a_single_file_and_dicom_are_refused(cohort):
    model = make_model(small_settings(sampling={"patch": [16, 16, 16], "flip": ["x"]}))
    with refused("option-samples-files", names="give a folder"):
        convert(model, cohort / "scans/a.nii.gz", cohort / "out.nii.gz", samples=2)
    with refused("option-samples-files", names="--format nifti"):
        convert(model, cohort / "scans", cohort / "out", samples=2, format="dicom")
