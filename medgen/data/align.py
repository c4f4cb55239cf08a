"""Align a moving volume with the grid of a fixed volume, and report the overlap and the displacement.

resample  trust the scanner coordinates: linear interpolation onto the fixed grid, no registration
rigid     three rotations and three translations that maximise Mattes mutual information (Mattes 2003), coarse to fine
bspline   rigid, then a cubic B-spline deformation with control points about 60 mm apart
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from typing import Any

import numpy as np
import SimpleITK as sitk

from medgen.data.grid import unmixed
from medgen.data.intensity import masked_value
from medgen.errors import InputError
from medgen.io.formats.itk import to_itk
from medgen.io.grids import on_axes_of, same_grid
from medgen.io.volume import Volume

METHODS = ("resample", "rigid", "bspline")
SEED = 1  # of the jitter of the sampled voxels; with 0 SimpleITK seeds from the clock
BINS = 32  # bins of the joint histogram
SAMPLES = 50_000  # voxels that the metric samples, regularly spread over the fixed volume
CONTROL_MM = 60.0
MIN_VOXELS = 4  # along each axis, for ITK's mutual information
MIN_OVERLAP = 0.01


def align(
    moving: Volume, fixed: Volume, method: str = "resample", *, background: float | None = None
) -> tuple[Volume, dict[str, Any]]:
    """Resample ``moving`` onto the grid of ``fixed``, after registration if ``method`` asks for it.

    Voxels outside the moving volume get its minimum (air in CT). The result is reproducible: one thread, regular
    sampling.

    Args:
        background: value of masked voxels of ``moving``, if it is masked; they are not mixed with tissue, see
            ``grid.unmixed``, and it is also the value outside the volume.

    Returns:
        The volume (affine and shape of ``fixed``, stored type of ``moving``) and a dict: "method"; "overlap", share of
        the fixed grid that the moving volume covers; "information_before" and "information_after", mutual information
        of the pair in nats (higher is better); "mean_displacement_mm" and "max_displacement_mm" of points of the fixed
        grid; "message", one sentence.

    Raises:
        InputError: unknown method, or volumes that do not overlap.
    """
    if method not in METHODS:
        raise InputError(
            "config-align-unknown", f"data.align = {method!r} is not known; use one of {', '.join(METHODS)}"
        )
    with _one_thread():
        return _align(moving, fixed, method, masked_value(moving.data, background))


def to_common_grid(volumes: Sequence[Volume], method: str, background: float | None = None) -> list[Volume]:
    """Bring the contrasts of a case onto the grid and the axes of the first one.

    With method "refuse" they must share a grid, and only their axes are reordered; otherwise `align` is applied.

    Raises:
        InputError: ``method`` is "refuse" and the grids differ (the message shows both), or an error of `align`.
    """
    first = volumes[0]
    same = [same_grid(first.geometry, v.geometry) for v in volumes]
    if method == "refuse" and not all(same):
        other = volumes[same.index(False)]
        raise InputError(
            "pair-grid-differs",
            f"contrasts of one case are on different grids: {first.path} is [{first.geometry.describe()}], "
            f"{other.path} is [{other.geometry.describe()}]; resample them onto one grid",
        )
    if method == "refuse":
        return [on_axes_of(v, first) for v in volumes]
    return [v if v is first else align(v, first, method, background=background)[0] for v in volumes]


def _align(moving: Volume, fixed: Volume, method: str, background: float | None) -> tuple[Volume, dict[str, Any]]:
    images = to_itk(fixed.data, fixed.affine), to_itk(moving.data, moving.affine)
    identity = sitk.Transform(3, sitk.sitkIdentity)
    overlap = _overlap(*images)
    if overlap < MIN_OVERLAP:
        raise InputError(
            "pair-no-overlap",
            f"{moving.path or 'the source'} and {fixed.path or 'the target'} do not overlap in space "
            f"([{moving.geometry.describe()}] and [{fixed.geometry.describe()}]); correct their affines",
        )
    thinnest = min(*images[0].GetSize(), *images[1].GetSize())
    if method != "resample" and thinnest < MIN_VOXELS:
        raise InputError(
            "pair-too-thin",
            f"{moving.path or 'the source'} or {fixed.path or 'the target'} has {thinnest} voxels along an axis, and "
            f"registration needs {MIN_VOXELS}; use data.align=resample",
        )
    before = _information(*images, identity)
    transform = identity
    if method != "resample":
        transform = _rigid(*images)
    if method == "bspline":
        transform = _bspline(*images, transform)
    after = _information(*images, transform)
    message = "resampled without registration" if method == "resample" else f"registered ({method})"
    if after < before:
        transform, after = identity, before
        message = f"the {method} registration did not improve the mutual information: resampled only"
    mean, highest = _displacement(fixed, transform)
    if same_grid(fixed.geometry, moving.geometry, 1e-6) and mean == 0:
        data = on_axes_of(moving, fixed).data.copy()
    else:

        def resampled(values: np.ndarray) -> np.ndarray:
            own, fill = to_itk(values, moving.affine), float(values.min())
            image = sitk.Resample(own, images[0], transform, sitk.sitkLinear, fill, sitk.sitkFloat32)
            return np.asarray(sitk.GetArrayFromImage(image).transpose())

        data = unmixed(moving.data, background, resampled)
    residual = {
        "method": method,
        "overlap": overlap,
        "information_before": before,
        "information_after": after,
        "mean_displacement_mm": mean,
        "max_displacement_mm": highest,
        "message": message,
    }
    return Volume(data, fixed.affine, moving.dtype, None, moving.path, warnings=moving.warnings), residual


def _rigid(fixed: sitk.Image, moving: sitk.Image) -> sitk.Transform:
    """Rigid transform from fixed to moving world coordinates, starting from the identity."""
    start = sitk.Euler3DTransform()
    start.SetCenter(fixed.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in fixed.GetSize()]))
    registration = _registration(fixed, levels=3, min_voxels=2000)
    registration.SetInitialTransform(start, inPlace=False)
    registration.SetOptimizerAsRegularStepGradientDescent(
        learningRate=1.0,
        minStep=1e-4,
        numberOfIterations=300,
        relaxationFactor=0.6,
        gradientMagnitudeTolerance=1e-8,
    )
    registration.SetOptimizerScalesFromPhysicalShift()
    return registration.Execute(fixed, moving)


def _bspline(fixed: sitk.Image, moving: sitk.Image, rigid: sitk.Transform) -> sitk.Transform:
    """Composite of a B-spline deformation of the fixed grid and the rigid transform."""
    extent = np.multiply(fixed.GetSize(), fixed.GetSpacing())
    mesh = [max(1, int(round(length / CONTROL_MM))) for length in extent]
    start = sitk.BSplineTransformInitializer(fixed, mesh, 3)
    registration = _registration(fixed, levels=2, min_voxels=20 * BINS**2)  # with fewer it fits noise
    registration.SetMovingInitialTransform(rigid)
    registration.SetInitialTransform(start, inPlace=False)
    registration.SetOptimizerAsLBFGSB(
        gradientConvergenceTolerance=1e-5, numberOfIterations=40, maximumNumberOfFunctionEvaluations=80
    )
    deformation = registration.Execute(fixed, moving)
    return sitk.CompositeTransform([rigid, deformation])  # SimpleITK applies the last one first


def _registration(fixed: sitk.Image, levels: int, min_voxels: int = 0) -> sitk.ImageRegistrationMethod:
    """Mattes mutual information on a pyramid; coarse levels with fewer than ``min_voxels`` voxels are skipped."""
    registration = sitk.ImageRegistrationMethod()
    registration.SetMetricAsMattesMutualInformation(BINS)
    registration.SetMetricSamplingStrategy(registration.REGULAR)
    spacing, voxels = float(min(fixed.GetSpacing())), float(np.prod(fixed.GetSize(), dtype=float))
    factors = [f for f in (4, 2, 1)[-levels:] if f == 1 or voxels / f**3 >= min_voxels]
    shares = [float(np.clip(SAMPLES * f**3 / voxels, 0.001, 1)) for f in factors]
    registration.SetMetricSamplingPercentagePerLevel(shares, SEED)
    registration.SetShrinkFactorsPerLevel(factors)
    registration.SetSmoothingSigmasPerLevel([f * spacing / 2 if f > 1 else 0.0 for f in factors])
    registration.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
    registration.SetInterpolator(sitk.sitkLinear)
    return registration


def _information(fixed: sitk.Image, moving: sitk.Image, transform: sitk.Transform) -> float:
    """Mutual information in nats at full resolution; ITK minimises its negative."""
    measure = _registration(fixed, levels=1)
    measure.SetInitialTransform(transform)
    if min(*fixed.GetSize(), *moving.GetSize()) < MIN_VOXELS or _constant(fixed) or _constant(moving):
        return 0.0
    return -float(measure.MetricEvaluate(fixed, moving))


def _constant(image: sitk.Image) -> bool:
    values = sitk.GetArrayViewFromImage(image)
    return bool(values.min() == values.max())


def _overlap(fixed: sitk.Image, moving: sitk.Image) -> float:
    ones = sitk.Image(moving.GetSize(), sitk.sitkUInt8) + 1
    ones.CopyInformation(moving)
    covered = sitk.Resample(ones, fixed, sitk.Transform(3, sitk.sitkIdentity), sitk.sitkNearestNeighbor, 0)
    return float(sitk.GetArrayViewFromImage(covered).mean())


def _displacement(fixed: Volume, transform: sitk.Transform) -> tuple[float, float]:
    """Mean and maximum displacement in mm of 9 x 9 x 9 points spread over the fixed volume."""
    ends = np.array(fixed.data.shape) - 1
    lengths = []
    for share in product(np.linspace(0, 1, 9), repeat=3):
        ras = fixed.affine @ (*(ends * share), 1.0)
        point = (ras[:3] * (-1, -1, 1)).tolist()
        lengths.append(float(np.linalg.norm(np.subtract(transform.TransformPoint(point), point))))
    return float(np.mean(lengths)), max(lengths)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Run SimpleITK on one thread: the order of sums over several threads varies between runs."""
    threads = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
