"""``medgen sample``: generate images from nothing."""

import math
from pathlib import Path
from typing import Annotated

import typer

from medgen.commands.json_output import add_result
from medgen.commands.progress import case_bar
from medgen.commands.shared import Overwrite, interruptible, kept_in, pick_device


def _numbers(text: str) -> tuple[float, ...]:
    """Numbers separated by commas. Raises InputError for anything else."""
    from medgen.errors import InputError

    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        found = (math.nan,)
    if not all(map(math.isfinite, found)):
        raise InputError(
            "sample-volumes-invalid", f"--volumes {text!r} is not a list of numbers such as 1500,1300; correct it"
        )
    return found


def sample(
    model: Annotated[Path, typer.Argument(help="Folder of a generative model (vae, realnvp, ...), e.g. RUN/best.")],
    out: Annotated[Path, typer.Argument(help="Output folder for images/ and provenance.json.")],
    count: Annotated[int, typer.Option(min=1, max=100000, help="Number of images.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Random seed; the same seed gives the same images.")] = 0,
    volumes: Annotated[
        str,
        typer.Option(help="mm³ of each structure in the images, e.g. 1500,1300: models of ac_gan.", show_default=False),
    ] = "",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    overwrite: Overwrite = False,
) -> None:
    """Generate images from nothing with a generative model."""
    from medgen.augmentation.sample import Sample, volume_warnings
    from medgen.augmentation.sample import sample as run
    from medgen.checkpoint import load_model
    from medgen.io.names import print_line

    def show(each: Sample, n: int) -> None:
        print_line(f"[{n + 1}/{count}] {each.case}: {each.status}")
        bar(n + 1, count)

    loaded = load_model(model, pick_device(device))
    asked = _numbers(volumes) if volumes else None
    with interruptible(kept_in(out)), case_bar("generating") as bar:
        made = run(
            loaded,
            out,
            count=count,
            seed=seed,
            volumes=asked,
            overwrite=overwrite,
            done=show,
        )
    warnings = volume_warnings(loaded, asked) if asked else []
    add_result(cases=made, warnings=warnings)
    for text in warnings:
        print_line(f"warning: outside the training distribution: {text}")
    print_line(f"{len(made)} images in {out}")
    print("The images are synthetic and not for diagnosis. They are not anonymous: they may show training patients.")
