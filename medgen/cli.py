"""Command-line interface. Each command parses options, calls the library and prints; lazy imports keep --help fast."""

import errno
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from medgen.commands.augment import augment
from medgen.commands.contrast import simulate_contrast
from medgen.commands.doctor import doctor
from medgen.commands.export import export
from medgen.commands.json_output import OPTION, add_errors, add_result, run_for_scripts
from medgen.commands.labels import labels
from medgen.commands.pack import pack, unpack
from medgen.commands.phantom import phantom
from medgen.commands.plan import plan, settings_for
from medgen.commands.progress import case_bar
from medgen.commands.sample import sample
from medgen.commands.segment import segment
from medgen.commands.serve import serve
from medgen.commands.shared import (
    REFUSED,
    Overwrite,
    Ray,
    RayCommand,
    Workers,
    cluster_of,
    config_names,
    finish,
    interruptible,
    kept_in,
    number_parser,
    pick_device,
)
from medgen.commands.synthesize import synthesize
from medgen.commands.translate import translate
from medgen.errors import InputError
from medgen.io.names import print_line

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="3D medical image translation: train, convert cohorts, and measure whether the result can be trusted.",
)

# Errors of the file system that are reported without a traceback even if they name no file.
USER_ERRORS = {errno.ENAMETOOLONG, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}


def _version(requested: bool) -> None:
    if requested:
        from medgen import __version__

        print(f"medgen {__version__}")
        raise typer.Exit()


@app.callback()
def main_options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    json: Annotated[
        bool, typer.Option(OPTION, help="Print one JSON object for scripts; any place on the command line will do.")
    ] = False,
) -> None:
    pass


@app.command()
def train(
    config: Annotated[
        str,
        typer.Argument(
            help="YAML file, the name of a config that medgen configs lists, or auto: chosen from data.root, as by "
            "medgen plan.",
            autocompletion=config_names,
        ),
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Overrides: section.key=value, e.g. data.root=COHORT.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Run folder; the models are written to its folders last and best.")] = ...,  # type: ignore
    resume: Annotated[bool, typer.Option("--resume", help="Resume training from OUT/last.")] = False,
    folds: Annotated[
        int | None,
        typer.Option(min=2, help="Cross-validate: override data.folds. Writes OUT/report.html and OUT/ensemble."),
    ] = None,
    hours: Annotated[
        float | None, typer.Option(min=0.01, help="With auto: time for training, of all folds together.")
    ] = None,
    accelerator: Annotated[str | None, typer.Option(help="Override train.accelerator: auto, cpu, cuda, mps.")] = None,
    devices: Annotated[int | None, typer.Option(help="Override train.devices: number of processes.")] = None,
    precision: Annotated[str | None, typer.Option(help="Override train.precision, e.g. bf16-mixed.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Train a translation model, or one that generates images from nothing."""
    from medgen.config import config_file, load_settings

    flags = {"accelerator": accelerator, "devices": devices, "precision": precision}
    flag_overrides = [f"train.{key}={value}" for key, value in flags.items() if value is not None]
    given = [*(overrides or []), *flag_overrides]
    if hours is not None and config != "auto":
        raise InputError("option-hours-not-auto", "--hours plans a training of auto; set train.minutes instead")
    if config == "auto":
        settings = settings_for(given, out / "config.yaml" if resume else None, hours=hours, folds=folds)
    else:
        fold_overrides = [] if folds is None else [f"data.folds={folds}"]
        settings = load_settings(config_file(config), [*given, *fold_overrides])
    if settings.data.folds is not None:
        from medgen.commands.folds import cross_validate

        failures, count = cross_validate(settings, out, overwrite=overwrite, say=print_line)
        add_result(run=out, models=[out / "ensemble"], report=out / "report.html", failures=failures)
        finish(failures, count)
        return
    from medgen.training.loop import saved_steps
    from medgen.training.loop import train as run

    with interruptible(lambda: saved_steps(out)):
        run(settings, out, resume=resume, say=print_line, overwrite=overwrite)
    add_result(run=out, models=[folder for name in ("best", "last") if (folder := out / name).is_dir()])


app.command()(phantom)
app.command(cls=RayCommand)(translate)
app.command()(augment)
app.command()(synthesize)
app.command()(sample)
app.command()(segment)
app.command()(labels)
app.command(name="simulate-contrast")(simulate_contrast)
app.command()(doctor)
app.command()(plan)
app.command()(export)
app.command()(serve)
app.command()(pack)
app.command()(unpack)


@app.command(cls=RayCommand)
def evaluate(
    ctx: typer.Context,
    prediction: Annotated[Path, typer.Option(help="Folder of the translated or generated volumes.")],
    out: Annotated[Path, typer.Option(help="Output folder for the tables, summary.json, report.html and report.pdf.")],
    reference: Annotated[Path | None, typer.Option(help="Folder of ground-truth volumes, same case names.")] = None,
    source: Annotated[Path | None, typer.Option(help="Folder of the source volumes, measured as the baseline.")] = None,
    labels: Annotated[
        Path | None, typer.Option(help="Folder of label maps; labels.json is in it or beside it.")
    ] = None,
    mask: Annotated[Path | None, typer.Option(help="Folder of masks; errors are measured inside them.")] = None,
    prediction_labels: Annotated[
        Path | None, typer.Option(help="Folder of segmentations of the predictions, compared with --labels.")
    ] = None,
    data_range: Annotated[float | None, typer.Option(help="Range for PSNR and SSIM; not needed for HU.")] = None,
    profile: Annotated[
        str,
        typer.Option(
            help="generic; synthrad2023, synthrad2025: metrics of the challenge; restoration: sharpness and noise."
        ),
    ] = "generic",
    tolerance: Annotated[float, typer.Option(help="Tolerance of the surface Dice in mm.")] = 2.0,
    extractor: Annotated[
        str | None,
        typer.Option(
            help="Feature extractor for distribution distances: radiomics, inception[:FILE], radimagenet:FILE, "
            "medicalnet:FILE, a TorchScript or ONNX file. `hub` instead of FILE downloads the published weights."
        ),
    ] = None,
    window: Annotated[
        tuple[float, float] | None,
        typer.Option(
            help="Intensity window for the feature extractor, e.g. -160 240; default for CT: -200 300 HU.",
            metavar="LOW HIGH",
            parser=number_parser("two numbers, such as -160 240", float),
        ),
    ] = None,
    real_cohort: Annotated[
        Path | None, typer.Option(help="Folder of real volumes of other patients, for distribution distances.")
    ] = None,
    training_images: Annotated[
        Path | None,
        typer.Option(help="Folder of real training volumes; predictions are tested for copies of them."),
    ] = None,
    qa_limits: Annotated[
        str,
        typer.Option(
            help="Thresholds of the structure check: auto (those recorded by the conversion, else general), general, "
            "ct_contrast, or a YAML file."
        ),
    ] = "auto",
    lesions: Annotated[Path | None, typer.Option(help="Folder of lesion masks of the source volumes.")] = None,
    segmenter: Annotated[
        str | None,
        typer.Option(
            help="Segmenter of anatomy and lesions in source and prediction: a trained segmenter's folder, a MONAI "
            "bundle, a TorchScript file, or nnunet:DATASET[:CONFIGURATION]."
        ),
    ] = None,
    downstream: Annotated[
        float | None,
        typer.Option(
            min=0.01,
            max=1e6,
            help="Train segmenters on real and on synthetic volumes, this many minutes each; needs --labels.",
        ),
    ] = None,
    folds: Annotated[int, typer.Option(min=2, help="Number of folds over patients, for --downstream.")] = 5,
    seeds: Annotated[int, typer.Option(min=1, help="Number of random seeds per segmenter, for --downstream.")] = 1,
    patient_pattern: Annotated[
        str | None, typer.Option(help="Regular expression that extracts the patient from a case name.")
    ] = None,
    overwrite: Overwrite = False,
    ray: Ray = None,
    workers: Workers = None,
) -> None:
    """Measure translations against the ground truth, the source volumes, and real volumes of other patients."""
    from medgen.downstream.section import make_protocols
    from medgen.evaluation.console import console_lines
    from medgen.evaluation.distribution.sections import default_window, volume_files
    from medgen.evaluation.evaluate import evaluate as run
    from medgen.evaluation.features.named import named_extractor
    from medgen.evaluation.inputs import Inputs, Options
    from medgen.io.claim import check_output_is_not_input, claimed
    from medgen.io.text import read_json
    from medgen.qa.run import named_checks
    from medgen.reports.evaluation import write_report

    cluster = cluster_of(ray, workers)
    device = pick_device("auto") if segmenter or downstream else "cpu"
    checked = source or segmenter or qa_limits != "auto"
    if window is not None and extractor is None:
        raise InputError("option-window-without-extractor", "--window is for --extractor; give both, or neither")
    if extractor is not None and window is None:
        window = default_window(volume_files(real_cohort or reference))
    check_output_is_not_input(
        out,
        *(prediction, reference, source, labels, mask, prediction_labels, real_cohort, training_images, lesions),
        *(segmenter, extractor and extractor.partition(":")[2], qa_limits),
    )
    inputs = Inputs(
        prediction=prediction,
        reference=reference,
        source=source,
        labels=labels,
        mask=mask,
        prediction_labels=prediction_labels,
        lesions=lesions,
        real_cohort=real_cohort,
        training_images=training_images,
        patient_pattern=patient_pattern,
    )
    about = {key: value for key, value in ctx.params.items() if key not in ("out", "overwrite", "ray", "workers")}
    with interruptible(kept_in(out)):
        with claimed(out, {"command": "evaluate", **about}, overwrite=overwrite), case_bar("measuring") as bar:
            options = Options(
                data_range=data_range,
                profile=profile,
                tolerance_mm=tolerance,
                extractor=None if extractor is None else named_extractor(extractor, window=window),
                checks=named_checks(qa_limits, segmenter, "cpu" if cluster else device) if checked else None,
                downstream=None if downstream is None else make_protocols(downstream, folds, seeds, device),
                cluster=cluster,
                progress=lambda number, total, case: bar(number, total),
            )
            result = run(inputs, out, options)
            write_report([out], out / "report.html", title=f"Evaluation of {prediction}")
    for line in console_lines(result):
        print_line(line)
    print_line(f"report: {out / 'report.html'}")
    add_result(report=out / "report.html", summary=read_json(out / "summary.json"))
    sections = [f"{failure.case}: {failure.error}" for failure in result.failures if failure.section]
    cases = [f"{failure.case}: {failure.error}" for failure in result.failures if not failure.section]
    finish(cases, len(cases) + len(result.cases), sections)


@app.command()
def report(
    results: Annotated[list[Path], typer.Argument(help="Folders written by medgen evaluate, one per system.")],
    out: Annotated[Path, typer.Option(help="HTML file to write; the PDF gets the same name.")],
    names: Annotated[str | None, typer.Option(help="Comma-separated names of the systems.")] = None,
    title: Annotated[str, typer.Option(help="Title of the report.")] = "Evaluation of converted scans",
    overwrite: Overwrite = False,
) -> None:
    """Rebuild the report of an evaluation, or compare several systems with statistical tests."""
    from medgen.io.claim import adding_files
    from medgen.reports.evaluation import write_report

    if out.suffix.lower() not in (".html", ".htm"):
        raise InputError("output-not-html", f"--out {out} is not the name of an HTML file; end it in .html")
    with adding_files(out, out.with_suffix(".pdf"), overwrite=overwrite):
        write_report(results, out, title=title, names=names.split(",") if names else None)
    print_line(f"report: {out}")
    add_result(report=out)


@app.command()
def configs() -> None:
    """List the configs included in medgen, for medgen train NAME."""
    from medgen.config import configs as shipped

    add_result(configs=(found := shipped()))
    width = max(map(len, found), default=0)
    for name, about in found.items():
        print(f"{name:{width}s}  {about}")


@app.command()
def models() -> None:
    """List the trained models included in medgen, for medgen translate NAME INPUT OUTPUT."""
    from medgen.models import shipped

    add_result(models=(found := shipped()))
    width = max(map(len, found), default=0)
    for name, about in found.items():
        print(f"{name:{width}s}  {about}")


def main() -> None:
    """Entry point; ``--json`` may stand at any place, see `json_output`."""
    if OPTION not in sys.argv[1:]:
        return _run()
    arguments = [argument for argument in sys.argv[1:] if argument != OPTION]
    sys.argv[1:] = arguments
    run_for_scripts(_run, arguments)


def _run() -> None:
    """Errors that the user can fix are printed in one line, with exit code 2."""
    try:
        app()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (InputError, FloatingPointError, OSError) as error:
        if isinstance(error, OSError) and not error.filename and error.errno not in USER_ERRORS:
            raise
        text = str(error)
        if isinstance(error, OSError):
            file_name = error.filename or "a file"
            text = f"{file_name} cannot be used ({error.strerror}); check the path, its permissions and the disk"
        print_line(f"medgen: error: {text}", error=True)
        add_errors(text, code=error.code if isinstance(error, InputError) else None)
        sys.exit(REFUSED)


if __name__ == "__main__":
    main()
