"""Find the patients that a case shows, from the dataset's records, a pattern, its folder or its name.

If several of these give an identifier for one case, all of them mean the same patient (``identified``). Synthetic and
real cases of a patient thus stay together even if they name the patient differently.
"""

import os
import re
import unicodedata
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medgen.data.cohort.datalist import part_of, patient_name
from medgen.data.cohort.layouts import case_of_entry, shortened_list
from medgen.errors import InputError
from medgen.io.names import folded
from medgen.io.paths import case_name
from medgen.io.text import read_json

PROVENANCE = "provenance.json"
SYNTHETIC_NAME = re.compile(r"(.+?)(?:__syn\d{3,}|_synthetic_\d+)")  # names given by medgen augment and synthesize
BIDS = re.compile(r"(sub-[0-9A-Za-z]+)(_.*)?")  # https://bids-specification.readthedocs.io, "entities"
FOLDER = re.compile(r"(sub|subj|subject|pat|patient|case|pt|p)[-_ ]?[0-9][0-9A-Za-z]*", re.IGNORECASE)
BRATS = re.compile(r"(BraTS-[A-Za-z]+-\d+)-\d+")  # since BraTS 2023: patient and time point
GROUP = re.compile(  # folders that group patients by site, kind, region (AB, HN, TH: SynthRAD) or time
    r"(site|cent(er|re)|hospital|institution|scanner|group|batch|HGG|LGG|ses|session|day|visit|week|month|year|baseline"
    r"|follow[-_ ]?up|time[-_ ]?point)([-_ ]?[0-9A-Za-z]+)?"
    r"|task[-_ ]?\d*|AB|HN|TH|abd(omen)?|thorax|chest|brain|head|neck|head[-_ ]?(and[-_ ]?)?neck|pelvis|spine|liver"
    r"|lungs?|prostate|breast|heart|kidneys?",
    re.IGNORECASE,
)
Id = tuple[str, str]  # ("patient", patient name) or ("case", name of a real case of that patient)


@dataclass(frozen=True)
class Known:
    """Identity of a case.

    ids         of a real case: identifiers of its patient; of a synthetic case: one or more identifiers for each
                patient whose images it contains. The first belongs to the case's own patient.
    synthetic   whether the case is synthetic
    unrecorded  whether only its name says that the case is synthetic
    """

    name: str
    ids: tuple[Id, ...]
    synthetic: bool = False
    unrecorded: bool = False


class Records:
    """Cache of a dataset's record files: provenance.json, and manifest.json of ``medgen synthesize``."""

    def __init__(self) -> None:
        self._read: dict[Path, dict[str, Any]] = {}
        self._images: dict[str, Known] = {}  # recorded case of an image, by content hash

    def known(
        self,
        name: str,
        files: Sequence[Path],
        *,
        listed: str = "",
        pattern: str | None = None,
        root: Path | None = None,
    ) -> Known:
        """Return the identity of a case.

        Args:
            name: case name.
            files: its images; records are searched in ``root``, beside each image and in the folder above.
            listed: its patient in the datalist, "" for none.
            pattern: regular expression that finds the patient in the name, see ``patient_of``.
            root: folder of the dataset.

        Raises:
            InputError: a damaged record, or a pattern that does not match.
        """
        folders = [root] if root else []
        folders += [folder for file in files for folder in (file.parent, file.parent.parent)]
        found = [self._of(folder) for folder in dict.fromkeys(folders)]
        base_name = name.rpartition("/")[2]
        for record in found:
            if base_name in record["synthetic"]:
                return Known(name, record["synthetic"][base_name], synthetic=True)
        match = SYNTHETIC_NAME.fullmatch(base_name)
        if match and not any(base_name in record["real"] for record in found):
            return Known(name, (("case", match[1]),), synthetic=True, unrecorded=True)
        recorded = [record["real"][base_name] for record in found if record["real"].get(base_name)]
        named = [listed, *recorded] if listed else recorded
        if pattern is not None and not listed:
            named = [patient_of(base_name, pattern), *recorded]
        ids = [("patient", each) for each in named or [_by_place(base_name, files, root)]]
        return Known(name, (*dict.fromkeys(ids), ("case", base_name)))

    def without_case(self, cases: Iterable[str]) -> list[str]:
        """Return a warning about real cases that are absent from records which name other cases.

        A misspelled name would separate a scan from its patient.
        """
        paths = [str(folder / PROVENANCE) for folder, record in self._read.items() if record["real"]]
        named = {name for record in self._read.values() for kind in record.values() for name in kind}
        absent = [name for name in cases if name.rpartition("/")[2] not in named]
        if not paths or not absent:
            return []
        return [
            f"{' and '.join(paths)} does not name {shortened_list(absent)}; each counts as a separate patient, "
            "unless its image equals one of a named case"
        ]

    def by_images(self, known: Known, images: Iterable[str]) -> Known:
        """Return the identity of a case, completed from records that contain its images under another name.

        Args:
            known: identity of the case by its name and folder.
            images: content hashes, see ``data.cohort.content``.
        """
        found = next((self._images[image] for image in images if image in self._images), None)
        if found is None or known.synthetic or found.name == known.name.rpartition("/")[2]:
            return known
        ids = found.ids if found.synthetic else (*known.ids, *found.ids)
        return Known(known.name, ids, synthetic=found.synthetic)

    def _add_images(self, content: dict[str, Any], real: dict[str, str], synthetic: dict[str, tuple[Id, ...]]) -> None:
        for kind in ("synthetic", "real"):  # a real case replaces a synthetic one with the same image
            for case, record in content[kind].items():
                ids = synthetic[case] if kind == "synthetic" else (("patient", real[case] or case), ("case", case))
                images = record.get("images")
                for image in images if isinstance(images, list) else ():
                    self._images[str(image)] = Known(case, ids, synthetic=kind == "synthetic")

    def _of(self, folder: Path) -> dict[str, Any]:
        """Read the records in a folder: {"real": {case: patient}, "synthetic": {case: ids}}."""
        if folder not in self._read:
            content = read_provenance(folder)
            content["real"] = {case_of_entry(case): record for case, record in content["real"].items()}
            real = {case: patient_name(record.get("patient")) for case, record in content["real"].items()}
            synthetic = {case: _recorded(record) for case, record in content["synthetic"].items()}
            self._add_images(content, real, synthetic)
            self._read[folder] = {"real": real, "synthetic": {**_synthesized(folder), **synthetic}}
        return self._read[folder]


def _recorded(record: Mapping[str, Any]) -> tuple[Id, ...]:
    """Return the identifiers of a synthetic case of ``medgen augment`` or ``sample``: its own, then its donors'.

    Donors are patients, or the cases that a generative model was trained with.
    """
    steps = [record, *record["operations"]]  # written by hand, the donors may stand in the record itself
    names = [record["patient"], *(p for step in steps for p in _names(step.get("patients")))]
    ids = [("patient", patient_name(name)) for name in names]
    ids += [("case", str(name)) for step in steps for name in _names(step.get("cases"))]
    return tuple(dict.fromkeys([*ids[:1], *([("case", str(record["source"]))] if record.get("source") else []), *ids]))


def _names(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list) else [] if value is None else [value]


def _synthesized(folder: Path) -> dict[str, tuple[Id, ...]]:
    """Read manifest.json of ``medgen synthesize``: {case: ids of its label map's, mixed and style cases}."""
    try:
        cases = read_json(folder / "manifest.json").get("cases")
    except InputError:  # missing, or written by another program
        return {}
    found = {}
    for case, record in cases.items() if isinstance(cases, dict) else ():
        if isinstance(record, dict) and record.get("source_case"):
            operations = [step for step in record.get("operations", ()) if isinstance(step, dict)]
            files = [record.get("style"), *(step.get("with") for step in operations)]
            names = [str(record["source_case"]), *(case_name(str(file)) for file in files if file)]
            found[str(case)] = tuple(("case", name) for name in dict.fromkeys(names))
    return found


def read_provenance(root: Path) -> dict[str, Any]:
    """Read provenance.json: {"real": {case: record}, "synthetic": {case: record}}, both empty if there is no file.

    Raises InputError if the file is malformed or incomplete.
    """
    path = root / PROVENANCE
    content = read_json(path) if os.path.lexists(path) else {"real": {}, "synthetic": {}}
    records = [content.get("real"), content.get("synthetic")]
    if not all(isinstance(kind, dict) and all(isinstance(r, dict) for r in kind.values()) for kind in records):
        raise InputError(
            "dataset-record-foreign",
            f"{path} is not a dataset record of medgen; move it away or restore the original",
        )
    for case, record in content["synthetic"].items():
        steps = record.get("operations")
        if not record.get("patient") or not isinstance(steps, list) or not all(isinstance(s, dict) for s in steps):
            raise InputError(
                "dataset-record-incomplete",
                f"{path}: case {case} has no patient or no valid list of operations; restore the complete file",
            )
    return content


def patient_of(name: str, pattern: str | None) -> str:
    """Return the patient of a case from its name.

    Args:
        name: case name.
        pattern: regular expression; its first group, or the whole match, is the patient. None: "sub-01" for a BIDS name
            such as sub-01_ses-2, "BraTS-GLI-00005" for BraTS-GLI-00005-101, otherwise the case name itself.

    Raises:
        InputError: an invalid regular expression, or one that finds nothing in the name.
    """
    if pattern is None:
        known = BIDS.fullmatch(name) or BRATS.fullmatch(name)
        return known[1] if known else name
    try:
        match = re.search(pattern, name)
    except re.error as error:
        raise InputError(
            "config-patient-pattern-invalid",
            f"patient_pattern = {pattern!r} is not a valid regular expression ({error}); correct it",
        ) from error
    patient = match and (match[1] if match.re.groups else match[0])
    if not patient:
        raise InputError(
            "config-patient-pattern-unmatched",
            f"patient_pattern = {pattern!r} finds no patient in the case name {name}; correct the pattern",
        )
    return patient


def _by_place(name: str, files: Sequence[Path], root: Path | None) -> str:
    """Return the patient from the folders between ``root`` and the image, else from the case name.

    The first folder with a typical patient name (patient07, sub-01_ses-1) is used. If the case is named after its
    folders (lonely/day1), the first one that is neither a subset of the split nor a `GROUP` is used otherwise.
    """
    if files and root is not None and files[0].absolute().is_relative_to(root.absolute()):
        between = files[0].absolute().relative_to(root.absolute()).parts[:-1]
        named = next((p for p in between if FOLDER.fullmatch(p) or BIDS.fullmatch(p) or BRATS.fullmatch(p)), None)
        if named is None and "_".join(between) == name:
            named = next((p for p in between if part_of(p) is None and not GROUP.fullmatch(p)), None)
        if named is not None:
            return patient_of(named, None)
    return patient_of(name, None)


def identified(known: Sequence[Known]) -> list[tuple[str, frozenset[str]]]:
    """Return for each case its patient and, for synthetic cases, all patients whose images it contains.

    All identifiers of a real case mean one patient; the first one is the patient's name.
    """
    parents: dict[Hashable, Hashable] = {}
    for case in known:
        if not case.synthetic:
            for other in case.ids[1:]:
                merge_sets(parents, _same(case.ids[0]), _same(other))
    names: dict[Hashable, str] = {}
    for case in known:
        if not case.synthetic:
            names.setdefault(set_root(parents, _same(case.ids[0])), case.ids[0][1])

    def patient(one: Id) -> str:
        return names.get(set_root(parents, _same(one)), one[1])

    return [(patient(c.ids[0]), frozenset(map(patient, c.ids)) if c.synthetic else frozenset()) for c in known]


def _same(one: Id) -> Id:
    """An identifier without what differs between systems and typists: the encoding of accents, and upper case."""
    return one[0], folded(one[1]) if one[0] == "patient" else unicodedata.normalize("NFC", one[1])


def merge_by_images(cases: Iterable[tuple[str, str, Iterable[str]]]) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """Merge patients whose cases share an image, that is, a scan under two names.

    Args:
        cases: name, patient and content hashes (``data.cohort.content``) of each case.

    Returns:
        {patient: merged patient}, and the pairs of case names.
    """
    first: dict[str, tuple[str, str]] = {}
    parents: dict[Hashable, Hashable] = {}
    pairs = []
    for name, patient, images in cases:
        for other, whose in sorted({first.setdefault(image, (name, patient)) for image in images}):
            if whose != patient:
                merge_sets(parents, whose, patient)
                pairs.append((other, name))
    return {str(patient): str(set_root(parents, patient)) for patient in parents}, pairs


def merge_sets(parents: dict[Hashable, Hashable], a: Hashable, b: Hashable) -> None:
    """Merge the sets of two members (union-find); the smaller name becomes the root, so that order has no effect."""
    a, b = set_root(parents, a), set_root(parents, b)
    low, high = (a, b) if str(a) <= str(b) else (b, a)
    parents[high], parents[low] = low, low


def set_root(parents: dict[Hashable, Hashable], one: Hashable) -> Hashable:
    """Return the root of the set that contains ``one``."""
    while parents.get(one, one) != one:
        one = parents[one]
    return one
