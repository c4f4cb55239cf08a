"""CT windows that the user can switch in the page, without a new picture for each window.

The frames of a page store `levels` (0 to 255) instead of grey values: many levels for soft tissue, few for lung and
bone. An SVG filter of the page maps levels to the grey values of a window (`greys`).
"""

import numpy as np

# Name: width, level in HU; standard windows in radiology. The first one is the default.
PRESETS = {
    "soft tissue": (400.0, 40.0),
    "liver": (160.0, 60.0),
    "lung": (1500.0, -600.0),
    "bone": (1800.0, 400.0),
    "brain": (80.0, 40.0),
}
HU = (-1350.0, -160.0, 0.0, 80.0, 240.0, 1300.0)
LEVEL = (0.0, 64.0, 108.0, 172.0, 210.0, 255.0)  # 19, 3.6, 1.25, 4.2 and 24 HU per level


def levels(hu: np.ndarray) -> np.ndarray:
    """Map HU to levels (float); values outside `HU` are clipped."""
    return np.interp(hu, HU, LEVEL)


def greys(width: float, level: float) -> np.ndarray:
    """Return the grey value in [0, 1] of each level in a window, (256,)."""
    return np.clip((np.interp(np.arange(256), LEVEL, HU) - level) / width + 0.5, 0, 1)


def filters() -> list[tuple[str, str, str]]:
    """Return (name, "W 400 L 40", grey values as the table of an SVG filter) for each window."""
    return [
        (name, f"W {width:g} L {level:g}".replace("-", "−"), " ".join(f"{grey:.3g}" for grey in greys(width, level)))
        for name, (width, level) in PRESETS.items()
    ]
