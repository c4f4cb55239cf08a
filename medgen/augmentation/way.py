"""A way to make a synthetic case of a labelled one."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from medgen.io.volume import Volume

# What was done, in words that JSON can say: "operation" is its name; one that took images of others says whose:
# "patients". "warnings" are sentences for the user.
Record = dict[str, Any]
# images (one a channel), label, names {structure: value}, generator → images, label, operations. On the grid of the
# first image, in the units of the files.
Way = Callable[
    [list[Volume], Volume, Mapping[str, int], np.random.Generator], tuple[list[Volume], Volume, list[Record]]
]
