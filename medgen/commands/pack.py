"""``medgen pack`` and ``medgen unpack``: a model as one file."""

from pathlib import Path
from typing import Annotated

import typer

from medgen.commands.shared import Overwrite
from medgen.io.names import print_line


def pack(
    model: Annotated[Path, typer.Argument(help="Model folder, e.g. RUN/best, or a name that medgen models lists.")],
    file: Annotated[Path, typer.Argument(help="File to write, such as model.medgen.")],
    overwrite: Overwrite = False,
) -> None:
    """Write a model and its card into one file with hashes."""
    from medgen.export.package import pack as run
    from medgen.io.claim import claimed_file

    with claimed_file(file, overwrite=overwrite):
        digest = run(model, file)
    print_line(f"packed: {file}; sha256 {digest}")


def unpack(
    file: Annotated[Path, typer.Argument(help="File that medgen pack wrote.")],
    folder: Annotated[Path, typer.Argument(help="Folder to write the model to.")],
    overwrite: Overwrite = False,
) -> None:
    """Write the model of a packed file into a folder, after its hashes were checked."""
    from medgen.export.package import unpack as run
    from medgen.io.claim import check_output_is_not_input, claimed
    from medgen.io.paths import require_path

    check_output_is_not_input(folder, require_path(file))
    with claimed(folder, {"command": "unpack", "package": file}, overwrite=overwrite):
        run(file, folder)
    print_line(f"model: {folder}")
