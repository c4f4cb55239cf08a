"""A small case with an organ and lesions of two kinds in it, and a library of them."""

import numpy as np

from medgen.augmentation.lesions.library import build_library
from medgen.io.volume import Volume

NAMES = {"body": 1, "organ": 2, "dark": 3, "bright": 4}
AFFINE = np.array([[0, 0, 2.5, -20], [-2.0, 0, 0, 40], [0, 2.0, 0, 5], [0, 0, 0, 1]])  # axes turned and flipped
CONTRAST = {"dark": -60.0, "bright": 50.0}
KINDS = list(CONTRAST)


def ball(shape, centre, radius):
    at = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"))
    return ((at - np.reshape(centre, (3, 1, 1, 1))) ** 2).sum(0) <= radius**2


def case(seed=0, lesions=True, shape=(40, 40, 32), dtype=np.int16, gain=1.0):
    """Image (HU times ``gain``) and label; the organ is a box of 28 × 28 × 24 voxels, of 100 ± 8 HU."""
    rng = np.random.default_rng(seed)
    label = np.zeros(shape)
    label[2:-2, 2:-2, 1:-1] = NAMES["body"]
    label[6:34, 6:34, 4:28] = NAMES["organ"]
    mean = np.select([label == NAMES["organ"], label == NAMES["body"]], [100.0, 0.0], -1000.0)
    if lesions:
        for kind, centre, radius in (("dark", (12, 13, 11), 3.2), ("bright", (26, 25, 18), 2.6)):
            inside = ball(shape, centre, radius + seed % 2 / 2)
            label[inside], mean[inside] = NAMES[kind], 100 + CONTRAST[kind] - 5 * (seed % 2)
    data = (mean + rng.normal(0, 8, shape)) * gain
    data = np.rint(data) if np.issubdtype(dtype, np.integer) else data
    return Volume(data, AFFINE, dtype), Volume(label, AFFINE, np.uint8)


def library(count=4, **options):
    cases = []
    for seed in range(count):
        image, label = case(seed, **options)
        cases.append(([image], label, f"case{seed}"))
    return build_library(cases, NAMES, lesions=KINDS, host="organ")
