"""Measure the value of synthetic images: train and test segmenters on real and synthetic images and compare them.

| protocol | trained on | tested on | question |
|---|---|---|---|
| real_to_real | real | real | performance without synthetic images: the baseline |
| real_to_synthetic | real | synthetic | do synthetic images agree with their labels (TRTS) |
| synthetic_to_real | synthetic | real | can they replace real images in training (TSTR; Esteban 2017, Ravuri 2019) |
| both_to_real | real and synthetic | real | do they improve training in addition to the real images |

All segmenters have the same training budget. Folds are split by patient: no image of a test patient, real or synthetic,
is used for training. See docs/explanation/downstream.md for the limits of these results.
"""

import hashlib
import json
import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medgen.data.grid import resample_like
from medgen.downstream.summary import BASELINE, Downstream, Row, write
from medgen.errors import InputError
from medgen.evaluation.metrics.segmentation import segmentation_scores
from medgen.evaluation.summary import Failure
from medgen.io.atomic import write_text
from medgen.io.grids import on_axes_of, same_grid
from medgen.io.paths import case_name
from medgen.io.read import find_volumes, read_volume
from medgen.io.volume import Volume
from medgen.segmentation.train import Example, fingerprint, label_values, train_segmenter

PROTOCOLS = {
    BASELINE: ("real", "real"),
    "real_to_synthetic": ("real", "synthetic"),
    "synthetic_to_real": ("synthetic", "real"),
    "both_to_real": ("both", "real"),
}
Segment = Callable[[Volume], np.ndarray]  # image → label values on its grid, see segmentation.external


def read_examples(images: Path, labels: Path, patient: Callable[[str], str] = str) -> list[Example]:
    """Match images and labels of two folders by case name.

    Args:
        images: folder of images.
        labels: folder of label maps.
        patient: returns the patient of a case name. By default each name is a patient, which is wrong if synthetic
            images do not have the name of their source case.

    Raises:
        InputError: a folder is absent, or the folders have no case in common.
    """
    by_name = {case_name(path): path for path in find_volumes(labels)}
    found = [(case_name(path), path) for path in find_volumes(images)]
    examples = [Example(name, patient(name), path, by_name[name]) for name, path in found if name in by_name]
    if not examples:
        raise InputError(
            "folder-names-unmatched",
            f"no volume in {images} has labels of the same name in {labels}; rename the files to match",
        )
    return examples


def patient_folds(
    real: Sequence[Example], synthetic: Sequence[Example], folds: int | Sequence[Collection[str]], *, seed: int = 0
) -> list[frozenset[str]]:
    """Return the test patients of each fold.

    Args:
        real, synthetic: labelled images.
        folds: the number of folds, or the test patients of each fold, for example the test patients of the model that
            made the synthetic images. With a number, each patient is tested once; patients with real images and
            patients with only synthetic images are distributed separately, in the order of a hash of seed and patient.
        seed: seed of that order.

    Raises:
        InputError: fewer patients with real images than folds, or a fold without real images to test or train on.
    """
    patients = {example.patient for example in real}
    if isinstance(folds, int):
        if not 2 <= folds <= len(patients):
            raise InputError(
                "downstream-fold-count",
                f"{folds} folds cannot be made of {len(patients)} patients with real images; "
                "use 2 or more, but at most one per patient",
            )
        others = {example.patient for example in synthetic} - patients
        ordered = [sorted(group, key=lambda p: _rank(p, seed)) for group in (patients, others)]
        return [frozenset(p for group in ordered for p in group[fold::folds]) for fold in range(folds)]
    fold_patients = [frozenset(fold) for fold in folds]
    for i, tested in enumerate(fold_patients):
        if not tested & patients or not patients - tested:
            raise InputError(
                "downstream-fold-empty",
                f"fold {i} leaves no patient with real images to test or to train on; choose other patients",
            )
    return fold_patients


def _rank(patient: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}:{patient}".encode()).hexdigest()


def run_protocols(
    real: Sequence[Example],
    synthetic: Sequence[Example],
    out: Path,
    *,
    protocols: Collection[str] | None = None,
    folds: int | Sequence[Collection[str]] = 5,
    only: Collection[int] | None = None,
    seeds: Sequence[int] = (0,),
    values: Sequence[int] | None = None,
    tolerance_mm: float = 2.0,
    train: Callable[..., Segment] = train_segmenter,
    training: Mapping[str, Any] | None = None,
    shared: Path | None = None,
    say: Callable[[str], None] = print,
) -> Downstream:
    """Train and test segmenters with the protocols; write ``scores.csv`` and ``summary.json`` into ``out``.

    Finished results are reused: each protocol, fold and seed has a file in ``out/results``, and each segmenter has a
    folder in ``out/segmenters``. Both are valid while their input files and settings are unchanged. A failed case is
    therefore repeated after its file has changed, and a failed training is repeated at the next call.

    Args:
        real, synthetic: labelled images; ``patient`` of a synthetic image is the patient whose scan or labels it was
            made from.
        out: folder for results and segmenters.
        protocols: some of `PROTOCOLS`; None: all that are possible with these images.
        folds: see `patient_folds`.
        only: indices of the folds to run, for example for a single split; None: all.
        seeds: every segmenter is trained once per seed.
        values: label values; None: all that occur in the real images.
        tolerance_mm: of the surface Dice.
        train: ``train(examples, folder, values=, seed=, cache=, say=, **training)`` returns a segmenter.
        training: arguments of ``train_segmenter``, such as ``{"minutes": 30, "device": "cuda"}``.
        shared: folder of the segmenters trained on real images only, to share them between sets of synthetic images
            of the same patients; None: in ``out``.
        say: called with progress lines.

    Raises:
        InputError: unknown protocol or fold, missing synthetic images, impossible folds, or synthetic images whose
            names begin with the name of a real image while each name is a patient.
    """
    out, training = Path(out), dict(training or {})
    chosen = list(PROTOCOLS if synthetic else [BASELINE]) if protocols is None else list(protocols)
    _check(chosen, synthetic)
    _check_patients(real, synthetic)
    values = label_values(real) if values is None else tuple(sorted({0, *values}))
    tested = patient_folds(real, synthetic, folds)
    if only is not None and not set(only) <= set(range(len(tested))):
        raise InputError(
            "downstream-fold-unknown", f"there are folds 0 to {len(tested) - 1}, not {sorted(only)}; choose from them"
        )
    pools = {"real": _with_prefix("real", real), "synthetic": _with_prefix("synthetic", synthetic)}
    pools["both"] = pools["real"] + pools["synthetic"]
    results = []
    for fold in range(len(tested)) if only is None else only:
        for seed in seeds:
            for training_pool in dict.fromkeys(PROTOCOLS[name][0] for name in chosen):
                folder = shared if shared is not None and training_pool == "real" else out / "segmenters"
                run = _Run(out, folder, training_pool, fold, seed, values, tolerance_mm, train, training, say)
                tests = {name: _of_patients(pools[PROTOCOLS[name][1]], tested[fold]) for name in chosen}
                tests = {name: cases for name, cases in tests.items() if PROTOCOLS[name][0] == training_pool}
                results += run([e for e in pools[training_pool] if e.patient not in tested[fold]], tests)
    rows = [row for result in results for row in result["rows"]]
    failures = list(dict.fromkeys(Failure(**failure) for result in results for failure in result["failures"]))
    found = Downstream(rows, failures)
    write(out, found, {"folds": [sorted(patients) for patients in tested], "values": values, "training": training})
    return found


def _check(chosen: Sequence[str], synthetic: Sequence[Example]) -> None:
    unknown = [name for name in chosen if name not in PROTOCOLS]
    if unknown:
        raise InputError(
            "downstream-protocol-unknown", f"{unknown[0]!r} is not a protocol; choose from {', '.join(PROTOCOLS)}"
        )
    without_synthetic = [name for name in chosen if name != BASELINE and not synthetic]
    if without_synthetic:
        raise InputError(
            "downstream-synthetic-missing",
            f"protocol {without_synthetic[0]} needs synthetic images; give some or omit the protocol",
        )


def _check_patients(real: Sequence[Example], synthetic: Sequence[Example]) -> None:
    """Raise InputError if no patients are given and names show that synthetic images come from a real patient.

    Otherwise ``p3_s0`` would be a patient of its own and used for training when p3 is tested.
    """
    if any(example.patient != example.name for example in (*real, *synthetic)):
        return
    names = sorted({example.name for example in real}, key=len, reverse=True)
    for example in synthetic:
        source = next((n for n in names if re.match(re.escape(n) + r"[^0-9A-Za-z]", example.name)), None)
        if source is not None and example.name not in names:
            raise InputError(
                "downstream-synthetic-patient",
                f"the synthetic image {example.name} seems to be made from {source} but counts as a separate patient, "
                f"so it would be used for training when {source} is tested; pass a patient function to read_examples",
            )


def _with_prefix(kind: str, examples: Sequence[Example]) -> list[Example]:
    """Add a prefix to the names, because a synthetic image often has the name of its real image."""
    return [example._replace(name=f"{kind}/{example.name}") for example in examples]


def _of_patients(examples: Sequence[Example], patients: Collection[str]) -> list[Example]:
    return [example for example in examples if example.patient in patients]


@dataclass(frozen=True)
class _Run:
    """One segmenter, trained once and tested in every protocol that trains on ``training_pool``."""

    out: Path
    segmenters: Path
    training_pool: str
    fold: int
    seed: int
    values: tuple[int, ...]
    tolerance_mm: float
    train: Callable[..., Segment]
    training: dict[str, Any]
    say: Callable[[str], None]

    def __call__(self, examples: list[Example], tests: Mapping[str, list[Example]]) -> list[dict[str, Any]]:
        """Return {"rows", "failures"} of each protocol in ``tests``, from its file or computed now."""
        results: list[dict[str, Any]] = []
        failures: list[dict[str, Any]] = []
        segmenter: Segment | Failure | None = None
        for protocol, cases in tests.items():
            file = self.out / "results" / f"{protocol}-fold{self.fold}-seed{self.seed}.json"
            input_hash = fingerprint(
                [*examples, *cases], [self.values, self.seed, self.tolerance_mm, self.training, len(cases)]
            )
            result = _saved_result(file, input_hash)
            if result is None:
                segmenter = self._train(examples) if segmenter is None else segmenter
                if isinstance(segmenter, Failure):
                    failures = [{"rows": [], "failures": [asdict(segmenter)]}]  # once, however many protocols need it
                    continue
                result = {"made_of": input_hash, **self._test(segmenter, protocol, cases)}
                write_text(file, json.dumps(result))
            results.append(result)
        return results + failures

    def _train(self, examples: list[Example]) -> Segment | Failure:
        name = f"{self.training_pool}-fold{self.fold}-seed{self.seed}"
        folder, cache = self.segmenters / name, self.out / "cache"
        self.say(f"{name}: training on {len(examples)} cases")
        try:
            return self.train(
                examples, folder, values=self.values, seed=self.seed, cache=cache, say=self.say, **self.training
            )
        except (InputError, ArithmeticError, RuntimeError, MemoryError) as error:
            return Failure(f"segmenter {name}", _error_text(error), section=True)

    def _test(self, segmenter: Segment, protocol: str, cases: list[Example]) -> dict[str, Any]:
        rows, failures = score(segmenter, cases, self.values, tolerance_mm=self.tolerance_mm)
        rows = [{"protocol": protocol, "fold": self.fold, "seed": self.seed, **row} for row in rows]
        skipped = getattr(segmenter, "record", {}).get("skipped", {})
        failures = [*failures, *(Failure(name, f"not trained on: {why}") for name, why in skipped.items())]
        dice = [row["dice"] for row in rows if not math.isnan(row["dice"])]
        self.say(f"{protocol}, fold {self.fold}, seed {self.seed}: mean Dice {np.mean(dice) if dice else math.nan:.3f}")
        return {"rows": rows, "failures": [asdict(failure) for failure in failures]}


def _saved_result(file: Path, input_hash: str) -> dict[str, Any] | None:
    """Return the result of an earlier run if it is complete and its inputs are unchanged, else None."""
    try:
        result = json.loads(file.read_text())
        return result if result["made_of"] == input_hash else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def score(
    segment: Segment, examples: Iterable[Example], values: Sequence[int], *, tolerance_mm: float = 2.0
) -> tuple[list[Row], list[Failure]]:
    """Test any segmenter on the grid of the reference labels; return one row per case and label, and failures.

    Args:
        segment: image → label values on its grid.
        examples: test images with labels.
        values: label values to score; 0 is ignored.
        tolerance_mm: of the surface Dice.
    """
    rows: list[Row] = []
    failures = []
    for example in examples:
        try:
            rows += _case_rows(segment, example, values, tolerance_mm)
        except (ValueError, ArithmeticError, RuntimeError, OSError, MemoryError) as error:
            failures.append(Failure(example.name, _error_text(error)))
    return rows, failures


def _case_rows(segment: Segment, example: Example, values: Sequence[int], tolerance_mm: float) -> list[Row]:
    image, reference_labels = read_volume(example.image), read_volume(example.labels)
    prediction = np.asarray(segment(image))
    if prediction.shape != image.data.shape:
        raise InputError(
            "segmenter-output-shape",
            f"the segmenter returned {prediction.shape} voxels for the {image.data.shape} voxels of {example.image}; "
            "it must return one label per voxel",
        )
    if same_grid(reference_labels.geometry, image.geometry):
        prediction = on_axes_of(image.replaced(prediction.astype(np.float32)), reference_labels).data
    else:
        prediction = resample_like(image.replaced(prediction.astype(np.float32)), reference_labels, labels=True)
    labels = [value for value in values if value]
    scores = segmentation_scores(
        reference_labels.data, prediction, reference_labels.spacing, labels=labels, tolerance_mm=tolerance_mm
    )
    return [{"case": example.name, "patient": example.patient, "label": k, **s} for k, s in scores.items()]


def _error_text(error: BaseException) -> str:
    return str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
