"""``medgen pack`` and ``medgen unpack``: a model as one file, or on a hub."""

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from medgen.commands.json_output import add_result
from medgen.commands.shared import Overwrite, model_names
from medgen.errors import InputError
from medgen.io.names import print_line


def pack(
    model: Annotated[
        Path,
        typer.Argument(
            help="Model folder, e.g. RUN/best, or a name that medgen models lists.", autocompletion=model_names
        ),
    ],
    file: Annotated[str, typer.Argument(help="File to write, such as model.medgen, or hub:OWNER/NAME to upload it.")],
    public: Annotated[
        bool, typer.Option("--public", help="With hub:, make a new repository public; default: private.")
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """Write a model and its card into one file with hashes, or upload that to a hub with the card as README.md."""
    from medgen.export.hub import hub_place, upload
    from medgen.export.package import pack as run
    from medgen.io.claim import check_file_is_not_input, claimed_file
    from medgen.models import model_folder

    if (place := hub_place(file)) is not None:
        digest, commit = upload(model, place, public=public, overwrite=overwrite)
        add_result(package=str(place), sha256=digest, commit=commit)
        return print_line(f"uploaded: {place}@{commit}; sha256 {digest}")
    if public:
        raise InputError("option-public-needs-hub", "--public is for hub:OWNER/NAME; leave it out for a file")
    path = Path(file)
    check_file_is_not_input(path, model_folder(model))
    with claimed_file(path, overwrite=overwrite):
        digest = run(model, path)
    add_result(package=path, sha256=digest)
    print_line(f"packed: {path}; sha256 {digest}")


def unpack(
    file: Annotated[str, typer.Argument(help="File that medgen pack wrote, or hub:OWNER/NAME[@REVISION].")],
    folder: Annotated[Path, typer.Argument(help="Folder to write the model to.")],
    sha256: Annotated[
        str | None, typer.Option(help="SHA-256 that medgen pack printed; another file is refused.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Write the model of a packed file into a folder, after its hashes were checked."""
    from medgen.export.hub import download, hub_place, pinned
    from medgen.export.package import check_sha256
    from medgen.export.package import unpack as run
    from medgen.io.claim import check_output_is_not_input, claimed
    from medgen.io.paths import require_path

    place = hub_place(file)
    if place is not None:
        place = pinned(place)
    else:
        check_output_is_not_input(folder, require_path(Path(file)))
    with (
        claimed(folder, {"command": "unpack", "package": str(place) if place else Path(file)}, overwrite=overwrite),
        tempfile.TemporaryDirectory(prefix="medgen-") as aside,
    ):
        package = Path(file) if place is None else download(place, Path(aside))
        if sha256 is not None:
            check_sha256(package, sha256)
        run(package, folder)
    add_result(model=folder, package=str(place or file))
    print_line(f"model: {folder}" + (f"; from {place}" if place else ""))
