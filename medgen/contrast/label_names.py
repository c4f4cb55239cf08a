"""Names of a label map's values: from a JSON table, from the file itself, or TotalSegmentator's class numbers.

TotalSegmentator writes the names into the NIfTI file, as a Caret label table in a header extension (Wasserthal et al.,
Radiology AI 2023;5:e230024). nnU-Net keeps them in ``dataset.json``, the embedded cohort in ``labels.json``.
"""

from pathlib import Path
from typing import Any

from medgen.data.labels.names import consistent_names, names_in_header, refuse_other_names, tables_of
from medgen.errors import InputError
from medgen.io.label_headers import header_names
from medgen.io.text import read_json

# Class numbers of TotalSegmentator v2, task "total".
TOTALSEGMENTATOR = dict(
    enumerate(
        (
            "spleen kidney_right kidney_left gallbladder liver stomach pancreas adrenal_gland_right "
            "adrenal_gland_left lung_upper_lobe_left lung_lower_lobe_left lung_upper_lobe_right "
            "lung_middle_lobe_right lung_lower_lobe_right esophagus trachea thyroid_gland small_bowel duodenum "
            "colon urinary_bladder prostate kidney_cyst_left kidney_cyst_right sacrum vertebrae_S1 "
            "vertebrae_L5 vertebrae_L4 vertebrae_L3 vertebrae_L2 vertebrae_L1 vertebrae_T12 vertebrae_T11 "
            "vertebrae_T10 vertebrae_T9 vertebrae_T8 vertebrae_T7 vertebrae_T6 vertebrae_T5 vertebrae_T4 "
            "vertebrae_T3 vertebrae_T2 vertebrae_T1 vertebrae_C7 vertebrae_C6 vertebrae_C5 vertebrae_C4 "
            "vertebrae_C3 vertebrae_C2 vertebrae_C1 heart aorta pulmonary_vein brachiocephalic_trunk "
            "subclavian_artery_right subclavian_artery_left common_carotid_artery_right "
            "common_carotid_artery_left brachiocephalic_vein_left brachiocephalic_vein_right "
            "atrial_appendage_left superior_vena_cava inferior_vena_cava portal_vein_and_splenic_vein "
            "iliac_artery_left iliac_artery_right iliac_vena_left iliac_vena_right humerus_left humerus_right "
            "scapula_left scapula_right clavicula_left clavicula_right femur_left femur_right hip_left "
            "hip_right spinal_cord gluteus_maximus_left gluteus_maximus_right gluteus_medius_left "
            "gluteus_medius_right gluteus_minimus_left gluteus_minimus_right autochthon_left autochthon_right "
            "iliopsoas_left iliopsoas_right brain skull "
            + " ".join(f"rib_left_{i}" for i in range(1, 13))
            + " "
            + " ".join(f"rib_right_{i}" for i in range(1, 13))
            + " sternum costal_cartilages"
        ).split(),
        start=1,
    )
)


def names_of_labels(path: Path, table: Path | str | None = None) -> dict[int, str]:
    """Value → name of a label map.

    Args:
        path: the label map; searched for a table in its own header (TotalSegmentator, 3D Slicer), then for
            ``labels.json`` or ``dataset.json`` beside or above it.
        table: a JSON file ({name: value} or {value: name}, or a dataset.json with "labels"), or "totalsegmentator" for
            the class numbers of TotalSegmentator v2.

    Raises:
        InputError: no table is found, it cannot be read, two tables contradict each other, or the label map's header
            contradicts ``table``.
    """
    if table is not None:
        known = dict(TOTALSEGMENTATOR) if str(table).lower() == "totalsegmentator" else _from_json(Path(table))
        refuse_other_names(known, f"--label-table {table}", names_in_header(path), path)
        return known
    if found := header_names(path):
        return found
    if files := tables_of(path.parent):
        return consistent_names({file: _from_json(file) for file in files})
    raise InputError(
        "labels-table-missing",
        f"{path}: no names for its values; put labels.json ({{name: value}}) beside it, or give --label-table FILE or "
        "--label-table totalsegmentator",
    )


def _from_json(path: Path) -> dict[int, str]:
    content = read_json(path)
    content = content.get("labels", content)
    try:
        if all(str(key).isdigit() for key in content):
            pairs = [(_value(key), str(name)) for key, name in content.items()]
        else:
            pairs = [(_value(value), str(name)) for name, value in content.items()]
    except (TypeError, ValueError, AttributeError, OverflowError):
        raise InputError(
            "labels-table-form", f"{path}: labels must be {{name: value}} or {{value: name}}; correct the table"
        ) from None
    names: dict[int, str] = {}
    for value, name in pairs:
        if value in names:
            raise InputError(
                "labels-table-value-twice",
                f"{path} gives {names[value]} and {name} the same value {value}; use different values",
            )
        if value:
            names[value] = name
    return names


def _value(value: Any) -> int:
    """A label value; raises ValueError, TypeError or OverflowError for true, -1, 1.5, infinity or a list."""
    if isinstance(value, bool) or int(value) != float(value) or int(value) < 0:
        raise ValueError
    return int(value)
