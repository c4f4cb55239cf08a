"""The interface of case transforms: functions that make a synthetic case from a labelled one."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from medgen.io.volume import Volume

# Record of one operation, as JSON content: "operation" is its name, "patients" lists other patients whose images it
# used, and "warnings" are sentences for the user.
Record = dict[str, Any]
# (images, one per channel; label; {structure: value}; generator) → (images, label, operations). The output images
# and label have the grid of the first image; their values have the units of the input files.
CaseTransform = Callable[
    [list[Volume], Volume, Mapping[str, int], np.random.Generator], tuple[list[Volume], Volume, list[Record]]
]
