"""Evaluate one or several converters on the same test patients in one clinical report.

    python pipelines/clinical_evaluation.py OUT --prediction NAME=DIR [NAME=DIR ...] --reference DIR --source DIR
        [--labels DIR] [--real-cohort DIR] [--training-images DIR] [--extractor radiomics] [--profile synthrad2025]
        [--qa-limits ct_contrast] [--lesions DIR] [--segmenter FOLDER] [--downstream MINUTES --folds 5 --seeds 3] ...

OUT contains a results folder for each system, and ``report.html`` and its PDF, which compare the systems case by case.
Cases that cannot be measured are listed at the end; the exit code is then 2.
"""

import argparse
import sys
from pathlib import Path

from medgen.commands.shared import pick_device, whole_run
from medgen.downstream.section import make_protocols
from medgen.errors import InputError
from medgen.evaluation.console import console_lines
from medgen.evaluation.distribution.sections import default_window, volume_files
from medgen.evaluation.evaluate import evaluate
from medgen.evaluation.features.named import EXTRACTOR_CHOICES, named_extractor
from medgen.evaluation.inputs import Inputs, Options
from medgen.io.names import print_line
from medgen.qa.run import named_checks
from medgen.reports.evaluation import write_report
from medgen.segmentation import load as named_segmenter

ROLES = ("reference", "source", "labels", "mask", "real_cohort", "training_images", "lesions")


def main() -> int:
    args = parse()
    about = {key: value for key, value in vars(args).items() if key not in ("out", "overwrite")}
    folders = [_named(text)[1] for text in args.prediction]
    inputs = [*folders, *(getattr(args, role) for role in ROLES)]
    with whole_run(args.out, inputs, {"command": "clinical_evaluation", **about}, args.overwrite):
        return run(args)


def run(args: argparse.Namespace) -> int:
    systems = dict(_named(text) for text in args.prediction)
    if len(systems) < len(args.prediction):
        raise InputError("pipeline-name-twice", "two predictions have the same name; give each its own as NAME=DIR")
    device = pick_device("auto") if args.segmenter or args.downstream else "cpu"
    checks = named_checks(args.qa_limits, args.segmenter, device) if args.source else None
    downstream = None
    if args.downstream:
        downstream = make_protocols(args.downstream, args.folds, args.seeds, device, shared=args.out / "segmenters")
    extractor = None
    if args.extractor:
        window = args.window or default_window(volume_files(args.real_cohort or args.reference))
        extractor = named_extractor(args.extractor, window=window)
    options = Options(
        data_range=args.data_range,
        profile=args.profile,
        extractor=extractor,
        feature_cache=args.out / "features",
        checks=checks,
        downstream=downstream,
        progress=lambda done, count, case: print(f"[{done}/{count}] {case}", flush=True),
    )
    failures: list[str] = []
    measured: list[str] = []
    not_evaluated: list[str] = []
    for name, folder in systems.items():
        print(f"{name}: measuring {folder}", flush=True)
        try:
            found = evaluate(
                Inputs(
                    prediction=folder,
                    reference=args.reference,
                    source=args.source,
                    labels=args.labels,
                    mask=args.mask,
                    lesions=args.lesions,
                    real_cohort=args.real_cohort,
                    training_images=args.training_images,
                    patient_pattern=args.patient_pattern,
                ),
                args.out / name,
                options,
            )
        except InputError as error:  # keep the results of the other systems
            not_evaluated.append(f"{name} could not be evaluated: {error}")
            continue
        for line in console_lines(found):
            print_line(line)
        measured.append(name)
        failures += [f"{name}, {failure.case}: {failure.error}" for failure in found.failures]
    if not measured:
        raise InputError("evaluation-all-failed", "; ".join(not_evaluated))
    report = write_report(
        [args.out / name for name in measured],
        args.out / "report.html",
        title=args.title,
        names=measured,
        warnings=not_evaluated,
    )
    print_line(f"report: {report}")
    for failure in [*not_evaluated, *failures]:
        print_line(f"medgen: error: {failure}", error=True)
    return 2 if not_evaluated or failures else 0


def _named(text: str) -> tuple[str, Path]:
    """Parse NAME=DIR, or a folder without a name. The name becomes a folder name."""
    name, separator, folder = text.partition("=")
    path = Path(folder if separator else text)
    name = name if separator else path.name
    if not name or Path(name).name != name:
        raise InputError(
            "pipeline-name-invalid",
            f"{text!r}: a system needs a name that can be a folder name, such as pix2pix=converted/pix2pix",
        )
    return name, path


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--prediction", nargs="+", required=True, metavar="NAME=DIR")
    parser.add_argument("--overwrite", action="store_true", help="replace the results of another run in OUT")
    for role in ROLES:
        parser.add_argument(f"--{role.replace('_', '-')}", type=Path)
    parser.add_argument("--data-range", type=float)
    parser.add_argument("--profile", default="generic")
    parser.add_argument("--extractor", help=EXTRACTOR_CHOICES)
    parser.add_argument("--window", type=float, nargs=2, metavar=("LOW", "HIGH"))
    parser.add_argument("--qa-limits", default="general", help="general, ct_contrast or a YAML file")
    parser.add_argument("--segmenter", help=named_segmenter.KNOWN)
    parser.add_argument("--downstream", type=float, metavar="MINUTES", help="training time of each segmenter")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--patient-pattern")
    parser.add_argument("--title", default="Clinical evaluation of converted scans")
    return parser.parse_args()


if __name__ == "__main__":
    try:
        code = main()
    except InputError as error:
        print_line(f"medgen: error: {error}", error=True)
        code = 2
    sys.exit(code)
