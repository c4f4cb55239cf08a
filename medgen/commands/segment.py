"""``medgen segment``: segment a cohort of scans."""

from pathlib import Path
from typing import Annotated

import typer

from medgen.commands.json_output import add_result
from medgen.commands.progress import case_bar
from medgen.commands.shared import Overwrite, finish, interruptible, kept_in, pick_device


def segment(
    segmenter: Annotated[
        str,
        typer.Argument(
            help="A folder written by train_segmenter, a MONAI bundle, a TorchScript file, or nnunet:DATASET."
        ),
    ],
    input: Annotated[Path, typer.Argument(help="A volume, a folder of volumes, or a folder of DICOM series.")],
    output: Annotated[Path, typer.Argument(help="Output folder for the label maps.")],
    format: Annotated[
        str | None, typer.Option(help="nifti, mha, nrrd or dicom; default: dicom for DICOM input, else nifti.")
    ] = None,
    series: Annotated[
        str | None, typer.Option(help="DICOM series to use: UID, number or part of its description.")
    ] = None,
    rules: Annotated[
        Path | None, typer.Option(help="YAML file of rules that select DICOM series in a folder of mixed studies.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    overwrite: Overwrite = False,
) -> None:
    """Segment scans and write label maps; for DICOM input, DICOM segmentations."""
    from medgen.inference.segment import Segmented, segment_cohort
    from medgen.inference.series import load_rules
    from medgen.io.names import print_line
    from medgen.segmentation.load import named_segmenter

    def show(entry: Segmented, i: int, n: int) -> None:
        print_line(f"[{i}/{n}] {entry.case}: {entry.status}")
        for warning in entry.warnings:
            print_line(f"  warning: {warning}")
        bar(i, n)

    with interruptible(kept_in(output)), case_bar("segmenting") as bar:
        results = segment_cohort(
            named_segmenter(segmenter, device=pick_device(device)),
            input,
            output,
            format=format,
            series=series,
            rules=None if rules is None else load_rules(rules),
            overwrite=overwrite,
            done=show,
        )
    add_result(cases=results)
    counts = {status: sum(entry.status == status for entry in results) for status in ("segmented", "skipped", "failed")}
    print_line(", ".join(f"{n} {status}" for status, n in counts.items()) + f"; output: {output}")
    finish([entry.error for entry in results if entry.error], len(results))
