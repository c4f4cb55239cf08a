"""The measures of an evaluation: name, unit and digits, what each says, and which way is better.

Digits follow the unit: tenths of a HU or mm, hundredths of a dB, as many of an index as tell two results apart.
"""

import re
from collections.abc import Iterable, Mapping
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
# Name without place and role: label, unit ("*" for that of the images), digits (None: those of the unit), whether
# higher is better, and what it says.
KNOWN: Mapping[str, tuple[str, str, int | None, bool, str]] = {
    "mae": ("MAE", "*", None, False, "mean absolute error of a voxel against the truth; 0 is perfect"),
    "rmse": ("RMSE", "*", None, False, "root of the mean squared error: large errors weigh more; 0 is perfect"),
    "psnr": ("PSNR", "dB", 2, True, "10 log₁₀(data range² / mean squared error); higher is better"),
    "ssim": ("SSIM", "", 4, True, "likeness of local mean, contrast and pattern in small windows; 1 is equal"),
    "ms_ssim": ("MS-SSIM", "", 4, True, "SSIM over several resolutions; 1 is equal"),
    "ncc": ("NCC", "", 4, True, "correlation of the two images, whatever their scale; 1 is equal"),
    "gradient_error": ("Gradient error", "*/mm", 2, False, "mean absolute error of the gradient: lost or new edges"),
    "dice": ("Dice", "", 3, True, "overlap of two segmentations: 0 none, 1 the same"),
    "hd95": ("HD95", "mm", 1, False, "distance within which 95 % of the two surfaces lie of each other"),
    "assd": ("ASSD", "mm", 2, False, "mean distance of the two surfaces"),
    "surface_dice": ("surface Dice", "", 3, True, "part of the surfaces within the tolerance of each other"),
    "volume_error": ("volume error", "", 3, False, "(volume − true volume) / true volume; 0 is right"),
    "slice_jump": (
        "Slice jump", "", 2, False,
        "change from slice to slice over that within slices, against the true scan's; 1 is as smooth, more are steps",
    ),
}  # fmt: skip
SAME = "images that are the same as the truth"  # of those above only PSNR is infinite, and then best
PLACES = {"enhancing_": "in enhancing structures", "body_": "in the body", "mask_": "in the mask"}
# Columns that follow a challenge's definition carry its name, such as synthrad2023_mae.
CHALLENGE = re.compile(r"(synthrad\d+)_(\w+)")
# Values of the structure check: pattern, label, unit, digits, what each says. A value in % is shown times 100.
CHECKS = (
    (r"flip_gain_(.+)", "flip gain {}", "", 2, "edge correlation that mirroring would gain; above 0: flipped"),
    (r"shift_mm_(.+)", "shift {}", "mm", 1, "how far the output's edges lie from the input's; 0 is right"),
    (r"edge_correlation", "edge correlation", "", 2, "likeness of the edges' strength in input and output; 1 is equal"),
    (r"gradient_agreement", "gradient agreement", "", 2, "likeness of the edges' directions; 1 is equal, ⅓ chance"),
    (r"mind_distance", "MIND distance", "", 2, "difference of the fine structure; 0 is equal, 0.26 noise"),
    (r"change_(.+)", "change of {}", "HU", 1, "median change of tissue that contrast medium hardly reaches"),
    (r"scale_drift", "scale drift", "%", 1, "change of the HU scale between lung and fat; 0 is right"),
    (r"hu_(.+)", "{}", "HU", 0, "median HU of the structure in the output"),
    (r"phase_(.+)", "phase of {}", "", 0, "phase of contrast medium that the organs' HU speak of"),
    (r"left_over_ml", "left over", "ml", 1, "soft tissue that is still enhanced"),
    (r"lesions", "lesions", "", 0, "lesions known in the input"),
    (r"lesions_kept", "lesions kept", "", 0, "of those that can be judged"),
    (r"lesions_lost", "lesions lost", "", 0, "of those that can be judged"),
    (r"lesions_new", "lesions new", "", 0, "in the output but not in the input"),
    (r"lesion_sensitivity", "lesion sensitivity", "", 2, "lesions kept / lesions that can be judged"),
    (r"new_structures", "new structures", "", 0, "round structures of the output that input and truth lack"),
    (r"dice_(.+)", "Dice of {}", "", 2, "overlap of what a segmenter finds in input and output; 1 is equal"),
)


@dataclass(frozen=True)
class Measure:
    """A measure: ``label`` says what and where; ``higher`` None: no way is better; ``known``: so are its digits."""

    name: str
    label: str
    unit: str
    digits: int
    higher: bool | None
    about: str = ""
    known: bool = True

    @property
    def title(self) -> str:
        """The label with the unit."""
        return self.label + (f" ({self.unit})" if self.unit else "")


def measure(name: str, system: System) -> Measure:
    """What the column ``name`` of cases.csv is; columns that no one told this module of keep their name."""
    challenge = CHALLENGE.fullmatch(name)
    place = next((prefix for prefix in PLACES if name.startswith(prefix)), "")
    base = challenge[2] if challenge else name.removeprefix(place)
    if base not in KNOWN:
        return Measure(name, name.replace("_", " "), "", 4, None)
    label, unit, digits, higher, about = KNOWN[base]
    where = f"by {challenge[1]}" if challenge else PLACES.get(place, "")
    if not where and base != "slice_jump":
        where = "in the mask" if system.section("settings").get("mask") else "in the whole volume"
    unit = unit.replace("*", system.unit) if system.unit else unit.replace("*", "").strip("/")
    digits = system.digits if digits is None else digits
    return Measure(name, f"{label} {where}".strip(), unit, digits, higher, about)


def check_value(name: str) -> Measure:
    """What a value of the structure check is; one that no one told this module of keeps its name."""
    for pattern, label, unit, digits, about in CHECKS:
        if found := re.fullmatch(pattern, name):
            return Measure(
                name, label.format(*(g.replace("_", " ") for g in found.groups())), unit, digits, None, about
            )
    return Measure(name, name.replace("_", " "), "", 4, None, known=False)


def explained(measures: Iterable[Measure]) -> list[tuple[str, str]]:
    """(label, what it says), a line for those that say the same: MAE in the body and elsewhere are one measure."""
    lines: dict[str, str] = {}
    for of in measures:
        if of.about:
            base = next((label for label, *_, about in KNOWN.values() if about == of.about), of.label)
            lines.setdefault(of.about, base)
    return [(label, about) for about, label in lines.items()]


def worst_by(system: System) -> str:
    """The column that says best which case is worst: the most specific that every case has; empty if there is none."""
    for name in ("enhancing_mae", "body_mae", "mae", "slice_jump"):
        if system.cases and all(name in case.metrics for case in system.cases):
            return name
    return ""
