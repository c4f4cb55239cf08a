"""A labelled dataset written case by case: real ones as they are, synthetic ones beside them; resumable.

One bad case is told of and left out; the others go on. What is whole from an earlier run is not made again.
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
from medgen.data.cohort.layouts import some
from medgen.data.cohort.patients import by_images
from medgen.errors import InputError
from medgen.io.atomic import atomic_write
from medgen.io.claim import apart, claimed, remove
from medgen.io.hashes import sha256
from medgen.io.paths import case_name
from medgen.io.volume import Volume, same_geometry
from medgen.io.write import write_channels, write_volume

LAYOUTS = {"nnunet": nnunet, "decathlon": decathlon}
FAILURES = (ValueError, ArithmeticError, RuntimeError, OSError, MemoryError)  # of one case, not of the program
Make = Callable[[], tuple[Sequence[Volume], Volume | None, Mapping[str, Any]]]
VERSION = 2  # counts changes of this package that make what it wrote before another thing


@dataclass
class Written:
    """What became of one case. ``status``: written, skipped (whole from before) or failed (``error`` says why)."""

    case: str
    synthetic: bool = False
    status: str = "failed"
    error: str | None = None
    warnings: list[str] = field(default_factory=list)
    seconds: float = 0.0


def write_dataset(
    dataset: LabelledDataset, out: Path, format: str, *, done: Callable[[Written, int, int], None] = lambda *_: None
) -> list[Written]:
    """A dataset in another place and layout: its real and synthetic cases, table, folds and provenance.

    Args:
        out: folder to write; one that holds something else is refused.
        format: nnunet or decathlon.
        done: called after each case with what became of it, its number and the count.

    Raises:
        InputError: unknown format, ``out`` is not free, fewer than two patients could be written.
    """
    apart(out, dataset.root)
    with claimed(out, {"command": "write_dataset", "dataset": dataset.root, "format": format}):
        writer = DatasetWriter(dataset, out, format)
        for case in dataset.cases:
            done(writer.copy(case), len(writer.results), len(dataset.cases))
        writer.finish()
    return writer.results


class DatasetWriter:
    """Writes cases of ``dataset`` and what is made of them; ``finish`` makes a dataset of those written.

    The caller has claimed ``out``.
    """

    def __init__(self, dataset: LabelledDataset, out: Path, format: str) -> None:
        if format not in LAYOUTS:
            raise InputError("option-format-unknown", f"--format {format}: unknown; choose one of {', '.join(LAYOUTS)}")
        out = Path(out)
        self.layout = LAYOUTS[format]
        self.given, self.dataset = dataset, replace(self.layout.adapted(dataset), root=out)
        usable = [case for case in dataset.cases if not case.test and not case.fault]
        patient_folds(usable, dataset.folds)  # refused before the work
        self.tested = {case.patient for case in dataset.cases if case.test}
        self.provenance = Provenance(out)
        self.provenance.save()  # from now on the folder is known for medgen's, whenever a kill comes
        self.written: list[LabelledCase] = []
        self.images: dict[str, list[str]] = {}  # content hashes of the images of each case written
        self.warnings: list[str] = list(dataset.warnings)  # of the dataset as a whole; ``finish`` adds to them
        self.results: list[Written] = []

    def read(self, case: LabelledCase) -> tuple[list[Volume], Volume | None]:
        """Images and label of a case, with the values of the labels as they are written."""
        images, label = read_case(self.given, case)
        return images, label and relabelled(label, self.given.labels, self.dataset.labels)

    def copy(self, case: LabelledCase) -> Written:
        """Write a case as it is."""
        return self.add(case, lambda: self.made_of(case), lambda: (*self.read(case), {}), case)

    def made_of(self, case: LabelledCase) -> str:
        """All that a case's files depend on, as a hash: its own files and the tables of labels."""
        files = [*case.images, *([case.label] if case.label else [])]
        return digest(VERSION, sha256(files), case.patient, dict(self.given.labels), dict(self.dataset.labels))

    def add(
        self, case: LabelledCase, made_of: Callable[[], str], make: Make, source: LabelledCase | None = None
    ) -> Written:
        """Write one case unless it is whole; what it fails by goes into the result.

        Args:
            case: its name, patient, part, and record if synthetic; where its files go is the layout's to say.
            made_of: hash of all that the files depend on.
            make: images, label, and what the record of a synthetic case is to say besides.
            source: the case whose files these images are, to be copied as they are where that can be.
        """
        started = time.monotonic()
        entry = Written(case.name, case.record is not None)
        try:
            if case.fault:
                raise InputError("dataset-case-faulty", case.fault)
            place = self.layout.placed(case, self.dataset, self.dataset.root)
            files, origin = [*place.images, *([place.label] if place.label else [])], made_of()
            record = self.provenance.holds(case.name, origin, files)
            entry.status = "skipped" if record else "written"
            if record is None:
                entry.warnings += [
                    f"{path.name} was changed since medgen wrote it: it is made anew, and yours is kept as {path}"
                    for path in self.provenance.keep_changed(case.name)
                ]
                record = self._made({"patient": case.patient, **(case.record or {})}, place, make, source)
                record = self.provenance.add(case.name, {**record, "made_of": origin}, files, entry.synthetic)
            place = replace(place, record=record if entry.synthetic else None)
            self._refuse_tested(place)
            self.written.append(place)
            self.images[place.name] = record.get("images", [])
            entry.warnings += [text for step in record.get("operations", ()) for text in step.get("warnings", ())]
        except FAILURES as error:
            reason = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
            entry.status, entry.error = "failed", reason if case.name in reason else f"case {case.name}: {reason}"
        entry.seconds = round(time.monotonic() - started, 2)
        self.results.append(entry)
        return entry

    def finish(self) -> list[Path]:
        """Remove what an earlier run left over, and write the tables; returns the files of the folds."""
        self.provenance.keep_only([case.name for case in self.written])
        for stale in ("splits_final.json", "datalist_fold*.json"):
            for path in self.dataset.root.glob(stale):
                remove(path)
        cases = self._identified(sorted(self.written, key=lambda case: case.name))
        training = [case for case in cases if not case.test]
        folds = patient_folds(training, self.given.folds)
        unused = in_no_fold(training, folds)
        for kind, made in (("synthetic", True), ("real", False)):
            if names := [c.name for c in training if c.name in set(unused) and (c.record is not None) == made]:
                why = ": each shows patients whom every fold keeps apart" if made else ""
                self.warnings.append(f"{len(names)} {kind} cases are in no fold{why} ({some(names)})")
        return self.layout.write_index(replace(self.dataset, cases=tuple(cases), folds=folds))

    def _identified(self, cases: Sequence[LabelledCase]) -> list[LabelledCase]:
        """The cases, real ones that show one image being of one patient: a scan under two names is else validated by
        what was trained on."""
        real = [case for case in cases if case.record is None]
        called, pairs = by_images((case.name, case.patient, self.images[case.name]) for case in real)
        tests = {case.name for case in real if case.test}
        for pair in pairs:
            tested = ", and one of them is a test case: remove one" if len(tests.intersection(pair)) == 1 else ""
            self.warnings.append(f"cases {' and '.join(pair)} show the same image: taken for one patient{tested}")

        def of(case: LabelledCase) -> LabelledCase:
            patients = frozenset(called.get(patient, patient) for patient in case.patients)
            return replace(case, patient=called.get(case.patient, case.patient), donors=patients)

        return [of(case) for case in cases] if called else list(cases)

    def _made(
        self, record: dict[str, Any], place: LabelledCase, make: Make, source: LabelledCase | None
    ) -> dict[str, Any]:
        """Make and write a case; returns its record."""
        images, label, told = make()
        record |= told
        self._check(place.name, images, label)
        write_case(place, images, label, source)
        return record | {"images": [h for image in images if (h := content_hash(image.data))]}

    def _check(self, name: str, images: Sequence[Volume], label: Volume | None) -> None:
        """Raises InputError where what was made does not fit the dataset."""
        made = f"case {name} was made with"
        if len(images) != len(self.dataset.channels):
            raise InputError(
                "dataset-channel-count-differs",
                f"{made} {len(images)} channels where the dataset has {len(self.dataset.channels)}",
            )
        if not all(same_geometry(v.geometry, images[0].geometry) for v in (*images, *([label] if label else []))):
            raise InputError("dataset-grid-differs", f"{made} images or label on different grids")
        if label is not None:
            check_values(label.data, self.dataset.labels, f"the label made for case {name}")

    def _refuse_tested(self, case: LabelledCase) -> None:
        shown = case.patients & self.tested
        if shown and not case.test:
            raise InputError(
                "split-test-patient-used",
                f"case {case.name} was made with images of {min(shown)}, who is in the test set",
            )


def write_case(
    place: LabelledCase, images: Sequence[Volume], label: Volume | None, source: LabelledCase | None = None
) -> None:
    """Images and label to the files of ``place``; byte by byte where ``source`` has them as they are to be."""
    given = source.images if source else ()
    endings = [[path.name.removeprefix(case_name(path)) for path in files] for files in (given, place.images)]
    if endings[0] == endings[1] and all(volume.path for volume in images):
        for original, path in zip(given, place.images, strict=True):
            with atomic_write(path) as aside:
                shutil.copyfile(original, aside)
    elif len(place.images) == 1:
        write_channels(place.images[0], images)
    else:
        for path, volume in zip(place.images, images, strict=True):
            write_volume(path, volume)
    if label is not None and place.label is not None:
        write_volume(place.label, label_on(images[0], label.data))


def label_on(image: Volume, values: np.ndarray) -> Volume:
    """A label map with the image's own header, so that every program sees both in one place; integers, no slope."""
    header = None if image.header is None else image.header.copy()
    if header is not None:
        header.set_slope_inter(1.0, 0.0)
    dtype = np.min_scalar_type(int(values.max()))
    return replace(image, data=values, dtype=dtype, header=header)


def relabelled(label: Volume, old: Mapping[str, int], new: Mapping[str, int]) -> Volume:
    """The label map with the value that each structure has in another table of the same structures."""
    if dict(old) == dict(new):
        return label
    order = sorted(old, key=lambda name: old[name])
    places = np.searchsorted([old[name] for name in order], label.data)
    return label.replaced(np.asarray([new[name] for name in order], np.float32)[places])
