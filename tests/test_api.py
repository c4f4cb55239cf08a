"""The Python API: the examples in its docstrings run, and every type of image is returned as that type."""

import doctest
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import yaml
from refusal import refused
from small import make_model, write_cohort

import medgen
from medgen import api
from medgen.checkpoint import save_model
from medgen.config import plain
from medgen.inference.predict import translate_volume


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Files named in the examples: a scan alone and in a folder, a model, a cohort with a config."""
    from training.test_loop import settings_of

    path = tmp_path_factory.mktemp("api")
    cohort = write_cohort(path / "cohort")
    (path / "scans").mkdir()
    for place in (path / "ct.nii.gz", path / "scans" / "ct.nii.gz"):
        place.write_bytes((cohort / "source" / "case0.nii.gz").read_bytes())
    model = make_model()
    (path / "RUN" / "best").mkdir(parents=True)
    save_model(path / "RUN" / "best", model.generator, model.info)
    (path / "config.yaml").write_text(yaml.safe_dump(plain(settings_of(cohort, train={"validation_cases": 1}))))
    return path


@pytest.fixture
def model(folder):
    return medgen.load(folder / "RUN" / "best")


@pytest.mark.parametrize("name", [name for name in medgen.__all__ if name not in ("Volume", "InputError")])
def test_examples_of_the_docstrings_run(name, folder, model, monkeypatch):
    monkeypatch.chdir(folder)
    globals_ = {"medgen": medgen, "model": model}
    (test,) = doctest.DocTestFinder(recurse=False).find(getattr(medgen, name), name, globs=globals_)
    assert test.examples
    assert doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test).failed == 0


def test_images_of_every_type_return_as_that_type_with_the_same_values(folder, model):
    path = folder / "ct.nii.gz"
    volume = medgen.read(path)
    expected = translate_volume(model, volume).data
    assert np.array_equal(medgen.translate(model, path).data, expected)
    image = medgen.translate(model, nib.load(path))
    assert np.array_equal(image.get_fdata(), expected) and np.array_equal(image.affine, volume.affine)
    source = sitk.ReadImage(str(path))
    made = medgen.translate(model, source)
    assert np.array_equal(sitk.GetArrayFromImage(made).transpose(2, 1, 0), expected)
    assert made.GetOrigin() == source.GetOrigin() and made.GetDirection() == source.GetDirection()
    array = medgen.translate(model, volume.data, affine=volume.affine)
    assert type(array) is np.ndarray and np.array_equal(array, expected)


def test_an_array_without_affine_is_refused(model):
    with refused("volume-affine-missing"):
        medgen.translate(model, np.zeros((20, 20, 20)))


def test_images_on_two_grids_are_not_compared(folder):
    volume = medgen.read(folder / "ct.nii.gz")
    assert medgen.compare(volume, volume)["mae"] == 0
    moved = volume.affine.copy()
    moved[0, 3] += 10
    with refused("pair-grid-differs"):
        medgen.compare(volume, medgen.Volume(volume.data, moved))


def test_importing_medgen_imports_no_network_code():
    code = "import sys, medgen; assert 'torch' not in sys.modules and 'monai' not in sys.modules; dir(medgen)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_unknown_names_list_the_known_ones():
    with pytest.raises(AttributeError, match="translate"):
        medgen.transalte  # noqa: B018
    assert set(medgen.__all__) <= set(dir(medgen)) and api.__doc__
