"""Are synthetic images worth something? A segmenter is trained and tested on real and synthetic ones, and compared.

| protocol | trained on | tested on | asks |
|---|---|---|---|
| real_to_real | real | real | what can be had without synthesis: the baseline |
| real_to_synthetic | real | synthetic | do synthetic images show the anatomy where their labels say (TRTS) |
| synthetic_to_real | synthetic | real | do they teach what real ones teach (TSTR; Esteban 2017, Ravuri 2019) |
| both_to_real | real and synthetic | real | do they add to the real ones at hand |

Every segmenter gets the same budget, and patients are kept apart: no image of a patient, real or synthetic, is
trained on where one of that patient is tested. See docs/explanation/downstream.md for when the numbers mislead.
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
Segment = Callable[[Volume], np.ndarray]  # an image → label values on its grid, see segmentation.external


def read_examples(images: Path, labels: Path, patient: Callable[[str], str] = str) -> list[Example]:
    """Images and labels of the same case name in two folders; ``patient`` tells a case's patient from its name.

    Without it each name is a patient, which is wrong where synthetic images have names of their own.

    Raises:
        InputError: a folder is absent, or they have no case in common.
    """
    by_name = {case_name(path): path for path in find_volumes(labels)}
    found = [(case_name(path), path) for path in find_volumes(images)]
    examples = [Example(name, patient(name), path, by_name[name]) for name, path in found if name in by_name]
    if not examples:
        raise InputError(
            "folder-names-unmatched",
            f"no volume in {images} has labels of its name in {labels}; rename the files to match",
        )
    return examples


def patient_folds(
    real: Sequence[Example], synthetic: Sequence[Example], folds: int | Sequence[Collection[str]], *, seed: int = 0
) -> list[frozenset[str]]:
    """The patients tested in each fold.

    Args:
        folds: a number: each patient is tested once; patients with real images and those with synthetic ones only are
            dealt out apart, in the order of a hash of seed and patient. Or the patients of each fold, for example
            the test patients of the model that made the synthetic images.

    Raises:
        InputError: fewer patients with real images than folds, or a fold that leaves nothing real to test or train on.
    """
    patients = {example.patient for example in real}
    if isinstance(folds, int):
        if not 2 <= folds <= len(patients):
            raise InputError(
                "downstream-fold-count",
                f"{folds} folds of {len(patients)} patients with real images cannot be; use 2 to as many",
            )
        others = {example.patient for example in synthetic} - patients
        ordered = [sorted(group, key=lambda p: _rank(p, seed)) for group in (patients, others)]
        return [frozenset(p for group in ordered for p in group[fold::folds]) for fold in range(folds)]
    given = [frozenset(fold) for fold in folds]
    for i, tested in enumerate(given):
        if not tested & patients or not patients - tested:
            raise InputError(
                "downstream-fold-empty",
                f"fold {i} leaves no patient with real images to test or to train on; name others",
            )
    return given


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
    """Train and test segmenters by the protocols; writes ``scores.csv`` and ``summary.json`` into ``out``.

    What is finished is not done again: each protocol, fold and seed has its file in ``out/results``, each segmenter
    its folder in ``out/segmenters``, and both count as long as the files and settings that they were made of are the
    same. So a case that failed is tried again once its file has changed, and a training that failed at the next call.

    Args:
        real, synthetic: labelled images; ``patient`` of a synthetic one is whose scan or labels it was made from.
        protocols: some of `PROTOCOLS`; None: all that the images allow.
        folds: see `patient_folds`.
        only: numbers of the folds to run, of all; for a single split.
        seeds: each trains every segmenter anew.
        values: of the labels; None: all that occur in the real ones.
        tolerance_mm: of the surface Dice.
        train: ``train(examples, folder, values=, seed=, cache=, say=, **training)`` gives a segmenter.
        training: arguments of ``train_segmenter``, such as ``{"minutes": 30, "device": "cuda"}``.
        shared: folder of the segmenters trained on real images alone, which other synthetic images of the same
            patients need too; None: in ``out``, as all.

    Raises:
        InputError: unknown protocol or fold, synthetic images missing, folds that cannot be, or synthetic images whose
            names begin with a real one's while each name is a patient.
    """
    out, training = Path(out), dict(training or {})
    chosen = list(PROTOCOLS if synthetic else [BASELINE]) if protocols is None else list(protocols)
    _check(chosen, synthetic)
    _check_patients(real, synthetic)
    values = label_values(real) if values is None else tuple(sorted({0, *values}))
    tested = patient_folds(real, synthetic, folds)
    if only is not None and not set(only) <= set(range(len(tested))):
        raise InputError(
            "downstream-fold-unknown", f"there are folds 0 to {len(tested) - 1}, not {sorted(only)}; choose among them"
        )
    pools = {"real": _named("real", real), "synthetic": _named("synthetic", synthetic)}
    pools["both"] = pools["real"] + pools["synthetic"]
    results = []
    for fold in range(len(tested)) if only is None else only:
        for seed in seeds:
            for learnt in dict.fromkeys(PROTOCOLS[name][0] for name in chosen):
                folder = shared if shared is not None and learnt == "real" else out / "segmenters"
                run = _Run(out, folder, learnt, fold, seed, values, tolerance_mm, train, training, say)
                tests = {name: _in(pools[PROTOCOLS[name][1]], tested[fold]) for name in chosen}
                tests = {name: cases for name, cases in tests.items() if PROTOCOLS[name][0] == learnt}
                results += run([e for e in pools[learnt] if e.patient not in tested[fold]], tests)
    rows = [row for result in results for row in result["rows"]]
    failures = list(dict.fromkeys(Failure(**failure) for result in results for failure in result["failures"]))
    found = Downstream(rows, failures)
    write(out, found, {"folds": [sorted(patients) for patients in tested], "values": values, "training": training})
    return found


def _check(chosen: Sequence[str], synthetic: Sequence[Example]) -> None:
    unknown = [name for name in chosen if name not in PROTOCOLS]
    if unknown:
        raise InputError(
            "downstream-protocol-unknown", f"{unknown[0]!r} is no protocol; choose among {', '.join(PROTOCOLS)}"
        )
    lacking = [name for name in chosen if name != BASELINE and not synthetic]
    if lacking:
        raise InputError(
            "downstream-synthetic-missing",
            f"protocol {lacking[0]} needs synthetic images and none were given; give some or leave it out",
        )


def _check_patients(real: Sequence[Example], synthetic: Sequence[Example]) -> None:
    """Refuse synthetic images that seem to be made of a real patient's by their names, where nobody told the patients.

    ``p3_s0`` as a patient of its own would be trained on where p3 is tested.
    """
    if any(example.patient != example.name for example in (*real, *synthetic)):
        return
    names = sorted({example.name for example in real}, key=len, reverse=True)
    for example in synthetic:
        source = next((n for n in names if re.match(re.escape(n) + r"[^0-9A-Za-z]", example.name)), None)
        if source is not None and example.name not in names:
            raise InputError(
                "downstream-synthetic-patient",
                f"the synthetic image {example.name} seems to be made of {source} but counts as a patient of its own, "
                "who would be trained on where the other is tested: give read_examples the patient of each name",
            )


def _named(kind: str, examples: Sequence[Example]) -> list[Example]:
    """A synthetic image often has its real one's name."""
    return [example._replace(name=f"{kind}/{example.name}") for example in examples]


def _in(examples: Sequence[Example], patients: Collection[str]) -> list[Example]:
    return [example for example in examples if example.patient in patients]


@dataclass(frozen=True)
class _Run:
    """One segmenter, trained once and tested by every protocol that trains on ``learnt``."""

    out: Path
    segmenters: Path
    learnt: str
    fold: int
    seed: int
    values: tuple[int, ...]
    tolerance_mm: float
    train: Callable[..., Segment]
    training: dict[str, Any]
    say: Callable[[str], None]

    def __call__(self, examples: list[Example], tests: Mapping[str, list[Example]]) -> list[dict[str, Any]]:
        """{"rows", "failures"} of each protocol in ``tests``, from its file or made now."""
        results: list[dict[str, Any]] = []
        segmenter: Segment | Failure | None = None
        for protocol, cases in tests.items():
            file = self.out / "results" / f"{protocol}-fold{self.fold}-seed{self.seed}.json"
            made_of = fingerprint(
                [*examples, *cases], [self.values, self.seed, self.tolerance_mm, self.training, len(cases)]
            )
            result = _finished(file, made_of)
            if result is None:
                segmenter = self._trained(examples) if segmenter is None else segmenter
                if isinstance(segmenter, Failure):
                    return [*results, {"rows": [], "failures": [asdict(segmenter)]}]
                result = {"made_of": made_of, **self._tested(segmenter, protocol, cases)}
                write_text(file, json.dumps(result))
            results.append(result)
        return results

    def _trained(self, examples: list[Example]) -> Segment | Failure:
        name = f"{self.learnt}-fold{self.fold}-seed{self.seed}"
        folder, cache = self.segmenters / name, self.out / "cache"
        self.say(f"{name}: training on {len(examples)} cases")
        try:
            return self.train(
                examples, folder, values=self.values, seed=self.seed, cache=cache, say=self.say, **self.training
            )
        except (InputError, ArithmeticError, RuntimeError, MemoryError) as error:
            return Failure(f"segmenter {name}", _sentence(error))

    def _tested(self, segmenter: Segment, protocol: str, cases: list[Example]) -> dict[str, Any]:
        rows, failures = score(segmenter, cases, self.values, tolerance_mm=self.tolerance_mm)
        rows = [{"protocol": protocol, "fold": self.fold, "seed": self.seed, **row} for row in rows]
        skipped = getattr(segmenter, "record", {}).get("skipped", {})
        failures = [*failures, *(Failure(name, f"not trained on: {why}") for name, why in skipped.items())]
        dice = [row["dice"] for row in rows if not math.isnan(row["dice"])]
        self.say(f"{protocol}, fold {self.fold}, seed {self.seed}: mean Dice {np.mean(dice) if dice else math.nan:.3f}")
        return {"rows": rows, "failures": [asdict(failure) for failure in failures]}


def _finished(file: Path, made_of: str) -> dict[str, Any] | None:
    """What an earlier run wrote, if it is of these inputs and whole."""
    try:
        result = json.loads(file.read_text())
        return result if result["made_of"] == made_of else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def score(
    segment: Segment, examples: Iterable[Example], values: Sequence[int], *, tolerance_mm: float = 2.0
) -> tuple[list[Row], list[Failure]]:
    """Test a segmenter, trained here or not: a row a case and label, on the truth's grid, and what failed.

    Args:
        segment: image → label values on its grid.
        values: of the labels to score; 0 is left out.
    """
    rows: list[Row] = []
    failures = []
    for example in examples:
        try:
            rows += _case_rows(segment, example, values, tolerance_mm)
        except (ValueError, ArithmeticError, RuntimeError, OSError, MemoryError) as error:
            failures.append(Failure(example.name, _sentence(error)))
    return rows, failures


def _case_rows(segment: Segment, example: Example, values: Sequence[int], tolerance_mm: float) -> list[Row]:
    image, truth = read_volume(example.image), read_volume(example.labels)
    prediction = np.asarray(segment(image))
    if prediction.shape != image.data.shape:
        raise InputError(
            "segmenter-output-shape",
            f"the segmenter gave {prediction.shape} voxels for {image.data.shape} of {example.image}",
        )
    if same_grid(truth.geometry, image.geometry):
        prediction = on_axes_of(image.replaced(prediction.astype(np.float32)), truth).data
    else:
        prediction = resample_like(image.replaced(prediction.astype(np.float32)), truth, labels=True)
    labels = [value for value in values if value]
    scores = segmentation_scores(truth.data, prediction, truth.spacing, labels=labels, tolerance_mm=tolerance_mm)
    return [{"case": example.name, "patient": example.patient, "label": k, **s} for k, s in scores.items()]


def _sentence(error: BaseException) -> str:
    return str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
