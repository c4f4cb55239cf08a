"""Which patients a case shows: by its dataset's records, a pattern, its folder or its name.

What is said of one case by several of these is one patient (``identified``); so a dataset whose twins name their
patients in one way and whose real cases in another still keeps them together.
"""

import os
import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medgen.data.cohort.datalist import part_of, patient_name
from medgen.data.cohort.layouts import called, read_json, some
from medgen.errors import InputError
from medgen.io.paths import case_name

PROVENANCE = "provenance.json"
SYNTHETIC_NAME = re.compile(r"(.+?)(?:__syn\d{3,}|_synthetic_\d+)")  # of medgen augment and synthesize
BIDS = re.compile(r"(sub-[0-9A-Za-z]+)(_.*)?")  # https://bids-specification.readthedocs.io, "entities"
FOLDER = re.compile(r"(sub|subj|subject|pat|patient|case|pt|p)[-_ ]?[0-9][0-9A-Za-z]*", re.IGNORECASE)
BRATS = re.compile(r"(BraTS-[A-Za-z]+-\d+)-\d+")  # of BraTS 2023 on: patient and time point
GROUP = re.compile(  # of a folder of many patients: where, of what kind or when
    r"(site|cent(er|re)|hospital|institution|scanner|group|batch|HGG|LGG|ses|session|day|visit|week|month|year|baseline"
    r"|follow[-_ ]?up|time[-_ ]?point)([-_ ]?[0-9A-Za-z]+)?",
    re.IGNORECASE,
)
Id = tuple[str, str]  # ("patient", name of a patient) or ("case", name of a real case, which shows one)


@dataclass(frozen=True)
class Known:
    """What is known of a case: ``ids`` of the patient that a real case shows, or of all that a synthetic one does.

    The first is its own patient's. ``unrecorded``: a synthetic case by its name alone.
    """

    name: str
    ids: tuple[Id, ...]
    synthetic: bool = False
    unrecorded: bool = False


class Records:
    """The records beside the files of a dataset, each read once: provenance.json, and manifest.json of synthesize."""

    def __init__(self) -> None:
        self._read: dict[Path, dict[str, Any]] = {}
        self._images: dict[str, Known] = {}  # what the records tell of an image, by its content hash

    def known(
        self,
        name: str,
        files: Sequence[Path],
        *,
        listed: str = "",
        pattern: str | None = None,
        root: Path | None = None,
    ) -> Known:
        """What is known of a case.

        Args:
            name: of the case.
            files: its images; records are looked for in their folders and one above, and in ``root``.
            listed: its patient as a datalist has it.
            pattern: regular expression that finds the patient in the name, see ``patient_of``.

        Raises:
            InputError: a record that is damaged; a pattern that does not fit.
        """
        folders = [root] if root else []
        folders += [folder for file in files[:1] for folder in (file.parent, file.parent.parent)]
        found = [self._of(folder) for folder in dict.fromkeys(folders)]
        bare = name.rpartition("/")[2]
        for record in found:
            if bare in record["synthetic"]:
                return Known(name, record["synthetic"][bare], synthetic=True)
        match = SYNTHETIC_NAME.fullmatch(bare)
        if match and not any(bare in record["real"] for record in found):
            return Known(name, (("case", match[1]),), synthetic=True, unrecorded=True)
        told = [record["real"][bare] for record in found if record["real"].get(bare)]
        named = [listed, *told] if listed else told
        if pattern is not None and not listed:
            named = [patient_of(bare, pattern), *told]
        ids = [("patient", each) for each in named or [_by_place(bare, files, root)]]
        return Known(name, (*dict.fromkeys(ids), ("case", bare)))

    def without_case(self, cases: Iterable[str]) -> list[str]:
        """A sentence on the real cases that the records read so far do not name, where they name others: a misspelling
        would take a scan from its patient."""
        paths = [str(folder / PROVENANCE) for folder, record in self._read.items() if record["real"]]
        named = {name for record in self._read.values() for kind in record.values() for name in kind}
        absent = [name for name in cases if name.rpartition("/")[2] not in named]
        if not paths or not absent:
            return []
        return [
            f"{' and '.join(paths)} does not name {some(absent)}: each is a patient of its own, unless it shows an "
            "image of one that is named"
        ]

    def by_images(self, known: Known, images: Iterable[str]) -> Known:
        """What the records tell of a case by the content of its images, where it has another name now.

        Args:
            known: of the case by its name and place.
            images: content hashes, see ``data.cohort.content``.
        """
        found = next((self._images[image] for image in images if image in self._images), None)
        if found is None or known.synthetic or found.name == known.name.rpartition("/")[2]:
            return known
        ids = found.ids if found.synthetic else (*known.ids, *found.ids)
        return Known(known.name, ids, synthetic=found.synthetic)

    def _add_images(self, content: dict[str, Any], real: dict[str, str], synthetic: dict[str, tuple[Id, ...]]) -> None:
        for kind in ("synthetic", "real"):  # of an image that is both the real one counts
            for case, record in content[kind].items():
                ids = synthetic[case] if kind == "synthetic" else (("patient", real[case] or case), ("case", case))
                images = record.get("images")
                for image in images if isinstance(images, list) else ():
                    self._images[str(image)] = Known(case, ids, synthetic=kind == "synthetic")

    def _of(self, folder: Path) -> dict[str, Any]:
        """{"real": {case: patient}, "synthetic": {case: ids}} of the records in a folder."""
        if folder not in self._read:
            content = read_provenance(folder)
            content["real"] = {called(case): record for case, record in content["real"].items()}
            real = {case: patient_name(record.get("patient")) for case, record in content["real"].items()}
            synthetic = {case: _recorded(record) for case, record in content["synthetic"].items()}
            self._add_images(content, real, synthetic)
            self._read[folder] = {"real": real, "synthetic": {**_synthesized(folder), **synthetic}}
        return self._read[folder]


def _recorded(record: Mapping[str, Any]) -> tuple[Id, ...]:
    """Of a synthetic case of ``medgen augment``: its patient and those of its donors."""
    names = [record["patient"], *(p for step in record["operations"] for p in step.get("patients", ()))]
    ids = [("patient", patient_name(name)) for name in names]
    return tuple(dict.fromkeys([*ids[:1], *([("case", str(record["source"]))] if record.get("source") else []), *ids]))


def _synthesized(folder: Path) -> dict[str, tuple[Id, ...]]:
    """The cases of ``medgen synthesize`` by its manifest.json: of their label maps, and what they were mixed with."""
    try:
        cases = read_json(folder / "manifest.json").get("cases")
    except InputError:  # none, or another program's
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
    """{"real": {case: record}, "synthetic": {case: record}}, empty where there is no such file. Raises InputError."""
    path = root / PROVENANCE
    content = read_json(path) if os.path.lexists(path) else {"real": {}, "synthetic": {}}
    records = [content.get("real"), content.get("synthetic")]
    if not all(isinstance(kind, dict) and all(isinstance(r, dict) for r in kind.values()) for kind in records):
        raise InputError(
            "dataset-record-foreign",
            f"{path} is not medgen's record of a dataset; move it away or bring back the one written",
        )
    for case, record in content["synthetic"].items():
        steps = record.get("operations")
        if not record.get("patient") or not isinstance(steps, list) or not all(isinstance(s, dict) for s in steps):
            raise InputError(
                "dataset-record-incomplete",
                f"{path} does not tell whose case {case} is and how it was made; bring it back whole",
            )
    return content


def patient_of(name: str, pattern: str | None) -> str:
    """The patient of a case by its name: what ``pattern`` (a regular expression: its first group if it has one) finds.

    None: "sub-01" of a BIDS name such as sub-01_ses-2, "BraTS-GLI-00005" of BraTS-GLI-00005-101, else each case is a
    patient of its own.

    Raises:
        InputError: no regular expression, or one that finds nothing in the name.
    """
    if pattern is None:
        known = BIDS.fullmatch(name) or BRATS.fullmatch(name)
        return known[1] if known else name
    try:
        match = re.search(pattern, name)
    except re.error as error:
        raise InputError(
            "config-patient-pattern-invalid", f"patient_pattern = {pattern!r} is no regular expression: {error}"
        ) from error
    patient = match and (match[1] if match.re.groups else match[0])
    if not patient:
        raise InputError(
            "config-patient-pattern-unmatched",
            f"patient_pattern = {pattern!r} finds no patient in the case name {name}",
        )
    return patient


def _by_place(name: str, files: Sequence[Path], root: Path | None) -> str:
    """By a folder between the dataset's and the file that is named as a patient is (patient07, sub-01_ses-1), or name.

    Of a case that is called by its folders (lonely/day1) else the first that is no part of the split and no `GROUP`.
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
    """The patient of each case and, of a synthetic one, all patients whose images are in it; else none.

    Ids that a real case has together are of one patient, who is called by the first.
    """
    parents: dict[Hashable, Hashable] = {}
    for case in known:
        if not case.synthetic:
            for other in case.ids[1:]:
                join(parents, case.ids[0], other)
    names: dict[Hashable, str] = {}
    for case in known:
        if not case.synthetic:
            names.setdefault(top(parents, case.ids[0]), case.ids[0][1])

    def patient(one: Id) -> str:
        return names.get(top(parents, one), one[1])

    return [(patient(c.ids[0]), frozenset(map(patient, c.ids)) if c.synthetic else frozenset()) for c in known]


def by_images(cases: Iterable[tuple[str, str, Iterable[str]]]) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """Patients who are one because their cases have an image in common: a scan under two names.

    Args:
        cases: name, patient and content hashes (``data.cohort.content``) of each.

    Returns:
        {patient: the patient that they are}, and the names of the cases in pairs.
    """
    first: dict[str, tuple[str, str]] = {}
    parents: dict[Hashable, Hashable] = {}
    pairs = []
    for name, patient, images in cases:
        for other, whose in sorted({first.setdefault(image, (name, patient)) for image in images}):
            if whose != patient:
                join(parents, whose, patient)
                pairs.append((other, name))
    return {str(patient): str(top(parents, patient)) for patient in parents}, pairs


def join(parents: dict[Hashable, Hashable], a: Hashable, b: Hashable) -> None:
    """Make two members of one set (union-find; the lesser name stays on top, so that order does not matter)."""
    a, b = top(parents, a), top(parents, b)
    low, high = (a, b) if str(a) <= str(b) else (b, a)
    parents[high], parents[low] = low, low


def top(parents: dict[Hashable, Hashable], one: Hashable) -> Hashable:
    """The member that stands for the set of ``one``."""
    while parents.get(one, one) != one:
        one = parents[one]
    return one
