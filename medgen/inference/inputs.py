"""Find the scans of an input path, read their volumes, and hash their files."""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from medgen.errors import InputError
from medgen.inference.series import Rules, check_choice, find_series, made_by_medgen
from medgen.io.bids import BidsImage, bids_images, is_bids
from medgen.io.claim import command_of
from medgen.io.dicom.header import read_header
from medgen.io.dicom.index import indexed
from medgen.io.dicom.read import read_slices
from medgen.io.dicom.series import Series
from medgen.io.dicom.stack import stack
from medgen.io.hashes import _files, sha256, sha256_of
from medgen.io.label_headers import is_label_map
from medgen.io.mixed import ambiguous_input_message, scan_below, shortened_names
from medgen.io.names import one_line
from medgen.io.paths import (
    ENDINGS,
    SIDECAR_ENDINGS,
    SIDECARS,
    case_name,
    has_ending,
    require_path,
    walk,
)
from medgen.io.read import find_volumes, read_geometry, read_volume
from medgen.io.unread import warn_of_unread
from medgen.io.volume import Geometry, Volume

log = logging.getLogger(__name__)
CHOOSE = "select the DICOM series with --series or --rules, or give the volume's file as input"
MASKS = {"segmentations", "segmentation", "masks", "labels"}  # folders beside a scan, as in TotalSegmentator's data set
NOT_READ = "are an .hdr/.img pair, a format that is not read; convert it to .nii.gz"
ALONE = (
    "is a volume among DICOM folders, where only DICOM is converted; to convert it, give the file itself as input "
    "(without --deidentify, which takes DICOM only)"
)


@dataclass(frozen=True)
class Scan:
    """A case to convert: its name and its files in the order of the model's contrasts.

    ``fault``: why it cannot be converted. ``series``: the slices of a scan found among mixed DICOM studies; ``files``
    then holds their folder. ``notes`` and ``warnings``: messages for the user, e.g. about images that were ignored or
    may still arrive. ``place``: of a BIDS data set, where its outputs belong, see ``io.bids``.
    """

    case: str
    files: tuple[Path, ...]
    fault: str | None = None
    series: Series | None = None
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    place: Path | None = None


def find_scans(
    source: Path,
    contrasts: Sequence[str],
    *,
    series: str | None = None,
    rules: Rules | None = None,
    index: Path | None = None,
) -> list[Scan]:
    """Find the cases of a path.

    Args:
        source: a BIDS data set, in which contrasts are suffixes. Else, for one contrast, see ``find_inputs``; a folder
            with DICOM files in it or in its subfolders is searched for series, see ``series.find_series``. For several
            contrasts, a folder with one folder per contrast; scans are matched by name.
        contrasts: the model's source contrasts.
        series, rules: which DICOM series of a study to use.
        index: file that caches the headers of a folder of DICOM, see ``dicom.index.indexed``.

    Returns:
        The cases, ordered by name or path. A case that lacks a contrast, or has one twice, has a ``fault``.

    Raises:
        InputError: the path or the folder of a contrast does not exist or is empty.
    """
    source = Path(source)
    check_choice(series, rules)
    warn_of_unread(source, below=True)
    if rules is not None and len(contrasts) > 1:
        raise InputError(
            "option-rules-several-contrasts",
            f"--rules select one series per study, but this model takes {' and '.join(contrasts)} from separate "
            "folders; omit --rules, or use --series",
        )
    if source.is_dir() and is_bids(source):
        if series is not None or rules is not None:
            raise InputError(
                "option-series-with-bids",
                f"{source} is a BIDS data set, whose images the contrasts of the model choose; omit --series and "
                "--rules, or give the folder of the DICOM series",
            )
        return [_of_bids(image) for image in bids_images(source, contrasts)]
    if len(contrasts) == 1:
        return _one_contrast(source, series, rules, index)
    absent = [name for name in contrasts if not (source / name).is_dir()]
    if absent:
        raise InputError(
            "input-contrast-folder-missing",
            f"{source} has no folder {absent[0]}/; this model translates {' and '.join(contrasts)} together, "
            f"so give a folder with {', '.join(f'{name}/CASE.nii.gz' for name in contrasts)}",
        )
    found: dict[str, dict[str, list[Path]]] = {}
    for name in contrasts:
        for path in find_inputs(source / name):
            case = source.resolve().name if path == source / name else case_name(path)
            found.setdefault(case, {}).setdefault(name, []).append(Path(os.path.realpath(path)))
    return [_scan(case, found[case], contrasts, source) for case in sorted(found)]


def _of_bids(image: BidsImage) -> Scan:
    fault = f"{image.name} has no {' and no '.join(image.missing)}; add the missing image" if image.missing else None
    if image.twice:
        fault = f"{' and '.join(map(str, image.twice))} have one name, and only one can be meant; remove the other"
    return Scan(image.name, tuple(Path(os.path.realpath(path)) for path in image.files), fault, place=image.place)


def _ignored_note(ignored: Sequence[str]) -> tuple[str, ...]:
    return (f"ignored because not a scan: {'; '.join(ignored)}",) if ignored else ()


def _one_contrast(source: Path, series: str | None, rules: Rules | None, index: Path | None) -> list[Scan]:
    """The volumes of a folder, or the DICOM series in it and its subfolders. Both at once need a selection."""
    chosen = series is not None or rules is not None
    volumes = find_volumes(source, beside_dicom=True) if source.is_dir() else []
    if source.is_dir() and (chosen or not volumes):
        root = source.resolve()
        headers = indexed(root, index)
        scans = find_series(root, headers, series, rules) if headers.images else []
        if headers.images and not scans and all(made_by_medgen(header) for _, header in headers.images):
            raise InputError(
                "input-only-own-series",
                f"{source} holds only DICOM series made by medgen; give the original scans as input",
            )
        if scans or (rules is not None and not volumes):
            found = [Scan(s.case, (s.folder,), s.fault, s.series, _ignored_note(s.passed)) for s in scans]
            return found if chosen else _among_volumes(root, found)
    if volumes and (image := scan_below(source)):
        raise InputError(
            "folder-mixed-kinds", f"{ambiguous_input_message(source, volumes, f'a DICOM series ({image})')}; {CHOOSE}"
        )
    if chosen and (volumes or (source.is_file() and (rules or has_ending(source, ENDINGS)))):
        option = "--series" if series else "--rules"
        raise InputError(
            "option-series-not-dicom",
            f"{option} selects DICOM series of a folder, but {source} has none; omit it",
        )
    pairs = _pairs(source) if source.is_dir() else []
    if pairs and not volumes:
        return pairs
    inputs = find_inputs(source)
    masks = [path for path in inputs if path.name.lower() in MASKS and path != source and _has_scan(path.parent)]
    found = [_below(source, path) for path in inputs if path not in masks]
    found = [_noting(scan, [path for path in masks if path.parent == scan.files[0].parent]) for scan in found] + pairs
    below = [path for path in _volumes_below(source, lambda _: None) if path.parent != source] if volumes else []
    if below and found:  # a folder with volumes is a cohort, and its subfolders hold something else, such as masks
        note = f"ignored in subfolders of {source}: {shortened_names(below)}"
        found[0] = replace(found[0], notes=(*found[0].notes, note))
    return found


def _has_scan(folder: Path) -> bool:
    """Whether a folder has one volume, so that a folder of masks beside it is not another scan."""
    return len(find_volumes(folder)) == 1


def _noting(scan: Scan, masks: list[Path]) -> Scan:
    notes = [f"ignored beside {scan.files[0].name}: {path.name}/" for path in masks]
    return replace(scan, notes=(*scan.notes, *notes)) if notes else scan


def _below(source: Path, path: Path) -> Scan:
    """A scan of ``source``. A subfolder with exactly one volume is read as that volume and names the case too."""
    volumes = find_volumes(path) if path.is_dir() and path != source else []
    if len(volumes) != 1:
        return scan_of_file(path)
    return replace(scan_of_file(volumes[0]), case="_".join((*path.relative_to(source).parts, case_name(volumes[0]))))


def _among_volumes(source: Path, scans: list[Scan]) -> list[Scan]:
    """Add faults and notes about volumes that lie among DICOM scans.

    A volume in the folder of a scan is a fault, because it is ambiguous which to convert. Volumes elsewhere in the same
    top-level folder (of one patient) are assumed to be masks or similar and are ignored with a note. Volumes in a
    top-level folder without a DICOM scan are returned as scans with a fault, so that no case is lost silently.
    """
    volumes = _volumes_below(source)
    scans = [_with_pairs(scan) for scan in scans]
    if not volumes:
        return scans
    entries, tops = [], {_top(scan.files[0], source) for scan in scans}
    for scan in scans:
        own = {scan.files[0], *(file.parent for file in (scan.series.files if scan.series else ()))}
        near = [path for path in volumes if path.parent in own]
        others = [
            path for path in volumes if path not in near and _top(path.parent, source) == _top(scan.files[0], source)
        ]
        if near and not scan.fault:
            fault = f"{ambiguous_input_message(near[0].parent, near, 'a DICOM series')}; {CHOOSE}"
            scan = replace(scan, fault=fault)
        if others:
            scan = replace(
                scan, notes=(*scan.notes, f"ignored beside DICOM: {shortened_names(others)} in {others[0].parent}")
            )
        entries.append(scan)
    without_scan = [path for path in volumes if _top(path.parent, source) not in tops]
    return entries + [
        Scan("_".join((*path.relative_to(source).parts[:-1], case_name(path))), (path,), f"{path} {ALONE}")
        for path in without_scan
    ]


def _with_pairs(scan: Scan) -> Scan:
    """Add a note about .hdr/.img pairs in the scan's folder, which are ignored."""
    folders = {*scan.files, *(file.parent for file in (scan.series.files if scan.series else ()))}
    pairs = [pair.files[0] for folder in sorted(folders) if folder.is_dir() for pair in _pairs(folder)]
    return replace(scan, notes=(*scan.notes, f"ignored beside DICOM: {shortened_names(pairs)}")) if pairs else scan


def _top(folder: Path, source: Path) -> str:
    return folder.relative_to(source).parts[0] if folder != source else ""


def _volumes_below(source: Path, unlisted: Callable[[OSError], None] | None = None) -> list[Path]:
    found = []
    for folder, names in _walk(source, unlisted):
        if not any(part.startswith(".") for part in folder.relative_to(source).parts):
            found += [folder / name for name in sorted(names) if not name.startswith(".")]
    return [path for path in found if has_ending(path, ENDINGS)]


def _pairs(folder: Path) -> list[Scan]:
    """The .hdr/.img pairs of a folder as scans with a fault: they are not read, but must be reported."""
    heads = [path for path in sorted(folder.iterdir()) if has_ending(path, (".hdr", ".hdr.gz"))]
    return [
        Scan(path.name.split(".hdr")[0], (path.absolute(),), f"{path} and its .img {NOT_READ}")
        for path in heads
        if any(path.with_name(path.name.replace(".hdr", ending)).exists() for ending in (".img", ".img.gz"))
    ]


def scan_of_file(path: Path) -> Scan:
    """A scan of one contrast, named after its file; for a link, after the link and not its target."""
    path = Path(os.path.abspath(path))  # so that "." has a name
    return Scan(case_name(path), (path,))


def _scan(case: str, files: dict[str, list[Path]], contrasts: Sequence[str], source: Path) -> Scan:
    absent = [name for name in contrasts if name not in files]
    duplicates = [path for found in files.values() for path in found[1:]]
    fault = None
    if duplicates:
        fault = f"{duplicates[0]}: another scan of this folder has the same name, {case}; rename one"
    elif absent:
        fault = f"{source}: case {case} has no {' and no '.join(absent)}; add the missing scan"
    return Scan(case, tuple(path for name in contrasts for path in files.get(name, ())), fault)


def find_inputs(source: Path) -> list[Path]:
    """Find the scans of a path: a file itself, the volumes of a folder, its DICOM series, or those of its subfolders.

    Raises:
        InputError: the path does not exist or is empty.
    """
    source = Path(source)
    if source.is_file():
        return [source]
    if not source.is_dir():
        require_path(source)
        raise InputError(
            "input-not-folder",
            f"{source} is not a folder; give a volume, a folder of volumes or a folder of DICOM series",
        )
    volumes = find_volumes(source)
    if volumes:
        return volumes
    folders = folders_with_files(source)
    if not folders:
        raise InputError(
            "folder-no-volumes", f"{source} holds no volumes ({' '.join(ENDINGS)}) and no DICOM series; check the path"
        )
    scans = [folder for folder in folders if not _only_sidecars(folder)]  # tables of a data set lie above its scans
    if source in folders and (source in scans or not scans):
        return [source]
    return scans or folders


def _only_sidecars(folder: Path) -> bool:
    """Whether the files directly in a folder are tables and text, which are no scans and tell of none."""
    names = [p.name for p in folder.iterdir() if not p.name.startswith(".") and not p.is_dir()]
    return all(name.lower() in SIDECARS or has_ending(Path(name), SIDECAR_ENDINGS) for name in names)


def folders_with_files(source: Path, unlisted: Callable[[OSError], None] | None = None) -> list[Path]:
    """``source`` and its subfolders that contain at least one file that is not hidden.

    The error of a folder that cannot be listed is passed to ``unlisted``.
    """
    found = _walk(source, unlisted)
    return sorted(folder for folder, names in found if any(not name.startswith(".") for name in names))


def _walk(source: Path, unlisted: Callable[[OSError], None] | None = None) -> Iterator[tuple[Path, list[str]]]:
    """Yield ``source`` and its subfolders with the names of their files, but no folder of translated scans.

    They would be translated again if the output of a run lies inside its input.
    """
    for folder, inner, names in walk(source, unlisted):
        if folder != source and command_of(folder).startswith("translate"):
            held = any(not name.startswith(".") for name in (*inner, *names))
            inner.clear()
            if held and unlisted is None:  # a watched folder is searched again and again
                log.warning("%s", one_line(f"warning: {folder} is ignored, because medgen translate wrote it"))
            continue
        yield folder, names


def read_scan(scan: Scan, series: str | None = None) -> list[Volume]:
    """Read the volumes of a case, in the order of the contrasts; ``series``: see ``read_volume``. Raises InputError."""
    if scan.series is not None:
        return [read_slices(scan.series.slices, scan.files[0])]
    for file in scan.files:
        if is_label_map(file):
            raise InputError(
                "input-is-label-map",
                f"{file} is a label map by its header, not a scan; move it to another folder than the scans",
            )
    volumes = [read_volume(file, series=series) for file in scan.files]
    _refuse_two_patients(volumes)
    return volumes


def _refuse_two_patients(volumes: Sequence[Volume]) -> None:
    """Refuse contrasts of different patients: contrasts are matched by name, and two patients may share one."""
    files = [volume.frames[0][0] for volume in volumes if volume.frames]
    patients = [(read_header(file) or {}).get("PatientID") for file in files]
    for file, patient in zip(files, patients, strict=True):
        if patient != patients[0]:
            raise InputError(
                "pair-patients-differ",
                f"{files[0]} and {file} have the same case name but different PatientIDs; rename one of them",
            )


def frame_of_reference_warnings(volumes: Sequence[Volume]) -> list[str]:
    """A warning if contrasts of a case have different frames of reference (PS3.3 C.7.4.1), else an empty list.

    Whether their positions correspond then depends on data.align, which registers the contrasts or assumes it.
    """
    found = [(volume.frames[0][0], _frames_of_reference(volume)) for volume in volumes if volume.frames]
    for file, frames in found[1:]:
        if frames and found[0][1] and frames != found[0][1]:
            return [
                f"{found[0][0].parent} and {file.parent} have different frames of reference; their positions may "
                "not correspond"
            ]
    return []


def _frames_of_reference(volume: Volume) -> set[str]:
    """FrameOfReferenceUID of the first and last file. Empty if they differ: some anonymisers renew it per file."""
    files = {frames[0] for frames in ((volume.frames or ())[:1] + (volume.frames or ())[-1:])}
    found = {str((read_header(file) or {}).get("FrameOfReferenceUID", "")) for file in files} - {""}
    return found if len(found) == 1 else set()


def scan_grids(scan: Scan, series: str | None = None) -> list[Geometry]:
    """The grids of a scan's volumes, from the headers only."""
    if scan.series is not None:
        return [stack(scan.series.slices, scan.files[0])[1]]
    return [read_geometry(file, series=series) for file in scan.files]


def scan_hash(scan: Scan) -> str:
    """Hash of a case's files and, for a DICOM series, of the selection of images from them."""
    if scan.series is None:
        return sha256(scan.files)
    files, series = sorted(scan.series.files), scan.series
    places = {file: number for number, file in enumerate(files)}
    images = [[places[image.file], image.frame] for image in series.slices]
    return hashlib.sha256(json.dumps([sha256_of(files), series.uid, series.part, images]).encode()).hexdigest()


def file_states(scan: Scan) -> dict[Path, tuple[int, ...]]:
    """Size and times of each file of a case, to detect files that change during the conversion. Raises InputError."""
    files = scan.series.files if scan.series else [file for path in scan.files for file in _files(path)]
    try:
        entries = ((file, file.stat()) for file in files)
        return {file: (state.st_size, state.st_mtime_ns, state.st_ctime_ns) for file, state in entries}
    except OSError as error:
        raise InputError(
            "file-unreadable", f"{error.filename} cannot be read ({error.strerror}); check that it still exists"
        ) from None


def check_unchanged(scan: Scan, states: Mapping[Path, tuple[int, ...]]) -> None:
    """Refuse a scan whose files changed since ``states``. Raises InputError.

    A derived series copies patient and study from source headers that are read when it is written.
    """
    now = file_states(scan)
    changed = [file for file, state in states.items() if now.get(file) != state] or [*now.keys() - states]
    if changed:
        raise InputError(
            "input-changed-meanwhile",
            f"{changed[0]} changed during the conversion; convert the scan again once its files are complete",
        )
