"""Lesions into scans: a mask, a site, a painter, and nothing else touched.

Beyond the mask and a narrow margin every voxel of the images is what it was, bit for bit; of the label map only the
mask changes. A record says what was done and by which seed, so that it can be done again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from medgen.augmentation.lesions.appearance import Appearance, appearance_features, appearance_outliers, contrast_check
from medgen.augmentation.lesions.cutpaste import CutPaste
from medgen.augmentation.lesions.host_organ import Host, host_mask
from medgen.augmentation.lesions.library import AROUND_MM, Library, diameter, on_one_grid, widened
from medgen.augmentation.lesions.masks import DrawShape, Shape, cut, draw_ellipsoid, draw_real
from medgen.augmentation.lesions.placement import NoRoom, choose_site
from medgen.augmentation.lesions.procedural import Procedural
from medgen.augmentation.patch import Painter, Patch
from medgen.augmentation.way import Record, Way
from medgen.errors import InputError
from medgen.io.volume import Volume, from_canonical, slope_inter

TRIES = 8  # masks that are tried before there is said to be no room
DRAWS = 10  # lesions that are tried for one that looks as real ones do


def insert_lesion(
    images: Sequence[Volume],
    label: Volume,
    names: Mapping[str, int],
    *,
    library: Library,
    kind: str,
    host: Host,
    painter: Painter,
    rng: np.random.Generator | int,
    draw_shape: DrawShape = draw_real,
    margin_mm: float | None = None,
    gap_mm: float = 5.0,
    known: Library | None = None,
) -> tuple[list[Volume], Volume, Record]:
    """One new lesion.

    Args:
        images: contrasts on the grid of ``label``, any orientation, the file's unit (HU).
        label: its values; ``names``: structure -> value.
        library: what the size, the shape and the place are drawn from.
        kind: the lesion's label.
        host: name or value of the label it goes into, or None, see ``host.host_mask``.
        painter: see ``patch.Painter``.
        rng: a generator, of which one number is taken, or that number: the seed in the record of an earlier call.
        draw_shape: see ``lesion_masks``.
        margin_mm: outside the mask within which it is blended in, and that it keeps from the host's border; None:
            twice the smallest side of a voxel.
        gap_mm: that it keeps from other lesions.
        known: real lesions that it must look like; None: ``library``.

    Returns:
        Images, label, and a record: kind, label_value, host, site_voxel (middle, on the file's axes), site_mm (RAS),
        volume_ml, diameter_mm, contrast (of each image: mean inside - mean of the host around), shape, patients
        (whose lesion it was made from, by the library's word), margin_mm, seed, drawn (how many lesions, for one that
        does not look as real ones of its kind do, see ``appearance.appearance_outliers``, is drawn again), unlike_real
        (in which measures the best of them still does not).

    Raises:
        InputError: labels without this kind or host, or grids that differ.
        NoRoom: the lesion fits nowhere.
    """
    if kind not in names:
        raise InputError(
            "labels-name-unknown",
            f"lesion {kind!r} is no label of this cohort ({', '.join(names)}); add it to its labels",
        )
    seed = int(rng) if isinstance(rng, int | np.integer) else int(rng.integers(2**62))
    rng = np.random.default_rng(seed)
    margin_mm = 2 * min(label.spacing) if margin_mm is None else margin_mm
    upright, grid = on_one_grid(images, label)
    volumes = tuple(v.data for v in upright)
    case = str(label.path or "this case")
    organ = host_mask(volumes, grid.data, names, host, library.host_ranks, case=case)
    others = np.isin(grid.data, [names[k.kind] for k in (known or library).lesions if k.kind in names])
    real, drawn = (known or library).of(kind), 0
    sizes = [lesion.volume_ml for lesion in real]
    best: tuple[Patch, Shape, list[np.ndarray], Appearance, list[str]] | None = None
    while drawn < DRAWS and (best is None or best[-1]):
        try:
            shape, site = _shape_and_site(
                library, kind, draw_shape, organ, others, grid.spacing, rng,
                margin_mm=margin_mm, gap_mm=gap_mm, what=f"{_called(host)} of {case}",
            )  # fmt: skip
        except NoRoom:
            if best is None:
                raise
            break
        drawn += 1
        patch = _patch(volumes, organ & ~others, shape, site, grid.spacing, kind)
        weight = blend_weight(patch.mask, patch.spacing, margin_mm)
        crops = [_blended(v, v.data[patch.box], y, weight) for v, y in zip(upright, painter(patch, rng), strict=True)]
        look = appearance_features(crops, patch.mask, patch.around, patch.spacing)
        wrong = appearance_outliers(look, real, library.absolute, sizes)
        if best is None or _faults(wrong) < _faults(best[-1]):
            best = patch, shape, crops, look, wrong
    assert best is not None
    patch, shape, crops, look, wrong = best
    new, values = [v.data.copy() for v in upright], grid.data.copy()
    for whole, crop in zip(new, crops, strict=True):
        whole[patch.box] = crop
    values[patch.box][patch.mask] = names[kind]
    record = {
        "kind": kind,
        "label_value": names[kind],
        "host": _called(host),
        **_measured(patch, grid, label),
        "contrast": [round(c, 3) for c in look.contrast],
        "shape": "real" if shape.lesion else "ellipsoid",
        "patients": [shape.lesion.case] if shape.lesion else [],
        "margin_mm": margin_mm,
        "seed": seed,
        "drawn": drawn,
        "unlike_real": wrong,
    }
    back = [image.replaced(from_canonical(data, image)) for image, data in zip(images, new, strict=True)]
    return back, label.replaced(from_canonical(values, label)), record


def _faults(wrong: Sequence[str]) -> tuple[int, int]:
    """Contrast first: a lesion that is bright where real ones are dark is none, one of another grain may be."""
    return sum(name.startswith("contrast") for name in wrong), len(wrong)


def lesion_augmenter(
    painter: str | Path,
    library: Library,
    *,
    host: Host,
    lesion: str | Sequence[str] | None = None,
    per_case: tuple[int, int] = (1, 3),
    margin_mm: float | None = None,
    device: str = "cpu",
    patients: Mapping[Path, str] | None = None,
) -> Way:
    """What puts lesions into a case.

    Args:
        painter: "cutpaste", "procedural", or the folder of a ``lesion_gan`` model.
        library: real lesions that sizes, shapes, places and contrasts are drawn from.
        host: name or value of the label they go into, or None, see ``host.host_mask``.
        lesion: kinds to draw from; None: those of the library, as often as they are in it.
        per_case: fewest and most lesions of a case. One that finds no room after the first is left out, and so is one
            whose contrast is unlike that of real ones however often it is drawn.
        margin_mm: see ``insert_lesion``.
        device: of a model.
        patients: label file -> patient, by the library's word. A case's lesions are then made after those of other
            patients, as long as others have some of the kind. The record's ``donor`` says whose lesion was taken:
            "another patient", "the patient", "unknown" or, where no voxels were, "none".

    Raises:
        InputError: an unknown painter, a kind the library has not, or a number of lesions below 1.
    """
    fewest, most = per_case
    if not 1 <= fewest <= most:
        raise InputError(
            "lesions-count-range",
            f"per_case = {per_case} must be two numbers, the first at least 1 and at most the second",
        )
    kinds = [lesion] if isinstance(lesion, str) else list(lesion or [k.kind for k in library.lesions])
    for kind in kinds:
        library.of(kind)
    whole, draw_shape = named_painter(painter, library, device)
    donors = lru_cache(64)(partial(_donors, library))

    def augment(
        images: list[Volume], label: Volume, names: Mapping[str, int], rng: np.random.Generator
    ) -> tuple[list[Volume], Volume, list[Record]]:
        done: list[Record] = []
        where = _look_alike(images, label, names, library) if host is None else host
        patient = (patients or {}).get(label.path) if label.path else None
        wanted, wrong = int(rng.integers(fewest, most + 1)), list[str]()
        for _ in range(wanted):
            kind = str(rng.choice(kinds))
            others = donors(patient, kind)
            paint = replace(whole, library=others) if isinstance(whole, CutPaste | Procedural) else whole
            options: dict[str, Any] = {"library": others, "painter": paint, "draw_shape": draw_shape, "known": library}
            try:
                new, marked, record = insert_lesion(
                    images, label, names, kind=kind, host=where, rng=rng, margin_mm=margin_mm, **options
                )
            except NoRoom:
                if not done:
                    raise
                break
            wrong = [name for name in record["unlike_real"] if name.startswith("contrast")]
            if wrong:
                continue
            images, label = new, marked
            record |= _donor(record["patients"], patient, kind)
            done.append({"operation": "insert_lesion", "painter": str(painter), **record, "host": _called(host)})
        if not done:
            raise InputError(
                "lesions-not-realistic",
                f"{label.path or 'this case'}: none of {wanted} lesions that {painter} made looks like real ones "
                f"({', '.join(wrong)}); train it longer, choose another painter, or leave this case out",
            )
        return images, label, done

    return augment


def _donors(library: Library, patient: str | None, kind: str) -> Library:
    """Lesions of other patients, without those of this kind whose contrast is unlike that of most: none would pass."""
    others, real = library.without(patient, kind), library.of(kind)
    wrong = contrast_check(real, library.absolute, [lesion.volume_ml for lesion in real])
    usable = [lesion for lesion in others.lesions if lesion.kind != kind or not wrong(lesion)]
    return Library(usable, library.absolute) if any(lesion.kind == kind for lesion in usable) else others


def _donor(donors: Sequence[str], patient: str | None, kind: str) -> Record:
    """Whose lesion was taken, in words, with a warning where it is the case's own."""
    if not donors:
        return {"donor": "none"}
    if patient is None:
        return {"donor": "unknown"}
    if patient not in donors:
        return {"donor": "another patient"}
    warning = f"nobody but {patient} has a lesion of kind {kind}: one of the patient's own was put in again"
    return {"donor": "the patient", "warnings": [warning]}


def named_painter(name: str | Path, library: Library, device: str = "cpu") -> tuple[Painter, DrawShape]:
    """A painter, and where the masks for it come from. Raises InputError for an unknown name or no model folder."""
    if name == "cutpaste":
        return CutPaste(library), draw_real
    if name == "procedural":
        return Procedural(library), draw_ellipsoid
    if not Path(name).is_dir():
        raise InputError(
            "lesions-painter-unknown",
            f"painter {name} is neither cutpaste, procedural nor the folder of a lesion_gan model",
        )
    from medgen.augmentation.lesions.gan import load_gan  # here: torch is slow to import

    return load_gan(Path(name), device), draw_real


def blend_weight(mask: np.ndarray, spacing: Sequence[float], margin_mm: float) -> np.ndarray:
    """Share of the painted lesion at each voxel: 1 in the mask, falling to 0 at ``margin_mm`` from it."""
    away = ndimage.distance_transform_edt(~mask, spacing)
    return np.where(mask, 1.0, np.clip(1 - away / max(margin_mm, 1e-9), 0, 1)).astype(np.float32)


def _look_alike(images: Sequence[Volume], label: Volume, names: Mapping[str, int], library: Library) -> Volume:
    """The host of a case whose host has no label, found once for all its lesions."""
    upright, grid = on_one_grid(images, label)
    found = host_mask([v.data for v in upright], grid.data, names, None, library.host_ranks, case=str(label.path))
    return label.replaced(from_canonical(found, label))


def _called(host: Host) -> str | int:
    return "look_alike" if host is None else "mask" if isinstance(host, Volume) else host


def _shape_and_site(
    library: Library,
    kind: str,
    draw_shape: DrawShape,
    organ: np.ndarray,
    others: np.ndarray,
    spacing: Sequence[float],
    rng: np.random.Generator,
    **options: Any,
) -> tuple[Shape, tuple[int, int, int]]:
    """A mask and where its first corner comes; several are tried, for a smaller one may fit where one does not."""
    known = library.of(kind)
    positions = [lesion.position for lesion in known]
    refused: NoRoom | None = None
    for _ in range(TRIES):
        shape = draw_shape(known, spacing, rng)
        try:
            return shape, choose_site(shape.mask, organ, others, spacing, rng, positions=positions, **options)
        except NoRoom as error:
            refused = refused or error
    assert refused is not None
    raise refused


def _patch(
    volumes: tuple[np.ndarray, ...],
    healthy: np.ndarray,
    shape: Shape,
    site: tuple[int, int, int],
    spacing: tuple[float, float, float],
    kind: str,
) -> Patch:
    tight = ndimage.find_objects(shape.mask.astype(np.uint8))[0]
    at = tuple(slice(b.start + s, b.stop + s) for b, s in zip(tight, site, strict=True))
    box = widened(at, AROUND_MM, spacing, healthy.shape)
    start = [b.start - s for b, s in zip(box, site, strict=True)]
    size = [b.stop - b.start for b in box]
    places = None if shape.places is None else cut(shape.places, start, size)
    mask = cut(shape.mask, start, size)
    return Patch(volumes, box, mask, healthy[box] & ~mask, Shape(mask, shape.lesion, places), spacing, kind)


def _blended(volume: Volume, crop: np.ndarray, painted: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The crop with what is painted in its place, in whole numbers where the file stores such."""
    near = weight > 0
    values = crop + weight * (painted - crop)
    if volume.dtype.kind in "iu":
        limits = np.iinfo(volume.dtype)
        slope, inter = slope_inter(volume.header)
        stored = np.clip(np.rint((values.astype(np.float64) - inter) / slope), limits.min, limits.max)
        values = stored * slope + inter
    return np.where(near, values, crop).astype(crop.dtype)


def _measured(patch: Patch, grid: Volume, label: Volume) -> Record:
    """Place and size. ``grid`` is ``label`` in RAS order."""
    voxels = np.argwhere(patch.mask)
    middle = voxels[((voxels - voxels.mean(0)) ** 2).sum(1).argmin()] + [b.start for b in patch.box]
    place = grid.affine @ [*middle, 1]
    millilitres = float(len(voxels) * np.prod(grid.spacing)) / 1000
    return {
        "site_voxel": np.rint(np.linalg.inv(label.affine) @ place)[:3].astype(int).tolist(),
        "site_mm": place[:3].round(2).tolist(),
        "volume_ml": round(millilitres, 4),
        "diameter_mm": round(diameter(millilitres), 2),
    }
