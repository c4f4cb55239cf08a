"""What a file's header says about label maps: that it is one, and the names of its values."""

import gzip
import re
import struct
import zlib
from pathlib import Path

import nibabel as nib

from medgen.io.paths import NIFTI_ENDINGS, has_ending

NRRD_ENDINGS = (".nrrd", ".nhdr")
NRRD_HEADER = 2**20  # bytes that are searched for the names
INTENT_LABEL = 1002  # NIFTI_INTENT_LABEL of nifti1.h
INTENT_AT = {348: (68, "h"), 540: (504, "i")}  # size of the header → position and type of intent_code
_LABEL = re.compile(rb'<Label Key="(\d+)"[^>]*><!\[CDATA\[((?:[^\]]|\](?!\]>))+)\]\]>')
_MITK = "org.mitk.multilabel.segmentation"  # modality of MITK's label maps
_SEGMENT = re.compile(r"^Segment(\d+)_(LabelValue|Name):=(.*)$", re.MULTILINE)


def is_label_map(path: Path) -> bool:
    """Whether the header says so: a NIfTI file with the intent "label", or a segmentation of 3D Slicer or MITK.

    False for a file that cannot be read, which other functions report.
    """
    try:
        if has_ending(path, NRRD_ENDINGS):
            return bool(segment_names(path)) or _MITK in _nrrd_header(path)
        return has_ending(path, NIFTI_ENDINGS) and _intent(path) == INTENT_LABEL
    except (OSError, EOFError, struct.error, zlib.error):
        return False


def _nrrd_header(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(NRRD_HEADER).replace(b"\r", b"").split(b"\n\n")[0].decode("utf-8", "replace")


def segment_names(path: Path) -> dict[int, str]:
    """Value → name in the header of a segmentation of 3D Slicer; empty for other NRRD files."""
    fields: dict[str, dict[str, str]] = {}
    for number, key, content in _SEGMENT.findall(_nrrd_header(path)):
        fields.setdefault(number, {})[key] = content.strip()
    named = [field for field in fields.values() if len(field) == 2 and field["LabelValue"].isdigit()]
    return {int(field["LabelValue"]): field["Name"] for field in named}


def _intent(path: Path) -> int | None:
    with gzip.open(path, "rb") if has_ending(path, (".gz",)) else path.open("rb") as file:
        header = file.read(540)
    for order in "<>":
        where, kind = INTENT_AT.get(struct.unpack(f"{order}i", header[:4])[0], (0, ""))
        if kind:
            return int(struct.unpack_from(order + kind, header, where)[0])
    return None


def header_names(path: Path) -> dict[int, str]:
    """Value → name in a label map's own header: of 3D Slicer (NRRD) or a Caret table (NIfTI); empty without one.

    Also empty for a file that cannot be read, which other functions report.
    """
    try:
        if has_ending(path, NRRD_ENDINGS):
            return segment_names(path)
        return _caret_names(path) if has_ending(path, NIFTI_ENDINGS) else {}
    except (OSError, EOFError, ValueError, zlib.error, nib.filebasedimages.ImageFileError):
        return {}


def _caret_names(path: Path) -> dict[int, str]:
    """The Caret label table in a NIfTI header extension, as TotalSegmentator writes it; empty if there is none."""
    found: dict[int, str] = {}
    for extension in getattr(nib.load(path).header, "extensions", ()):
        content = bytes(extension.content)
        found |= {int(key): name.decode("utf-8", "replace") for key, name in _LABEL.findall(content)}
    return found
