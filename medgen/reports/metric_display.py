"""How the metrics of an evaluation and the values of the structure check are shown: label, unit and digits.

Metrics are declared in `medgen.evaluation.metrics.catalogue`.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from medgen.evaluation.metrics import catalogue
from medgen.evaluation.metrics.catalogue import PLACES, SLICE_JUMP, find
from medgen.reports.results import System

SAME = "images that are the same as the truth"  # of the metrics only PSNR is infinite, and then best
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
    (r"residual_enhancement_ml", "left over", "ml", 1, "soft tissue that is still enhanced"),
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
    """How the column ``name`` of cases.csv is shown; one without a declared metric keeps its name."""
    found = find(name)
    if found is None:
        return Measure(name, name.replace("_", " "), "", 4, None)
    of, place = found
    where = f"by {of.profile}" if of.profile != "generic" else PLACES.get(place, "")
    if not where and of.name != SLICE_JUMP.name:
        where = "in the mask" if system.summary.settings.mask else "in the whole volume"
    unit = of.unit.replace("*", system.unit) if system.unit else of.unit.replace("*", "").strip("/")
    digits = system.digits if of.digits is None else of.digits
    higher = None if of.better is None else of.better == "higher"
    return Measure(name, f"{of.label} {where}".strip(), unit, digits, higher, of.about)


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
            base = next((metric.label for metric in catalogue.METRICS if metric.about == of.about), of.label)
            lines.setdefault(of.about, base)
    return [(label, about) for about, label in lines.items()]


def worst_by(system: System) -> str:
    """The column that says best which case is worst: the most specific that every case has; empty if there is none."""
    for name in ("enhancing_mae", "body_mae", "mae", "slice_jump"):
        if system.cases and all(name in case.metrics for case in system.cases):
            return name
    return ""
