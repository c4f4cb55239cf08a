"""The limits of `safety.check_case`, and their YAML file."""

from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from medgen.config import MOST_YAML, check, read_yaml
from medgen.errors import InputError
from medgen.io.text import read_text
from medgen.qa.measures.enhancement import RANGES
from medgen.types import Section

AUTO = "auto"  # limits by what the model does, or as a conversion recorded them
GENERAL = "general"  # of any translation: what is checked where nobody says which translation it was
_PACKAGE = Path(__file__).parent.parent
# An installed package holds configs; a checkout has them beside it.
SHIPPED = next((p for p in (_PACKAGE / "configs/checks", _PACKAGE.parent / "configs/checks") if p.is_dir()), _PACKAGE)


class Thresholds(Section):
    """The limits of `safety.check_case`; configs/checks/ct_contrast.yaml says why each is what it is."""

    hounsfield: bool = Field(True, description="images are CT in HU: check offset, scale and enhancement")
    contrast_removed: bool = Field(True, description="the output should be without contrast medium")
    forbid_new_structures: bool = Field(
        True, description="the output can show nothing new: what the input has not is invented"
    )
    edge_correlation: float = Field(0.8, ge=-1, le=1, description="least")
    gradient_agreement: float = Field(0.7, ge=0, le=1, description="least")
    mind_distance: float = Field(0.15, ge=0, le=1, description="greatest")
    flip_gain: float = Field(0.0, ge=-2, le=2, description="greatest edge correlation gained by a flip")
    shift_voxels: float = Field(0.5, gt=0, description="greatest, along any axis")
    fat_offset: float = Field(8.0, gt=0, description="HU, greatest change of fat either way")
    max_hu_decrease: float = Field(
        25.0, gt=0, description="HU, greatest fall of lung and muscle, which hold some iodine"
    )
    max_hu_increase: float = Field(8.0, gt=0, description="HU, greatest rise of lung and muscle")
    scale_drift: float = Field(0.04, gt=0, description="greatest change of the slope of HU between lung and fat")
    organ_ranges: dict[str, tuple[float, float]] = Field(RANGES, description="HU without contrast medium")
    organ_error: float = Field(12.0, gt=0, description="HU, greatest difference of an organ to the truth, if given")
    residual_enhancement_ml: float = Field(7.0, gt=0, description="ml still enhanced, without labels")
    lesion_visible_z: float = Field(8.0, gt=0, description="contrast / noise from which a lesion's fate is judged")
    lesion_kept_z: float = Field(3.0, gt=0, description="contrast / noise from which a lesion counts as kept")
    lesion_gone_z: float = Field(1.6, gt=0, description="the same for one that need not be visible any more")
    lesion_true_share: float = Field(0.5, ge=0, le=1, description="least share of the true contrast, if given")
    lesion_uptake: float = Field(0.4, ge=0, le=1, description="iodine of a dark lesion, as a share of its host's")
    new_structure_z: float = Field(8.0, gt=0, description="contrast / noise of a structure the input has not")
    new_structure_contrast: float = Field(16.0, ge=0, description="HU, least contrast of such a structure")
    new_fat_contrast: float = Field(35.0, ge=0, description="HU, the same in fat")
    new_lung_contrast: float = Field(75.0, ge=0, description="HU, by which lung is brighter, as a mean over 2.3 mm")
    anatomy_dice: float = Field(0.8, ge=0, le=1, description="least Dice of a structure by a segmenter")

    @field_validator("organ_ranges")
    @classmethod
    def _in_order(cls, ranges: dict[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
        for name, (lowest, highest) in ranges.items():
            if lowest > highest:
                raise ValueError(f"{name} has a lowest of {lowest:g} above its highest of {highest:g}")
        return ranges

    def recorded(self) -> dict[str, Any]:
        """Those that differ from the defaults, as plain JSON; `Thresholds(**recorded)` has them again."""
        return self.model_dump(mode="json", exclude_defaults=True)

    def applied(self) -> dict[str, Any]:
        """The limits that count: without those of contrast removal where none was asked for."""
        unused = (
            set()
            if self.contrast_removed
            else {"organ_ranges", "organ_error", "residual_enhancement_ml", "lesion_uptake"}
        )
        return self.model_dump(exclude=unused)


def load_thresholds(named: str | Path = GENERAL) -> Thresholds:
    """The limits of a YAML file, or of a shipped one by its name; those it leaves out keep their defaults.

    Raises:
        InputError: no such file or name, no mapping, an unknown key (the nearest is told), a value out of range.
    """
    path = SHIPPED / f"{named}.yaml" if (SHIPPED / f"{named}.yaml").is_file() else Path(named)
    try:
        given = read_yaml(read_text(path, MOST_YAML))
    except InputError:
        raise
    except OSError as error:
        known = ", ".join(sorted(file.stem for file in SHIPPED.glob("*.yaml")))
        raise InputError(
            "limits-unreadable",
            f"{path} cannot be read as limits of the checks ({error.strerror}); give a YAML file or one of {known}",
        ) from None
    except ValueError as error:
        raise InputError("limits-not-yaml", f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(given, dict | None):
        raise InputError(
            "limits-wrong-type", f"{path} must hold limits such as fat_offset: 8.0, not {type(given).__name__}"
        )
    return check(Thresholds, given or {}, str(path))
