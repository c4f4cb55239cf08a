"""Voxels of DICOM images: stored values, decoded, with the rescale applied slice by slice, and the unit they are in."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from pydicom import Dataset, dcmread
from pydicom.pixels import apply_modality_lut, get_decoder, iter_pixels
from pydicom.uid import UID, ImplicitVRLittleEndian

from medgen.errors import InputError
from medgen.io.dicom.header import Header, Slice, header_in, slices_of
from medgen.io.dicom.pixels import PER_FRAME, has_lut, has_rescale, rescale_of
from medgen.io.dicom.quiet import quiet_pydicom
from medgen.io.dicom.stack import name
from medgen.io.dicom.units import doubt_of, unit_of

PLUGINS = "pip install 'medgen[dicom]'"
PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")


Padding = tuple[float, float] | None


def values_of(slices: Sequence[Slice]) -> Iterator[tuple[int, np.ndarray, str, str, Padding]]:
    """(k, modality values (rows, columns), their unit, what makes it doubtful, their padding) of each slice, file by
    file."""
    quiet_pydicom()
    files: dict[Path, list[int]] = {}
    rescaled: dict[bool, Slice] = {}
    for k, item in enumerate(slices):
        files.setdefault(item.file, []).append(k)
    for file, members in files.items():
        members.sort(key=lambda k: slices[k].frame)
        try:
            with open(file, "rb") as stream:
                _check_unchanged([slices[k] for k in members], header_in(stream, file))
                stream.seek(0)
                dataset = dcmread(stream, force=True)
            dataset.file_meta.setdefault("TransferSyntaxUID", ImplicitVRLittleEndian)
            if not any(keyword in dataset for keyword in PIXELS):  # pydicom drops all elements of a frame cut short
                raise InputError("dicom-truncated", f"{file} is a truncated DICOM image; copy the series again")
            _check_bits(dataset, file)
            _check_decoder(file, dataset.file_meta.TransferSyntaxUID)
            for k in members:
                _check_rescaled(dataset, slices[k], rescaled)
            classic = PER_FRAME not in dataset
            frames = (
                [dataset.pixel_array] if classic else iter_pixels(dataset, indices=[slices[k].frame for k in members])
            )
            for k, pixels in zip(members, frames, strict=True):
                frame = slices[k].frame
                values, padding = _modality(pixels, dataset, frame, file), _padding(dataset, frame, file)
                yield k, values, unit_of(dataset, frame), doubt_of(dataset, frame), padding
        except InputError:
            raise
        except RecursionError:
            raise InputError(
                "dicom-nested-too-deep", f"{file} has sequences that are nested too deep to be read; export it again"
            ) from None
        except Exception as error:  # pydicom and its plugins raise nearly anything on damaged pixel data
            reason = " ".join(str(error).split()).rstrip(".")
            raise InputError(
                "dicom-not-decodable", f"{file} has voxels that cannot be decoded ({reason}); copy it again"
            ) from error


def _check_unchanged(known: Sequence[Slice], header: Header | None) -> None:
    """The places of slices are those of their headers as they were found, perhaps hours ago; the voxels are those of
    the file as it is. Texts are compared, as NaN is not equal to itself."""
    file = known[0].file
    now = {} if header is None else {item.frame: repr(item.header) for item in slices_of(file, header)}
    if any(now.get(item.frame) != repr(item.header) for item in known):
        raise InputError(
            "dicom-files-changed", f"{file} has changed since its folder was searched for series; start again"
        )


def _modality(pixels: np.ndarray, dataset: Dataset, frame: int, file: Path) -> np.ndarray:
    if has_lut(dataset):
        return _looked_up(pixels, dataset, file)
    slope, intercept = rescale_of(dataset, frame, file)
    return pixels if (slope, intercept) == (1, 0) else pixels.astype(np.float64) * slope + intercept


def _looked_up(pixels: np.ndarray, dataset: Dataset, file: Path) -> np.ndarray:
    """Values by the modality LUT; refused where a rescale beside it, which the standard forbids, gives others."""
    values = apply_modality_lut(pixels, dataset)
    slope, intercept = (dataset.get(keyword) for keyword in ("RescaleSlope", "RescaleIntercept"))
    if slope is not None and intercept is not None and not np.array_equal(values, pixels * float(slope) + intercept):
        raise InputError(
            "dicom-lut-and-rescale",
            f"{file} has a ModalityLUTSequence and a RescaleSlope of {slope} with a RescaleIntercept of {intercept}, "
            "which give other values; export it again or remove one of the two",
        )
    return values


def _padding(dataset: Dataset, frame: int, file: Path) -> Padding:
    """Lowest and highest modality value of padding (PS3.3 C.7.5.1.1.2); None where the image names none."""
    first = dataset.get("PixelPaddingValue")
    if not isinstance(first, int) or has_lut(dataset):
        return None
    last = dataset.get("PixelPaddingRangeLimit")
    slope, intercept = rescale_of(dataset, frame, file)
    ends = sorted(float(np.float32(v * slope + intercept)) for v in (first, last if isinstance(last, int) else first))
    return ends[0], ends[1]


def _check_rescaled(dataset: Dataset, item: Slice, known: dict[bool, Slice]) -> None:
    """Refuse an image that says nothing of how its values come from the stored ones beside one that changes them; an
    image whose rescale changes nothing says that they are the stored ones. ``known``: the first of either, so far."""
    if has_lut(dataset) or rescale_of(dataset, item.frame, item.file) != (1, 0):
        known.setdefault(True, item)
    elif not has_rescale(dataset, item.frame):
        known.setdefault(False, item)
    if len(known) == 2:
        without, other = (item.file.parent / name(item) for item in (known[False], known[True]))
        raise InputError(
            "dicom-rescale-partly-missing",
            f"{without} has no rescale and {other} of its series has one, so its values are not known; export the "
            "series again",
        )


def _check_bits(dataset: Dataset, file: Path) -> None:
    """Pixels are of whole bytes here. PS3.5 8.1.1 wants the stored bits at their low end; pydicom, and ITK, take them
    from there anyway."""
    high, bits, allocated = (dataset.get(keyword) for keyword in ("HighBit", "BitsStored", "BitsAllocated"))
    if allocated is not None and int(allocated) not in (8, 16, 32, 64):
        raise InputError(
            "dicom-bits-allocated",
            f"{file} has pixels of {allocated} bits (BitsAllocated), not of 8, 16 or 32; export it again",
        )
    if high is not None and bits is not None and int(high) != int(bits) - 1:
        raise InputError(
            "dicom-high-bit",
            f"{file} has {bits} bits stored and HighBit {high}, not {int(bits) - 1}: where in a pixel its value lies "
            "is not known; export the series again",
        )


def _check_decoder(file: Path, syntax: UID) -> None:
    try:
        available = get_decoder(syntax).is_available
    except NotImplementedError as error:
        raise InputError(
            "dicom-transfer-syntax", f"{file} is in the transfer syntax {syntax.name}, which is not supported"
        ) from error
    if not available:
        raise InputError(
            "dicom-decoder-missing", f"{file} is compressed as {syntax.name}; install a decoder: {PLUGINS}"
        )
