"""``medgen augment``: add synthetic cases to a labelled dataset."""

from pathlib import Path
from typing import Annotated

import typer

from medgen.commands.json_output import add_result
from medgen.commands.progress import case_bar
from medgen.commands.shared import Overwrite, finish, interruptible, kept_in, pick_device
from medgen.io.names import print_line


def augment(
    model: Annotated[
        str,
        typer.Argument(help="A model folder, e.g. RUN/best, or a method that needs no model: cutpaste or procedural."),
    ],
    dataset: Annotated[
        Path,
        typer.Argument(
            help="Labelled dataset: nnU-Net raw, Decathlon, or a folder with images/, labels/ and labels.json."
        ),
    ],
    out: Annotated[Path, typer.Argument(help="Output dataset folder, e.g. nnUNet_raw/Dataset123_NAME.")],
    per_case: Annotated[
        int | None, typer.Option(min=1, max=1000, help="Synthetic cases per training case; default: one per target.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Random seed; methods without randomness ignore it.")] = 0,
    format: Annotated[str, typer.Option(help="Output format: nnunet or decathlon.")] = "nnunet",
    target: Annotated[str | None, typer.Option(help="Target domains, e.g. arterial,late; default: all.")] = None,
    host: Annotated[
        str | None,
        typer.Option(
            help="Label to insert new lesions into; default: the model's, else tissue with similar intensities."
        ),
    ] = None,
    lesion: Annotated[
        str | None, typer.Option(help="Lesion labels to add, e.g. cyst,tumour; default: the model's.")
    ] = None,
    recombine: Annotated[
        bool,
        typer.Option(
            "--recombine",
            help="Interpolate label maps of two patients; needs a model that makes images from label maps.",
        ),
    ] = False,
    channels: Annotated[
        str | None, typer.Option(help="Image folders of the dataset, one per channel, e.g. t1,flair.")
    ] = None,
    patient_pattern: Annotated[
        str | None, typer.Option(help="Regular expression that extracts the patient from a case name.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    overwrite: Overwrite = False,
) -> None:
    """Copy a segmentation dataset and add synthetic cases, their provenance, and folds split by patient."""
    from medgen.augmentation.augment import augment as run
    from medgen.augmentation.augmenter import augmenter_for
    from medgen.augmentation.dataset.write import CaseResult
    from medgen.augmentation.read import read_dataset

    labelled = read_dataset(dataset, channels=channels.split(",") if channels else (), patient_pattern=patient_pattern)
    augmenter = augmenter_for(
        model,
        labelled,
        targets=target.split(",") if target else (),
        host=host,
        lesions=lesion.split(",") if lesion else (),
        recombine=recombine,
        device=pick_device(device),
    )

    printed: set[str] = set()

    def show(entry: CaseResult, i: int, n: int) -> None:
        kind = " (synthetic)" if entry.synthetic else ""
        print_line(f"[{i}/{n}] {entry.case}{kind}: {entry.status} ({entry.seconds:.1f} s)")
        for warning in (text for text in dict.fromkeys(entry.warnings) if text not in printed):
            print_line(f"  warning: {warning}")
            printed.add(warning)
        bar(i, n)

    with interruptible(kept_in(out)), case_bar("augmenting") as bar:
        results, folds = run(
            labelled, augmenter, out, per_case=per_case, seed=seed, format=format, overwrite=overwrite, done=show
        )
    add_result(cases=results, folds=folds)
    complete = [entry for entry in results if not entry.error]
    synthetic = sum(entry.synthetic for entry in complete)
    warned = sum(bool(entry.warnings) for entry in results)
    if warned:
        print_line(f"{warned} cases have warnings, each shown once above; provenance.json lists them for each case")
    print_line(f"{len(complete) - synthetic} real and {synthetic} synthetic cases written to {out}")
    print_line(f"folds: {folds[0]}" + (f" to {folds[-1].name}" if len(folds) > 1 else ""))
    if format == "nnunet":
        print("Copy splits_final.json to the preprocessed folder before nnU-Net training: nnU-Net's folds mix patients")
    finish([f"{entry.error}" for entry in results if entry.error], len(results))
