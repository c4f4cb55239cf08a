"""Geometry of the CT phantom: random fields, signed distances, antialiased painting, vessel trees.

Lengths are in mm. Signed distances are negative inside. All random values depend on the position in mm and not on the
voxel grid, so that a seed gives the same patient at any size and spacing.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

Array = np.ndarray
Box = tuple[slice, slice, slice]
Region = tuple[Box, Array]  # box, and the signed distance in it
Places = Sequence[tuple[float, ...]]

WHOLE: Box = (slice(None), slice(None), slice(None))

REACH = 320.0  # mm; random fields are defined on a cube of this half-width
PERIOD = 48  # knots after which a random field repeats; larger than any organ
SPLINE_SD = (151 / 315) ** 1.5  # standard deviation of a cubic B-spline field of unit normal coefficients


def stream(seed: int, name: str) -> np.random.Generator:
    """Return a separate random generator for each name, so that changes of one part do not affect the others."""
    return np.random.default_rng([seed, zlib.crc32(name.encode())])


def spline_weights(coordinates: Array, scale: float) -> tuple[Array, int]:
    """Return cubic B-spline weights (N, M) of N positions (mm) for M knots, and the index of the first knot."""
    t = np.clip((coordinates + REACH) / scale, 1.0, 2 * REACH / scale - 1.0)
    first, last = int(np.floor(t.min())) - 1, int(np.floor(t.max())) + 3
    d = np.abs(t[:, None] - np.arange(first, last)[None, :])
    near = 2 / 3 - d**2 + d**3 / 2
    far = np.clip(2 - d, 0, None) ** 3 / 6
    return np.where(d < 1, near, far).astype(np.float32), first


def smooth_field(rng: np.random.Generator, axes: Sequence[Array], scale: float) -> Array:
    """Return a smooth random field (X, Y, Z) of unit variance on the grid of the three 1D ``axes`` (mm).

    ``scale`` is the knot distance in mm: about half the length of a bump.
    """
    knots = min(int(2 * REACH / scale) + 4, PERIOD)
    field = rng.standard_normal((knots, knots, knots), dtype=np.float32) / np.float32(SPLINE_SD)
    weights = [spline_weights(axis, scale) for axis in axes]
    for axis, (_, first) in enumerate(weights):
        width = weights[axis][0].shape[1]
        field = np.take(field, np.arange(first, first + width) % knots, axis=axis)
    (wx, _), (wy, _), (wz, _) = weights
    field = np.tensordot(wx, field, (1, 0))
    field = np.matmul(wy, field)
    return np.matmul(field, wz.T)


def smin(a: Array, b: Array, blend: float) -> Array:
    """Smooth union of two signed distances; the transition has a width of ``blend`` mm."""
    k = np.clip(blend - np.abs(a - b), 0, None)
    return np.minimum(a, b) - k * k / (4 * blend)


def ellipsoid(x: Array, y: Array, z: Array, centre: tuple[float, ...], radii: tuple[float, ...]) -> Array:
    """Signed distance to an ellipsoid (first-order approximation)."""
    u, v, w = ((q - c) / r for q, c, r in zip((x, y, z), centre, radii, strict=True))
    f = np.sqrt(u * u + v * v + w * w) + 1e-6
    g = np.sqrt((u / radii[0]) ** 2 + (v / radii[1]) ** 2 + (w / radii[2]) ** 2) + 1e-6
    return np.asarray((f - 1) * f / g, np.float32)


def rotated(x: Array, y: Array, angle: float) -> tuple[Array, Array]:
    """Return coordinates in axes rotated by ``angle`` radians."""
    c, s = np.cos(angle), np.sin(angle)
    return c * x + s * y, c * y - s * x


@dataclass(frozen=True)
class Layer:
    """A tissue painted over the layers below: HU = (1 - alpha) * below + alpha * (tissue + shade)."""

    tissue: str
    label: int
    box: Box
    alpha: Array  # float32 fraction of each voxel in the box
    shade: Array | None = None  # HU added to the tissue value, equal in all phases


class Canvas:
    """Voxel grid in body coordinates (mm; +x patient right, +y anterior, +z superior; origin anterior to L1) with the
    layers painted so far. ``x, y, z`` are warped coordinates (X, Y, Z), which make shapes slightly irregular.
    ``depth``: y of the centre of the field of view."""

    def __init__(
        self,
        size: tuple[int, int, int],
        spacing: tuple[float, float, float],
        seed: int,
        scale: tuple[float, float, float],
        depth: float = 0.0,
        warp: float = 3.5,
        height: float = 0.0,
        side: float = 0.0,
    ):
        self.seed, self.size = seed, size
        self.spacing = (spacing[0] / scale[0], spacing[1] / scale[1], spacing[2] / scale[2])
        self.axes = tuple(
            ((np.arange(n) - (n - 1) / 2) * s).astype(np.float32) for n, s in zip(size, self.spacing, strict=True)
        )
        for axis, offset in zip(self.axes, (side, depth, height), strict=True):
            axis += np.float32(offset)
        self.h = float(np.cbrt(np.prod(self.spacing)))
        self.shift = [warp * smooth_field(stream(seed, f"warp {a}"), self.axes, 65.0) for a in range(3)]
        grid = np.meshgrid(*self.axes, indexing="ij", sparse=True)
        self.x, self.y, self.z = (g + d for g, d in zip(grid, self.shift, strict=True))
        self.layers: list[Layer] = []

    def box(self, low: tuple[float, ...], high: tuple[float, ...], margin: float = 14.0) -> Box:
        """Return the grid slices of the block from ``low`` to ``high`` (mm); empty outside the field of view."""
        return tuple(
            slice(int(np.searchsorted(a, lo - margin)), int(np.searchsorted(a, hi + margin)))
            for a, lo, hi in zip(self.axes, low, high, strict=True)
        )  # type: ignore[return-value]

    def at(self, box: Box) -> tuple[Array, Array, Array]:
        """Return the warped coordinates in a box."""
        return self.x[box], self.y[box], self.z[box]

    def bumps(self, name: str, box: Box, scale: float, amplitude: float) -> Array:
        """Return a smooth random field with standard deviation ``amplitude`` (mm or HU) in the box."""
        axes = tuple(a[s] for a, s in zip(self.axes, box, strict=True))
        if min(len(a) for a in axes) == 0:
            return np.zeros([len(a) for a in axes], np.float32)
        return amplitude * smooth_field(stream(self.seed, name), axes, scale)  # type: ignore[arg-type]

    def to_grid(self, points: Array) -> Array:
        """Convert points (N, 3) from warped to unwarped coordinates."""
        points = np.asarray(points, np.float32)
        origin = np.array([a[0] for a in self.axes])
        places = points.copy()
        for _ in range(3):
            index = ((places - origin) / self.spacing).T
            moved = [ndimage.map_coordinates(d, index, order=1, mode="nearest") for d in self.shift]
            places = points - np.stack(moved, 1)
        return places

    def inside(self, points: Array, box: Box, sd: Array, limit: float) -> Array:
        """Return which points (N, 3) have a signed distance ``sd`` (given in ``box``) below ``limit``.

        The nearest voxel is used for points outside the grid; an empty box holds no point.
        """
        if sd.size == 0:
            return np.zeros(len(points), bool)
        places = self.to_grid(points)
        index = [
            np.clip(
                np.rint((places[:, a] - self.axes[a][0]) / self.spacing[a]).astype(int) - box[a].start,
                0,
                sd.shape[a] - 1,
            )
            for a in range(3)
        ]
        return sd[tuple(index)] < limit

    def tubes(self, points: Array, radii: Array, segments: Array, reach: float = 8.0) -> tuple[Box, Array]:
        """Return the signed distance to round cones; ``segments`` (S, 2) index ``points`` (N, 3) and ``radii`` (N,)."""
        places, radii = self.to_grid(points), np.asarray(radii, np.float32)
        top = float(radii.max()) + reach
        whole = self.box(tuple(places.min(0)), tuple(places.max(0)), top)
        sd = np.full([max(0, s.stop - s.start) for s in whole], 1e3, np.float32)
        if sd.size == 0:
            return whole, sd
        p, q = places[segments[:, 0]], places[segments[:, 1]]
        around = np.maximum(radii[segments[:, 0]], radii[segments[:, 1]])[:, None] + reach
        low, high = np.minimum(p, q) - around, np.maximum(p, q) + around
        first = np.stack([np.searchsorted(a, low[:, k]) - whole[k].start for k, a in enumerate(self.axes)], 1)
        last = np.stack([np.searchsorted(a, high[:, k]) - whole[k].start for k, a in enumerate(self.axes)], 1)
        seen = np.nonzero((last > first).all(1))[0]
        axes = [a[w] for a, w in zip(self.axes, whole, strict=True)]
        for s, lo, hi in zip(seen, first[seen].tolist(), last[seen].tolist(), strict=True):
            inner = tuple(slice(a, b) for a, b in zip(lo, hi, strict=True))
            cone = cone_distance([a[b] for a, b in zip(axes, inner, strict=True)], p[s], q[s], *radii[segments[s]])
            sd[inner] = np.minimum(sd[inner], cone)
        return whole, sd

    def path(
        self,
        points: Places,
        radii: Sequence[float],
        name: str = "",
        wobble: float = 0.0,
        step: float = 6.0,
        reach: float = 8.0,
    ) -> tuple[Box, Array]:
        """Return the signed distance to a tube along a smooth curve through ``points`` with the given radii."""
        places, radius = curve(np.array(points, float), np.array(radii, float), step)
        if wobble:
            places = places + wobble * wander(stream(self.seed, name), len(places))
        index = np.arange(len(places) - 1)
        return self.tubes(places, radius, np.stack([index, index + 1], 1), reach)

    def paint(
        self,
        tissue: str,
        label: int,
        box: Box,
        sd: Array,
        *,
        shade: Array | None = None,
        opacity: float = 1.0,
    ) -> None:
        """Paint a signed distance; the fraction of a voxel inside is estimated from the distance of its centre."""
        if sd.size == 0 or float(sd.min()) > 0.5 * self.h:
            return
        alpha = np.clip(0.5 - sd / np.float32(self.h), 0, 1) * np.float32(opacity)
        self.layers.append(Layer(tissue, label, box, alpha.astype(np.float32, copy=False), shade))

    def shell(self, tissue: str, label: int, box: Box, sd: Array, thickness: float, opacity: float = 1.0) -> None:
        """Paint the band from 0 to -thickness below the surface."""
        self.paint(tissue, label, box, np.maximum(sd, -thickness - sd), opacity=opacity)


def cone_distance(axes: list[Array], p: Array, q: Array, rp: float, rq: float) -> Array:
    """Return the signed distance on the grid of ``axes`` to a cone from ``p`` (radius rp) to ``q`` (radius rq)."""
    d = q - p
    x, y, z = (axes[0] - p[0])[:, None, None], (axes[1] - p[1])[:, None], axes[2] - p[2]
    t = np.clip((x * d[0] + y * d[1] + z * d[2]) / (d @ d + np.float32(1e-6)), 0, 1)
    away = np.sqrt((x - t * d[0]) ** 2 + (y - t * d[1]) ** 2 + (z - t * d[2]) ** 2)
    return away - (rp + t * (rq - rp))


def curve(points: Array, radii: Array, step: float) -> tuple[Array, Array]:
    """Sample a Catmull-Rom curve through ``points`` (N, 3) about every ``step`` mm, and interpolate the radii."""
    full = np.vstack([2 * points[0] - points[1], points, 2 * points[-1] - points[-2]])
    places, radius = [], []
    for i in range(1, len(full) - 2):
        p0, p1, p2, p3 = full[i - 1 : i + 3]
        n = max(2, int(np.linalg.norm(p2 - p1) / step) + 1)
        t = np.linspace(0, 1, n, endpoint=i == len(full) - 3)[:, None]
        places.append(
            0.5 * (2 * p1 + (p2 - p0) * t + (2 * p0 - 5 * p1 + 4 * p2 - p3) * t**2 + (3 * p1 - p0 - 3 * p2 + p3) * t**3)
        )
        radius.append(radii[i - 1] + (radii[i] - radii[i - 1]) * t[:, 0])
    return np.concatenate(places), np.concatenate(radius)


def wander(rng: np.random.Generator, n: int, smooth: float = 2.5) -> Array:
    """Draw smooth random offsets (n, 3) of unit standard deviation along a path."""
    steps = ndimage.gaussian_filter1d(rng.standard_normal((n + 20, 3)), smooth, axis=0)[10:-10]
    return steps / (steps.std() + 1e-6)


def grow_tree(
    rng: np.random.Generator,
    trunk: Array,
    tips: Array,
    tip_radius: float,
    *,
    step: float = 7.0,
    exponent: float = 2.7,
    largest: float = 9.0,
) -> tuple[Array, Array, Array]:
    """Grow a tree from ``trunk`` (K, 3) to the ``tips`` (N, 3).

    Tips are connected to the nearest point of the tree, in order of their distance from the end of the trunk. Radii
    follow Murray's law: r^e = sum of r^e of the children.

    Returns points (M, 3), radii (M,) and segments (S, 2).
    """
    length = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(trunk, axis=0), axis=1))])
    room = len(trunk) + int(sum((np.linalg.norm(tips - trunk[-1], axis=1) + 0.25 * length[-1]) / step + 2))
    places, depth = np.full((room, 3), np.inf), np.zeros(room)
    parent = np.arange(-1, room - 1)
    used = len(trunk)
    places[:used] = trunk
    depth[:used] = length
    ends = [used - 1]
    for tip in tips[np.argsort(np.linalg.norm(tips - trunk[-1], axis=1))]:
        away = np.sqrt(((places[:used] - tip) ** 2).sum(1))
        best = int(np.argmin(away + 0.25 * depth[:used]))
        n = max(1, int(away[best] / step))
        f = np.arange(1, n + 1)[:, None] / n
        bend = rng.normal(0, 0.06 * away[best], 3)
        places[used : used + n] = places[best] + (tip - places[best]) * f + bend * np.sin(np.pi * f)
        depth[used : used + n] = depth[best] + away[best] * f[:, 0]
        parent[used] = best
        used += n
        ends.append(used - 1)
    load = np.zeros(used)
    load[ends] = 1
    for i in range(used - 1, 0, -1):
        load[parent[i]] += load[i]
    radii = np.minimum(tip_radius * load ** (1 / exponent), largest)
    return places[:used], radii, np.stack([parent[1:used], np.arange(1, used)], 1)


def crop(sd: Array, box: Box, where: Box) -> Array:
    """Return a signed distance, given in ``box``, for the box ``where``; 1000 mm outside ``box``."""
    out = np.full([max(0, s.stop - s.start) for s in where], 1e3, np.float32)
    both = [slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(box, where, strict=True)]
    if all(s.stop > s.start for s in both):
        out[tuple(slice(s.start - w.start, s.stop - w.start) for s, w in zip(both, where, strict=True))] = sd[
            tuple(slice(s.start - b.start, s.stop - b.start) for s, b in zip(both, box, strict=True))
        ]
    return out
