"""``medgen export``: a model in the format of another program."""

from pathlib import Path
from typing import Annotated

import typer

from medgen.commands.json_output import add_result
from medgen.commands.shared import Overwrite, model_names
from medgen.errors import InputError
from medgen.io.names import print_line

ENDINGS = {"onnx": ".onnx", "torch": ".pt2", "bundle": "", "modality-converter": ""}


def export(
    format: Annotated[
        str, typer.Argument(help="bundle (a MONAI bundle), onnx, torch (torch.export) or modality-converter.")
    ],
    model: Annotated[
        Path,
        typer.Argument(
            help="Model folder, e.g. RUN/best, or a name that medgen models lists.", autocompletion=model_names
        ),
    ],
    out: Annotated[Path, typer.Argument(help="OUT.onnx, OUT.pt2, or a folder for the others.")],
    target: Annotated[str | None, typer.Option(help="Target domain, for a model with several.")] = None,
    assume_axes: Annotated[
        str | None,
        typer.Option(help="modality-converter: axes, e.g. LPS, of volumes that come without orientation and spacing."),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Export a model with its intensity coding, padding and window plan, to run it without medgen or in MONAI."""
    from medgen.checkpoint import load_model
    from medgen.export.bundle import export_bundle
    from medgen.export.modality_converter import export_modality_converter
    from medgen.export.programs import export_onnx, export_torch
    from medgen.io.claim import check_file_is_not_input, check_output_is_not_input, claimed, claimed_file
    from medgen.models import model_folder

    if format not in ENDINGS:
        raise InputError("export-format-unknown", f"{format} is unknown; choose one of {', '.join(ENDINGS)}")
    if assume_axes is not None and format != "modality-converter":
        raise InputError("export-axes-unused", "--assume-axes is for the format modality-converter; leave it out")
    if ENDINGS[format] and out.suffix.lower() != ENDINGS[format]:
        raise InputError("export-name", f"{out} is not the name of an {ENDINGS[format]} file; end it in this")
    loaded = load_model(model, target=target)
    if ENDINGS[format]:
        check_file_is_not_input(out, model_folder(model))
        with claimed_file(out, overwrite=overwrite):
            (export_onnx if format == "onnx" else export_torch)(loaded, out)
    else:
        check_output_is_not_input(out, model_folder(model))
        about = {"command": f"export {format}", "model": loaded.info.sha256, "target": target}
        with claimed(out, about, overwrite=overwrite):
            if format == "bundle":
                export_bundle(loaded, out)
            else:
                export_modality_converter(loaded, out, assume_axes)
    add_result(exported=out, format=format, model_sha256=loaded.info.sha256)
    print_line(f"{format}: {out}; model {loaded.info.sha256[:12]}")
