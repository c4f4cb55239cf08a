"""What several commands do: choose the device, tell what failed."""

import sys
from collections.abc import Sequence

import typer

from medgen.io.names import shown
from medgen.types import InputError

REFUSED = 2  # exit code: bad input, or some case of a cohort failed


def pick_device(name: str) -> str:
    import torch

    if name != "auto":
        try:
            torch.empty(0, device=name)
        except (RuntimeError, AssertionError) as error:
            raise InputError(f"--device {name} cannot be used: {str(error).splitlines()[0]}") from None
        return name
    return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"


def finish(errors: list[str], count: int, faults: Sequence[str] = ()) -> None:
    """Report which cases failed, and ``faults`` of the whole run; the exit code tells."""
    for error in (*errors, *faults):
        print(shown(f"medgen: error: {error}"), file=sys.stderr)
    if errors and count > 1:
        print(f"medgen: {len(errors)} of {count} cases failed", file=sys.stderr)
    if errors or faults:
        raise typer.Exit(REFUSED)
