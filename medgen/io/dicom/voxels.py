"""Decode the voxels of DICOM images, apply the rescale of each slice, and determine the unit."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset, dcmread
from pydicom.encaps import get_frame
from pydicom.pixels import apply_modality_lut, get_decoder, iter_pixels
from pydicom.pixels.utils import get_expected_length, get_j2k_parameters
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
)

from medgen.errors import InputError
from medgen.io.dicom.charset import text_warning
from medgen.io.dicom.elements import Header
from medgen.io.dicom.header import Slice, header_in, is_same, slices_of
from medgen.io.dicom.pixels import PER_FRAME, has_lut, has_rescale, lacking_rescale, rescale_of
from medgen.io.dicom.quick import Pixels, pixels_of
from medgen.io.dicom.quiet import quiet_pydicom
from medgen.io.dicom.stack import name
from medgen.io.dicom.units import unit_of, unit_warning

PLUGINS = "pip install 'medgen[dicom]'"
PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")


Padding = tuple[float, float] | None


def values_of(slices: Sequence[Slice]) -> Iterator[tuple[int, np.ndarray, str, str, Padding]]:
    """Yield (k, modality values (rows, columns), unit, unit warning, padding) of each slice, file by file."""
    quiet_pydicom()
    files: dict[Path, list[int]] = {}
    rescaled: dict[bool, Slice] = {}
    known: dict[Any, _Like] = {}
    for k, item in enumerate(slices):
        files.setdefault(item.file, []).append(k)
    for file, members in files.items():
        members.sort(key=lambda k: slices[k].frame)
        try:
            with open(file, "rb") as opened:
                first = slices[members[0]]
                content = b"" if len(members) > 1 or "multiframe" in first.header else opened.read()
                stream: Any = BytesIO(content) if content else opened
                if not (content and is_same(file, first.header, content)):
                    _check_unchanged([slices[k] for k in members], header_in(stream, file))
                found = pixels_of(content)
                if found and (like := known.get((found.key, found.size))):
                    # All else depends on elements that are the same, byte for byte, in a slice that was checked.
                    values = _rescaled(like.stored(content, found), *like.rescale)
                    yield members[0], values, like.unit, like.warning or like.stray(content, found), like.padding
                    continue
                stream.seek(0)
                dataset = dcmread(stream, force=True)
            mistaken = text_warning(dataset)
            dataset.file_meta.setdefault("TransferSyntaxUID", ImplicitVRLittleEndian)
            if not any(
                keyword in dataset for keyword in PIXELS
            ):  # pydicom drops all pixel data elements of a truncated file
                raise InputError("dicom-truncated", f"{file} is a truncated DICOM image; copy the series again")
            _check_bits(dataset, file)
            _check_decoder(file, dataset.file_meta.TransferSyntaxUID)
            _check_codestream(dataset, file)
            for k in members:
                _check_rescaled(dataset, slices[k], rescaled)
            classic = PER_FRAME not in dataset
            frames = (
                [dataset.pixel_array] if classic else iter_pixels(dataset, indices=[slices[k].frame for k in members])
            )
            for k, pixels in zip(members, frames, strict=True):
                frame = slices[k].frame
                values, padding = _modality(pixels, dataset, frame, file), _padding(dataset, frame, file)
                unit = unit_of(dataset, frame)
                warning = unit_warning(dataset, frame) or _excess_warning(dataset) or mistaken
                if found and (new := _like(dataset, pixels, content, found, file, (unit, warning, padding))):
                    known[found.key, found.size] = new
                    warning = warning or new.stray(content, found)
                yield k, values, unit, warning, padding
        except InputError:
            raise
        except RecursionError:
            raise InputError(
                "dicom-nested-too-deep", f"{file} has sequences that are nested too deeply to be read; export it again"
            ) from None
        except Exception as error:  # pydicom and its plugins raise arbitrary exceptions on damaged pixel data
            reason = " ".join(str(error).split()).rstrip(".")
            raise InputError(
                "dicom-not-decodable", f"{file} has pixel data that cannot be decoded ({reason}); copy the file again"
            ) from error


STRAY = (
    "bits above BitsStored are set: values that need more bits, such as those of metal, are cut off by the header's "
    "BitsStored; check the brightest voxels"
)


@dataclass(frozen=True)
class _Like:
    """What files with the same elements ``quick.USED`` share, so that their pixels can be read directly."""

    shape: tuple[int, ...]  # rows, columns
    dtype: str
    unused: int  # high bits of a pixel, which may hold anything (PS3.5 8.1.1)
    rescale: tuple[float, float]
    unit: str
    warning: str
    padding: Padding
    overlaid: bool  # an overlay lies in the unused bits

    def stray(self, content: bytes, at: Pixels) -> str:
        """A warning if the bits above BitsStored hold part of the values: neither 0, nor the sign, nor an overlay."""
        if not self.unused or self.overlaid:
            return ""
        high = np.frombuffer(content, "<u2", at.size // 2, at.start) >> (16 - self.unused)
        full = 2**self.unused - 1
        stray = (high != 0) & (high != full) if self.dtype == "<i2" else high != 0
        return STRAY if stray.any() else ""

    def stored(self, content: bytes, at: Pixels) -> np.ndarray:
        """Stored values (rows, columns) of a file."""
        stored = np.frombuffer(content, self.dtype, at.size // 2, at.start)
        if self.unused:
            stored = np.right_shift(np.left_shift(stored, self.unused), self.unused)
        return stored.reshape(self.shape)


def _excess_warning(dataset: Dataset) -> str:
    """A warning if uncompressed pixels are longer than the header says, so that the image may begin later; else ""."""
    if dataset.file_meta.TransferSyntaxUID.is_encapsulated or "PixelData" not in dataset:
        return ""
    if len(dataset.PixelData) <= get_expected_length(dataset) + 1:  # a byte of padding
        return ""
    return "images with more pixel data than rows × columns: the first part is used; check that no image is shifted"


def _like(
    dataset: Dataset, pixels: np.ndarray, content: bytes, at: Pixels, file: Path, described: tuple[str, str, Padding]
) -> _Like | None:
    """What files like this one share, if the direct way gives the ``pixels`` that pydicom gave for it; else None.

    ``described``: unit, its warning, and padding.
    """
    if PER_FRAME in dataset or has_lut(dataset) or "PixelData" not in dataset or dataset.get("BitsAllocated") != 16:
        return None
    if pixels.ndim != 2 or pixels.nbytes != at.size:
        return None
    signed, unused = "<i2" if dataset.PixelRepresentation else "<u2", 16 - dataset.BitsStored
    overlaid = any(tag.group & 0xFF00 == 0x6000 for tag in dataset.keys())
    like = _Like(pixels.shape, signed, unused, rescale_of(dataset, 0, file), *described, overlaid)
    return like if np.array_equal(like.stored(content, at), pixels) else None


def _check_unchanged(known: Sequence[Slice], header: Header | None) -> None:
    """Raise InputError if the headers of a file differ from those read earlier, possibly hours ago.

    Otherwise, positions and voxels could come from different images. The repr is compared because NaN != NaN.
    """
    file = known[0].file
    current = {} if header is None else {item.frame: repr(item.header) for item in slices_of(file, header)}
    if any(current.get(item.frame) != repr(item.header) for item in known):
        raise InputError("dicom-files-changed", f"{file} changed after its folder was searched for series; start again")


def _modality(pixels: np.ndarray, dataset: Dataset, frame: int, file: Path) -> np.ndarray:
    if has_lut(dataset):
        return _apply_lut(pixels, dataset, file)
    return _rescaled(pixels, *rescale_of(dataset, frame, file))


def _rescaled(pixels: np.ndarray, slope: float, intercept: float) -> np.ndarray:
    """Return pixels * slope + intercept; as int32 if this is exact, else computed in float64."""
    if (slope, intercept) == (1, 0):
        return pixels
    if pixels.dtype.kind in "iu" and pixels.itemsize <= 2 and slope.is_integer() and intercept.is_integer():
        if abs(slope) < 2**14 and abs(intercept) < 2**30:
            values = pixels.astype(np.int32)
            return np.add(np.multiply(values, int(slope), out=values), int(intercept), out=values)
    return pixels.astype(np.float64) * slope + intercept


def _apply_lut(pixels: np.ndarray, dataset: Dataset, file: Path) -> np.ndarray:
    """Apply the modality LUT; raise InputError if a rescale, which DICOM forbids beside it, gives other values."""
    values = apply_modality_lut(pixels, dataset)
    slope, intercept = (dataset.get(keyword) for keyword in ("RescaleSlope", "RescaleIntercept"))
    if slope is not None and intercept is not None and not np.array_equal(values, pixels * float(slope) + intercept):
        raise InputError(
            "dicom-lut-and-rescale",
            f"{file} has a ModalityLUTSequence and also RescaleSlope {slope} with RescaleIntercept {intercept}, "
            "which give different values; export the file again or remove one of the two",
        )
    return values


def _padding(dataset: Dataset, frame: int, file: Path) -> Padding:
    """Return the lowest and highest modality value of padding (PS3.3 C.7.5.1.1.2); None if the header states none."""
    first = dataset.get("PixelPaddingValue")
    if not isinstance(first, int) or has_lut(dataset):
        return None
    last = dataset.get("PixelPaddingRangeLimit")
    slope, intercept = rescale_of(dataset, frame, file)
    stored = (_signed(v, dataset) for v in (first, last if isinstance(last, int) else first))
    limits = sorted(float(np.float32(v * slope + intercept)) for v in stored)
    return limits[0], limits[1]


def _signed(value: int, dataset: Dataset) -> int:
    """Return a pixel value that was written with the VR of unsigned numbers although the pixels are signed."""
    bits = int(dataset.get("BitsAllocated", 16))
    signed = dataset.get("PixelRepresentation") == 1
    return value - 2**bits if signed and 2 ** (bits - 1) <= value < 2**bits else value


def _check_rescaled(dataset: Dataset, item: Slice, known: dict[bool, Slice]) -> None:
    """Raise InputError if one image of a series has no rescale and another has one that changes the values.

    An explicit identity rescale (slope 1, intercept 0) is accepted beside either.

    Args:
        known: {whether the rescale changes the values: first such slice}; updated by this call.
    """
    if has_lut(dataset) or rescale_of(dataset, item.frame, item.file) != (1, 0):
        known.setdefault(True, item)
    elif not has_rescale(dataset, item.frame) or lacking_rescale(dataset, item.frame):
        known.setdefault(False, item)
    if len(known) == 2:
        missing, other = (item.file.parent / name(item) for item in (known[False], known[True]))
        raise InputError(
            "dicom-rescale-partly-missing",
            f"{missing} has no complete rescale but {other} of the same series has one, so the values are unknown; "
            "export the series again",
        )


def _check_bits(dataset: Dataset, file: Path) -> None:
    """Raise InputError unless pixels have 8, 16, 32 or 64 bits and the stored bits are the low bits.

    PS3.5 8.1.1 requires the stored bits to be the low bits; pydicom and ITK read the low bits in any case.
    """
    high, bits, allocated = (dataset.get(keyword) for keyword in ("HighBit", "BitsStored", "BitsAllocated"))
    if allocated is not None and int(allocated) not in (8, 16, 32, 64):
        raise InputError(
            "dicom-bits-allocated",
            f"{file} has BitsAllocated {allocated} instead of 8, 16, 32 or 64; export the series again",
        )
    if high is not None and bits is not None and int(high) != int(bits) - 1:
        raise InputError(
            "dicom-high-bit",
            f"{file} has BitsStored {bits} and HighBit {high} instead of {int(bits) - 1}, so the position of the value "
            "within a pixel is unknown; export the series again",
        )


def _check_codestream(dataset: Dataset, file: Path) -> None:
    """Raise InputError if JPEG 2000 data contradict the header on the sign: readers differ on negative values then.

    PS3.5 A.4.4 requires the same sign in both; the header only says how to interpret the values.
    """
    if dataset.file_meta.TransferSyntaxUID not in (JPEG2000, JPEG2000Lossless, HTJ2K, HTJ2KLossless, HTJ2KLosslessRPCL):
        return
    found = get_j2k_parameters(
        get_frame(dataset.PixelData, 0, number_of_frames=int(dataset.get("NumberOfFrames") or 1))
    )
    signed = found.get("is_signed")
    if signed is not None and signed != bool(dataset.PixelRepresentation):
        says = ("unsigned", "signed") if signed else ("signed", "unsigned")
        raise InputError(
            "dicom-codestream-sign",
            f"{file}: Pixel Representation says {says[0]} values, and the JPEG 2000 data say {says[1]} ones, so "
            "negative HU are unknown; export the series uncompressed from its source",
        )


def _check_decoder(file: Path, syntax: UID) -> None:
    try:
        available = get_decoder(syntax).is_available
    except NotImplementedError as error:
        raise InputError(
            "dicom-transfer-syntax",
            f"{file} uses the transfer syntax {syntax.name}, which is not supported; export it uncompressed",
        ) from error
    if not available:
        raise InputError(
            "dicom-decoder-missing", f"{file} is compressed with {syntax.name}; install a decoder: {PLUGINS}"
        )
