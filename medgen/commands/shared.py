"""Options and functions shared by several commands."""

import glob
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from medgen.commands.json_output import add_errors
from medgen.errors import InputError
from medgen.io.names import print_line

if TYPE_CHECKING:
    from medgen.cluster import Cluster

INTERRUPTED = 130
REFUSED = 2  # exit code: invalid input, or at least one case of a cohort failed
ADDRESS = re.compile(r"local|auto|ray://\S+|([\w.-]+|\[[0-9a-fA-F:]+\]):\d+")

Ray = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="[ADDRESS]",
        help="Distribute the cases over a Ray cluster: HOST:PORT, auto (the one running here) or no value (start one).",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(min=1, help="With --ray: number of workers; default: one per GPU; on CPU, as many as the CPUs allow."),
]
Overwrite = Annotated[
    bool,
    typer.Option(
        "--overwrite",
        help="Replace a file, or the result of another run in a folder, where files not written by medgen are kept.",
    ),
]


def config_names(incomplete: str) -> list[str]:
    """Configs of medgen whose names begin with a text, for the completion of a shell."""
    from medgen.config import configs

    return [name for name in ("auto", *configs()) if name.startswith(incomplete)]


def model_names(incomplete: str) -> list[str]:
    """Models of medgen whose names begin with a text, for the completion of a shell; folders are completed as well."""
    from medgen.models import shipped

    folders = [f"{path}/" for path in Path().glob(f"{glob.escape(incomplete)}*") if path.is_dir()]
    return [*(name for name in shipped() if name.startswith(incomplete)), *folders]


def names_of(text: str, option: str) -> tuple[str, ...]:
    """Names of a comma-separated option. Raises InputError if there are none."""
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if not names:
        raise InputError("contrast-names-missing", f"{option} needs at least one name")
    return names


class RayCommand(TyperCommand):
    """A command whose ``--ray`` option takes an optional address."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        after = [*args[1:], ""]
        expanded = [
            [arg, "local"] if arg == "--ray" and not ADDRESS.fullmatch(next_one) else [arg]
            for arg, next_one in zip(args, after, strict=True)
        ]
        return super().parse_args(ctx, [arg for each in expanded for arg in each])


@contextmanager
def interruptible(saved: Callable[[], str]) -> Iterator[None]:
    """Let Ctrl-C in the block end the command with the message of ``saved``: what is kept, and how to resume."""
    try:
        yield
    except KeyboardInterrupt:
        print_line(f"interrupted: {saved()}")
        raise typer.Exit(INTERRUPTED) from None


@contextmanager
def whole_run(out: Path, inputs: Sequence[Path | None], about: dict[str, Any], overwrite: bool) -> Iterator[None]:
    """Claim the output folder of a pipeline for all its steps, and handle Ctrl-C.

    Raises InputError if the folder is or contains an input, or cannot be claimed.
    """
    from medgen.io.claim import check_output_is_not_input, claimed

    check_output_is_not_input(out, *inputs)
    with claimed(out, about, overwrite=overwrite), interruptible(kept_in(out)):
        yield


def kept_in(out: Path) -> Callable[[], str]:
    """Return a function that returns the message for an interrupted run into ``out``, see ``interruptible``."""
    return lambda: f"finished cases are kept in {out}; start the same command again to resume"


def cluster_of(ray: str | None, workers: int | None, device: str = "auto") -> "Cluster | None":
    """The cluster that ``--ray`` and ``--workers`` ask for; None without ``--ray``."""
    from medgen.cluster import Cluster

    if ray is None and workers is not None:
        raise InputError(
            "option-workers-needs-ray",
            f"--workers {workers} needs --ray; add --ray, or omit --workers to use one process",
        )
    return None if ray is None else Cluster(ray, workers, device)


def pick_device(name: str) -> str:
    """Check that torch can use the device. ``auto`` selects cuda, else mps, else cpu."""
    import torch

    from medgen.checkpoint import check_device

    if name != "auto":
        check_device(name)
        return name
    return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"


def finish(errors: list[str], count: int, faults: Sequence[str] = ()) -> None:
    """Print the errors of cases and the ``faults`` of the whole run; exit with code 2 if there are any."""
    add_errors(*errors, *faults)
    for error in (*errors, *faults):
        print_line(f"medgen: error: {error}", error=True)
    if errors and count > 1:
        print(f"medgen: {len(errors)} of {count} cases failed", file=sys.stderr)
    if errors or faults:
        raise typer.Exit(REFUSED)


def number_parser(expected: str, kind: type) -> Callable[[str], Any]:
    """Return the parser for each number of an option that takes several: ``expected`` describes them all.

    If the user gives too few numbers, the parser gets the name of the next option as a number, and reports it.
    """

    def number(text: str) -> Any:
        try:
            return kind(text)
        except ValueError:
            raise typer.BadParameter(f"expected {expected}; {text!r} is not a number") from None

    return number
