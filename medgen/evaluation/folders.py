"""Match the volumes of several folders by case name, and read the label names stored beside them."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from unicodedata import normalize

import numpy as np

from medgen.data.cohort.layouts import label_case
from medgen.data.labels.names import label_names, names_in_header, refuse_other_names
from medgen.data.labels.resampling import nearly_whole
from medgen.errors import InputError
from medgen.io.grids import on_whole_grid
from medgen.io.paths import case_name
from medgen.io.read import find_volumes, read_volume
from medgen.io.unread import warn_of_unread
from medgen.io.volume import GRID_TOLERANCE, Volume, same_geometry, to_canonical

CHANNEL, SECOND = "_0000", "_0001"  # nnU-Net's endings of the names of a case's channels
LABEL_MAPS = ("labels", "prediction_labels", "mask", "lesions")  # roles whose files may be CASE.seg.nrrd


@dataclass(frozen=True)
class Folders:
    """The files of every case by role.

    Attributes:
        cases: {case: {role: file}} of the cases to measure, in the order of the leading folder (the reference, or
            the prediction if there is no reference); roles without a file are absent.
        inputs_by_role: the path that the user gave for each role.
        extra: predictions without a reference.
        names: {label value: structure}, of the table beside the label maps, else of their headers.
    """

    cases: Mapping[str, Mapping[str, Path]]
    inputs_by_role: Mapping[str, Path]
    extra: Collection[Path]
    names: Mapping[int, str]


def match_folders(inputs_by_role: Mapping[str, Path | None], selected: Collection[str] | None = None) -> Folders:
    """Find the files of every case.

    Args:
        inputs_by_role: role → folder of volumes or a single file, None for roles that were not given: reference,
            prediction, source, labels, mask, prediction_labels. A single file is matched to the only case,
            regardless of its name.
        selected: names of the leading folder's cases to use; None for all.

    Raises:
        InputError: a path that does not exist or holds no volume, a duplicate case, a selected case that is missing,
            an invalid ``labels.json``, label maps with different tables, or folders without a case in common.
    """
    paths = {role: Path(path) for role, path in inputs_by_role.items() if path is not None}
    lead_role = "reference" if "reference" in paths else "prediction"
    found = {lead_role: _files(paths[lead_role], {}, lead_role)}
    if selected is not None:
        missing = sorted(set(selected) - set(found[lead_role]))
        if missing:
            raise InputError(
                "evaluation-case-missing",
                f"{paths[lead_role]} has no case named {missing[0]}; "
                f"its first file is {_first_name(found[lead_role])}; correct the name",
            )
        found[lead_role] = {name: file for name, file in found[lead_role].items() if name in selected}
    cases = found[lead_role]
    for role, path in paths.items():
        if role == lead_role:
            continue
        if path.is_file() and len(cases) > 1:
            raise InputError(
                "evaluation-file-for-folder",
                f"{path} is one file but {paths[lead_role]} holds {len(cases)} cases; give a folder",
            )
        found[role] = _files(path, cases, role)
        if not set(cases) & set(found[role]):
            raise InputError(
                "folder-names-unmatched",
                f"no volume in {path} ({role.replace('_', ' ')}) has the name of one in {paths[lead_role]}; the first "
                f"is {_first_name(found[role])}, the first {lead_role} {_first_name(cases)}; rename the files",
            )
    files_by_case = {case: {role: files[case] for role, files in found.items() if case in files} for case in cases}
    extra = [file for name, file in found["prediction"].items() if name not in cases]
    label_roles = ("labels", "prediction_labels")
    tables: dict[str, dict[int, str]] = {role: label_names(paths[role]) for role in label_roles if role in paths}
    names = tables.get("labels", {})
    if names and tables.get("prediction_labels"):
        refuse_other_names(names, paths["labels"], tables["prediction_labels"], paths["prediction_labels"])
    if not names:
        labels = [files["labels"] for files in files_by_case.values() if "labels" in files]
        for found_names in map(names_in_header, labels):
            names = found_names | names
    return Folders(files_by_case, paths, extra, names)


def check_header_names(files: Mapping[str, Path], names: Mapping[int, str]) -> None:
    """Raise InputError if a label map's own header gives the values other names than ``names``: {value: structure}."""
    for role in sorted({"labels", "prediction_labels"} & files.keys()):
        refuse_other_names(names, "the table of the evaluation", names_in_header(files[role]), files[role])


def read_case(files: Mapping[str, Path]) -> dict[str, Volume]:
    """Read the volumes of a case, reoriented to the closest RAS axes.

    Raises:
        InputError: a volume that is not on the grid of the first one, or that has voxels that are not finite.
    """
    stored = {role: read_volume(path) for role, path in files.items()}
    lead = next(iter(stored.values()))
    volumes = {role: to_canonical(on_whole_grid(volume, lead)) for role, volume in stored.items()}
    for role in {"labels", "prediction_labels"} & volumes.keys():
        volumes[role] = volumes[role].replaced(nearly_whole(volumes[role].data))
    lead_role = next(iter(volumes))
    # Same tolerance as for training pairs: a prediction has the affine of its source, which may differ by rounding.
    tolerance = GRID_TOLERANCE * min(volumes[lead_role].spacing)
    for role, volume in volumes.items():
        if not same_geometry(volumes[lead_role].geometry, volume.geometry, tolerance):
            raise InputError(
                "evaluation-grid-differs",
                f"{files[role]} ({stored[role].geometry.describe()}) is not on the grid of the {lead_role} "
                f"{files[lead_role]} ({stored[lead_role].geometry.describe()}); resample or register it first",
            )
        if not np.isfinite(volume.data.sum(dtype=np.float64)):
            raise InputError(
                "volume-not-finite", f"{files[role]} has NaN or infinite voxels; replace them with finite values first"
            )
    return volumes


def _files(path: Path, cases: Mapping[str, Path], role: str) -> dict[str, Path]:
    """Return {case name: file} of a folder; a single file is matched to the only case, regardless of its name.

    Names are matched to those of ``cases`` in any encoding of accents: macOS and Linux write them differently. Images
    of nnU-Net (CASE_0000) belong to its label maps and predictions (CASE).
    """
    if not path.exists():
        raise InputError("file-missing", f"--{role.replace('_', '-')} {path} does not exist; check the path")
    if path.is_file():
        return {next(iter(cases)) if len(cases) == 1 else case_name(path): path}
    warn_of_unread(path, below=False)
    found: dict[str, Path] = {}
    composed = {normalize("NFC", case): case for case in cases}
    volumes = find_volumes(path)
    stems = {case_name(file) for file in volumes}
    channels = [stem for stem in stems if stem.endswith(CHANNEL)]
    if several := [stem for stem in channels if stem.removesuffix(CHANNEL) + SECOND in stems]:
        raise InputError(
            "folder-channels",
            f"{path} has several channels of a case ({min(several)}, {min(several).removesuffix(CHANNEL)}{SECOND}), "
            "and an evaluation compares one; put the images of one channel into a folder of their own",
        )
    whole = not cases and len(channels) == len(stems)  # a reference of nnU-Net's images
    for file in volumes:
        name = label_case(file) if role in LABEL_MAPS else case_name(file)
        name = name.removesuffix(CHANNEL) if whole else name
        known = [n for n in (name, name.removesuffix(CHANNEL)) if normalize("NFC", n) in composed]
        case = composed[normalize("NFC", known[0])] if known else name
        if case in found:
            raise InputError("folder-case-twice", f"{found[case]} and {file} have the same case name; rename one")
        found[case] = file
    if not found:
        option = role.replace("_", "-")
        if any(path.glob("sub-*/")):
            raise InputError(
                "folder-subjects",
                f"--{option} {path} holds folders of subjects as in BIDS, and an evaluation reads the volumes of one "
                "folder; put the images of one contrast into a folder, named by case, for example by links",
            )
        nested = next((child for child in sorted(path.iterdir()) if child.is_dir() and find_volumes(child)), None)
        if nested is not None:
            raise InputError(
                "folder-nested",
                f"--{option} {path} holds no volumes itself, but its subfolders such as {nested.name} do; put the "
                "volumes of all cases into one folder, named by case",
            )
        raise InputError(
            "folder-no-volumes",
            f"--{option} {path} holds no volumes (.nii.gz, .nii, .mha, .nrrd, ...); check the path, and convert DICOM "
            "with --format nifti",
        )
    return found


def _first_name(files: Mapping[str, Path]) -> str:
    return next(iter(files.values())).name
