"""medgen: 3D medical image translation that preserves geometry and Hounsfield units, with quality control.

    import medgen

    model = medgen.load("RUN/best")
    translated = medgen.translate(model, "ct.nii.gz")

See `medgen.api` for the functions; they are imported on first use.
"""

import os
from typing import TYPE_CHECKING, Any

# Idle OpenMP threads sleep. If they spin (GNU OpenMP's default), they compete for the cores as soon as another process
# runs, and a training step takes tens of times as long. Set before torch is loaded, because it is read then. See
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
