"""What a path given to a conversion stands for: scans, or cases of several contrasts; and their hashes."""

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from medgen.errors import InputError
from medgen.inference.series import Rules, check_choice, find_series, ours
from medgen.io.dicom.header import read_header
from medgen.io.dicom.index import indexed
from medgen.io.dicom.series import Series, read_slices
from medgen.io.dicom.stack import stack
from medgen.io.hashes import _files, sha256, sha256_of
from medgen.io.mixed import mixed, scan_below, some
from medgen.io.paths import ENDINGS, case_name, has_ending, require_path
from medgen.io.read import find_volumes, read_geometry, read_volume
from medgen.io.volume import Geometry, Volume

CHOOSE = "choose the DICOM with --series or --rules, or name the volume's file"
NOT_READ = "are a pair, which is not read; convert it to .nii.gz"
ALONE = "lies among folders of DICOM, which alone are converted; name the volume's file to convert it"


@dataclass(frozen=True)
class Scan:
    """A case to convert: its name, its files in the order of the model's contrasts, and what hinders it if any.

    ``series``: of a scan found among mixed DICOM studies, its slices; ``files`` then holds their folder. ``notes`` and
    ``warnings``: what the run says of it beside: images that were passed over, others that may still come.
    """

    case: str
    files: tuple[Path, ...]
    fault: str | None = None
    series: Series | None = None
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def find_scans(
    source: Path,
    contrasts: Sequence[str],
    *,
    series: str | None = None,
    rules: Rules | None = None,
    index: Path | None = None,
) -> list[Scan]:
    """The cases of a path.

    Args:
        source: for one contrast see ``find_inputs``; a folder with DICOM files in it or below is searched for series,
            see ``series.find_series``. For several contrasts a folder with a folder for each, whose scans belong
            together by name. A case that lacks a contrast, or has one twice, is found with the fault said.
        series, rules: which DICOM series of a study to take.
        index: file that keeps the headers of a folder of DICOM, see ``dicom_index.indexed``.

    Raises:
        InputError: the path or a contrast's folder does not exist, or there is nothing in it.
    """
    source = Path(source)
    check_choice(series, rules)
    if rules is not None and len(contrasts) > 1:
        raise InputError(
            "option-rules-several-contrasts",
            f"--rules choose among the series of a study, and this model takes {' and '.join(contrasts)}, a folder "
            "each; leave them out, or choose with --series",
        )
    if len(contrasts) == 1:
        return _one_contrast(source, series, rules, index)
    absent = [name for name in contrasts if not (source / name).is_dir()]
    if absent:
        raise InputError(
            "input-contrast-folder-missing",
            f"{source} holds no folder {absent[0]}/; this model translates {' and '.join(contrasts)} together, "
            f"so give a folder that holds {', '.join(f'{name}/CASE.nii.gz' for name in contrasts)}",
        )
    found: dict[str, dict[str, list[Path]]] = {}
    for name in contrasts:
        for path in find_inputs(source / name):
            case = source.resolve().name if path == source / name else case_name(path)
            found.setdefault(case, {}).setdefault(name, []).append(Path(os.path.realpath(path)))
    return [_scan(case, found[case], contrasts, source) for case in sorted(found)]


def _passed_over(what: Sequence[str]) -> tuple[str, ...]:
    return (f"passed over, as it is no scan: {'; '.join(what)}",) if what else ()


def _one_contrast(source: Path, series: str | None, rules: Rules | None, index: Path | None) -> list[Scan]:
    """A folder's own volumes, or the DICOM series in it and below; both are refused unless a series is chosen."""
    chosen = series is not None or rules is not None
    volumes = find_volumes(source, beside_dicom=True) if source.is_dir() else []
    if source.is_dir() and (chosen or not volumes):
        place = source.resolve()
        headers = indexed(place, index)
        scans = find_series(place, headers, series, rules) if headers.images else []
        if headers.images and not scans and all(ours(header) for _, header in headers.images):
            raise InputError(
                "input-only-own-series",
                f"{source} holds nothing but series that medgen made; name what they were made of",
            )
        if scans or (rules is not None and not volumes):
            found = [Scan(s.case, (s.folder,), s.fault, s.series, _passed_over(s.passed)) for s in scans]
            return found if chosen else _among_volumes(place, found)
    if volumes and (image := scan_below(source)):
        raise InputError("folder-mixed-kinds", f"{mixed(source, volumes, f'a DICOM series ({image})')}; {CHOOSE}")
    if chosen and (volumes or (source.is_file() and (rules or has_ending(source, ENDINGS)))):
        option = "--series" if series else "--rules"
        raise InputError(
            "option-series-not-dicom",
            f"{option} chooses among DICOM series in a folder, and {source} is none; leave it out",
        )
    pairs = _pairs(source) if source.is_dir() else []
    if pairs and not volumes:
        return pairs
    return [_below(source, path) for path in find_inputs(source)] + pairs


def _below(source: Path, path: Path) -> Scan:
    """A scan of ``source``; a folder within it that holds one volume stands for it and gives the case its name too."""
    volumes = find_volumes(path) if path.is_dir() and path != source else []
    if len(volumes) != 1:
        return named(path)
    return replace(named(volumes[0]), case="_".join((*path.relative_to(source).parts, case_name(volumes[0]))))


def _among_volumes(source: Path, scans: list[Scan]) -> list[Scan]:
    """DICOM scans with a word on the volumes that lie among them.

    Volumes in a scan's own folder hinder it: which is meant is not clear. Elsewhere in its top folder (a patient's)
    they are masks and the like, left out with a note. Those of a top folder without a scan would be lost cases.
    """
    volumes = _volumes_below(source)
    scans = [_with_pairs(scan) for scan in scans]
    if not volumes:
        return scans
    told, tops = [], {_top(scan.files[0], source) for scan in scans}
    for scan in scans:
        own = {scan.files[0], *(file.parent for file in (scan.series.files if scan.series else ()))}
        near = [path for path in volumes if path.parent in own]
        others = [
            path for path in volumes if path not in near and _top(path.parent, source) == _top(scan.files[0], source)
        ]
        if near and not scan.fault:
            fault = f"{mixed(near[0].parent, near, 'a DICOM series')}; {CHOOSE}"
            scan = replace(scan, fault=fault)
        if others:
            scan = replace(scan, notes=(*scan.notes, f"left out beside DICOM: {some(others)} in {others[0].parent}"))
        told.append(scan)
    lost = [path for path in volumes if _top(path.parent, source) not in tops]
    return told + [
        Scan("_".join((*path.relative_to(source).parts[:-1], case_name(path))), (path,), f"{path} {ALONE}")
        for path in lost
    ]


def _with_pairs(scan: Scan) -> Scan:
    """The scan with a note on .hdr/.img pairs in its folder, which are not read and so do not hinder it."""
    folders = {*scan.files, *(file.parent for file in (scan.series.files if scan.series else ()))}
    pairs = [pair.files[0] for folder in sorted(folders) if folder.is_dir() for pair in _pairs(folder)]
    return replace(scan, notes=(*scan.notes, f"left out beside DICOM: {some(pairs)}")) if pairs else scan


def _top(folder: Path, source: Path) -> str:
    return folder.relative_to(source).parts[0] if folder != source else ""


def _volumes_below(source: Path) -> list[Path]:
    found = []
    for folder, inner, names in os.walk(source):
        inner[:] = [name for name in inner if not name.startswith(".")]
        found += [Path(folder, name) for name in sorted(names) if not name.startswith(".")]
    return [path for path in found if has_ending(path, ENDINGS)]


def _pairs(folder: Path) -> list[Scan]:
    """Headers of .hdr/.img pairs: not read, and not passed over without a word."""
    heads = [path for path in sorted(folder.iterdir()) if has_ending(path, (".hdr", ".hdr.gz"))]
    return [
        Scan(path.name.split(".hdr")[0], (path.absolute(),), f"{path} and its .img {NOT_READ}")
        for path in heads
        if any(path.with_name(path.name.replace(".hdr", ending)).exists() for ending in (".img", ".img.gz"))
    ]


def named(path: Path) -> Scan:
    """A scan of one contrast, called after its file (a link, not what it leads to)."""
    path = Path(os.path.abspath(path))  # so that "." has a name
    return Scan(case_name(path), (path,))


def _scan(case: str, files: dict[str, list[Path]], contrasts: Sequence[str], source: Path) -> Scan:
    absent = [name for name in contrasts if name not in files]
    twice = [path for found in files.values() for path in found[1:]]
    fault = None
    if twice:
        fault = f"{twice[0]}: another scan of this folder is named {case} too; rename one"
    elif absent:
        fault = f"{source}: case {case} lacks {' and '.join(absent)}; add the missing scan"
    return Scan(case, tuple(path for name in contrasts for path in files.get(name, ())), fault)


def find_inputs(source: Path) -> list[Path]:
    """The scans that a path stands for: itself, the volumes in it, its DICOM series, or its subfolders' ones.

    Raises:
        InputError: the path does not exist, or there is nothing in it.
    """
    source = Path(source)
    if source.is_file():
        return [source]
    if not source.is_dir():
        require_path(source)
        raise InputError(
            "input-not-folder", f"{source} is no folder; give a volume, a folder of volumes or a DICOM series folder"
        )
    volumes = find_volumes(source)
    if volumes:
        return volumes
    if any(p.is_file() and not p.name.startswith(".") for p in source.iterdir()):
        return [source]
    folders = folders_with_files(source)
    if not folders:
        raise InputError(
            "folder-no-volumes", f"{source} is empty: it holds no volumes ({' '.join(ENDINGS)}) and no DICOM series"
        )
    return folders


def folders_with_files(source: Path, unlisted: Callable[[OSError], None] | None = None) -> list[Path]:
    """``source`` and the folders within it that hold any file that is not hidden; what cannot be listed is passed over
    and given to ``unlisted``."""
    found = os.walk(source, onerror=unlisted)
    return sorted(Path(folder) for folder, _, names in found if any(not name.startswith(".") for name in names))


def read_scan(scan: Scan, series: str | None = None) -> list[Volume]:
    """The volumes of a case, in the order of the contrasts; ``series`` as in ``read_volume``."""
    if scan.series is not None:
        return [read_slices(scan.series.slices, scan.files[0])]
    volumes = [read_volume(file, series=series) for file in scan.files]
    _refuse_two_patients(volumes)
    return volumes


def _refuse_two_patients(volumes: Sequence[Volume]) -> None:
    """Contrasts of a case are paired by name, and folders of two patients may have one."""
    files = [volume.frames[0][0] for volume in volumes if volume.frames]
    patients = [(read_header(file) or {}).get("PatientID") for file in files]
    for file, patient in zip(files, patients, strict=True):
        if patient != patients[0]:
            raise InputError(
                "pair-patients-differ", f"{files[0]} and {file} are contrasts of one case by name, but of two patients"
            )


def frames_apart(volumes: Sequence[Volume]) -> list[str]:
    """A sentence where contrasts of a case lie in different frames of reference (PS3.3 C.7.4.1), empty where not: that
    they are of one place is then known by data.align only, which finds it out or takes it as given."""
    found = [(volume.frames[0][0], _frames_of_reference(volume)) for volume in volumes if volume.frames]
    for file, frames in found[1:]:
        if frames and found[0][1] and frames != found[0][1]:
            return [
                f"{found[0][0].parent} and {file.parent} are in different frames of reference, so that their positions "
                "need not agree"
            ]
    return []


def _frames_of_reference(volume: Volume) -> set[str]:
    """Of its first and last file; none where they differ, as anonymisers renew it for each file: it says nothing."""
    files = {frames[0] for frames in ((volume.frames or ())[:1] + (volume.frames or ())[-1:])}
    found = {str((read_header(file) or {}).get("FrameOfReferenceUID", "")) for file in files} - {""}
    return found if len(found) == 1 else set()


def scan_grids(scan: Scan, series: str | None = None) -> list[Geometry]:
    """Their grids, from the headers alone."""
    if scan.series is not None:
        return [stack(scan.series.slices, scan.files[0])[1]]
    return [read_geometry(file, series=series) for file in scan.files]


def scan_hash(scan: Scan) -> str:
    """Hash of what a case is made of: its files, and which images of them where they hold several volumes."""
    if scan.series is None:
        return sha256(scan.files)
    files, series = sorted(scan.series.files), scan.series
    places = {file: number for number, file in enumerate(files)}
    images = [[places[image.file], image.frame] for image in series.slices]
    return hashlib.sha256(json.dumps([sha256_of(files), series.uid, series.part, images]).encode()).hexdigest()


def file_states(scan: Scan) -> dict[Path, tuple[int, ...]]:
    """Of all files that a case is made of, by which it shows that one was changed or replaced meanwhile."""
    files = scan.series.files if scan.series else [file for path in scan.files for file in _files(path)]
    try:
        told = ((file, file.stat()) for file in files)
        return {file: (state.st_size, state.st_mtime_ns, state.st_ctime_ns) for file, state in told}
    except OSError as error:
        raise InputError(
            "file-unreadable", f"{error.filename} cannot be read ({error.strerror}); check that it is still there"
        ) from None


def check_unchanged(scan: Scan, states: Mapping[Path, tuple[int, ...]]) -> None:
    """Refuse a scan whose files changed since ``states``: a derived series copies patient and study from headers that
    are read at the end. Raises InputError."""
    now = file_states(scan)
    changed = [file for file, state in states.items() if now.get(file) != state] or [*now.keys() - states]
    if changed:
        raise InputError(
            "input-changed-meanwhile",
            f"{changed[0]} was changed while it was converted; start again once it is complete",
        )
