"""Real lesions, measured and kept: what new ones are made from and held against.

A library is a folder: ``library.json`` (measures) and ``lesions.npz`` (masks and crops; no pickle, so that loading
cannot run code). Crops lie in RAS order on the grid of their scan.
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
from medgen.io.atomic import folder_written_aside
from medgen.io.grids import same_grid
from medgen.io.paths import require_path
from medgen.io.text import read_text
from medgen.io.volume import Volume, to_canonical

AROUND_MM = 6.0  # of the host kept and measured around a lesion
FORMAT = 1


@dataclass(frozen=True, eq=False, kw_only=True)
class Lesion(Appearance):
    """One connected lesion. Lists have one entry a contrast, in the image's unit (HU).

    mask        (X, Y, Z) bool, cropped with some host around
    image       (C, X, Y, Z) float32; what is neither lesion nor host holds the host's mean
    kind, host  names of the labels; host "" where it has none
    position    of its centre in the host's bounding box, each axis (RAS) in [0, 1]
    contrast    mean inside - mean of the shell around it
    relative    contrast / host_sd
    sd, skewness, grain_mm   texture inside its edge: spread, asymmetry, and the σ of a Gaussian under which noise is
                as correlated
    host_ranks  percentiles of the body's intensities between which the shell lies, see ``host.ranks_of``
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
    """``absolute``: of each contrast, whether intensities are HU, so that a contrast holds in another scan as it is;
    else it is carried over in units of the host's spread."""

    lesions: list[Lesion]
    absolute: list[bool]

    def of(self, kind: str | None) -> list[Lesion]:
        """Lesions of a kind, or all. Raises InputError where there are none."""
        found = [lesion for lesion in self.lesions if kind in (None, lesion.kind)]
        if not found:
            known = ", ".join(sorted({lesion.kind for lesion in self.lesions}))
            raise InputError("lesions-kind-unknown", f"the library has no lesion of kind {kind!r}; it has {known}")
        return found

    def without(self, patient: str | None, kind: str) -> "Library":
        """The lesions of others than ``patient``, or all where nobody else has one of this kind."""
        others = [lesion for lesion in self.lesions if lesion.case != patient]
        return Library(others, self.absolute) if any(lesion.kind == kind for lesion in others) else self

    @property
    def host_ranks(self) -> list[tuple[float, float]]:
        """The median over the lesions, of each contrast."""
        return [tuple(pair) for pair in np.median([lesion.host_ranks for lesion in self.lesions], 0).tolist()]

    @property
    def sha256(self) -> str:
        """Hash of all that is known of the lesions."""
        digest = hashlib.sha256(json.dumps([self.absolute, *map(_record, self.lesions)]).encode())
        for lesion in self.lesions:
            digest.update(lesion.mask.tobytes() + lesion.image.tobytes())
        return digest.hexdigest()

    def save(self, folder: Path) -> None:
        """Write the folder, aside first."""
        arrays: dict[str, np.ndarray] = {}
        for i, lesion in enumerate(self.lesions):
            arrays |= {f"mask_{i}": lesion.mask, f"image_{i}": lesion.image}
        with folder_written_aside(Path(folder)) as aside:
            np.savez_compressed(aside / "lesions.npz", **arrays)  # type: ignore[arg-type]
            content = {"format": FORMAT, "absolute": self.absolute, "lesions": [_record(v) for v in self.lesions]}
            (aside / "library.json").write_text(json.dumps(content, indent=1) + "\n")


def load_library(folder: str | Path) -> Library:
    """Inverse of ``Library.save``. Raises InputError: no library, or a damaged one."""
    folder = require_path(folder)
    try:
        content = json.loads(read_text(folder / "library.json"))
        if content["format"] != FORMAT:
            raise ValueError(f"format {content['format']}, this medgen reads {FORMAT}")
        with np.load(folder / "lesions.npz", allow_pickle=False) as arrays:
            found = [_from_record(r, arrays, i) for i, r in enumerate(content["lesions"])]
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise InputError(
            "lesions-library-damaged",
            f"{folder} is no library of lesions ({error}); build it again from labelled cases",
        ) from None
    return Library(found, content["absolute"])


def _record(lesion: Lesion) -> dict[str, Any]:
    """All but the arrays."""
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
    """The lesions of labelled cases.

    Args:
        cases: contrasts of a case, its label map on their grid, its name.
        names: structure -> value in the label maps.
        lesions: the structures that are lesions; each is a kind.
        host: keep lesions that lie in this host only; None: lesions of any host, or of unlabelled tissue.
        least_voxels: smaller specks are left out.

    Raises:
        InputError: an unknown structure, grids that differ, or no lesion at all.
    """
    for name in lesions:
        if name not in names:
            raise InputError(
                "labels-name-unknown",
                f"lesion {name!r} is no label of the cohort ({', '.join(names)}); name one of these",
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
            f"the cases have no lesion ({', '.join(lesions)}){where}; give labelled cases that have some",
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
    """The connected lesions of one case; arguments as ``build_library``. A case without lesions or host gives none."""
    images, label = on_one_grid(images, label, case)
    data, values = [v.data for v in images], label.data
    sick = np.isin(values, [names[name] for name in lesions])
    body = body_mask(data[0]) | (values > 0)  # a lung in a crop is no hole in the body
    called = {value: name for name, value in names.items()}
    found = []
    for kind in lesions:
        parts, _ = ndimage.label(values == names[kind], np.ones((3, 3, 3)))
        for number, box in enumerate(ndimage.find_objects(parts), start=1):
            box = widened(box, AROUND_MM, label.spacing, values.shape)
            mask = parts[box] == number
            if mask.sum() < least_voxels:
                continue
            organ = _commonest(values[box][shell(mask, body[box] & ~sick[box], label.spacing)])
            if host is not None and called.get(organ, organ) != host and organ != host:
                continue
            tissue = (values == organ) & body & ~sick
            found.append(_measure(data, mask, tissue, body, box, label.spacing, (kind, called.get(organ, ""), case)))
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
    """mm of the ball of this volume."""
    return float((6000 * millilitres / np.pi) ** (1 / 3))


def on_one_grid(images: Sequence[Volume], label: Volume, case: str = "") -> tuple[list[Volume], Volume]:
    """Images and label in RAS order. Raises InputError where they lie on different grids."""
    for image in images:
        if not same_grid(label.geometry, image.geometry):
            raise InputError(
                "labels-grid-differs",
                f"{image.path or case or 'an image'} is [{image.geometry.describe()}], its labels are "
                f"[{label.geometry.describe()}]; bring them onto one grid",
            )
    return [to_canonical(image) for image in images], to_canonical(label)


def widened(
    box: tuple[slice, ...], millimetres: float, spacing: Sequence[float], shape: Sequence[int]
) -> tuple[slice, ...]:
    """A box with so many mm more on every side, within the grid."""
    more = [int(np.ceil(millimetres / s)) for s in spacing]
    return tuple(slice(max(b.start - m, 0), min(b.stop + m, n)) for b, m, n in zip(box, more, shape, strict=True))


def _commonest(values: np.ndarray) -> int:
    found, counts = np.unique(values, return_counts=True)
    return int(found[counts.argmax()]) if len(found) else 0
