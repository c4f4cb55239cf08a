"""``medgen labels``: contours and segmentations of DICOM as label maps."""

from pathlib import Path
from typing import Annotated

import typer

from medgen.commands.json_output import add_result
from medgen.commands.shared import Overwrite, names_of
from medgen.errors import InputError
from medgen.io.names import print_line


def labels(
    structures: Annotated[Path, typer.Argument(help="An RT structure set or a DICOM segmentation.")],
    image: Annotated[Path, typer.Argument(help="The DICOM series on which they were drawn.")],
    out: Annotated[Path, typer.Argument(help="Label map to write, such as labels/p1.nii.gz.")],
    names: Annotated[
        str | None,
        typer.Option(help="Comma-separated structures; the first gets 1, and later ones lie on top; default: all."),
    ] = None,
    series: Annotated[
        str | None, typer.Option(help="DICOM series of IMAGE to use: UID, number or part of its description.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Write the contours of an RT structure set or the segments of a DICOM segmentation as a label map."""
    from medgen.io.claim import check_file_is_not_input, claimed_file
    from medgen.io.dicom.structures.read import read_structures
    from medgen.io.paths import NIFTI_ENDINGS, has_ending, require_path
    from medgen.io.write import write_volume

    if not has_ending(out, NIFTI_ENDINGS):
        raise InputError("labels-not-nifti", f"{out} is no NIfTI file; end it in .nii.gz, whose header keeps the names")
    require_path(structures)
    require_path(image)
    check_file_is_not_input(out, structures, image)
    with claimed_file(out, overwrite=overwrite):
        wanted = None if names is None else names_of(names, "--names")
        volume, values = read_structures(structures, image, names=wanted, series=series)
        write_volume(out, volume)
    for warning in volume.warnings:
        print_line(f"warning: {warning}")
    voxels = {name: int((volume.data == value).sum()) for name, value in values.items()}
    for name, value in values.items():
        print_line(f"{value}: {name}, {voxels[name]} voxels")
    add_result(labels=values, voxels=voxels, warnings=list(volume.warnings), written=out)
    print_line(f"label map: {out}")
