"""Read the structures of a DICOM object as a label map on the grid of a DICOM image."""

from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from pydicom import Dataset, dcmread
from pydicom.uid import RTStructureSetStorage, SegmentationStorage

from medgen.errors import InputError, reason
from medgen.io.dicom.charset import repair_text
from medgen.io.dicom.structures.grid import ImageGrid, image_grid, joined
from medgen.io.dicom.structures.rtstruct import roi_frames, roi_masks, roi_names
from medgen.io.dicom.structures.segmentation import segment_masks, segment_names
from medgen.io.label_headers import INTENT_LABEL
from medgen.io.names import folded, one_line
from medgen.io.volume import Volume

KINDS = (RTStructureSetStorage, SegmentationStorage)
MOST = 32767  # structures: values of int16


def read_structures(
    path: Path, image: Path, *, names: Sequence[str] | None = None, series: str | None = None
) -> tuple[Volume, dict[str, int]]:
    """Read an RT structure set or a DICOM segmentation as a label map.

    Args:
        path: the file.
        image: the DICOM series on which the structures were drawn, a folder or one of its files.
        names: the structures to take; the first is 1, and where structures overlap, later ones lie on top. A structure
            that the file does not have leaves its value unused, with a warning. None: all, and overlaps are refused.
        series: selects one of several series of ``image``.

    Returns:
        Label map on the grid of the image, with the names in its header and warnings; {structure: value}.

    Raises:
        InputError: another kind of file; structures that are not in the image's frame of reference, planes or grid;
            names that the file does not have at all; or overlaps without ``names``.
    """
    grid, ds = image_grid(image, series), _object(path)
    repair_text(ds)
    try:
        return _label_map(ds, grid, path, names)
    except InputError:
        raise
    except (AttributeError, TypeError, ValueError, KeyError, LookupError, OverflowError) as error:  # of a damaged file
        raise InputError(
            "structures-damaged", f"{path} lacks or contradicts a part of its kind ({reason(error)}); export it again"
        ) from None


def _label_map(ds: Dataset, grid: ImageGrid, path: Path, names: Sequence[str] | None) -> tuple[Volume, dict[str, int]]:
    contours = ds.SOPClassUID == RTStructureSetStorage
    found = (roi_names if contours else segment_names)(ds, path)
    if not found or len(found) > MOST:
        raise InputError("structures-none", f"{path} has {len(found)} structures; give a file with some")
    wanted = tuple(found) if names is None else _spelled(_whole(names, found), found)
    if twice := next((name for name in wanted if wanted.count(name) > 1), None):
        raise InputError("structures-name-given-twice", f"{twice} is named twice; name each structure once")
    if not set(wanted) & set(found):
        raise InputError(
            "structures-name-unknown", f"{path} has none of {', '.join(wanted)}; it has {one_line(', '.join(found))}"
        )
    frames = roi_frames(ds, wanted) if contours else [str(ds.get("FrameOfReferenceUID") or "")]
    warnings = grid.check_object(ds, path, frames)
    if absent := [name for name in wanted if name not in found]:
        warnings.append(f"{path.name} has no {', '.join(absent)}; it has {one_line(', '.join(found))}")
    if names is not None:
        same = {folded(name): name for name in wanted}
        alike = {name: same[folded(name)] for name in found if name not in wanted and folded(name) in same}
        warnings += [f"{path.name} has {one_line(a)} beside {one_line(b)}; it is left out" for a, b in alike.items()]
    masks = (roi_masks if contours else segment_masks)(ds, grid, [n for n in wanted if n in found], path, warnings)
    labels = joined(masks, grid.geometry.shape, wanted, path, ordered=names is not None)
    values = {name: value for value, name in enumerate(wanted, 1)}
    seen = set(np.unique(labels))
    told = " ".join(warnings)
    warnings += [
        f"{one_line(name)} has no voxel left: later structures lie on top of it"
        for name, value in values.items()
        if name in found and value not in seen and one_line(name) not in told
    ]
    header = nib.Nifti1Header() if max(labels.shape) <= 32767 else nib.Nifti2Header()
    header.set_xyzt_units("mm")
    header.set_intent(INTENT_LABEL)
    header.extensions.append(nib.nifti1.Nifti1Extension(0, _table(values)))
    volume = Volume(labels, grid.geometry.affine, np.dtype(np.int16), header=header, warnings=tuple(warnings))
    return volume, values


def _whole(names: Sequence[str], found: Sequence[str]) -> tuple[str, ...]:
    """Join neighbours that are one name of the file together: "Lung", "left" → "Lung, left"."""
    wanted, rest = [], list(names)
    while rest:
        sizes = range(len(rest), 1, -1)
        size = next((n for n in sizes for glue in (", ", ",") if glue.join(rest[:n]) in found), 1)
        glue = ", " if ", ".join(rest[:size]) in found else ","
        wanted.append(glue.join(rest[:size]))
        rest = rest[size:]
    return tuple(wanted)


def _spelled(wanted: Sequence[str], found: Sequence[str]) -> tuple[str, ...]:
    """Spell names as the file does where it has one that differs in letter case only."""
    alike: dict[str, list[str]] = {}
    for name in found:
        alike.setdefault(folded(name), []).append(name)
    return tuple(
        name if name in found or len(alike.get(folded(name), [])) != 1 else alike[folded(name)][0] for name in wanted
    )


def _object(path: Path) -> Dataset:
    """Read the file. Raises InputError: not one of KINDS."""
    try:
        ds = dcmread(path)
    except Exception as error:  # pydicom raises arbitrary exceptions on bytes that are not DICOM
        raise InputError("dicom-unreadable", f"{path} is not a readable DICOM file ({error})") from error
    if ds.get("SOPClassUID") not in KINDS:
        raise InputError(
            "structures-kind",
            f"{path} is neither an RT structure set nor a DICOM segmentation (of the kind Segmentation Storage; Label "
            "Map Segmentation Storage is not read); give such a file first, then the image",
        )
    return ds


def _table(values: dict[str, int]) -> bytes:
    """A Caret label table, which TotalSegmentator and `label_headers` read."""
    plain = {value: name.replace("]]>", "]] >") for name, value in values.items()}  # which would end the name
    rows = "".join(f'<Label Key="{value}"><![CDATA[{name}]]></Label>' for value, name in plain.items())
    table = f'<VolumeInformation Index="0"><LabelTable>{rows}</LabelTable></VolumeInformation>'
    return f'<?xml version="1.0" encoding="UTF-8"?><CaretExtension>{table}</CaretExtension>'.encode()
