"""``medgen augment``: a labelled dataset with synthetic cases added."""

from pathlib import Path
from typing import Annotated

import typer

from medgen.commands.shared import Overwrite, finish, interruptible, kept_in, pick_device
from medgen.io.names import say


def augment(
    model: Annotated[
        str,
        typer.Argument(help="A model folder, e.g. RUN/best, or what paints lesions without one: cutpaste, procedural."),
    ],
    dataset: Annotated[
        Path, typer.Argument(help="Labelled dataset: nnU-Net raw, Decathlon, or images/ labels/ labels.json.")
    ],
    out: Annotated[Path, typer.Argument(help="Dataset folder to write, e.g. nnUNet_raw/Dataset123_NAME.")],
    per_case: Annotated[
        int | None, typer.Option(min=1, max=1000, help="Synthetic cases of each training case; default one a target.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Another seed gives other cases, where chance has a part.")] = 0,
    format: Annotated[str, typer.Option(help="nnunet or decathlon.")] = "nnunet",
    target: Annotated[str | None, typer.Option(help="Domains to translate to, e.g. arterial,late; else all.")] = None,
    host: Annotated[
        str | None, typer.Option(help="Label that new lesions go into; default the model's, or tissue like theirs.")
    ] = None,
    lesion: Annotated[
        str | None, typer.Option(help="Labels that are lesions to add more of, e.g. cyst,tumour; default the model's.")
    ] = None,
    recombine: Annotated[
        bool, typer.Option("--recombine", help="Label maps between two patients, of a model that makes images of them.")
    ] = False,
    channels: Annotated[
        str | None, typer.Option(help="Folders of the images of a dataset of folders, one a channel, e.g. t1,flair.")
    ] = None,
    patient_pattern: Annotated[
        str | None, typer.Option(help="Regular expression that finds the patient in a case's name.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    overwrite: Overwrite = False,
) -> None:
    """Write a segmentation dataset again with synthetic cases added, their provenance and folds by patient."""
    from medgen.augmentation.augment import augment as run
    from medgen.augmentation.augmenter import augmenter_for
    from medgen.augmentation.dataset.write import Written
    from medgen.augmentation.read import read_dataset

    given = read_dataset(dataset, channels=channels.split(",") if channels else (), patient_pattern=patient_pattern)
    augmenter = augmenter_for(
        model,
        given,
        targets=target.split(",") if target else (),
        host=host,
        lesions=lesion.split(",") if lesion else (),
        recombine=recombine,
        device=pick_device(device),
    )

    told: set[str] = set()

    def show(entry: Written, i: int, n: int) -> None:
        kind = " (synthetic)" if entry.synthetic else ""
        say(f"[{i}/{n}] {entry.case}{kind}: {entry.status} ({entry.seconds:.1f} s)")
        for warning in (text for text in dict.fromkeys(entry.warnings) if text not in told):
            say(f"  warning: {warning}")
            told.add(warning)

    with interruptible(kept_in(out)):
        results, folds = run(
            given, augmenter, out, per_case=per_case, seed=seed, format=format, overwrite=overwrite, done=show
        )
    whole = [entry for entry in results if not entry.error]
    synthetic = sum(entry.synthetic for entry in whole)
    warned = sum(bool(entry.warnings) for entry in results)
    if warned:
        say(f"warnings of {warned} cases, each shown once above; provenance.json has those of each case")
    say(f"{len(whole) - synthetic} real and {synthetic} synthetic cases in {out}")
    say(f"folds: {folds[0]}" + (f" to {folds[-1].name}" if len(folds) > 1 else ""))
    if format == "nnunet":
        print("nnU-Net must find it among its preprocessed data when it trains: its own folds would mix patients")
    finish([f"{entry.error}" for entry in results if entry.error], len(results))
