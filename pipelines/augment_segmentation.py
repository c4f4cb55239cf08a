"""Test whether synthetic cases improve a segmenter: labelled dataset → generator → augmented dataset → segmenters.

    python pipelines/augment_segmentation.py DATASET OUT --generator hippocampus_spade
        [section.key=value ...]
        [--generator-minutes 60] [--per-case 2] [--recombine] [--test 40] [--cases 8 --draws 5]
        [--arms real classical synthetic both alone] [--seeds 3] [--minutes 10] [--steps 4000]
        [--host liver --lesion cyst,tumour] [--segment cyst,tumour] [--channels t1,flair]
        [--patient-pattern REGEX] [--extractor radiomics]

A generator is one of:

- a config (a file, or a name listed by ``medgen configs``), trained on the training cases of each draw only;
- ``cutpaste`` or ``procedural``, which insert lesions without a model;
- a model folder; make sure that the model was not trained on the test cases.

NAME=GENERATOR sets its name in the tables. Test cases are the labelled test cases of the dataset, else its validation
cases, else ``--test`` patients chosen by a hash of their names; they are the same in every draw. ``--cases`` limits the
number of training cases per draw; each of ``--draws`` selects different ones.

OUT contains for each draw the training cases (``cohort``), each generator's ``run`` and ``augmented`` dataset, and the
segmenters. ``summary.json``, ``scores.csv`` and ``report.html`` contain the arms (see medgen/downstream/ablation.py),
the distance of synthetic from real test images, the memorisation test and example images. A restart resumes an
interrupted run. Failed cases are listed at the end; the exit code is then 2.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from medgen.augmentation.augment import augment
from medgen.augmentation.augmenter import PAINTERS, augmenter_for
from medgen.augmentation.dataset.folds import patient_folds
from medgen.augmentation.dataset.read import LabelledCase, LabelledDataset
from medgen.augmentation.read import read_dataset
from medgen.checkpoint import read_info
from medgen.commands.shared import pick_device, whole_run
from medgen.config import config_file, configs, load_settings
from medgen.data.cohort.content import content_hashes
from medgen.data.cohort.layouts import shortened_list
from medgen.data.cohort.patients import PROVENANCE, merge_by_images, read_provenance
from medgen.data.labels.names import label_named
from medgen.downstream.ablation import ARMS, markdown, run_arms, summarise_arms, write_scores
from medgen.environment import git_commit, versions
from medgen.errors import InputError
from medgen.evaluation.distribution.sections import default_window, distribution_section, memorisation_section
from medgen.evaluation.features.named import EXTRACTOR_CHOICES, named_extractor
from medgen.evaluation.summary import Failure
from medgen.io.atomic import atomic_write, write_text
from medgen.io.names import print_line
from medgen.io.paths import ENDINGS, has_ending
from medgen.io.read import read_volume
from medgen.io.write import write_volume
from medgen.reports.augmentation import augmentation_report, gallery
from medgen.reports.gaps import Gaps
from medgen.segmentation.train import Example
from medgen.training.loop import train

PICTURED = 4  # training cases in a gallery


def main() -> int:
    args = parse()
    about = {key: value for key, value in vars(args).items() if key not in ("out", "overwrite", "draws", "seeds")}
    with whole_run(args.out, [args.dataset], {"command": "augment_segmentation", **about}, args.overwrite):
        return run(args)


def run(args: argparse.Namespace) -> int:
    dataset = read_dataset(args.dataset, channels=args.channels or (), patient_pattern=args.patient_pattern)
    generators = dict(_named(text) for text in args.generator)
    if len(generators) < len(args.generator):
        raise InputError(
            "pipeline-name-twice", "two generators have the same name; give each its own as NAME=GENERATOR"
        )
    failures = [Failure(case.name, case.fault) for case in dataset.cases if case.fault]
    for name in (*(args.segment or ()), *args.lesion, *([args.host] if args.host else ())):
        if label_named(name, dataset.labels) is None:
            raise InputError(
                "labels-name-unknown",
                f"{name} is not a label of {args.dataset}; choose one of {', '.join(dataset.labels)}",
            )
    args.segment = args.segment and [label_named(name, dataset.labels) for name in args.segment]
    dataset = one_patient_an_image(dataset, args.out)
    test_cases, training_cases = split(dataset, args.test)
    for text in notes(dataset, test_cases):
        print(f"warning: {text}", flush=True)
    rows, sets = [], []
    for draw in range(args.draws):
        folder = args.out / f"draw{draw}"
        chosen = set(ordered({case.name for case in training_cases}, draw)[: args.cases])
        cohort = write_cohort(dataset, [c for c in training_cases if c.name in chosen], folder / "cohort")
        made: dict[str, list[Example]] = {}
        for name, generator in generators.items():
            print(f"draw {draw}, {name}: {len(chosen)} training cases", flush=True)
            model = trained_generator(generator, cohort, folder / name, args) if is_config(generator) else generator
            made[name] = synthetic_cases(model, cohort, folder / name / "augmented", args, failures)
            from_labels = model not in PAINTERS and read_info(Path(model))[1].label_source
            gaps = Gaps()
            about = measured(cohort, made[name], test_cases, args, failures, gaps, from_labels=from_labels)
            show = partial(pictures, cohort, made[name])
            picture = gaps.attempt("Pictures", show, None, name) if draw == 0 else None
            sets.append({"draw": draw, "generator": name, **about, "picture": picture, "lacking": gaps.lines})
        found, failed = run_arms(
            with_segmented_labels(
                [*examples(cohort.cases), *examples(test_cases)], folder / "labels" / "real", dataset, args.segment
            ),
            {n: with_segmented_labels(e, folder / "labels" / n, dataset, args.segment) for n, e in made.items()},
            {case.patient for case in test_cases},
            folder / "segmenters",
            arms=args.arms,
            draw=draw,
            seeds=range(args.seeds),
            values=[0, *(dataset.labels[name] for name in args.segment or dataset.labels)],
            tolerance_mm=args.tolerance_mm,
            training={"minutes": args.minutes, "steps": args.steps, "device": pick_device("auto")},
        )
        rows += found
        failures += failed
        finish(args, dataset, rows, sets, list(dict.fromkeys(failures)))
    return 2 if failures else 0


def split(dataset: LabelledDataset, test: int | None) -> tuple[list[LabelledCase], list[LabelledCase]]:
    """(test cases, training cases) that are usable, split by patient.

    The dataset's own test and validation cases are never used for training.
    """
    usable = [case for case in dataset.cases if not case.fault and case.label is not None and case.record is None]
    patient_folds(
        [case for case in usable if not case.test], dataset.folds
    )  # raises for a patient in both training and test
    reserved = {case.patient for case in dataset.cases if case.record is None and (case.test or case.held)}
    training = [case for case in usable if case.patient not in reserved]
    if test is None:
        own = [case for case in usable if case.test] or [case for case in usable if case.held]
        if not own:
            raise InputError(
                "dataset-no-test-cases",
                f"{dataset.root} has no labelled test cases; set the number of test patients, such as --test 10",
            )
        return own, training
    patients = ordered({case.patient for case in training})
    if not 0 < test < len(patients) - 1:
        raise InputError(
            "split-too-few-patients",
            f"--test {test} of {len(patients)} patients leaves too few for testing or training; choose another number",
        )
    kept = set(patients[:test])
    return [c for c in training if c.patient in kept], [c for c in training if c.patient not in kept]


def notes(dataset: LabelledDataset, test_cases: Sequence[LabelledCase]) -> list[str]:
    """Warnings on the dataset and on parts of its split that are not used."""
    found = list(dataset.warnings)
    held = [case.name for case in dataset.cases if case.held and case not in test_cases]
    if held:
        found.append(f"the {len(held)} validation cases of {dataset.root} are not used: {shortened_list(held)}")
    elif len(dataset.folds) > 1:
        found.append(
            f"the {len(dataset.folds)} folds of {dataset.root} are not used: test patients are chosen by --test"
        )
    return found


def one_patient_an_image(dataset: LabelledDataset, out: Path) -> LabelledDataset:
    """Assign cases with identical images to one patient, so that they are not split into training and test."""
    real = [case for case in dataset.cases if case.record is None and not case.fault]
    hashes = content_hashes((case.images[0] for case in real), out)
    cases = ((case.name, case.patient, [h] if (h := hashes[case.images[0]]) else []) for case in real)
    patient_names, pairs = merge_by_images(cases)
    found = [f"cases {one} and {other} have the same image and are treated as one patient" for one, other in pairs]
    renamed = tuple(replace(case, patient=patient_names.get(case.patient, case.patient)) for case in dataset.cases)
    return replace(dataset, cases=renamed, warnings=(*dataset.warnings, *found))


def ordered(names: Collection[str], draw: int | str = "test") -> list[str]:
    """Sort by a hash of draw and name. The order of two names does not depend on other names."""
    return sorted(names, key=lambda name: hashlib.sha256(f"{draw}:{name}".encode()).hexdigest())


def write_cohort(dataset: LabelledDataset, cases: Sequence[LabelledCase], root: Path) -> LabelledDataset:
    """Write the training cases of a draw as links, one folder per channel, for training and augmentation."""
    linked = []
    folders = channel_folders(dataset)
    for case in cases:
        if len(case.images) != len(folders):
            raise InputError(
                "dataset-channels-one-file",
                f"{case.images[0]} contains all channels in one file; convert the dataset to nnU-Net raw first",
            )
        paths = [
            root / folder / f"{case.name}{ending(path)}" for folder, path in zip(folders, case.images, strict=True)
        ]
        assert case.label is not None
        label = root / "labels" / f"{case.name}{ending(case.label)}"
        for link, path in zip([*paths, label], [*case.images, case.label], strict=True):
            with atomic_write(link) as aside:
                aside.unlink(missing_ok=True)
                aside.symlink_to(path.resolve())
        linked.append(replace(case, images=tuple(paths), label=label))
    names = {name: value for name, value in dataset.labels.items() if value}
    write_text(root / "labels.json", json.dumps(names))
    real = {case.name: {"patient": case.patient} for case in linked}
    write_text(root / PROVENANCE, json.dumps({"real": real, "synthetic": {}}))  # for the generator's split by patient
    return replace(dataset, cases=tuple(linked), root=root)


def ending(path: Path) -> str:
    return next(end for end in ENDINGS if has_ending(path, (end,)))


def channel_folders(dataset: LabelledDataset) -> list[str]:
    """Folder name of each channel; ``images`` for a single channel."""
    return ["images"] if len(dataset.channels) == 1 else [name.lower() for name in dataset.channels]


def is_config(generator: str) -> bool:
    return generator.endswith((".yaml", ".yml")) or generator in configs()


def trained_generator(config: str, cohort: LabelledDataset, out: Path, args: argparse.Namespace) -> str:
    """Train a generator on the training cases of a draw; return its folder."""
    keys = [f"data.root={json.dumps(str(cohort.root))}", *args.overrides]
    channels = f"[{', '.join(channel_folders(cohort))}]"
    if load_settings(config_file(config), keys).label_source:
        keys += [f"data.targets={channels}", f"data.classes={len(cohort.labels)}"]
    else:
        keys += [f"data.sources={channels}", f"data.targets={channels}"]
    if args.generator_minutes:
        keys.insert(0, f"train.minutes={args.generator_minutes}")
    if args.patient_pattern:
        keys.append(f"data.patient_pattern={json.dumps(args.patient_pattern)}")
    return str(train(load_settings(config_file(config), keys), out / "run", resume=True, overwrite=args.overwrite))


def synthetic_cases(
    model: str, cohort: LabelledDataset, out: Path, args: argparse.Namespace, failures: list[Failure]
) -> list[Example]:
    """Write the synthetic cases of a draw as a dataset with provenance; return them."""
    augmenter = augmenter_for(
        model,
        cohort,
        host=args.host if model in PAINTERS else None,
        lesions=args.lesion if model in PAINTERS else (),
        recombine=args.recombine,
        device=pick_device("auto"),
    )
    written, _ = augment(cohort, augmenter, out, per_case=args.per_case, seed=args.seed, overwrite=True)
    failures += [Failure(entry.case, entry.error) for entry in written if entry.error]
    return examples(case for case in read_dataset(out).cases if case.record is not None)


def examples(cases: Iterable[LabelledCase]) -> list[Example]:
    """Training examples of a segmenter of the first channel."""
    return [Example(case.name, case.patient, case.images[0], case.label) for case in cases if case.label is not None]


def with_segmented_labels(
    cases: Sequence[Example], folder: Path, dataset: LabelledDataset, segment: Sequence[str] | None
) -> list[Example]:
    """Examples with only the labels to segment; reduced label maps are written to ``folder``."""
    if not segment:
        return list(cases)
    values = [dataset.labels[name] for name in segment]
    found = []
    for case in cases:
        path = folder / f"{case.name}.nii.gz"
        if not path.is_file():
            labels = read_volume(case.labels)
            write_volume(path, labels.replaced(np.where(np.isin(labels.data, values), labels.data, 0)))
        found.append(case._replace(labels=path))
    return found


def measured(
    cohort: LabelledDataset,
    synthetic: Sequence[Example],
    test_cases: Sequence[LabelledCase],
    args: argparse.Namespace,
    failures: list[Failure],
    gaps: Gaps,
    *,
    from_labels: bool,
) -> dict[str, Any]:
    """Distance of synthetic and of training images from the real test images, and the memorisation test.

    ``from_labels``: the images were synthesised from label maps, so that none should equal a training image. Failures
    of a measurement are recorded in ``gaps``.
    """
    real, training, made = (
        [example.image for example in part] for part in (examples(test_cases), examples(cohort.cases), synthetic)
    )
    found: dict[str, Any] = {"synthetic": len(made), "training": len(training), "tested": len(real)}
    if args.extractor:
        options: dict[str, Any] = {"same_patients": False, "failures": failures, "cache": args.out / "features"}
        extractor = named_extractor(args.extractor, window=default_window(real))
        distances = partial(distribution_section, real, made, training, extractor, **options)
        found["distribution"] = gaps.attempt("Distance from real test images", distances, [])
    found["memorisation"] = {"flagged": None, "note": "each is a modified training image"}
    if from_labels:
        try:
            found["memorisation"] = memorisation_section(training, made, real, failures)
        except InputError as error:  # too few cases
            found["memorisation"] = {"flagged": None, "note": str(error)}
    return found


def pictures(cohort: LabelledDataset, synthetic: Sequence[Example]) -> bytes | None:
    """Gallery of some training cases and their synthetic cases."""
    by_name = {case.name: case for case in cohort.cases}
    records = read_provenance(synthetic[0].image.parent.parent)["synthetic"] if synthetic else {}
    by_source: dict[str, list[Example]] = {}
    for example in synthetic:
        by_source.setdefault(str(records[example.name]["source"]), []).append(example)
    chosen = sorted(by_source)[:: max(1, len(by_source) // PICTURED)][:PICTURED]
    return gallery([(examples([by_name[name]])[0], by_source[name][:2]) for name in chosen]) if chosen else None


def finish(
    args: argparse.Namespace,
    dataset: LabelledDataset,
    rows: list[dict[str, Any]],
    sets: list[dict[str, Any]],
    failures: Sequence[Failure],
) -> None:
    """Write the tables and the report of the draws so far."""
    names = {value: name for name, value in dataset.labels.items()}
    summary = [row | {"label": names.get(row["label"], row["label"])} for row in summarise_arms(rows)]
    write_scores(args.out / "scores.csv", rows)
    shown = {key: value for key, value in vars(args).items() if key != "out"}
    content: dict[str, Any] = {"arms": summary, "sets": [{k: v for k, v in s.items() if k != "picture"} for s in sets]}
    content |= {"failures": [asdict(f) for f in failures], "settings": shown, "versions": versions()}
    write_text(args.out / "summary.json", json.dumps(content | {"commit": git_commit()}, indent=1, default=str) + "\n")
    print(markdown(summary))
    for s in sets:
        print(f"draw {s['draw']}, {s['generator']}: {set_line(s)}")
    print_line(f"report: {augmentation_report(summary, sets, failures, shown, args.out / 'report.html')}")
    for failure in failures:
        print_line(f"medgen: error: {failure.error}", error=True)


def set_line(found: dict[str, Any]) -> str:
    """One line with the distance and the memorisation test of a set."""
    copies = found["memorisation"]
    verdict = {True: "copies of training images are likely", False: "no sign of copies", None: "copies not tested"}
    parts = [f"{verdict[copies['flagged']]} ({copies['note']})"]
    for row in found.get("distribution", [])[:1]:
        parts.insert(0, f"{row['metric']} {row['value']:.3f}, training images {row['source_value']:.3f}")
    return "; ".join(parts)


def _named(text: str) -> tuple[str, str]:
    """Parse NAME=GENERATOR, or a generator without a name. The name becomes a folder name."""
    name, separator, generator = text.partition("=")
    generator = generator if separator else text
    name = name if separator else Path(text).stem
    if not name or Path(name).name != name or name in ("cohort", "segmenters", "real"):
        raise InputError(
            "pipeline-name-invalid",
            f"{text!r}: a generator needs a name that can be a folder name, such as spade=configs/spade.yaml",
        )
    return name, generator


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("overrides", nargs="*", help="settings of the generator's config")
    parser.add_argument("--generator", nargs="+", required=True, metavar="[NAME=]GENERATOR")
    parser.add_argument("--overwrite", action="store_true", help="replace the results of another run in OUT")
    parser.add_argument("--generator-minutes", type=float, help="training time of a generator; default: the config's")
    parser.add_argument("--per-case", type=int, default=1, help="synthetic cases per training case")
    parser.add_argument(
        "--recombine", action="store_true", help="interpolate label maps between two patients, for models of label maps"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the synthetic cases")
    parser.add_argument("--host")
    parser.add_argument("--lesion", type=lambda text: text.split(","), default=())
    parser.add_argument("--segment", type=lambda t: t.split(","), help="labels to segment; default: all")
    parser.add_argument("--test", type=int, help="number of test patients if the dataset has no test cases")
    parser.add_argument("--cases", type=int, help="training cases per draw; default: all")
    parser.add_argument("--draws", type=int, default=1)
    parser.add_argument("--arms", nargs="+", default=["real", "classical", "synthetic", "both"], choices=list(ARMS))
    parser.add_argument("--seeds", type=int, default=1, help="segmenters per arm and draw")
    parser.add_argument("--minutes", type=float, default=10, help="training time of each segmenter")
    parser.add_argument(
        "--steps", type=int, default=4000, help="training steps of each segmenter; the first limit reached applies"
    )
    parser.add_argument("--tolerance-mm", type=float, default=2.0, help="tolerance of the surface Dice")
    parser.add_argument("--channels", type=lambda text: text.split(","))
    parser.add_argument("--patient-pattern")
    parser.add_argument("--extractor", help=EXTRACTOR_CHOICES)
    return parser.parse_intermixed_args()


if __name__ == "__main__":
    try:
        code = main()
    except InputError as error:
        print_line(f"medgen: error: {error}", error=True)
        code = 2
    sys.exit(code)
