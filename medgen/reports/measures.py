"""The measures of an evaluation: what each is called in a report, its unit, its digits, which way is better."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from medgen.reports.results import System

# Columns of cases.csv on the first page, in order.
HEADLINE = (
    "enhancing_mae",
    "body_mae",
    "mae",
    "body_psnr",
    "psnr",
    "body_ssim",
    "ssim",
    "slice_jump",
)
# Name without place and role: label, unit ("*" for that of the images), digits (None: those of the unit), and
# whether higher is better.
KNOWN: Mapping[str, tuple[str, str, int | None, bool]] = {
    "mae": ("MAE", "*", None, False),
    "rmse": ("RMSE", "*", None, False),
    "psnr": ("PSNR", "dB", 2, True),
    "ssim": ("SSIM", "", 4, True),
    "ms_ssim": ("MS-SSIM", "", 4, True),
    "ncc": ("NCC", "", 4, True),
    "gradient_error": ("Gradient error", "*/mm", 2, False),
    "dice": ("Dice", "", 3, True),
    "hd95": ("HD95", "mm", 1, False),
    "slice_jump": ("Slice jump", "", 4, False),
}
SAME = "images that are the same as the truth"  # of those above only PSNR is infinite, and then best
PLACES = {"enhancing_": "in enhancing structures", "body_": "in the body", "mask_": "in the mask"}
# Columns that follow a challenge's definition carry its name, such as synthrad2023_mae.
CHALLENGE = re.compile(r"(synthrad\d+)_(\w+)")


@dataclass(frozen=True)
class Measure:
    """A column of cases.csv: ``label`` says what and where; ``higher`` is None where no way is better."""

    name: str
    label: str
    unit: str
    digits: int
    higher: bool | None

    @property
    def title(self) -> str:
        """The label with the unit."""
        return self.label + (f" ({self.unit})" if self.unit else "")


def measure(name: str, system: System) -> Measure:
    """What the column ``name`` is; columns that no one told this module of keep their name."""
    challenge = CHALLENGE.fullmatch(name)
    place = next((prefix for prefix in PLACES if name.startswith(prefix)), "")
    base = challenge[2] if challenge else name.removeprefix(place)
    if base not in KNOWN:
        return Measure(name, name.replace("_", " "), "", 4, None)
    label, unit, digits, higher = KNOWN[base]
    where = f"by {challenge[1]}" if challenge else PLACES.get(place, "")
    if not where and base != "slice_jump":
        where = "in the mask" if system.section("settings").get("mask") else "in the whole volume"
    unit = unit.replace("*", system.unit) if system.unit else unit.replace("*", "").strip("/")
    return Measure(name, f"{label} {where}".strip(), unit, system.digits if digits is None else digits, higher)


def worst_by(system: System) -> str:
    """The column that says best which case is worst: the most specific that every case has; empty if there is none."""
    for name in ("enhancing_mae", "body_mae", "mae", "slice_jump"):
        if system.cases and all(name in case.metrics for case in system.cases):
            return name
    return ""
