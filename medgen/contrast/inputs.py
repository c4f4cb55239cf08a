"""CTs and label maps for simulated contrast: which belong together, whose they are, and whether they are suitable."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from medgen.contrast.enhancement import Uptake, uptake_of
from medgen.contrast.label_names import names_of_labels
from medgen.data.body_mask import looks_like_hu
from medgen.data.cohort.layouts import label_case
from medgen.data.cohort.patients import Records, identified
from medgen.data.labels.resampling import nearly_whole
from medgen.errors import InputError
from medgen.io.grids import on_whole_grid, same_grid
from medgen.io.names import folded
from medgen.io.paths import require_path
from medgen.io.read import find_volumes, read_volume
from medgen.io.volume import Volume, to_canonical
from medgen.phantom.anatomy.tissues import TISSUES

CHANNEL = "_0000"  # nnU-Net's ending of an image's name, which its label map does not have
# Structures whose HU without contrast medium vary too much to say that a scan has some.
UNCERTAIN = ("trabecular_bone", "skin", "muscle", "lung_vessel", "gut_wall", "urine")
ENHANCED = 40.0  # HU above the mean without contrast medium; only the thyroid, which holds iodine, has that much more
DARK = 150.0  # HU below that mean: no structure that takes up contrast medium is fat or air
LEAST_VOXELS = 30  # of a structure that says something about the scan
LARGEST = 65535  # label value


@dataclass(frozen=True)
class Pair:
    """A CT with its label map (None if there is none), its patient, and the patients of a synthetic CT."""

    case: str
    image: Path
    label_map: Path | None
    patient: str
    shows: frozenset[str] = frozenset()  # patients whose images a synthetic CT contains; empty for a real one


@dataclass(frozen=True)
class Scan:
    """A pair in canonical axes: HU, label values (X, Y, Z) int32, names of the values that occur, warnings."""

    ct: Volume
    values: np.ndarray
    names: dict[int, str]
    warnings: tuple[str, ...]


def find_pairs(images: Path, labels: Path) -> tuple[list[Pair], list[str]]:
    """CTs with their label maps, by name where both are folders, and warnings about label maps without a CT.

    Names may differ in the encoding of accents, in nnU-Net's ``_0000``, and in 3D Slicer's ``.seg``. Patients are
    identified as in training, from ``provenance.json``, folders and names.

    Raises:
        InputError: a path that does not exist, no volumes, or no CT with a label map.
    """
    images, labels = require_path(images), require_path(labels)
    found = _volumes(images)
    maps: dict[str, Path] = {}
    for name, file in _volumes(labels).items():
        if folded(name) in maps:
            raise InputError(
                "folder-case-twice",
                f"{maps[folded(name)]} and {file} have names that differ in upper and lower case only; rename one",
            )
        maps[folded(name)] = file
    if images.is_file() and labels.is_file():
        matched = {case: labels for case in found}
    else:
        matched = {case: path for case in found if (path := _map_of(case, maps))}
        _check_once(matched)
    if not matched:
        raise InputError("pair-partner-missing", _missing(labels, next(iter(found))))
    records = Records()
    root = images if images.is_dir() else None
    whose = identified([records.known(case, [found[case]], root=root) for case in sorted(found)])
    pairs = [Pair(case, found[case], matched.get(case), *ids) for case, ids in zip(sorted(found), whose, strict=True)]
    unused = sorted(path.name for path in set(maps.values()) - set(matched.values()))
    return pairs, [f"label map {name} has no CT in {images} and is not used" for name in unused]


def read_pair(pair: Pair, labels: Path, table: Path | str | None, *, reverse: bool) -> Scan:
    """Read a CT and its label map.

    Args:
        pair: of `find_pairs`.
        labels: folder of the label maps, for messages.
        table: see `names_of_labels`.
        reverse: the CT should have contrast medium; otherwise it should have none.

    Raises:
        InputError: no label map, another grid, not in HU, values that are no whole numbers from 0, or no name for any.
    """
    image, label_map = pair.image, pair.label_map
    if label_map is None:
        raise InputError("pair-partner-missing", _missing(labels, pair.case))
    scan = read_volume(image)
    ct, stored = to_canonical(scan), to_canonical(on_whole_grid(read_volume(label_map), scan))
    if not looks_like_hu(ct.data):
        raise InputError("metric-not-hu", f"{image} is not CT in HU; contrast medium is added or removed in HU only")
    if not same_grid(ct.geometry, stored.geometry):
        raise InputError("pair-grid-differs", f"{label_map} is on another grid than {image}; resample it")
    whole = nearly_whole(stored.data)
    if whole.min() < 0 or whole.max() > LARGEST or not np.array_equal(whole, np.rint(whole)):
        raise InputError(
            "labels-not-whole",
            f"{label_map} has values that are not whole numbers from 0 to {LARGEST}, as after interpolation; export it "
            "again",
        )
    values = whole.astype(np.int32)
    names = names_of_labels(label_map, table)
    present = [int(value) for value in np.unique(values) if value]
    known = {value: names[value] for value in present if value in names}
    if not known:
        raise InputError("labels-table-foreign", f"{label_map} holds none of the values of its table of names")
    warnings = [_contrast(ct.data, values, known, reverse)]
    if unnamed := [str(value) for value in present if value not in names]:
        warnings.append(f"{label_map.name}: no name for the values {', '.join(unnamed[:10])}, which are left unchanged")
    return Scan(ct, values, known, tuple(filter(None, warnings)))


def _contrast(hu: np.ndarray, values: np.ndarray, names: Mapping[int, str], reverse: bool) -> str:
    """Warning about a CT with contrast medium that should have none, or the reverse; "" if there is no doubt."""
    medians, blood = {}, []
    for value, box in enumerate(ndimage.find_objects(values), start=1):
        uptake = uptake_of(names[value]) if box is not None and value in names else None
        if uptake is None or uptake.tissue in UNCERTAIN or uptake.tissue.startswith("lesion"):
            continue
        name, inside = names[value], hu[box][values[box] == value]
        if len(inside) >= LEAST_VOXELS and "thyroid" not in name.lower():
            medians[name] = (float(np.median(inside)), _plain(uptake))
            blood += [name] if uptake.tissue.startswith(("blood", "renal")) else []
    dark = {name: median for name, (median, plain) in medians.items() if median < plain - DARK and plain > 0}
    if dark:
        name = min(dark, key=lambda name: dark[name])
        return (
            f"the labelled structures are too dark for CT in HU ({name}: {dark[name]:.0f} HU), or the label map does "
            "not fit the scan; check both"
        )
    bright = {name: median for name, (median, plain) in medians.items() if plain + ENHANCED < median < 1000}
    if not reverse and bright:
        name = max(bright, key=lambda name: bright[name])
        return (
            f"the scan seems to have contrast medium already ({name}: {bright[name]:.0f} HU), but the target should "
            "have none; remove it from IMAGES, or use --reverse"
        )
    if reverse and blood and not any(median > plain + ENHANCED / 2 for median, plain in medians.values()):
        return "the scan seems to have no contrast medium: no labelled structure is bright, so source and target agree"
    return ""


def _plain(uptake: Uptake) -> float:
    """HU of a structure without contrast medium."""
    return TISSUES["heart_muscle" if uptake.tissue == "heart" else uptake.tissue].hu


def _volumes(path: Path) -> dict[str, Path]:
    """{case: file}. Raises InputError if there are none, or two of one name."""
    found: dict[str, Path] = {}
    for file in find_volumes(path) if path.is_dir() else [path]:
        name = label_case(file)
        if name in found:
            raise InputError(
                "folder-case-twice", f"{found[name]} and {file} have the same case name; remove one of them"
            )
        found[name] = file
    if not found:
        below = next((folder.name for folder in sorted(path.iterdir()) if folder.is_dir()), None)
        raise InputError(
            "folder-no-volumes",
            f"{path} holds no volumes (.nii.gz, .nii, .mha, .nrrd)"
            + (f", only folders such as {below}" if below else "")
            + "; put one file per case into it: a CT (convert DICOM first), or a label map with all structures "
            "(TotalSegmentator: --ml)",
        )
    return found


def _check_once(matched: Mapping[str, Path]) -> None:
    """Raise InputError if two CTs have one label map: case and case_0000, or names that differ in case only."""
    first: dict[Path, str] = {}
    for case, path in matched.items():
        if path in first:
            raise InputError(
                "folder-case-twice", f"{path} is the label map of {first[path]} and of {case}; rename one of the CTs"
            )
        first[path] = case


def _map_of(case: str, maps: Mapping[str, Path]) -> Path | None:
    return next((maps[n] for n in (folded(case), folded(case.removesuffix(CHANNEL))) if n in maps), None)


def _missing(labels: Path, case: str) -> str:
    if (labels / case).is_dir():
        return (
            f"{labels / case} is a folder, not a label map; combine its masks into one file {case}.nii.gz "
            "(TotalSegmentator: --ml)"
        )
    return f"{labels} has no label map for {case}; add {case}.nii.gz, or remove the CT"
