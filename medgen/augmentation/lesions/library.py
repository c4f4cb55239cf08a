"""A library of measured real lesions, from which new lesions are made and with which they are compared.

A library is a folder with ``library.json`` (measures) and ``lesions.npz`` (masks and crops, without pickle, so that
loading cannot run code). Crops are in RAS order on the grid of their scan.
"""

import hashlib
import json
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from medgen.augmentation.lesions.appearance import Appearance, appearance_features
from medgen.augmentation.lesions.host_organ import Host, ranks_of, shell
from medgen.data.body_mask import body_mask, looks_like_hu
from medgen.errors import InputError
from medgen.io.atomic import atomic_folder
from medgen.io.grids import same_grid
from medgen.io.paths import require_path
from medgen.io.text import read_text
from medgen.io.volume import Volume, to_canonical

AROUND_MM = 6.0  # width of the host tissue that is kept and measured around a lesion
FORMAT = 1


@dataclass(frozen=True, eq=False, kw_only=True)
class Lesion(Appearance):
    """One connected lesion. Lists have one entry per contrast, in the image's unit (HU).

    mask        (X, Y, Z) bool, cropped with some surrounding host tissue
    image       (C, X, Y, Z) float32; voxels that are neither lesion nor host have the host's mean
    kind, host  label names; host is "" if the surrounding tissue has no label
    case        name of the patient or case it is from
    spacing     voxel spacing in mm
    position    centre in the host's bounding box, in [0, 1] on each axis (RAS)
    contrast    mean inside - mean of the surrounding shell
    relative    contrast / host_sd
    sd, skewness, grain_mm   texture inside the edge: standard deviation, skewness, and the σ of the Gaussian that gives
                white noise the same correlation
    host_ranks  percentiles of the body's intensities between which the shell lies, see ``host_organ.ranks_of``
    """

    mask: np.ndarray
    image: np.ndarray
    kind: str
    host: str
    case: str
    spacing: tuple[float, float, float]
    volume_ml: float
    diameter_mm: float
    position: tuple[float, float, float]
    relative: list[float]
    host_ranks: list[tuple[float, float]]


@dataclass(frozen=True, eq=False)
class Library:
    """A list of lesions.

    ``absolute``: for each contrast, whether intensities are HU. Then a lesion's contrast can be used unchanged in
    another scan; otherwise it is scaled by the host's standard deviation.
    """

    lesions: list[Lesion]
    absolute: list[bool]

    def of(self, kind: str | None) -> list[Lesion]:
        """Return the lesions of a kind, or all for None. Raises InputError if there are none."""
        found = [lesion for lesion in self.lesions if kind in (None, lesion.kind)]
        if not found:
            known = ", ".join(sorted({lesion.kind for lesion in self.lesions}))
            raise InputError("lesions-kind-unknown", f"the library has no lesion of kind {kind!r}; it has {known}")
        return found

    def without(self, patient: str | None, kind: str) -> "Library":
        """Return the lesions of all other patients, or all lesions if no other patient has one of this kind."""
        others = [lesion for lesion in self.lesions if lesion.case != patient]
        return Library(others, self.absolute) if any(lesion.kind == kind for lesion in others) else self

    @property
    def host_ranks(self) -> list[tuple[float, float]]:
        """Median over the lesions, for each contrast."""
        return [tuple(pair) for pair in np.median([lesion.host_ranks for lesion in self.lesions], 0).tolist()]

    @property
    def sha256(self) -> str:
        """Hash of all lesions with their measures, masks and crops."""
        digest = hashlib.sha256(json.dumps([self.absolute, *map(_record, self.lesions)]).encode())
        for lesion in self.lesions:
            digest.update(lesion.mask.tobytes() + lesion.image.tobytes())
        return digest.hexdigest()

    def save(self, folder: Path) -> None:
        """Write the library to ``folder`` atomically."""
        arrays: dict[str, np.ndarray] = {}
        for i, lesion in enumerate(self.lesions):
            arrays |= {f"mask_{i}": lesion.mask, f"image_{i}": lesion.image}
        with atomic_folder(Path(folder)) as temporary:
            np.savez_compressed(temporary / "lesions.npz", **arrays)  # type: ignore[arg-type]
            content = {"format": FORMAT, "absolute": self.absolute, "lesions": [_record(v) for v in self.lesions]}
            (temporary / "library.json").write_text(json.dumps(content, indent=1) + "\n")


def load_library(folder: str | Path) -> Library:
    """Load a library that ``Library.save`` wrote. Raises InputError if it is missing or damaged."""
    folder = require_path(folder)
    try:
        content = json.loads(read_text(folder / "library.json"))
        if content["format"] != FORMAT:
            raise ValueError(f"it has format {content['format']}, but this medgen reads format {FORMAT}")
        with np.load(folder / "lesions.npz", allow_pickle=False) as arrays:
            found = [_from_record(r, arrays, i) for i, r in enumerate(content["lesions"])]
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise InputError(
            "lesions-library-damaged",
            f"{folder} cannot be read as a lesion library ({error}); build it again from labelled cases",
        ) from None
    return Library(found, content["absolute"])


def _record(lesion: Lesion) -> dict[str, Any]:
    """Return the fields of a lesion without its arrays."""
    return {k: v for k, v in vars(lesion).items() if k not in ("mask", "image")}


def _from_record(record: dict[str, Any], arrays: Mapping[str, np.ndarray], i: int) -> Lesion:
    triples = {k: tuple(record[k]) for k in ("spacing", "position")}
    ranks = [tuple(pair) for pair in record["host_ranks"]]
    return Lesion(mask=arrays[f"mask_{i}"], image=arrays[f"image_{i}"], **{**record, **triples, "host_ranks": ranks})


def build_library(
    cases: Iterable[tuple[Sequence[Volume], Volume, str]],
    names: Mapping[str, int],
    *,
    lesions: Sequence[str],
    host: Host = None,
    least_voxels: int = 4,
) -> Library:
    """Build a library of the lesions of labelled cases.

    Args:
        cases: for each case its images (one per contrast), its label map on their grid, and its name.
        names: structure -> value in the label maps.
        lesions: the structures that are lesions; each is a kind.
        host: keep only lesions in this host; None: lesions in any host or in unlabelled tissue.
        least_voxels: smaller lesions are left out.

    Raises:
        InputError: unknown structure, different grids, or no lesion at all.
    """
    for name in lesions:
        if name not in names:
            raise InputError(
                "labels-name-unknown",
                f"lesion {name!r} is not a label of the cohort; choose from {', '.join(names)}",
            )
    found: list[Lesion] = []
    absolute: list[bool] = []
    for images, label, case in cases:
        found += measure_lesions(images, label, names, lesions=lesions, host=host, case=case, least_voxels=least_voxels)
        hu = [looks_like_hu(image.data) for image in images]
        absolute = [a and b for a, b in zip(absolute or hu, hu, strict=True)]
    if not found:
        where = "" if host is None else f" in {host}"
        raise InputError(
            "lesions-none-found",
            f"the cases have no lesion ({', '.join(lesions)}){where}; give labelled cases with lesions",
        )
    return Library(found, absolute)


def measure_lesions(
    images: Sequence[Volume],
    label: Volume,
    names: Mapping[str, int],
    *,
    lesions: Sequence[str],
    host: Host = None,
    case: str = "",
    least_voxels: int = 4,
) -> list[Lesion]:
    """Measure the connected lesions of one case; arguments as in ``build_library``. The list may be empty."""
    images, label = on_one_grid(images, label, case)
    data, values = [v.data for v in images], label.data
    lesion_voxels = np.isin(values, [names[name] for name in lesions])
    body = body_mask(data[0]) | (values > 0)  # labelled voxels belong to the body, such as the lung in a crop
    label_names = {value: name for name, value in names.items()}
    found = []
    for kind in lesions:
        parts, _ = ndimage.label(values == names[kind], np.ones((3, 3, 3)))
        for number, box in enumerate(ndimage.find_objects(parts), start=1):
            box = widened(box, AROUND_MM, label.spacing, values.shape)
            mask = parts[box] == number
            if mask.sum() < least_voxels:
                continue
            organ = _most_frequent(values[box][shell(mask, body[box] & ~lesion_voxels[box], label.spacing)])
            if host is not None and label_names.get(organ, organ) != host and organ != host:
                continue
            tissue = (values == organ) & body & ~lesion_voxels
            found.append(
                _measure(data, mask, tissue, body, box, label.spacing, (kind, label_names.get(organ, ""), case))
            )
    return found


def _measure(
    data: list[np.ndarray],
    mask: np.ndarray,
    tissue: np.ndarray,
    body: np.ndarray,
    box: tuple[slice, ...],
    spacing: tuple[float, float, float],
    labels: tuple[str, str, str],
) -> Lesion:
    kind, host, case = labels
    around = shell(mask, tissue[box], spacing)
    crops = [v[box] for v in data]
    look = appearance_features(crops, mask, around, spacing)
    centre = np.argwhere(mask).mean(0) + [b.start for b in box]
    extent = ndimage.find_objects(tissue.astype(np.uint8))[0]
    x, y, z = (
        float(np.clip((c - e.start) / max(e.stop - 1 - e.start, 1), 0, 1)) for c, e in zip(centre, extent, strict=True)
    )
    millilitres = float(mask.sum() * np.prod(spacing)) / 1000
    return Lesion(
        mask=mask,
        image=np.stack([np.where(mask | tissue[box], c, m) for c, m in zip(crops, look.host_mean, strict=True)]).astype(
            np.float32
        ),
        kind=kind,
        host=host,
        case=case,
        spacing=spacing,
        volume_ml=millilitres,
        diameter_mm=diameter(millilitres),
        position=(x, y, z),
        relative=[c / s for c, s in zip(look.contrast, look.host_sd, strict=True)],
        host_ranks=[ranks_of(c[around], v[body]) for c, v in zip(crops, data, strict=True)],
        **vars(look),
    )


def diameter(millilitres: float) -> float:
    """Return the diameter in mm of a sphere of this volume."""
    return float((6000 * millilitres / np.pi) ** (1 / 3))


def on_one_grid(images: Sequence[Volume], label: Volume, case: str = "") -> tuple[list[Volume], Volume]:
    """Return images and label map in RAS order. Raises InputError if their grids differ."""
    for image in images:
        if not same_grid(label.geometry, image.geometry):
            raise InputError(
                "labels-grid-differs",
                f"{image.path or case or 'an image'} is [{image.geometry.describe()}], but its label map is "
                f"[{label.geometry.describe()}]; resample them to the same grid",
            )
    return [to_canonical(image) for image in images], to_canonical(label)


def widened(
    box: tuple[slice, ...], millimetres: float, spacing: Sequence[float], shape: Sequence[int]
) -> tuple[slice, ...]:
    """Return a box padded by ``millimetres`` on every side, clipped to the grid."""
    padding = [int(np.ceil(millimetres / s)) for s in spacing]
    return tuple(slice(max(b.start - m, 0), min(b.stop + m, n)) for b, m, n in zip(box, padding, shape, strict=True))


def _most_frequent(values: np.ndarray) -> int:
    found, counts = np.unique(values, return_counts=True)
    return int(found[counts.argmax()]) if len(found) else 0
