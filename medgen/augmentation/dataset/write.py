"""Write a labelled dataset case by case: the real cases unchanged, and synthetic cases.

A case that fails is reported and left out, and the others are still written. An interrupted run can be resumed: cases
that are complete are not made again.
"""

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from medgen.augmentation.dataset import decathlon, nnunet
from medgen.augmentation.dataset.folds import in_no_fold, patient_folds
from medgen.augmentation.dataset.provenance import Provenance, digest
from medgen.augmentation.dataset.read import LabelledCase, LabelledDataset, check_values, read_case
from medgen.data.cohort.content import content_hash
from medgen.data.cohort.layouts import shortened_list
from medgen.data.cohort.patients import merge_by_images
from medgen.errors import InputError
from medgen.io.atomic import atomic_write
from medgen.io.claim import check_output_is_not_input, claimed, remove
from medgen.io.hashes import sha256
from medgen.io.paths import case_name
from medgen.io.volume import Volume, same_geometry
from medgen.io.write import write_channels, write_volume

LAYOUTS = {"nnunet": nnunet, "decathlon": decathlon}
FAILURES = (ValueError, ArithmeticError, RuntimeError, OSError, MemoryError)  # errors that make one case fail
Make = Callable[[], tuple[Sequence[Volume], Volume | None, Mapping[str, Any]]]  # see ``DatasetWriter.add``
VERSION = 2  # increase it when a change of this package makes earlier output outdated


@dataclass
class CaseResult:
    """Result of one case. ``status``: written, skipped (complete from an earlier run) or failed, see ``error``."""

    case: str
    synthetic: bool = False
    status: str = "failed"
    error: str | None = None
    warnings: list[str] = field(default_factory=list)
    seconds: float = 0.0


def write_dataset(
    dataset: LabelledDataset, out: Path, format: str, *, done: Callable[[CaseResult, int, int], None] = lambda *_: None
) -> list[CaseResult]:
    """Write a dataset to another folder and layout: its real and synthetic cases, tables, folds and provenance.

    Args:
        out: output folder; it may contain only results of an earlier call with the same arguments.
        format: nnunet or decathlon.
        done: called after each case with its result, its number and the total number of cases.

    Raises:
        InputError: the format is unknown, ``out`` has other content, or fewer than two patients can be written.
    """
    check_output_is_not_input(out, dataset.root)
    with claimed(out, {"command": "write_dataset", "dataset": dataset.root, "format": format}):
        writer = DatasetWriter(dataset, out, format)
        for case in dataset.cases:
            done(writer.copy(case), len(writer.results), len(dataset.cases))
        writer.finish()
    return writer.results


class DatasetWriter:
    """Write cases of ``dataset`` and synthetic cases; ``finish`` then writes the tables of the new dataset.

    The caller must reserve ``out`` with `medgen.io.claim.claimed`.
    """

    def __init__(self, dataset: LabelledDataset, out: Path, format: str) -> None:
        if format not in LAYOUTS:
            raise InputError(
                "option-format-unknown", f"--format {format} is unknown; choose one of {', '.join(LAYOUTS)}"
            )
        out = Path(out)
        self.layout = LAYOUTS[format]
        self.origin, self.dataset = dataset, replace(self.layout.adapted(dataset), root=out)
        usable = [case for case in dataset.cases if not case.test and not case.fault]
        patient_folds(usable, dataset.folds)  # raises early, before any case is written
        self.tested = {case.patient for case in dataset.cases if case.test}
        self.provenance = Provenance(out)
        self.provenance.save()  # marks the folder as medgen's, even if the run is killed
        self.written: list[LabelledCase] = []
        self.images: dict[str, list[str]] = {}  # image content hashes of each written case
        self.warnings: list[str] = list(dataset.warnings)  # about the whole dataset; ``finish`` adds more
        self.results: list[CaseResult] = []

    def read(self, case: LabelledCase) -> tuple[list[Volume], Volume | None]:
        """Read the images and the label map of a case; the label map has the values of the output dataset."""
        images, label = read_case(self.origin, case)
        return images, label and relabelled(label, self.origin.labels, self.dataset.labels)

    def copy(self, case: LabelledCase) -> CaseResult:
        """Write a case unchanged."""
        return self.add(case, lambda: self.made_of(case), lambda: (*self.read(case), {}), case)

    def made_of(self, case: LabelledCase) -> str:
        """Return a hash of everything that a case's output files depend on: its input files and both label tables."""
        files = [*case.images, *([case.label] if case.label else [])]
        return digest(VERSION, sha256(files), case.patient, dict(self.origin.labels), dict(self.dataset.labels))

    def add(
        self, case: LabelledCase, made_of: Callable[[], str], make: Make, source: LabelledCase | None = None
    ) -> CaseResult:
        """Write one case unless it is already complete. An error of the case is not raised; the result contains it.

        Args:
            case: name, patient, part and, if synthetic, the record; the layout sets the file paths.
            made_of: returns a hash of everything that the files depend on.
            make: returns images, label map, and further items for the record of a synthetic case.
            source: for an unchanged case, the original; its image files are copied byte by byte if the format is kept.
        """
        started = time.monotonic()
        entry = CaseResult(case.name, case.record is not None)
        try:
            if case.fault:
                raise InputError("dataset-case-faulty", case.fault)
            target = self.layout.placed(case, self.dataset, self.dataset.root)
            files, inputs_hash = [*target.images, *([target.label] if target.label else [])], made_of()
            record = self.provenance.holds(case.name, inputs_hash, files)
            entry.status = "skipped" if record else "written"
            if record is None:
                entry.warnings += [
                    f"{path.name} was changed since medgen wrote it; it is written again, and the changed file was "
                    f"moved to {path}"
                    for path in self.provenance.keep_changed(case.name)
                ]
                record = self._make_and_write({"patient": case.patient, **(case.record or {})}, target, make, source)
                record = self.provenance.add(case.name, {**record, "made_of": inputs_hash}, files, entry.synthetic)
            target = replace(target, record=record if entry.synthetic else None)
            self._reject_test_patients(target)
            self.written.append(target)
            self.images[target.name] = record.get("images", [])
            entry.warnings += [text for step in record.get("operations", ()) for text in step.get("warnings", ())]
        except FAILURES as error:
            reason = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
            entry.status, entry.error = "failed", reason if case.name in reason else f"case {case.name}: {reason}"
        entry.seconds = round(time.monotonic() - started, 2)
        self.results.append(entry)
        return entry

    def finish(self) -> list[Path]:
        """Remove outdated files of earlier runs and write the tables; return the paths of the fold files."""
        self.provenance.keep_only([case.name for case in self.written])
        for stale in ("splits_final.json", "datalist_fold*.json"):
            for path in self.dataset.root.glob(stale):
                remove(path)
        cases = self._with_merged_patients(sorted(self.written, key=lambda case: case.name))
        training = [case for case in cases if not case.test]
        folds = patient_folds(training, self.origin.folds)
        if lost := len(self.origin.folds) - len(folds) if self.origin.folds else 0:
            self.warnings.append(
                f"{lost} of the dataset's {len(self.origin.folds)} folds have no training or no validation cases here "
                "and are left out; the others are renumbered"
            )
        real = {case.patient for case in training if case.record is None}
        if absent := [c.name for c in training if c.record is not None and c.patients - real - self.tested]:
            self.warnings.append(
                f"{len(absent)} synthetic cases contain images of patients who have no real case here "
                f"({shortened_list(absent)}), and are trained on; remove them if these patients are held out elsewhere"
            )
        unused = in_no_fold(training, folds)
        for kind, made in (("synthetic", True), ("real", False)):
            if names := [c.name for c in training if c.name in set(unused) and (c.record is not None) == made]:
                why = ": no fold trains on all patients whose images they contain" if made else ""
                self.warnings.append(f"{len(names)} {kind} cases are in no fold{why} ({shortened_list(names)})")
        return self.layout.write_index(replace(self.dataset, cases=tuple(cases), folds=folds))

    def _with_merged_patients(self, cases: Sequence[LabelledCase]) -> list[LabelledCase]:
        """Assign real cases with the same image to one patient, and adapt the patients of the synthetic cases.

        Otherwise a scan with two names could be in the training and in the validation part of a fold.
        """
        real = [case for case in cases if case.record is None]
        merged, pairs = merge_by_images((case.name, case.patient, self.images[case.name]) for case in real)
        tests = {case.name for case in real if case.test}
        for pair in pairs:
            tested = "; one of them is a test case: remove one" if len(tests.intersection(pair)) == 1 else ""
            self.warnings.append(f"cases {' and '.join(pair)} have the same image and count as one patient{tested}")

        def with_merged(case: LabelledCase) -> LabelledCase:
            patients = frozenset(merged.get(patient, patient) for patient in case.patients)
            return replace(case, patient=merged.get(case.patient, case.patient), donors=patients)

        return [with_merged(case) for case in cases] if merged else list(cases)

    def _make_and_write(
        self, record: dict[str, Any], target: LabelledCase, make: Make, source: LabelledCase | None
    ) -> dict[str, Any]:
        """Make and write a case; return its record."""
        images, label, more = make()
        record |= more
        self._check(target.name, images, label)
        write_case(target, images, label, source)
        return record | {"images": [h for image in images if (h := content_hash(image.data))]}

    def _check(self, name: str, images: Sequence[Volume], label: Volume | None) -> None:
        """Raise InputError if the images or the label map do not match the dataset."""
        made = f"case {name} was made with"
        if len(images) != len(self.dataset.channels):
            raise InputError(
                "dataset-channel-count-differs",
                f"{made} {len(images)} channels, but the dataset has {len(self.dataset.channels)}; "
                "make one image per channel",
            )
        if not all(same_geometry(v.geometry, images[0].geometry) for v in (*images, *([label] if label else []))):
            raise InputError(
                "dataset-grid-differs", f"{made} images and label map on different grids; make them on one grid"
            )
        if label is not None:
            check_values(label.data, self.dataset.labels, f"the label made for case {name}")

    def _reject_test_patients(self, case: LabelledCase) -> None:
        """Raise InputError if a training case was made with images of a test patient."""
        test_donors = case.patients & self.tested
        if test_donors and not case.test:
            raise InputError(
                "split-test-patient-used",
                f"case {case.name} was made with images of patient {min(test_donors)}, who is in the test set; "
                "use images of training patients only",
            )


def write_case(
    target: LabelledCase, images: Sequence[Volume], label: Volume | None, source: LabelledCase | None = None
) -> None:
    """Write images and label map to the files of ``target``; copy the files of ``source`` if the formats agree."""
    origin = source.images if source else ()
    endings = [[path.name.removeprefix(case_name(path)) for path in files] for files in (origin, target.images)]
    if endings[0] == endings[1] and all(volume.path for volume in images):
        for original, path in zip(origin, target.images, strict=True):
            with atomic_write(path) as temporary:
                shutil.copyfile(original, temporary)
    elif len(target.images) == 1:
        write_channels(target.images[0], images)
    else:
        for path, volume in zip(target.images, images, strict=True):
            write_volume(path, volume)
    if label is not None and target.label is not None:
        write_volume(target.label, label_on(images[0], label.data))


def label_on(image: Volume, values: np.ndarray) -> Volume:
    """Return a label map (integer type, no scaling) with the image's header, so that every program aligns the two."""
    header = None if image.header is None else image.header.copy()
    if header is not None:
        header.set_slope_inter(1.0, 0.0)
    dtype = np.min_scalar_type(int(values.max()))
    return replace(image, data=values, dtype=dtype, header=header)


def relabelled(label: Volume, old: Mapping[str, int], new: Mapping[str, int]) -> Volume:
    """Return the label map with its values changed from the table ``old`` to ``new``, which has the same structures."""
    if dict(old) == dict(new):
        return label
    order = sorted(old, key=lambda name: old[name])
    indices = np.searchsorted([old[name] for name in order], label.data)
    return label.replaced(np.asarray([new[name] for name in order], np.float32)[indices])
