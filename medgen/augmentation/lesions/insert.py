"""Insert lesions into scans: draw a mask and a site, paint the lesion, and blend it in.

Outside the mask and a narrow margin every voxel of the images stays the same bit for bit; in the label map only the
mask changes. A record has all parameters and the seed, so that the insertion can be repeated.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from medgen.augmentation.case_transform import CaseTransform, Record
from medgen.augmentation.lesions.appearance import Appearance, appearance_features, appearance_outliers, contrast_check
from medgen.augmentation.lesions.cutpaste import CutPaste
from medgen.augmentation.lesions.host_organ import Host, host_mask
from medgen.augmentation.lesions.library import AROUND_MM, Library, diameter, on_one_grid, widened
from medgen.augmentation.lesions.masks import DrawShape, Shape, cut, draw_ellipsoid, draw_real
from medgen.augmentation.lesions.placement import NoRoom, choose_site
from medgen.augmentation.lesions.procedural import Procedural
from medgen.augmentation.patch import Painter, Patch
from medgen.errors import InputError
from medgen.io.volume import Volume, from_canonical, slope_inter

TRIES = 8  # masks that are tried before `NoRoom` is raised
DRAWS = 10  # maximum number of lesions drawn until one looks like real ones


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
    """Insert one new lesion.

    Up to `DRAWS` lesions are drawn until one looks like real lesions of its kind, see
    ``appearance.appearance_outliers``; if none does, the most similar one is inserted.

    Args:
        images: one per contrast, on the grid of ``label``, in any orientation and in the unit of the file (HU).
        label: label map.
        names: structure -> value in the label map.
        library: real lesions from which size, shape and position are drawn.
        kind: label name of the lesion.
        host: name or value of the label that the lesion is inserted into, or None, see ``host_organ.host_mask``.
        painter: see ``patch.Painter``.
        rng: a generator, from which a seed is drawn, or that seed, from the record of an earlier call.
        draw_shape: see ``masks``.
        margin_mm: width of the blending zone outside the mask, and distance kept from the border of the host; None:
            twice the smallest voxel spacing.
        gap_mm: distance kept from other lesions.
        known: real lesions that the new one must look like; None: ``library``.

    Returns:
        Images, label map, and a record: kind, label_value, host, site_voxel (central voxel, in the file's axes),
        site_mm (RAS), volume_ml, diameter_mm, contrast (for each image: mean inside - mean of the surrounding host),
        shape, patients (whose lesion it was made from, as named in the library), margin_mm, seed, drawn (number of
        lesions drawn), unlike_real (the measures in which the inserted lesion differs from real ones).

    Raises:
        InputError: the label table has no such kind or host, or the grids differ.
        NoRoom: the lesion fits nowhere.
    """
    if kind not in names:
        raise InputError(
            "labels-name-unknown",
            f"lesion {kind!r} is not a label of this cohort ({', '.join(names)}); add it to the label table",
        )
    seed = int(rng) if isinstance(rng, int | np.integer) else int(rng.integers(2**62))
    rng = np.random.default_rng(seed)
    margin_mm = 2 * min(label.spacing) if margin_mm is None else margin_mm
    canonical, grid = on_one_grid(images, label)
    volumes = tuple(v.data for v in canonical)
    case = str(label.path or "this case")
    host_tissue = host_mask(volumes, grid.data, names, host, library.host_ranks, case=case)
    others = np.isin(grid.data, [names[k.kind] for k in (known or library).lesions if k.kind in names])
    real, drawn = (known or library).of(kind), 0
    sizes = [lesion.volume_ml for lesion in real]
    best: tuple[Patch, Shape, list[np.ndarray], Appearance, list[str]] | None = None
    while drawn < DRAWS and (best is None or best[-1]):
        try:
            shape, site = _shape_and_site(
                library, kind, draw_shape, host_tissue, others, grid.spacing, rng,
                margin_mm=margin_mm, gap_mm=gap_mm, what=f"{_host_name(host)} of {case}",
            )  # fmt: skip
        except NoRoom:
            if best is None:
                raise
            break
        drawn += 1
        patch = _patch(volumes, host_tissue & ~others, shape, site, grid.spacing, kind)
        weight = blend_weight(patch.mask, patch.spacing, margin_mm)
        crops = [_blended(v, v.data[patch.box], y, weight) for v, y in zip(canonical, painter(patch, rng), strict=True)]
        look = appearance_features(crops, patch.mask, patch.around, patch.spacing)
        mismatches = appearance_outliers(look, real, library.absolute, sizes)
        if best is None or _outlier_rank(mismatches) < _outlier_rank(best[-1]):
            best = patch, shape, crops, look, mismatches
    assert best is not None
    patch, shape, crops, look, mismatches = best
    new, values = [v.data.copy() for v in canonical], grid.data.copy()
    for whole, crop in zip(new, crops, strict=True):
        whole[patch.box] = crop
    values[patch.box][patch.mask] = names[kind]
    record = {
        "kind": kind,
        "label_value": names[kind],
        "host": _host_name(host),
        **_site_and_size(patch, grid, label),
        "contrast": [round(c, 3) for c in look.contrast],
        "shape": "real" if shape.lesion else "ellipsoid",
        "patients": [shape.lesion.case] if shape.lesion else [],
        "margin_mm": margin_mm,
        "seed": seed,
        "drawn": drawn,
        "unlike_real": mismatches,
    }
    back = [image.replaced(from_canonical(data, image)) for image, data in zip(images, new, strict=True)]
    return back, label.replaced(from_canonical(values, label)), record


def _outlier_rank(mismatches: Sequence[str]) -> tuple[int, int]:
    """Return a sort key of the mismatches: contrast first, because a wrong contrast is worse than a wrong texture."""
    return sum(name.startswith("contrast") for name in mismatches), len(mismatches)


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
) -> CaseTransform:
    """Return a case transform that inserts lesions.

    Args:
        painter: "cutpaste", "procedural", or the folder of a ``lesion_gan`` model.
        library: real lesions from which sizes, shapes, positions and contrasts are drawn.
        host: name or value of the label that lesions are inserted into, or None, see ``host_organ.host_mask``.
        lesion: kinds to draw from; None: those of the library, with their frequency in it.
        per_case: minimum and maximum number of lesions per case. There may be fewer: after the first lesion, insertion
            stops at one that has no room, and a lesion whose contrast differs from real ones in all draws is left out.
        margin_mm: see ``insert_lesion``.
        device: device of a ``lesion_gan``.
        patients: file of an image or label -> patient, as named in the library. The lesions of a case are then modelled
            on those of other patients, if others have lesions of the kind. The record's ``donor`` says whose lesion was
            used: "another patient", "the patient", "unknown" or, if no voxels were copied, "none".

    Raises:
        InputError: unknown painter, a kind that is not in the library, or fewer than 1 lesion per case.
    """
    fewest, most = per_case
    if not 1 <= fewest <= most:
        raise InputError(
            "lesions-count-range",
            f"per_case = {per_case} must be (minimum, maximum) with 1 <= minimum <= maximum; change it",
        )
    kinds = [lesion] if isinstance(lesion, str) else list(lesion or [k.kind for k in library.lesions])
    for kind in kinds:
        library.of(kind)
    whole, draw_shape = named_painter(painter, library, device)
    donors = lru_cache(64)(partial(_donors, library))

    def augment(
        images: list[Volume], label: Volume, names: Mapping[str, int], rng: np.random.Generator
    ) -> tuple[list[Volume], Volume, list[Record]]:
        records: list[Record] = []
        where = _similar_tissue(images, label, names, library) if host is None else host
        files = (volume.path for volume in (label, *images))  # a label map in another axis order has no path
        patient = next((patients[file] for file in files if file and file in patients), None) if patients else None
        n_lesions, mismatches = int(rng.integers(fewest, most + 1)), list[str]()
        for _ in range(n_lesions):
            kind = str(rng.choice(kinds))
            others = donors(patient, kind)
            paint = replace(whole, library=others) if isinstance(whole, CutPaste | Procedural) else whole
            options: dict[str, Any] = {"library": others, "painter": paint, "draw_shape": draw_shape, "known": library}
            try:
                new, new_label, record = insert_lesion(
                    images, label, names, kind=kind, host=where, rng=rng, margin_mm=margin_mm, **options
                )
            except NoRoom:
                if not records:
                    raise
                break
            mismatches = [name for name in record["unlike_real"] if name.startswith("contrast")]
            if mismatches:
                continue
            images, label = new, new_label
            record |= _donor(record["patients"], patient, kind)
            records.append({"operation": "insert_lesion", "painter": str(painter), **record, "host": _host_name(host)})
        if not records:
            raise InputError(
                "lesions-not-realistic",
                f"{label.path or 'this case'}: none of the {n_lesions} lesions that {painter} made looks like real "
                f"ones (different: {', '.join(mismatches)}); train the model longer, choose another painter or leave "
                "this case out",
            )
        return images, label, records

    return augment


def _donors(library: Library, patient: str | None, kind: str) -> Library:
    """Return other patients' lesions, without those of this kind with an unusual contrast, which would be rejected."""
    others, real = library.without(patient, kind), library.of(kind)
    mismatches = contrast_check(real, library.absolute, [lesion.volume_ml for lesion in real])
    usable = [lesion for lesion in others.lesions if lesion.kind != kind or not mismatches(lesion)]
    return Library(usable, library.absolute) if any(lesion.kind == kind for lesion in usable) else others


def _donor(donors: Sequence[str], patient: str | None, kind: str) -> Record:
    """Return whose lesion was used, with a warning if it is the patient's own."""
    if not donors:
        return {"donor": "none"}
    if patient is None:
        return {"donor": "unknown"}
    if patient not in donors:
        return {"donor": "another patient"}
    warning = f"only {patient} has lesions of kind {kind}, so one of the patient's own lesions was inserted again"
    return {"donor": "the patient", "warnings": [warning]}


def named_painter(name: str | Path, library: Library, device: str = "cpu") -> tuple[Painter, DrawShape]:
    """Return a painter and the function that draws its masks. Raises InputError if the name is unknown."""
    if name == "cutpaste":
        return CutPaste(library), draw_real
    if name == "procedural":
        return Procedural(library), draw_ellipsoid
    if not Path(name).is_dir():
        raise InputError(
            "lesions-painter-unknown",
            f"painter {name} is unknown; choose cutpaste, procedural or the folder of a lesion_gan model",
        )
    from medgen.augmentation.lesions.gan import load_gan  # imported here because torch is slow to import

    return load_gan(Path(name), device), draw_real


def blend_weight(mask: np.ndarray, spacing: Sequence[float], margin_mm: float) -> np.ndarray:
    """Return the weight of the painted lesion at each voxel: 1 in the mask, falling to 0 at ``margin_mm`` from it."""
    distance = ndimage.distance_transform_edt(~mask, spacing)
    return np.where(mask, 1.0, np.clip(1 - distance / max(margin_mm, 1e-9), 0, 1)).astype(np.float32)


def _similar_tissue(images: Sequence[Volume], label: Volume, names: Mapping[str, int], library: Library) -> Volume:
    """Return the mask of an unlabelled host, computed once for all lesions of a case."""
    canonical, grid = on_one_grid(images, label)
    found = host_mask([v.data for v in canonical], grid.data, names, None, library.host_ranks, case=str(label.path))
    return label.replaced(from_canonical(found, label))


def _host_name(host: Host) -> str | int:
    return "look_alike" if host is None else "mask" if isinstance(host, Volume) else host


def _shape_and_site(
    library: Library,
    kind: str,
    draw_shape: DrawShape,
    host_tissue: np.ndarray,
    others: np.ndarray,
    spacing: Sequence[float],
    rng: np.random.Generator,
    **options: Any,
) -> tuple[Shape, tuple[int, int, int]]:
    """Draw a mask and the voxel of its first corner; up to `TRIES` masks, because a smaller one may fit."""
    known = library.of(kind)
    positions = [lesion.position for lesion in known]
    first_error: NoRoom | None = None
    for _ in range(TRIES):
        shape = draw_shape(known, spacing, rng)
        try:
            return shape, choose_site(shape.mask, host_tissue, others, spacing, rng, positions=positions, **options)
        except NoRoom as error:
            first_error = first_error or error
    assert first_error is not None
    raise first_error


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
    """Return the crop with the painted lesion blended in, rounded to stored values if the file has integers."""
    near = weight > 0
    values = crop + weight * (painted - crop)
    if volume.dtype.kind in "iu":
        limits = np.iinfo(volume.dtype)
        slope, inter = slope_inter(volume.header)
        stored = np.clip(np.rint((values.astype(np.float64) - inter) / slope), limits.min, limits.max)
        values = stored * slope + inter
    return np.where(near, values, crop).astype(crop.dtype)


def _site_and_size(patch: Patch, grid: Volume, label: Volume) -> Record:
    """Return site and size of the lesion for the record. ``grid`` is ``label`` in RAS order."""
    voxels = np.argwhere(patch.mask)
    middle = voxels[((voxels - voxels.mean(0)) ** 2).sum(1).argmin()] + [b.start for b in patch.box]
    point = grid.affine @ [*middle, 1]
    millilitres = float(len(voxels) * np.prod(grid.spacing)) / 1000
    return {
        "site_voxel": np.rint(np.linalg.inv(label.affine) @ point)[:3].astype(int).tolist(),
        "site_mm": point[:3].round(2).tolist(),
        "volume_ml": round(millilitres, 4),
        "diameter_mm": round(diameter(millilitres), 2),
    }
