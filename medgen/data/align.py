"""Pairs whose grids differ: the moving volume brought onto the fixed one's grid, with what is left reported.

resample  the scanner's coordinates are trusted: linear interpolation onto the fixed grid, nothing is moved
rigid     three turns and three shifts that maximise Mattes mutual information (Mattes 2003), coarse to fine
bspline   rigid first, then a cubic B-spline deformation of control points about 60 mm apart
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from typing import Any

import numpy as np
import SimpleITK as sitk

from medgen.errors import InputError
from medgen.io.formats.itk import to_itk
from medgen.io.grids import on_axes_of, same_grid
from medgen.io.volume import Volume

METHODS = ("resample", "rigid", "bspline")
SEED = 1  # of the jitter of the sampled voxels; SimpleITK takes 0 for the wall clock
BINS = 32  # of the joint histogram
SAMPLES = 50_000  # voxels the metric looks at, regularly spread over the fixed volume
CONTROL_MM = 60.0
MIN_OVERLAP = 0.01


def align(moving: Volume, fixed: Volume, method: str = "resample") -> tuple[Volume, dict[str, Any]]:
    """``moving`` on the grid of ``fixed``, and what the alignment did.

    Where the moving volume does not reach, its minimum (air in CT) is filled in. The result is the same on
    every run: one thread, regular sampling.

    Returns:
        The volume (affine and shape of ``fixed``, stored type of ``moving``), and a dict: "method";
        "overlap", share of the fixed grid that the moving volume covers; "information_before" and
        "information_after", mutual information in nats of the pair (higher is better); "mean_displacement_mm"
        and "max_displacement_mm" of the fixed grid's points; "message", one sentence.

    Raises:
        InputError: unknown method, or volumes that do not overlap.
    """
    if method not in METHODS:
        raise InputError("config-align-unknown", f"data.align = {method!r} is unknown; use one of {', '.join(METHODS)}")
    with _one_thread():
        return _align(moving, fixed, method)


def on_one_grid(volumes: Sequence[Volume], method: str) -> list[Volume]:
    """The contrasts of a case on the grid and the axes of the first: aligned, or turned where they share it already.

    Raises:
        InputError: ``method`` is "refuse" and the grids differ (both geometries are shown), or as ``align``.
    """
    first = volumes[0]
    same = [same_grid(first.geometry, v.geometry) for v in volumes]
    if method == "refuse" and not all(same):
        other = volumes[same.index(False)]
        raise InputError(
            "pair-grid-differs",
            f"contrasts of one case are on different grids: {first.path} is [{first.geometry.describe()}], "
            f"{other.path} is [{other.geometry.describe()}]; bring them onto one",
        )
    if method == "refuse":
        return [on_axes_of(v, first) for v in volumes]
    return [v if v is first else align(v, first, method)[0] for v in volumes]


def _align(moving: Volume, fixed: Volume, method: str) -> tuple[Volume, dict[str, Any]]:
    images = to_itk(fixed.data, fixed.affine), to_itk(moving.data, moving.affine)
    identity = sitk.Transform(3, sitk.sitkIdentity)
    overlap = _overlap(*images)
    if overlap < MIN_OVERLAP:
        raise InputError(
            "pair-no-overlap",
            f"{moving.path or 'the source'} and {fixed.path or 'the target'} do not overlap in space "
            f"([{moving.geometry.describe()}] and [{fixed.geometry.describe()}]); correct their affines",
        )
    before = _information(*images, identity)
    transform = identity
    if method != "resample":
        transform = _rigid(*images)
    if method == "bspline":
        transform = _bspline(*images, transform)
    after = _information(*images, transform)
    message = "resampled, nothing moved" if method == "resample" else f"registered ({method})"
    if after < before:
        transform, after = identity, before
        message = f"the {method} registration found nothing better than the given position: resampled only"
    mean, highest = _displacement(fixed, transform)
    if same_grid(fixed.geometry, moving.geometry, 1e-6) and mean == 0:
        data = on_axes_of(moving, fixed).data.copy()
    else:
        fill = float(moving.data.min())
        image = sitk.Resample(images[1], images[0], transform, sitk.sitkLinear, fill, sitk.sitkFloat32)
        data = sitk.GetArrayFromImage(image).transpose()
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
    """Fixed -> moving world coordinates, starting from the coordinates as they are."""
    start = sitk.Euler3DTransform()
    start.SetCenter(fixed.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in fixed.GetSize()]))
    registration = _registration(fixed, levels=3, least=2000)
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
    """The rigid transform followed by a deformation of the fixed grid."""
    extent = np.multiply(fixed.GetSize(), fixed.GetSpacing())
    mesh = [max(1, int(round(length / CONTROL_MM))) for length in extent]
    start = sitk.BSplineTransformInitializer(fixed, mesh, 3)
    registration = _registration(fixed, levels=2, least=20 * BINS**2)  # fewer, and the deformation fits noise
    registration.SetMovingInitialTransform(rigid)
    registration.SetInitialTransform(start, inPlace=False)
    registration.SetOptimizerAsLBFGSB(
        gradientConvergenceTolerance=1e-5, numberOfIterations=40, maximumNumberOfFunctionEvaluations=80
    )
    deformation = registration.Execute(fixed, moving)
    return sitk.CompositeTransform([rigid, deformation])  # applied from the last to the first


def _registration(fixed: sitk.Image, levels: int, least: int = 0) -> sitk.ImageRegistrationMethod:
    """Mattes mutual information on a pyramid whose shrunken levels keep at least ``least`` voxels."""
    registration = sitk.ImageRegistrationMethod()
    registration.SetMetricAsMattesMutualInformation(BINS)
    registration.SetMetricSamplingStrategy(registration.REGULAR)
    spacing, voxels = float(min(fixed.GetSpacing())), float(np.prod(fixed.GetSize(), dtype=float))
    factors = [f for f in (4, 2, 1)[-levels:] if f == 1 or voxels / f**3 >= least]
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
    return -float(measure.MetricEvaluate(fixed, moving))


def _overlap(fixed: sitk.Image, moving: sitk.Image) -> float:
    ones = sitk.Image(moving.GetSize(), sitk.sitkUInt8) + 1
    ones.CopyInformation(moving)
    covered = sitk.Resample(ones, fixed, sitk.Transform(3, sitk.sitkIdentity), sitk.sitkNearestNeighbor, 0)
    return float(sitk.GetArrayViewFromImage(covered).mean())


def _displacement(fixed: Volume, transform: sitk.Transform) -> tuple[float, float]:
    """Mean and greatest way, mm, of 9 x 9 x 9 points spread over the fixed volume."""
    ends = np.array(fixed.data.shape) - 1
    lengths = []
    for share in product(np.linspace(0, 1, 9), repeat=3):
        ras = fixed.affine @ (*(ends * share), 1.0)
        point = (ras[:3] * (-1, -1, 1)).tolist()
        lengths.append(float(np.linalg.norm(np.subtract(transform.TransformPoint(point), point))))
    return float(np.mean(lengths)), max(lengths)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sums over threads come in any order; one thread gives the same numbers every time."""
    threads = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
