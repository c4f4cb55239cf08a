"""The volumes of a case for the page's linked planes: one grey JPEG per column, with all axial slices side by side.

The page decodes them to arrays and cuts axial, coronal and sagittal slices from these, so that a position chosen in one
plane is shown in the others. Volumes are averaged over blocks of voxels until all columns have at most `MOST_VOXELS`
together, and further until they take at most `MOST_BYTES`: a page with four cases can be sent by e-mail.

CT is stored as levels (`medgen.reports.images.windows`), other images from black to white of their window, differences
from minus to plus their limit.
"""

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from skimage.transform import downscale_local_mean

from medgen.reports.images.case_images import Column, Scene
from medgen.reports.images.figures import SIGNED
from medgen.reports.images.windows import HU, LEVEL, levels

MOST_VOXELS = 6_000_000  # of all columns together
MOST_BYTES = 1_400_000  # of all columns together, before base64
QUALITY = 85  # of JPEG
BLOCK = 8  # JPEG codes blocks of 8 x 8 pixels; a tile is a multiple of it, so that no block holds parts of two slices
COLOURS = np.rint(255 * SIGNED(np.arange(256))[:, :3]).astype(np.uint8)


@dataclass(frozen=True)
class Volumes:
    """The volumes of a scene on one coarser grid.

    Attributes:
        shape: voxels (X, Y, Z) of that grid.
        factor: voxels of the scene per voxel of the grid, on each axis.
        spacing: of the grid, in mm.
        affine: voxel indices of the grid to RAS mm, (4, 4).
        tile: width and height in pixels of one axial slice in the JPEGs; rows are y and columns x, padded at the end.
        tiles: axial slices in one row of a JPEG.
        titles: of the columns.
        images: JPEGs, one per column.
        ranges: value of level 0 and of level 255; None: HU by `medgen.reports.images.windows.levels`.
        means: mean level of each decoded JPEG, by which the page notices a browser that alters pixels.
        unit: HU or empty.
        over: for a difference, the column it belongs to; None: not a difference.
    """

    shape: tuple[int, int, int]
    factor: tuple[int, int, int]
    spacing: tuple[float, float, float]
    affine: np.ndarray
    tile: tuple[int, int]
    tiles: int
    titles: Sequence[str]
    images: Sequence[bytes]
    ranges: Sequence[tuple[float, float] | None]
    means: Sequence[float]
    unit: str
    over: Sequence[int | None]

    @property
    def size(self) -> int:
        """Total size of the JPEGs in bytes."""
        return sum(map(len, self.images))

    @property
    def content(self) -> dict[str, Any]:
        """The data for the page's script."""
        columns = [
            {
                "title": title,
                "range": None if limits is None else list(limits),
                "mean": round(mean, 3),
                "over": over,
                "jpeg": base64.b64encode(image).decode("ascii"),
            }
            for title, image, limits, mean, over in zip(
                self.titles, self.images, self.ranges, self.means, self.over, strict=True
            )
        ]
        return {
            "shape": list(self.shape),
            "factor": list(self.factor),
            "spacing": [round(mm, 4) for mm in self.spacing],
            "affine": np.round(self.affine[:3], 4).tolist(),
            "tile": list(self.tile),
            "tiles": self.tiles,
            "unit": self.unit,
            "columns": columns,
            "hu": [list(HU), list(LEVEL)],
            "colours": base64.b64encode(COLOURS.tobytes()).decode("ascii"),
        }


def volumes(scene: Scene) -> Volumes:
    """Return the region that a scene shows, of each of its columns."""
    shape = [part.stop - part.start for part in scene.view]
    most = MOST_VOXELS // len(scene.columns)
    while True:
        made = _volumes(scene, block_size(shape, scene.grid.spacing, most))
        if made.size <= MOST_BYTES or math.prod(made.shape) <= 1:
            return made
        most = int(math.prod(made.shape) * max(0.3, 0.9 * MOST_BYTES / made.size))


def block_size(shape: Sequence[int], spacing: Sequence[float], most: int) -> tuple[int, int, int]:
    """Return the number of voxels to average on each axis, so that at most ``most`` remain; fine axes are first."""
    factor = [1, 1, 1]
    while math.prod(-(-n // f) for n, f in zip(shape, factor, strict=True)) > most:
        coarser = [f for f in range(3) if factor[f] < shape[f]]
        if not coarser:
            break
        factor[min(coarser, key=lambda axis: factor[axis] * spacing[axis])] += 1
    return factor[0], factor[1], factor[2]


def _volumes(scene: Scene, factor: tuple[int, int, int]) -> Volumes:
    coarse = [_coarse(column, scene, factor) for column in scene.columns]
    x, y, z = coarse[0].shape
    tile = -(-x // BLOCK) * BLOCK, -(-y // BLOCK) * BLOCK
    tiles = max(1, round(math.sqrt(z * tile[1] / tile[0])))
    images = [_mosaic(levels_, tile, tiles) for levels_ in coarse]
    first = [part.start + (f - 1) / 2 for part, f in zip(scene.view, factor, strict=True)]
    blocks = np.diag([*map(float, factor), 1.0])
    blocks[:3, 3] = first
    outputs = iter(_outputs(scene))
    return Volumes(
        shape=(x, y, z),
        factor=factor,
        spacing=tuple(f * mm for f, mm in zip(factor, scene.grid.spacing, strict=True)),  # type: ignore[arg-type]
        affine=scene.grid.affine @ blocks,
        tile=tile,
        tiles=tiles,
        titles=[column.title for column in scene.columns],
        images=images,
        ranges=[None if column.hu else column.limits for column in scene.columns],
        means=[float(np.asarray(Image.open(io.BytesIO(image)), np.float64).mean()) for image in images],
        unit=scene.unit,
        over=[next(outputs) if column.signed else None for column in scene.columns],
    )


def _outputs(scene: Scene) -> list[int]:
    """Return the columns of the outputs, in the order of their differences."""
    titles = [column.title for column in scene.columns]
    return [titles.index(column.title.rsplit(" − ", 1)[0]) for column in scene.columns if column.signed]


def _coarse(column: Column, scene: Scene, factor: tuple[int, int, int]) -> np.ndarray:
    """Return the levels of a column's region, uint8 (X, Y, Z), averaged over blocks of voxels."""
    data = column.data[scene.view].astype(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        if column.minus is not None:
            data = data - column.minus[scene.view]
        if factor != (1, 1, 1):
            ends = [(0, -n % f) for n, f in zip(data.shape, factor, strict=True)]
            data = downscale_local_mean(np.pad(data, ends, mode="edge"), factor)
        (low, high) = column.limits
        shown = levels(data) if column.hu else 255 * np.clip((data.astype(np.float64) - low) / (high - low), 0, 1)
    return np.rint(np.nan_to_num(shown)).astype(np.uint8)


def _mosaic(data: np.ndarray, tile: tuple[int, int], tiles: int) -> bytes:
    """Return the axial slices of (X, Y, Z) side by side as JPEG."""
    x, y, z = data.shape
    rows = -(-z // tiles)
    padded = np.pad(data, ((0, tile[0] - x), (0, tile[1] - y), (0, 0)), mode="edge")
    padded = np.pad(padded, ((0, 0), (0, 0), (0, rows * tiles - z)))
    image = padded.transpose(2, 1, 0).reshape(rows, tiles, tile[1], tile[0]).transpose(0, 2, 1, 3)
    buffer = io.BytesIO()
    Image.fromarray(image.reshape(rows * tile[1], tiles * tile[0])).save(buffer, "JPEG", quality=QUALITY, optimize=True)
    return buffer.getvalue()
