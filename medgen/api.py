"""The Python API: the functions of ``import medgen``.

An image can be a path (NIfTI, NRRD, MetaImage, a DICOM folder), a `Volume`, a nibabel image, a SimpleITK image, or an
array (X, Y, Z) with its ``affine`` (voxel to RAS mm). Images keep the unit of their file: HU for CT.
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
from medgen.evaluation.metrics.image_pair import metrics_in_mask
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

NO_PATHS = ("cases", "patient_pattern")  # fields of `Inputs` that are not paths
HU_RANGE = 4095.0  # range of 12-bit values, for PSNR and SSIM of CT


def read(path: str | Path, *, series: str | None = None) -> Volume:
    """Read one 3D image.

    Args:
        path: NIfTI, NRRD, MHA or MHD file, or a folder with a DICOM series.
        series: DICOM series to read if there are several: UID, number or part of the description.

    Returns:
        A `Volume`: ``data`` (X, Y, Z) float32 in the file's unit, ``affine`` (4, 4) voxel to RAS mm.

    Raises:
        InputError: not a single 3D image with finite values and a valid affine.

    >>> ct = medgen.read("ct.nii.gz")
    >>> ct.data.shape, ct.spacing
    ((20, 24, 16), (2.0, 2.0, 2.0))
    """
    return read_volume(path, series=series)


def write(path: str | Path, volume: Volume) -> None:
    """Write a volume in the format of the file extension. An interrupted write leaves no partial file.

    Raises:
        InputError: unknown extension, unwritable location, or NaN or infinite values.

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
        target: the domain to translate to, for a model with several.

    Raises:
        InputError: not a model folder, another format version, an unknown target, or a device that torch cannot use.

    >>> model = medgen.load("RUN/best")
    >>> model.settings.method.name
    'pix2pix'
    """
    return load_model(Path(folder), device, target=target, ensembles=True)


def translate(model: Model, image: Any, *, affine: np.ndarray | None = None, memory_gb: float | None = None) -> Any:
    """Translate one case in memory.

    Args:
        model: see `load`.
        image: an image, or a list of images for a model with several source contrasts.
        affine: voxel to RAS mm (4, 4), if the image is an array.
        memory_gb: memory limit of a whole-volume pass in GB; None: that of the model's settings.

    Returns:
        The translation on the input's grid (with inference.grid = model: on the model's) and of the input's type:
        nibabel image, SimpleITK image, array, or `Volume` for a `Volume` or a path. For a model with several target
        contrasts, a list of them.

    Raises:
        InputError: the model cannot translate these images.

    >>> translated = medgen.translate(model, "ct.nii.gz")
    >>> translated.data.shape
    (20, 24, 16)
    >>> import nibabel
    >>> type(medgen.translate(model, nibabel.load("ct.nii.gz"))).__name__
    'Nifti1Image'
    """
    images = list(image) if isinstance(image, list | tuple) else [image]
    volumes = translate_case(model, [_volume(one, affine) for one in images], memory_gb=memory_gb)
    outputs = [_like(volume, images[0]) for volume in volumes]
    return outputs[0] if len(outputs) == 1 else outputs


def convert_cohort(model: Model, source: str | Path, output: str | Path, *, checks: str = "auto") -> list[Converted]:
    """Translate a folder of scans with quality control, manifest and resume, as ``medgen translate`` does.

    Args:
        source: a volume, a folder of volumes, a DICOM series folder, or a folder of such folders.
        output: output folder.
        checks: limits of the quality check: auto, none, the name of a file in configs/checks, or a YAML file.

    Returns:
        One entry per scan, failed scans included, with ``status``, ``verdict``, ``reasons`` and ``error``.

    Raises:
        InputError: nothing to convert, or the output folder cannot be written.

    >>> medgen.convert_cohort(model, "scans", "converted", checks="none")[0].status
    'converted'
    """
    return convert(model, Path(source), Path(output), checks=checks_for(model, checks))


def compare(
    reference: Any, prediction: Any, *, mask: np.ndarray | None = None, data_range: float = HU_RANGE
) -> dict[str, float]:
    """Compute fidelity metrics of an image against a reference image.

    Args:
        reference: the true image.
        prediction: the image to measure, on the same grid.
        mask: (X, Y, Z), voxels to include; None: all.
        data_range: range of possible values, for PSNR and SSIM; 4095 HU for CT.

    Returns:
        ``mae`` and ``rmse`` (in the images' unit), ``psnr`` (dB), ``ssim``, ``ms_ssim`` if the images are large enough,
        ``ncc`` and ``gradient_error`` (unit per mm).

    Raises:
        InputError: the grids differ, or the images cannot be compared.

    >>> medgen.compare("ct.nii.gz", "ct.nii.gz")["mae"]
    0.0
    """
    true, predicted = (_volume(image, np.eye(4)) for image in (reference, prediction))
    if not same_geometry(true.geometry, predicted.geometry):
        raise InputError(
            "pair-grid-differs",
            f"reference and prediction are on different grids: {true.geometry.describe()}, and "
            f"{predicted.geometry.describe()}; resample one to the grid of the other",
        )
    pair = Pair(true.data, predicted.data, data_range=data_range, spacing=true.spacing)
    return metrics_in_mask(pair, None if mask is None else np.asarray(mask, bool))


def evaluate(
    prediction: str | Path, out: str | Path, *, reference: str | Path | None = None, source: str | Path | None = None,
    **options: Any,
) -> Evaluation:  # fmt: skip
    """Evaluate a folder of translations as ``medgen evaluate`` does, without the report.

    Args:
        prediction: folder of translated volumes.
        out: folder for ``cases.csv``, ``regions.csv`` and ``summary.json``.
        reference: folder of true volumes with the same names.
        source: folder of the unconverted volumes.
        options: ``labels``, ``mask``, ..., see `medgen.evaluation.inputs.Inputs`; ``profile``, ``data_range``, ..., see
            `medgen.evaluation.inputs.Options`.

    Raises:
        InputError: nothing to evaluate, or a folder that cannot be used.

    >>> evaluation = medgen.evaluate("scans", "results", reference="scans")
    >>> [case.name for case in evaluation.cases], evaluation.failures
    (['ct'], [])
    """
    roles = {field.name for field in fields(Inputs)}
    inputs: dict[str, Any] = {"prediction": prediction, "reference": reference, "source": source}
    inputs |= {name: options.pop(name) for name in roles & set(options)}
    paths = {name: Path(value) for name, value in inputs.items() if value is not None and name not in NO_PATHS}
    return _evaluate(Inputs(**(inputs | paths)), Path(out), Options(**options))


def train(
    config: str | Path | Settings, out: str | Path, overrides: Mapping[str, Any] | Sequence[str] = (), **options: Any
) -> Path:
    """Train a translation model.

    Args:
        config: YAML file, the name of a shipped config (``medgen configs`` lists them), or settings.
        out: run folder.
        overrides: values of single keys, as {"train.steps": 100} or ["train.steps=100"].
        options: ``resume``, ``overwrite``, ``say``, see `medgen.training.loop.train`.

    Returns:
        The folder of the best model, for `load`.

    Raises:
        InputError: the settings or data cannot be used.

    >>> best = medgen.train("config.yaml", "NEW_RUN", {"train.steps": 2}, say=lambda line: None)
    step 1/2 ...
    >>> best.name
    'best'
    """
    changes = [f"{key}={value}" for key, value in overrides.items()] if isinstance(overrides, Mapping) else [*overrides]
    settings = config if isinstance(config, Settings) else load_settings(config_file(config), changes)
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
            "an array needs an affine; pass affine, the (4, 4) matrix from voxels to RAS mm",
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
