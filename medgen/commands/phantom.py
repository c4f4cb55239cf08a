"""``medgen phantom``: write the embedded CT cohort."""

from pathlib import Path
from typing import Annotated

import typer

from medgen.commands.json_output import add_result
from medgen.commands.progress import case_bar
from medgen.commands.shared import Overwrite, interruptible, kept_in, number_parser
from medgen.errors import InputError
from medgen.io.names import print_line


def phantom(
    out: Annotated[Path, typer.Argument(help="Cohort folder to write.")],
    patients: Annotated[int, typer.Option(help="Number of patients (per folder with --unpaired).")] = 16,
    seed: Annotated[int, typer.Option(help="Random seed of the patients.")] = 0,
    size: Annotated[
        tuple[int, int, int],
        typer.Option(
            help="Number of voxels along x, y and z.",
            metavar="X Y Z",
            parser=number_parser("three whole numbers, such as 160 128 96", int),
        ),
    ] = (160, 128, 96),
    spacing: Annotated[float, typer.Option(help="Voxel spacing in mm.")] = 2.5,
    phase: Annotated[
        str | None,
        typer.Option(help="Contrast phase of the source: arterial, portal_venous (default), late or mixed."),
    ] = None,
    phases: Annotated[
        bool,
        typer.Option(
            "--phases", help="Write none/, arterial/, portal_venous/ and late/ instead of source/ and target/."
        ),
    ] = False,
    unpaired: Annotated[bool, typer.Option("--unpaired", help="Use different patients in each folder.")] = False,
    noise_free: Annotated[bool, typer.Option("--noise-free", help="Omit noise and the bias field.")] = False,
    randomise: Annotated[
        bool,
        typer.Option(
            "--randomise",
            help="Draw anatomy, field of view, spacing, scanner and phase as varied as possible, to train networks for "
            "any scan; SIZE then limits the number of voxels.",
        ),
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """Write the built-in CT phantom cohort: contrast-enhanced source, non-contrast target, and label maps."""
    from medgen.phantom.cohort import write_cohort

    if phases and phase is not None:
        raise InputError("phantom-phase-and-phases", "--phases writes all phases; omit --phase or --phases")

    def show(i: int, n: int, case: str) -> None:
        print_line(f"[{i}/{n}] {case}")
        bar(i, n)

    with interruptible(kept_in(out)), case_bar("writing") as bar:
        write_cohort(
            out,
            patients=patients,
            seed=seed,
            size=size,
            spacing=spacing,
            phase="all" if phases else phase or "portal_venous",
            unpaired=unpaired,
            noise_free=noise_free,
            randomise=randomise,
            progress=show,
            overwrite=overwrite,
        )
    add_result(cohort=out, patients=patients)
    print_line(f"{patients} patients{' per folder' if unpaired else ''} written to {out}")
