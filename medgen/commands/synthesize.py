"""``medgen synthesize``: make synthetic images from label maps."""

from pathlib import Path
from typing import Annotated

import typer

from medgen.commands.json_output import add_result
from medgen.commands.progress import case_bar
from medgen.commands.shared import Overwrite, finish, interruptible, kept_in, pick_device


def synthesize(
    model: Annotated[Path, typer.Argument(help="Folder of a model trained on label maps, e.g. RUN/best.")],
    labels: Annotated[Path, typer.Argument(help="A label map or a folder of label maps.")],
    out: Annotated[Path, typer.Argument(help="Output folder for images/, labels/, labels.json and manifest.json.")],
    images: Annotated[
        Path | None,
        typer.Option(help="Real image of each label map, matched by name; divides the background into tissue classes."),
    ] = None,
    style: Annotated[
        Path | None, typer.Option(help="Reference image for the style; default: a random style per sample.")
    ] = None,
    samples: Annotated[int, typer.Option(min=1, max=10000, help="Number of images per label map.")] = 1,
    seed: Annotated[
        int, typer.Option(help="Random seed of styles and deformations; the same seed gives the same images.")
    ] = 0,
    deform: Annotated[bool, typer.Option("--deform", help="Deform the label map differently for each sample.")] = False,
    recombine: Annotated[
        bool, typer.Option("--recombine", help="Interpolate each label map with another one of the folder.")
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    memory_gb: Annotated[
        float | None, typer.Option(min=0.01, max=1e6, help="Memory limit of a whole-volume pass, GiB.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Make synthetic images from label maps, and write the labels of each image."""

    from medgen.checkpoint import load_model
    from medgen.inference.synthesize import Synthetic
    from medgen.inference.synthesize import synthesize as run
    from medgen.io.names import print_line

    loaded = load_model(model, pick_device(device))

    def show(entry: Synthetic, i: int, n: int) -> None:
        time = f" ({entry.seconds:.1f} s)" if entry.seconds else ""
        print_line(f"[{i}/{n}] {entry.case}: {entry.status}{time}")
        for warning in entry.warnings:
            print_line(f"  warning: {warning}")
        bar(i, n)

    with interruptible(kept_in(out)), case_bar("synthesizing") as bar:
        results = run(
            loaded,
            labels,
            out,
            images=images,
            style=style,
            samples=samples,
            seed=seed,
            deform=deform,
            recombine=recombine,
            memory_gb=memory_gb,
            overwrite=overwrite,
            done=show,
        )
    add_result(cases=results)
    counts = {status: sum(r.status == status for r in results) for status in ("made", "skipped", "failed")}
    print(", ".join(f"{n} {status}" for status, n in counts.items()))
    print("The images are synthetic and not for diagnosis. They are not anonymous: they show the anatomy of patients.")
    finish([f"{r.error}" for r in results if r.error], len(results))
