"""The limits of `safety.check_case`, and their YAML file."""

from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from medgen.evaluation.enhancement import RANGES
from medgen.types import InputError


class Thresholds(BaseModel):
    """The limits of `safety.check_case`; configs/checks/ct_contrast.yaml says why each is what it is."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    hounsfield: bool = Field(True, description="images are CT in HU: check offset, scale and enhancement")
    contrast_removed: bool = Field(True, description="the output should be without contrast medium")
    edge_correlation: float = Field(0.8, ge=-1, le=1, description="least")
    gradient_agreement: float = Field(0.7, ge=0, le=1, description="least")
    mind_distance: float = Field(0.15, ge=0, le=1, description="greatest")
    flip_gain: float = Field(0.0, ge=-2, le=2, description="greatest edge correlation gained by a flip")
    shift_voxels: float = Field(0.5, gt=0, description="greatest, along any axis")
    fat_offset: float = Field(8.0, gt=0, description="HU, greatest change of fat either way")
    tissue_fall: float = Field(25.0, gt=0, description="HU, greatest fall of lung and muscle, which hold some iodine")
    scale_drift: float = Field(0.04, gt=0, description="greatest change of the slope of HU between lung and fat")
    organ_ranges: dict[str, tuple[float, float]] = Field(RANGES, description="HU without contrast medium")
    organ_error: float = Field(12.0, gt=0, description="HU, greatest difference of an organ to the truth, if given")
    left_over_ml: float = Field(8.0, gt=0, description="ml still enhanced, without labels")
    lesion_visible_z: float = Field(8.0, gt=0, description="contrast / noise from which a lesion's fate is judged")
    lesion_kept_z: float = Field(4.0, gt=0, description="contrast / noise from which a lesion counts as kept")
    lesion_uptake: float = Field(0.4, ge=0, le=1, description="iodine of a dark lesion, as a share of its host's")
    new_structure_z: float = Field(5.5, gt=0, description="contrast / noise of a structure the input has not")
    new_structure_contrast: float = Field(17.0, ge=0, description="HU, least contrast of such a structure")
    anatomy_dice: float = Field(0.8, ge=0, le=1, description="least Dice of a structure by a segmenter")


def load_thresholds(path: Path) -> Thresholds:
    """The limits of a YAML file, such as configs/checks/ct_contrast.yaml; those it leaves out keep their defaults.

    Raises:
        InputError: no such file, no mapping, an unknown key or a value out of range.
    """
    try:
        given = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise InputError(f"{path} cannot be read as thresholds: {error}") from None
    try:
        return Thresholds.model_validate({} if given is None else given)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "the file"
        raise InputError(f"{path}: {key}: {first['msg']}; the keys are {', '.join(Thresholds.model_fields)}") from None
