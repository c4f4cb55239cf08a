"""The Python API: the functions that ``import medgen`` offers.

An image is a path (NIfTI, NRRD, MetaImage, a DICOM folder), a `Volume`, a nibabel image, a SimpleITK image, or an array
(X, Y, Z) with its ``affine`` (voxel to RAS mm). Images keep the unit of their file: HU for CT.
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import SimpleITK as sitk

from medgen.checkpoint import Model, load_model
from medgen.config import config_file, load_settings
from medgen.errors import InputError
from medgen.evaluation.evaluate import evaluate as _evaluate
from medgen.evaluation.inputs import Inputs, Options
from medgen.evaluation.metrics.image_pair import within
from medgen.evaluation.metrics.metric import Pair
from medgen.evaluation.summary import Evaluation
from medgen.inference.check import checks_for
from medgen.inference.cohort.run import convert
from medgen.inference.job import Converted
from medgen.inference.predict import translate_case
from medgen.io.formats.itk import itk_affine, to_itk
from medgen.io.read import read_volume
from medgen.io.volume import Volume, same_geometry
from medgen.io.write import write_volume
from medgen.settings import Settings
from medgen.training.loop import train as _train

NO_PATHS = ("cases", "patient_pattern")  # of `Inputs`
HU_RANGE = 4095.0  # span of 12 bits, for PSNR and SSIM of CT


def read(path: str | Path, *, series: str | None = None) -> Volume:
    """Read one 3D image.

    Args:
        path: NIfTI, NRRD, MHA or MHD file, or a folder with a DICOM series.
        series: which DICOM series, where there are several: UID, number or part of its description.

    Returns:
        A `Volume`: ``data`` (X, Y, Z) float32 in the file's unit, ``affine`` (4, 4) voxel to RAS mm.

    Raises:
        InputError: not one finite 3D image with a usable position in space.

    >>> ct = medgen.read("ct.nii.gz")
    >>> ct.data.shape, ct.spacing
    ((20, 24, 16), (2.0, 2.0, 2.0))
    """
    return read_volume(path, series=series)


def write(path: str | Path, volume: Volume) -> None:
    """Write a volume in the format of the file's name, whole or not at all.

    Raises:
        InputError: an unknown ending, a place that cannot be written, NaN or infinite values.

    >>> medgen.write("copy.mha", medgen.read("ct.nii.gz"))
    >>> medgen.read("copy.mha").spacing
    (2.0, 2.0, 2.0)
    """
    write_volume(path, volume)


def load(folder: str | Path, *, device: str = "cpu", target: str | None = None) -> Model:
    """Load a trained model.

    Args:
        folder: ``best`` or ``last`` of a run folder.
        device: cpu, cuda, cuda:1, mps.
        target: the domain to translate to, of a model of several.

    Raises:
        InputError: no model folder, or one of another format.

    >>> model = medgen.load("RUN/best")
    >>> model.settings.method.name
    'pix2pix'
    """
    return load_model(Path(folder), device, target=target)


def translate(model: Model, image: Any, *, affine: np.ndarray | None = None, memory_gb: float | None = None) -> Any:
    """Translate one case in memory.

    Args:
        model: see `load`.
        image: an image, or a list of them for a model of several source contrasts.
        affine: voxel to RAS mm (4, 4), of an array.
        memory_gb: bound for the network's pass; None: the model's own.

    Returns:
        The translation on the input's grid, of the input's kind: a nibabel image for a nibabel image, a SimpleITK
        image for one, an array for an array, a `Volume` for a path or a `Volume`; a list of them for a model of
        several target contrasts.

    Raises:
        InputError: images that the model cannot translate.

    >>> made = medgen.translate(model, "ct.nii.gz")
    >>> made.data.shape
    (20, 24, 16)
    >>> import nibabel
    >>> type(medgen.translate(model, nibabel.load("ct.nii.gz"))).__name__
    'Nifti1Image'
    """
    images = list(image) if isinstance(image, list | tuple) else [image]
    made = translate_case(model, [_volume(one, affine) for one in images], memory_gb=memory_gb)
    found = [_like(volume, images[0]) for volume in made]
    return found[0] if len(found) == 1 else found


def convert_cohort(model: Model, source: str | Path, output: str | Path, *, checks: str = "auto") -> list[Converted]:
    """Translate a folder of scans with quality check, manifest and resume, as ``medgen translate`` does.

    Args:
        source: a volume, a folder of volumes, a DICOM series folder, or a folder of such folders.
        output: folder for the results.
        checks: limits of the quality check: auto, none, the name of a file in configs/checks, or a YAML file.

    Returns:
        One entry a scan, with ``status``, ``verdict``, ``reasons`` and ``error``; a scan that failed is among them.

    Raises:
        InputError: nothing to convert, or an output that cannot be written.

    >>> [(one.case, one.status) for one in medgen.convert_cohort(model, "scans", "converted", checks="none")]
    [('ct', 'converted')]
    """
    return convert(model, Path(source), Path(output), checks=checks_for(model, checks))


def compare(
    reference: Any, prediction: Any, *, mask: np.ndarray | None = None, data_range: float = HU_RANGE
) -> dict[str, float]:
    """Fidelity of an image to the true one.

    Args:
        reference, prediction: images on one grid.
        mask: (X, Y, Z), where errors count; None: everywhere.
        data_range: span of possible values, for PSNR and SSIM; 4095 HU for CT.

    Returns:
        ``mae``, ``rmse`` (in the images' unit), ``psnr`` (dB), ``ssim``, ``ms_ssim`` where the images are large
        enough, ``ncc`` and ``gradient_error`` (unit per mm).

    Raises:
        InputError: two grids, or images that cannot be compared.

    >>> medgen.compare("ct.nii.gz", "ct.nii.gz")["mae"]
    0.0
    """
    true, made = (_volume(image, np.eye(4)) for image in (reference, prediction))
    if not same_geometry(true.geometry, made.geometry):
        raise InputError(
            "pair-grid-differs",
            f"the images lie on two grids: {true.geometry.describe()}, and {made.geometry.describe()}",
        )
    pair = Pair(true.data, made.data, data_range=data_range, spacing=true.spacing)
    return within(pair, None if mask is None else np.asarray(mask, bool))


def evaluate(
    prediction: str | Path, out: str | Path, *, reference: str | Path | None = None, source: str | Path | None = None,
    **options: Any,
) -> Evaluation:  # fmt: skip
    """Measure a folder of translations, as ``medgen evaluate`` does, without the report.

    Args:
        prediction: folder of translated volumes.
        out: folder for ``cases.csv``, ``regions.csv`` and ``summary.json``.
        reference: folder of true volumes of the same names.
        source: folder of the unconverted volumes.
        options: further ``labels``, ``mask``, ..., see `medgen.evaluation.inputs.Inputs`; ``profile``, ``data_range``,
            ..., see `medgen.evaluation.inputs.Options`.

    Raises:
        InputError: nothing to measure, or a folder that cannot be used.

    >>> found = medgen.evaluate("scans", "results", reference="scans")
    >>> [case.name for case in found.cases], found.failures
    (['ct'], [])
    """
    roles = {field.name for field in fields(Inputs)}
    given: dict[str, Any] = {"prediction": prediction, "reference": reference, "source": source}
    given |= {name: options.pop(name) for name in roles & set(options)}
    paths = {name: Path(value) for name, value in given.items() if value is not None and name not in NO_PATHS}
    return _evaluate(Inputs(**(given | paths)), Path(out), Options(**options))


def train(
    config: str | Path | Settings, out: str | Path, overrides: Mapping[str, Any] | Sequence[str] = (), **options: Any
) -> Path:
    """Train a translator.

    Args:
        config: YAML file, the name of a shipped config (``medgen configs`` lists them), or settings.
        out: run folder.
        overrides: of keys, as {"train.steps": 100} or ["train.steps=100"].
        options: ``resume``, ``overwrite``, ``say``, see `medgen.training.loop.train`.

    Returns:
        The folder of the best model, for `load`.

    Raises:
        InputError: settings or data that cannot be used.

    >>> best = medgen.train("config.yaml", "NEW_RUN", {"train.steps": 2}, say=lambda line: None)
    step 1/2 ...
    >>> best.name
    'best'
    """
    given = [f"{key}={value}" for key, value in overrides.items()] if isinstance(overrides, Mapping) else [*overrides]
    settings = config if isinstance(config, Settings) else load_settings(config_file(config), given)
    return _train(settings, Path(out), **options)


def _volume(image: Any, affine: np.ndarray | None) -> Volume:
    if isinstance(image, Volume):
        return image
    if isinstance(image, str | Path):
        return read_volume(image)
    if isinstance(image, sitk.Image):
        array = sitk.GetArrayFromImage(image).transpose(2, 1, 0)
        return Volume(array, itk_affine(image), array.dtype)
    if isinstance(image, nib.spatialimages.SpatialImage):
        header = image.header if isinstance(image, nib.Nifti1Image) else None
        return Volume(image.get_fdata(dtype=np.float32), image.affine, image.get_data_dtype(), header)
    if affine is None:
        raise InputError(
            "volume-affine-missing",
            "an array has no place in space: give affine, the (4, 4) matrix from voxels to RAS mm",
        )
    return Volume(np.asarray(image), affine, np.asarray(image).dtype)


def _like(volume: Volume, image: Any) -> Any:
    if isinstance(image, str | Path | Volume):
        return volume
    if isinstance(image, sitk.Image):
        return to_itk(volume.data, volume.affine)
    if isinstance(image, nib.spatialimages.SpatialImage):
        return nib.Nifti1Image(volume.data, volume.affine)
    return volume.data
