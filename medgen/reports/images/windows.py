"""CT windows that a page switches by itself: one picture of all HU, and a table of greys for each window.

The frames of a page hold `levels` (0 to 255) in place of greys: many where soft tissue lies, few in lung and bone. A
filter of the page turns levels into the greys of a window (`greys`), so that a switch needs no other picture.
"""

import numpy as np

# Name: width, level in HU. The first is the one shown at first; radiology's usual ones.
PRESETS = {
    "soft tissue": (400.0, 40.0),
    "liver": (160.0, 60.0),
    "lung": (1500.0, -600.0),
    "bone": (1800.0, 400.0),
    "brain": (80.0, 40.0),
}
HU = (-1350.0, -160.0, 0.0, 80.0, 240.0, 1300.0)
LEVEL = (0.0, 64.0, 108.0, 172.0, 210.0, 255.0)  # 19, 3.6, 1.25, 4.2 and 24 HU a step


def levels(hu: np.ndarray) -> np.ndarray:
    """HU → levels, float; beyond the ends of `HU` the first and the last."""
    return np.interp(hu, HU, LEVEL)


def greys(width: float, level: float) -> np.ndarray:
    """(256,) greys in [0, 1], of each level in a window."""
    return np.clip((np.interp(np.arange(256), LEVEL, HU) - level) / width + 0.5, 0, 1)


def filters() -> list[tuple[str, str, str]]:
    """(name, "W 400 L 40", the greys as an SVG filter's table) of each window."""
    return [
        (name, f"W {width:g} L {level:g}".replace("-", "−"), " ".join(f"{grey:.3g}" for grey in greys(width, level)))
        for name, (width, level) in PRESETS.items()
    ]
