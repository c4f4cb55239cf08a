"""Limits of `check.check_case` and their YAML files."""

from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from medgen.config import MOST_YAML, check, read_yaml
from medgen.errors import InputError
from medgen.io.text import read_text
from medgen.qa.measures.enhancement import RANGES
from medgen.types import Section

AUTO = "auto"  # limits chosen by the purpose of the model, or recorded by a conversion
GENERAL = "general"  # limits for any translation, used if none are named
_PACKAGE = Path(__file__).parent.parent
# Configs lie inside an installed package, and beside the package in a checkout.
SHIPPED = next((p for p in (_PACKAGE / "configs/checks", _PACKAGE.parent / "configs/checks") if p.is_dir()), _PACKAGE)


class Thresholds(Section):
    """Limits of `check.check_case`; configs/checks/ct_contrast.yaml gives the reason for each value."""

    hounsfield: bool = Field(True, description="images are CT in HU: check offset, scale and enhancement")
    contrast_removed: bool = Field(True, description="contrast medium should be removed in the output")
    forbid_new_structures: bool = Field(True, description="flag output structures that are absent from the input")
    edge_correlation: float = Field(0.8, ge=-1, le=1, description="minimum correlation of edge magnitudes")
    gradient_agreement: float = Field(0.7, ge=0, le=1, description="minimum agreement of edge directions")
    mind_distance: float = Field(0.15, ge=0, le=1, description="maximum distance of MIND descriptors")
    flip_gain: float = Field(0.0, ge=-2, le=2, description="maximum gain in edge correlation from a flip")
    shift_voxels: float = Field(0.5, gt=0, description="maximum shift along any axis, voxels")
    flat_ml: float = Field(5.0, gt=0, description="maximum volume of one value where the input varies, ml")
    lost_tissue_ml: float = Field(
        2.0, gt=0, description="maximum volume of soft tissue or bone that becomes air, or fat in contrast removal, ml"
    )
    fat_offset: float = Field(8.0, gt=0, description="maximum absolute change of fat, HU")
    max_hu_decrease: float = Field(
        25.0, gt=0, description="maximum decrease of lung and muscle, which contain some iodine, HU"
    )
    max_hu_increase: float = Field(8.0, gt=0, description="maximum increase of lung and muscle, HU")
    scale_drift: float = Field(0.04, gt=0, description="maximum change of the slope of HU between lung and fat")
    organ_ranges: dict[str, tuple[float, float]] = Field(RANGES, description="range without contrast medium, HU")
    organ_error: float = Field(12.0, gt=0, description="maximum difference of an organ from the truth, if given, HU")
    residual_enhancement_ml: float = Field(
        7.0, gt=0, description="maximum residual enhancement, found without labels, ml"
    )
    darkened_dense_ml: float = Field(
        4.0, gt=0, description="maximum volume that loses 40 HU and stays above 120 HU: bone, or partial removal, ml"
    )
    lost_in_wall_ml: float = Field(
        1.5, gt=0, description="maximum volume of thin bright structures lost from the wall of the trunk, as ribs, ml"
    )
    lesion_visible_z: float = Field(8.0, gt=0, description="minimum contrast / noise of a lesion that is checked")
    lesion_kept_z: float = Field(3.0, gt=0, description="minimum contrast / noise of a kept lesion")
    lesion_gone_z: float = Field(1.6, gt=0, description="the same for a lesion that may lose its contrast")
    lesion_true_share: float = Field(
        0.5, ge=0, le=1, description="minimum share of the true contrast, if the truth is given"
    )
    lesion_uptake: float = Field(
        0.4, ge=0, le=1, description="iodine uptake of a dark lesion, as a share of its host's"
    )
    new_structure_z: float = Field(8.0, gt=0, description="minimum contrast / noise of a new structure")
    new_structure_contrast: float = Field(16.0, ge=0, description="minimum contrast of a new structure, HU")
    new_fat_contrast: float = Field(35.0, ge=0, description="the same in fat, HU")
    new_lung_contrast: float = Field(75.0, ge=0, description="minimum rise in lung, Gaussian mean over 2.3 mm, HU")
    anatomy_dice: float = Field(0.8, ge=0, le=1, description="minimum Dice of a structure found by a segmenter")

    @field_validator("organ_ranges")
    @classmethod
    def _in_order(cls, ranges: dict[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
        for name, (lowest, highest) in ranges.items():
            if lowest > highest:
                raise ValueError(f"{name}: the lowest HU {lowest:g} is above the highest {highest:g}; swap them")
        return ranges

    def recorded(self) -> dict[str, Any]:
        """Limits that differ from the defaults, as plain JSON; `Thresholds(**recorded)` restores them."""
        return self.model_dump(mode="json", exclude_defaults=True)

    def applied(self) -> dict[str, Any]:
        """Limits in effect: without those of contrast removal if `contrast_removed` is false."""
        unused = (
            set()
            if self.contrast_removed
            else {"organ_ranges", "organ_error", "residual_enhancement_ml", "darkened_dense_ml", "lesion_uptake"}
            | {"lost_in_wall_ml"}
        )
        return self.model_dump(exclude=unused)


def load_thresholds(named: str | Path = GENERAL) -> Thresholds:
    """Read limits from a YAML file or from a shipped one by name; missing keys keep their defaults.

    Raises:
        InputError: no such file or name, not a mapping, an unknown key, or a value out of range.
    """
    path = SHIPPED / f"{named}.yaml" if (SHIPPED / f"{named}.yaml").is_file() else Path(named)
    try:
        content = read_yaml(read_text(path, MOST_YAML))
    except InputError:
        raise
    except OSError as error:
        known = ", ".join(sorted(file.stem for file in SHIPPED.glob("*.yaml")))
        raise InputError(
            "limits-unreadable",
            f"limits of the checks {path} cannot be read ({error.strerror}); give a YAML file or one of {known}",
        ) from None
    except ValueError as error:
        raise InputError(
            "limits-not-yaml", f"{path} is not valid YAML; correct it: {' '.join(str(error).split())}"
        ) from None
    if not isinstance(content, dict | None):
        raise InputError(
            "limits-wrong-type",
            f"{path} must be a mapping of limits such as fat_offset: 8.0, not {type(content).__name__}",
        )
    return check(Thresholds, content or {}, str(path))
