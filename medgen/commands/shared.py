"""What several commands do: choose the device, tell what failed."""

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from medgen.errors import InputError
from medgen.io.names import say

if TYPE_CHECKING:
    from medgen.cluster import Cluster

INTERRUPTED = 130
REFUSED = 2  # exit code: bad input, or some case of a cohort failed
ADDRESS = re.compile(r"local|auto|ray://\S+|([\w.-]+|\[[0-9a-fA-F:]+\]):\d+")

Ray = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="[ADDRESS]",
        help="Spread the cases over a Ray cluster: HOST:PORT, auto (one that runs here); alone: one of its own.",
    ),
]
Workers = Annotated[
    int | None, typer.Option(min=1, help="With --ray: processes; default one a GPU, on CPU one for all threads.")
]
Overwrite = Annotated[
    bool,
    typer.Option(
        "--overwrite",
        help="Replace another run's result in the folder; files that medgen did not write stay.",
    ),
]


class RayCommand(TyperCommand):
    """A command whose ``--ray`` may stand without an address."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        after = [*args[1:], ""]
        given = [
            [arg, "local"] if arg == "--ray" and not ADDRESS.fullmatch(next_one) else [arg]
            for arg, next_one in zip(args, after, strict=True)
        ]
        return super().parse_args(ctx, [arg for each in given for arg in each])


@contextmanager
def interruptible(saved: Callable[[], str]) -> Iterator[None]:
    """Within, Ctrl-C ends the command with what ``saved`` says: what is kept, and how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        say(f"interrupted: {saved()}")
        raise typer.Exit(INTERRUPTED) from None


@contextmanager
def whole_run(out: Path, inputs: Sequence[Path | None], about: dict[str, Any], overwrite: bool) -> Iterator[None]:
    """The folder of a pipeline, held for all its steps, and what Ctrl-C leaves in it. Raises InputError."""
    from medgen.io.claim import apart, claimed

    apart(out, *inputs)
    with claimed(out, about, overwrite=overwrite), interruptible(kept_in(out)):
        yield


def kept_in(out: Path) -> Callable[[], str]:
    return lambda: f"what is finished is kept in {out}; start the same command again to go on"


def cluster_of(ray: str | None, workers: int | None, device: str = "auto") -> "Cluster | None":
    from medgen.cluster import Cluster

    if ray is None and workers is not None:
        raise InputError(
            "option-workers-needs-ray", f"--workers {workers} is of --ray; without it one process does everything"
        )
    return None if ray is None else Cluster(ray, workers, device)


def pick_device(name: str) -> str:
    import torch

    if name != "auto":
        try:
            torch.empty(0, device=name)
        except (RuntimeError, AssertionError) as error:
            raise InputError(
                "option-device-unusable", f"--device {name} cannot be used: {str(error).splitlines()[0]}"
            ) from None
        return name
    return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"


def finish(errors: list[str], count: int, faults: Sequence[str] = ()) -> None:
    """Report which cases failed, and ``faults`` of the whole run; the exit code tells."""
    for error in (*errors, *faults):
        say(f"medgen: error: {error}", error=True)
    if errors and count > 1:
        print(f"medgen: {len(errors)} of {count} cases failed", file=sys.stderr)
    if errors or faults:
        raise typer.Exit(REFUSED)
