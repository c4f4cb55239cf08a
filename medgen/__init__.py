"""medgen: 3D medical image translation that keeps geometry and Hounsfield units, and says how well it did.

    import medgen

    model = medgen.load("RUN/best")
    made = medgen.translate(model, "ct.nii.gz")

See `medgen.api` for each function; they are imported when they are first used.
"""

import os
from typing import TYPE_CHECKING, Any

# Threads that wait asleep: spinning ones (GNU OpenMP's default) fight over the cores as soon as anything else runs,
# and a training step then takes tens of times as long. Read when torch is loaded, so set before. See
# docs/decisions/threads.md.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

__version__ = "0.1.0"
__all__ = [
    "InputError",
    "Volume",
    "compare",
    "convert_cohort",
    "evaluate",
    "load",
    "read",
    "train",
    "translate",
    "write",
]

if TYPE_CHECKING:
    from medgen.api import (
        InputError,
        Volume,
        compare,
        convert_cohort,
        evaluate,
        load,
        read,
        train,
        translate,
        write,
    )


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'medgen' has no attribute {name!r}; it has {', '.join(__all__)}")
    from medgen import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
