"""Train and evaluate contrast CT → non-contrast CT on a cohort folder: split, train, convert, evaluate, report.

    python pipelines/ct_contrast_to_noncontrast.py COHORT OUT [section.key=value ...]
    python pipelines/ct_contrast_to_noncontrast.py --demo OUT        # on the embedded cohort

OUT contains ``run`` (training), ``model`` (the best model), and ``converted``, ``results`` and ``report.html`` of test
patients, who are not used for training. With ``--beside MODEL`` (a folder, or a name that ``medgen models`` lists) the
same patients are also converted by another model, into ``beside``, and the report shows both. A restart resumes an
interrupted run.
"""

import argparse
import json
import shlex
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from medgen.commands.shared import pick_device, whole_run
from medgen.config import config_file, load_settings
from medgen.data.cohort.read import read_cohort
from medgen.data.cohort.split import load_split
from medgen.errors import InputError
from medgen.io.names import print_line
from medgen.settings import Settings
from medgen.types import Case

CONFIG = "ct_contrast_regression"
SHIPPED = "ct-noncontrast"
OWN = "trained here"
# A moving average that follows the few steps of nine minutes, see docs/decisions/contrast_removal.md.
TRAINING = {"train.start_from": SHIPPED, "method.lr": 0.001, "train.ema": 0.99, "train.minutes": 9}
DEMO = {"data.test": 0.25, **TRAINING}


def main() -> int:
    started = time.monotonic()
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
        failures = run(settings, out, arguments.beside, arguments.overwrite)
    for failure in failures:
        print_line(f"medgen: error: {failure}", error=True)
    print(f"done in {(time.monotonic() - started) / 60:.1f} min")
    print_line(f"open the report and its viewer: {shlex.quote(sys.executable)} -m webbrowser {report_address(out)}")
    return 2 if failures else 0


def report_address(out: Path) -> str:
    return (out / "report.html").resolve().as_uri()


def run(settings: Settings, out: Path, beside: str | None = None, overwrite: bool = False) -> list[str]:
    """Train, convert the test patients and evaluate, also with the model ``beside``; return the failures."""
    from medgen.checkpoint import load_model
    from medgen.io.atomic import atomic_folder
    from medgen.models import model_folder
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
    other = None if beside is None else model_folder(beside)
    if other is not None:
        load_model(other)  # one that cannot be used is refused before training
    best = train(settings, out / "run", resume=True, overwrite=overwrite)
    with atomic_folder(out / "model") as aside:
        shutil.copytree(best, aside, dirs_exist_ok=True)

    cohort = read_cohort(folder, patient_pattern=settings.data.patient_pattern, fold=None)
    test = [case for case in load_split(out / "run" / "split.json", cohort.cases)["test"] if not case.synthetic]
    if not test:
        raise InputError("split-no-test-patients", "the split has no test patients; increase data.test")
    systems = [System(OWN, out / "model", out / "converted", out / "results")]
    if other is not None:
        systems.append(System(str(beside), other, out / "beside" / "converted", out / "beside" / "results"))
    outcomes = [converted_and_evaluated(system, test, folder) for system in systems]
    write_report(
        [system.results for system in systems],
        out / "report.html",
        title="Contrast CT to non-contrast CT",
        names=[system.name for system in systems],
        notes=[part.note for part in outcomes],
        warnings=[line for part in outcomes for line in part.warnings],
    )
    print_line(f"report: {out / 'report.html'}")
    return [line for part in outcomes for line in part.failures]


@dataclass(frozen=True)
class System:
    """A model, and the folders of its conversions and of their evaluation."""

    name: str
    model: Path
    converted: Path
    results: Path


@dataclass(frozen=True)
class Outcome:
    """What the report and the console say about a system."""

    note: str
    warnings: list[str]
    failures: list[str]


def converted_and_evaluated(system: System, test: list[Case], folder: Path) -> Outcome:
    """Convert the test patients with one model and evaluate the result."""
    from medgen.checkpoint import load_model
    from medgen.evaluation.console import console_lines
    from medgen.evaluation.evaluate import evaluate
    from medgen.evaluation.inputs import Inputs, Options
    from medgen.inference.cohort.run import convert
    from medgen.qa.run import named_checks

    model = load_model(system.model, pick_device("auto"))
    print_line(f"converting {len(test)} test patients with the model {system.name}")
    converted = convert(
        model,
        [case.source for case in test if case.source],
        system.converted,
        overwrite=True,  # replaces outputs of an earlier model of this run
        done=lambda entry, i, n: print(f"[{i}/{n}] {entry.case}: {entry.status} ({entry.seconds:.1f} s)", flush=True),
    )
    labels = folder / "labels"
    inputs = Inputs(
        prediction=system.converted,
        reference=folder / "target",
        source=folder / "source",
        labels=labels if labels.exists() else None,
        cases=[case.name for case in test if case.source and case.target],
    )
    result = evaluate(inputs, system.results, Options(checks=named_checks("ct_contrast")))
    for line in console_lines(result):
        print_line(line)
    info = model.info
    return Outcome(
        note=f"Model {system.name}: {model.settings.method.name}, step {info.step}, weights "
        f"{info.weights_sha256[:12]}, trained on {len(info.training_data['training'])} cases"
        + (", none of which is among the cases below." if system.name == OWN else "."),
        warnings=[f"{system.name}: recorded when the model was saved: {text}" for text in info.health]
        + [f"{system.name}: {entry.case}: {text}" for entry in converted for text in entry.warnings],
        failures=[f"{system.name}: {entry.error}" for entry in converted if entry.error]
        + [f"{system.name}: {failure.case}: {failure.error}" for failure in result.failures],
    )


def make_cohort(folder: Path) -> None:
    from medgen.phantom.cohort import write_cohort

    print(f"writing the embedded cohort to {folder}", flush=True)
    write_cohort(folder, patients=16, seed=0, progress=lambda i, n, case: print(f"[{i}/{n}] {case}", flush=True))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", metavar="OUT", type=Path, help="run on the embedded cohort")
    parser.add_argument("--config", default=CONFIG, help="YAML file, or the name of a shipped config")
    parser.add_argument(
        "--beside", metavar="MODEL", help=f"also convert the test patients by this model; {SHIPPED} with --demo"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the results of another run in OUT")
    parser.add_argument("rest", nargs="*", metavar="COHORT OUT | section.key=value")
    arguments = parser.parse_intermixed_args()
    paths = [word for word in arguments.rest if "=" not in word]
    arguments.overrides = [word for word in arguments.rest if "=" in word]
    if arguments.demo:
        arguments.cohort, arguments.out = None, arguments.demo
        arguments.beside = arguments.beside or SHIPPED
    elif len(paths) == 2:
        arguments.cohort, arguments.out = Path(paths[0]), Path(paths[1])
    else:
        parser.error("give COHORT and OUT, or --demo OUT")
    return arguments


if __name__ == "__main__":
    try:
        code = main()
    except (InputError, FloatingPointError) as error:
        print_line(f"medgen: error: {error}", error=True)
        code = 2
    sys.exit(code)
