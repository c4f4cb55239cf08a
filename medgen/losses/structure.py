"""Structure losses between an image and its translation, independent of intensity and without a paired target.

Both ignore a change of intensity a·v + b (a ≠ 0) and increase where an edge is moved, removed or added.
Images are (B, C, X, Y) or (B, C, X, Y, Z) of equal shapes, with intensities of order 1 (encoded to [-1, 1]). Each
sample and channel is compared separately, in float32 or better for any precision of the input: sums of squares of noise
exceed the range of float16 and the precision of bfloat16. There are no convolutions or matrix products here, so
autocast does not change the dtype. All functions raise `InputError` for other shapes.
"""

from itertools import combinations

import torch
from torch import Tensor
from torch.nn.functional import pad

from medgen.errors import InputError

GRADIENT_FLOOR = 1e-8  # added to the variance of gradients: a deviation of 1e-4, below the noise of any scan
VARIANCE_FLOOR = 1e-3  # minimum of V relative to its mean over the image, as in Heinrich's published code
TINY = 1e-12  # avoids 0 / 0 for constant images


def gradient_correlation_loss(x: Tensor, y: Tensor) -> Tensor:
    """1 - mean over axes of |NCC(∂x, ∂y)|: a scalar in [0, 1], 0 for y = a·x + b.

    Gradient correlation of Penney et al., IEEE TMI 1998;17:586, as the loss of Hiasa et al. 2018 (arXiv
    1803.06629, eq. 2-3), extended to 3D. ∂ is the central difference along one axis, NCC the normalised
    cross-correlation of the two gradient images over a whole sample; voxel size cancels.

    Both papers use the signed NCC, for which an inversion of contrast (T1 to T2) is the largest possible error. The
    absolute value differs only where NCC < 0, so where contrast is kept (CT to CT) the loss and its gradient equal
    theirs. The polarity must be determined by an additional adversarial or paired loss.
    An axis without any edge in one image has correlation 0: it counts 1 and gives the other image no gradient.
    """
    x, y = _checked(x, y)
    if min(x.shape[2:]) < 3:
        raise InputError(
            "loss-image-too-small",
            f"gradient correlation needs at least 3 voxels along each axis; got an image of shape {tuple(x.shape)}",
        )
    correlations = [_correlation(_difference(x, axis), _difference(y, axis)) for axis in range(2, x.ndim)]
    return 1 - torch.stack(correlations).abs().mean()


def mind_loss(x: Tensor, y: Tensor, *, radius: int = 2, dilation: int = 2) -> Tensor:
    """Mean absolute difference of the descriptors `mind` of x and y: a scalar in [0, 1), 0 for y = a·x + b.

    The structure-consistency loss of Yang et al. 2018 (arXiv 1809.04536). It is local, whereas gradient
    correlation is global: an inversion of contrast inside one organ costs nothing, and a lost lesion costs as much
    beside bone as in the liver.
    """
    x, y = _checked(x, y)
    return (mind(x, radius=radius, dilation=dilation) - mind(y, radius=radius, dilation=dilation)).abs().mean()


def mind(x: Tensor, *, radius: int = 2, dilation: int = 2) -> Tensor:
    """Modality-independent neighbourhood descriptor, self-similarity context: (B, C·P, X, Y[, Z]) in (0, 1].

    exp(-D_P / V), Heinrich et al., Med Image Anal 2012;16:1423, eq. 4, with the pairs of Heinrich et al., MICCAI
    2013 (MIND-SSC): the P pairs of face neighbours that lie √2·dilation apart, 12 in 3D and 4 in 2D. They
    exclude the central patch, because its noise would enter every distance. D_P: mean squared difference of two
    patches of (2·radius + 1) voxels per side, equally weighted. V: mean of the D_P of a voxel, at least
    ``VARIANCE_FLOOR`` of its mean over the image, so that noise in air does not count as structure.
    The image is padded with its edge values.

    radius ≥ 0 and dilation ≥ 1 in voxels: a descriptor depends on voxels up to radius + dilation away.
    """
    x, _ = _checked(x, x)
    if radius < 0 or dilation < 1:
        raise InputError(
            "loss-radius-range", f"radius must be at least 0 and dilation at least 1; got {radius} and {dilation}"
        )
    axes = range(2, x.ndim)
    padded = pad(x, [radius + dilation] * 2 * len(axes), mode="replicate")
    neighbours = [(axis, _shifted(padded, axis, offset, dilation)) for axis in axes for offset in (-dilation, dilation)]
    distances = [
        _patch_mean((p - q) ** 2, radius)
        for (axis_p, p), (axis_q, q) in combinations(neighbours, 2)
        if axis_p != axis_q  # pairs on one axis lie opposite each other across the centre
    ]
    distance = torch.stack(distances, 2)
    variance = distance.mean(2, keepdim=True)
    floor = VARIANCE_FLOOR * variance.mean(list(range(2, variance.ndim)), keepdim=True)
    return torch.exp(-distance / torch.maximum(variance, floor.clamp_min(TINY))).flatten(1, 2)


def _checked(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    if x.ndim not in (4, 5) or x.shape != y.shape or not x.numel():
        shapes = f"{tuple(x.shape)} and {tuple(y.shape)}"
        raise InputError(
            "loss-shapes-differ", f"structure losses need two images (B, C, X, Y[, Z]) of equal shape; got {shapes}"
        )
    dtype = torch.promote_types(torch.promote_types(x.dtype, y.dtype), torch.float32)
    return x.to(dtype), y.to(dtype)


def _difference(x: Tensor, axis: int) -> Tensor:
    n = x.shape[axis] - 2
    return (x.narrow(axis, 2, n) - x.narrow(axis, 0, n)) / 2


def _correlation(a: Tensor, b: Tensor) -> Tensor:
    """NCC (B, C) over all voxels of each sample and channel."""
    a, b = a.flatten(2), b.flatten(2)
    a, b = a - a.mean(2, keepdim=True), b - b.mean(2, keepdim=True)
    scales = [(v.square().mean(2) + GRADIENT_FLOOR).rsqrt() for v in (a, b)]
    return (a * b).mean(2) * scales[0] * scales[1]


def _shifted(padded: Tensor, axis: int, offset: int, margin: int) -> Tensor:
    """The image shifted by ``offset`` along ``axis``, with ``margin`` voxels removed at both ends of each axis."""
    for a in range(2, padded.ndim):
        padded = padded.narrow(a, margin + (offset if a == axis else 0), padded.shape[a] - 2 * margin)
    return padded


def _patch_mean(x: Tensor, radius: int) -> Tensor:
    """Mean over the complete patch around each voxel; the result has ``radius`` fewer voxels at each side.

    Sums shifted images along each axis: three times as fast as pooling, and nothing is stored for the backward pass.
    """
    for axis in range(2, x.ndim):
        n = x.shape[axis] - 2 * radius
        total = x.narrow(axis, 0, n)
        for start in range(1, 2 * radius + 1):
            total = total + x.narrow(axis, start, n)
        x = total / (2 * radius + 1)
    return x
