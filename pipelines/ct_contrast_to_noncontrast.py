"""Train and evaluate contrast CT → non-contrast CT on a cohort folder: split, train, convert, evaluate, report.

    python pipelines/ct_contrast_to_noncontrast.py COHORT OUT [section.key=value ...]
    python pipelines/ct_contrast_to_noncontrast.py --demo OUT        # on the embedded cohort

OUT contains ``run`` (training), ``model`` (the best model), and ``converted``, ``results`` and ``report.html`` of test
patients, who are not used for training. A restart resumes an interrupted run.
"""

import argparse
import json
import shutil
import sys
import time
from pathlib import Path

from medgen.commands.shared import pick_device, whole_run
from medgen.config import config_file, load_settings
from medgen.data.cohort.read import read_cohort
from medgen.data.cohort.split import load_split
from medgen.errors import InputError
from medgen.io.names import print_line
from medgen.settings import Settings

CONFIG = "ct_contrast_pix2pix"
DEMO = {"data.test": 0.25, "train.minutes": 7.5, "train.steps": 20000}


def main() -> int:
    arguments = parse()
    out: Path = arguments.out
    overrides = list(arguments.overrides)
    cohort = arguments.cohort
    if arguments.demo:
        cohort = out / "cohort"
        overrides = [f"{k}={v}" for k, v in DEMO.items()] + overrides
    elif not any(o.startswith("data.test=") for o in overrides):
        overrides.insert(0, "data.test=0.2")
    settings = load_settings(config_file(arguments.config), [*overrides, f"data.root={json.dumps(str(cohort))}"])
    about = {"command": "ct_contrast_to_noncontrast", "cohort": arguments.cohort, "config": arguments.config}
    with whole_run(out, [arguments.cohort], about, arguments.overwrite):
        if arguments.demo:
            make_cohort(cohort)
        failures = run(settings, out, arguments.overwrite)
    for failure in failures:
        print_line(f"medgen: error: {failure}", error=True)
    return 2 if failures else 0


def run(settings: Settings, out: Path, overwrite: bool = False) -> list[str]:
    """Train, convert the test patients and evaluate; return the failures."""
    from medgen.checkpoint import load_model
    from medgen.evaluation.console import console_lines
    from medgen.evaluation.evaluate import evaluate
    from medgen.evaluation.inputs import Inputs, Options
    from medgen.inference.cohort.run import convert
    from medgen.io.atomic import atomic_folder
    from medgen.qa.run import named_checks
    from medgen.reports.evaluation import write_report
    from medgen.training.loop import train

    assert settings.data.root is not None
    folder = settings.data.root
    if not (folder / "target").is_dir():
        raise InputError(
            "pipeline-cohort-expected",
            f"{folder} is not a cohort folder with source/ and target/, which this pipeline needs; give another folder",
        )
    if not settings.data.test:
        raise InputError(
            "config-test-zero",
            "data.test is 0, so no patients are left for evaluation; set it, for example data.test=0.2",
        )
    best = train(settings, out / "run", resume=True, overwrite=overwrite)
    with atomic_folder(out / "model") as aside:
        shutil.copytree(best, aside, dirs_exist_ok=True)
    model = load_model(out / "model", pick_device("auto"))

    cohort = read_cohort(folder, patient_pattern=settings.data.patient_pattern, fold=None)
    test = [case for case in load_split(out / "run" / "split.json", cohort.cases)["test"] if not case.synthetic]
    if not test:
        raise InputError("split-no-test-patients", "the split has no test patients; increase data.test")
    print(f"converting {len(test)} test patients")
    converted = convert(
        model,
        [case.source for case in test if case.source],
        out / "converted",
        overwrite=True,  # replaces outputs of an earlier model of this run
        done=lambda entry, i, n: print(f"[{i}/{n}] {entry.case}: {entry.status} ({entry.seconds:.1f} s)", flush=True),
    )
    failures = [entry.error for entry in converted if entry.error]

    labels = folder / "labels"
    inputs = Inputs(
        prediction=out / "converted",
        reference=folder / "target",
        source=folder / "source",
        labels=labels if labels.exists() else None,
        cases=[case.name for case in test if case.source and case.target],
    )
    result = evaluate(inputs, out / "results", Options(checks=named_checks("ct_contrast")))
    for line in console_lines(result):
        print_line(line)
    info = model.info
    write_report(
        [out / "results"],
        out / "report.html",
        title="Contrast CT to non-contrast CT",
        notes=[
            f"Model: {settings.method.name}, step {info.step}, weights {info.weights_sha256[:12]}, "
            f"trained on {len(info.training_data['training'])} patients, none of whom is among the cases below.",
        ],
        warnings=[f"Recorded when the model was saved: {text}" for text in info.health]
        + [f"{entry.case}: {text}" for entry in converted for text in entry.warnings],
    )
    print_line(f"report: {out / 'report.html'}")
    return failures + [f"{failure.case}: {failure.error}" for failure in result.failures]


def make_cohort(folder: Path) -> None:
    from medgen.phantom.cohort import write_cohort

    print(f"writing the embedded cohort to {folder}", flush=True)
    write_cohort(folder, patients=16, seed=0, progress=lambda i, n, case: print(f"[{i}/{n}] {case}", flush=True))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", metavar="OUT", type=Path, help="run on the embedded cohort")
    parser.add_argument("--config", default=CONFIG, help="YAML file, or the name of a shipped config")
    parser.add_argument("--overwrite", action="store_true", help="replace the results of another run in OUT")
    parser.add_argument("rest", nargs="*", metavar="COHORT OUT | section.key=value")
    arguments = parser.parse_intermixed_args()
    paths = [word for word in arguments.rest if "=" not in word]
    arguments.overrides = [word for word in arguments.rest if "=" in word]
    if arguments.demo:
        arguments.cohort, arguments.out = None, arguments.demo
    elif len(paths) == 2:
        arguments.cohort, arguments.out = Path(paths[0]), Path(paths[1])
    else:
        parser.error("give COHORT and OUT, or --demo OUT")
    return arguments


if __name__ == "__main__":
    started = time.monotonic()
    try:
        code = main()
    except (InputError, FloatingPointError) as error:
        print_line(f"medgen: error: {error}", error=True)
        code = 2
    if code == 0:
        print(f"done in {(time.monotonic() - started) / 60:.1f} min")
    sys.exit(code)
