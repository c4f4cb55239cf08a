"""Labels, units and digits with which a report shows metrics and the values of the structure check.

The metrics are declared in `medgen.evaluation.metrics.catalogue`.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from medgen.evaluation.metrics import catalogue
from medgen.evaluation.metrics.catalogue import PLACES, SLICE_JUMP, find
from medgen.reports.results import System

SAME = "images identical to the truth"  # of the image metrics only PSNR can be infinite, which is best
# Values of the structure check: pattern, label, unit, digits, explanation. A value in % is multiplied by 100.
CHECKS = (
    (r"flip_gain_(.+)", "flip gain {}", "", 2, "gain in edge correlation from mirroring the output; above 0: flipped"),
    (r"shift_mm_(.+)", "shift {}", "mm", 1, "displacement of the output's edges from the input's; 0 is correct"),
    (r"edge_correlation", "edge correlation", "", 2, "correlation of edge strength in input and output; 1 is equal"),
    (r"gradient_agreement", "gradient agreement", "", 2, "agreement of edge directions; 1 is equal, ⅓ is chance level"),
    (r"mind_distance", "MIND distance", "", 2, "difference of the fine structure; 0 is equal, 0.26 is noise"),
    (r"change_(.+)", "change of {}", "HU", 1, "median change of tissue that takes up little contrast medium"),
    (r"scale_drift", "scale drift", "%", 1, "change of the HU scale between lung and fat; 0 is correct"),
    (r"hu_(.+)", "{}", "HU", 0, "median HU of the structure in the output"),
    (r"phase_(.+)", "phase of {}", "", 0, "contrast phase estimated from the HU of the organs"),
    (r"misplaced_slices", "misplaced slices", "", 0, "slices that show what the input has in another slice"),
    (r"flat_ml", "parts of one value", "ml", 1, "parts of the body that have one value where the input varies"),
    (r"lost_tissue_ml", "lost tissue", "ml", 1, "soft tissue or bone that became air, or fat in contrast removal"),
    (r"lost_in_wall_ml", "lost from the wall of the trunk", "ml", 1, "ribs that became soft tissue, or vessels there"),
    (r"darkened_dense_ml", "darkened dense tissue", "ml", 1, "bone that lost density, or contrast medium half removed"),
    (r"residual_enhancement_ml", "residual enhancement", "ml", 1, "volume of soft tissue that is still enhanced"),
    (r"lesions", "lesions", "", 0, "known lesions of the input"),
    (r"lesions_kept", "lesions kept", "", 0, "assessable lesions found in the output"),
    (r"lesions_lost", "lesions lost", "", 0, "assessable lesions not found in the output"),
    (r"lesions_new", "lesions new", "", 0, "lesions of the output that are not in the input"),
    (r"lesion_sensitivity", "lesion sensitivity", "", 2, "lesions kept / assessable lesions"),
    (r"new_structures", "new structures", "", 0, "round structures of the output that are not in input or truth"),
    (r"dice_(.+)", "Dice of {}", "", 2, "overlap of the segmentations of input and output; 1 is equal"),
)


@dataclass(frozen=True)
class Measure:
    """How a metric or check value is shown.

    Attributes:
        label: name and region.
        higher: whether higher is better; None: neither direction is better.
        about: explanation.
        known: whether the value is declared; otherwise ``digits`` is a default.
    """

    name: str
    label: str
    unit: str
    digits: int
    higher: bool | None
    about: str = ""
    known: bool = True

    @property
    def title(self) -> str:
        """The label with its unit."""
        return self.label + (f" ({self.unit})" if self.unit else "")


def measure(name: str, system: System) -> Measure:
    """Return how the column ``name`` of cases.csv is shown; a column without a declared metric keeps its name."""
    match = find(name)
    if match is None:
        return Measure(name, name.replace("_", " "), "", 4, None)
    entry, place = match
    location = f"by {entry.profile}" if entry.profile != "generic" else PLACES.get(place, "")
    if not location and entry.name != SLICE_JUMP.name:
        location = "in the mask" if system.summary.settings.mask else "in the whole volume"
    unit = entry.unit.replace("*", system.unit) if system.unit else entry.unit.replace("*", "").strip("/")
    digits = system.digits if entry.digits is None else entry.digits
    higher = None if entry.better is None else entry.better == "higher"
    return Measure(name, f"{entry.label} {location}".strip(), unit, digits, higher, entry.about)


def check_value(name: str) -> Measure:
    """Return how a value of the structure check is shown; a value that is not in `CHECKS` keeps its name."""
    for pattern, label, unit, digits, about in CHECKS:
        if match := re.fullmatch(pattern, name):
            return Measure(
                name, label.format(*(g.replace("_", " ") for g in match.groups())), unit, digits, None, about
            )
    return Measure(name, name.replace("_", " "), "", 4, None, known=False)


def explained(measures: Iterable[Measure]) -> list[tuple[str, str]]:
    """Return (label, explanation) once per explanation, so that MAE in different regions has one entry."""
    lines: dict[str, str] = {}
    for entry in measures:
        if entry.about:
            base = next((metric.label for metric in catalogue.METRICS if metric.about == entry.about), entry.label)
            lines.setdefault(entry.about, base)
    return [(label, about) for about, label in lines.items()]


def worst_by(system: System) -> str:
    """Return the column that ranks the cases: the most specific error that every case has; empty if there is none."""
    for name in ("enhancing_mae", "body_mae", "mae", "slice_jump"):
        if system.cases and all(name in case.metrics for case in system.cases):
            return name
    return ""
