"""Repair NIfTI headers with unusual or contradictory fields, and report each contradiction.

nibabel and ITK interpret such headers differently and without a warning. The fields are corrected here, so that
nibabel, and files written with the header later, use one interpretation.
"""

from contextlib import suppress
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.affines import voxel_sizes
from nibabel.filebasedimages import ImageFileError
from nibabel.orientations import aff2axcodes
from nibabel.spatialimages import HeaderDataError

HIGHEST_CODE = 5  # largest coordinate system code in the standard
ALIGNED = 2  # NIFTI_XFORM_ALIGNED_ANAT: aligned to another scan
QUATERNION_SLACK = 1e-3  # quaternion lengths up to 1 plus this count as rounding errors
SAME_SIZE = 1e-3  # relative tolerance for equal voxel sizes
# Tolerance for float32 quaternions: fractions of the smallest voxel side and of the volume's diagonal.
APART_VOXELS, APART_SHARE = 0.1, 6e-4


def repaired_header(block: bytes) -> tuple[Any, list[str]]:
    """Parse and repair the header of a NIfTI file; return the nibabel header and remarks on contradictory fields.

    Args:
        block: the first 540 bytes of the file (348 are enough for NIfTI-1).

    Raises:
        ImageFileError: fields without a valid interpretation; the message names them.
    """
    header = _parsed(block)
    _settle_dim(header)
    _check_datatype(header)
    if int(header["dim"][0]) < 3:
        return header, []  # a 2D image may lack the fields of the third axis; `checked_shape` refuses it
    return header, [*_settle_codes(header), *_settle_scaling(header), *_settle_forms(header)]


def _parsed(block: bytes) -> Any:
    sizes = {(348, block[344:348]): nib.Nifti1Header, (540, block[4:8]): nib.Nifti2Header}
    for (size, magic), kind in sizes.items():
        for order in ("little", "big"):
            if int.from_bytes(block[:4], order) == size:  # type: ignore[arg-type]
                _check_magic(magic)
                item = kind.template_dtype.itemsize
                if len(block) < item:
                    raise ImageFileError(f"the file is shorter than its header of {item} bytes")
                return kind(block[:item], "<" if order == "little" else ">", check=False)
    raise ImageFileError("sizeof_hdr is neither 348 nor 540")


def _check_magic(magic: bytes) -> None:
    if magic[:3] in (b"ni1", b"ni2"):
        raise ImageFileError("it is the header of an .hdr/.img pair and has no voxels")
    if magic[:3] not in (b"n+1", b"n+2"):
        raise ImageFileError("its magic number is not that of a NIfTI file; Analyze files are not supported")


def _settle_dim(header: Any) -> None:
    """Set lengths below 1 of axes after the third to 1, as ITK does."""
    dim = header["dim"]
    axes = int(dim[0])
    if not 1 <= axes <= 7:
        raise ImageFileError(f"dim[0], the number of axes, is {axes}")
    if axes < 3 and dim[3] > 1:
        raise ImageFileError(f"dim[0], the number of axes, is {axes}, but dim[3] is {int(dim[3])}")
    dim[4 : axes + 1] = np.maximum(dim[4 : axes + 1], 1)


def _check_datatype(header: Any) -> None:
    with suppress(HeaderDataError, KeyError):
        if header.get_data_dtype().itemsize > 0:
            return
    raise ImageFileError(f"datatype {int(header['datatype'])} is not supported")


def _settle_codes(header: Any) -> list[str]:
    remarks = []
    for key in ("qform_code", "sform_code"):
        code = int(header[key])
        header[key] = max(code, 0)
        if code > HIGHEST_CODE:
            header[key] = ALIGNED
            remarks.append(f"{key} is {code}, which is not in the standard; its coordinates are used")
    return remarks


def _settle_scaling(header: Any) -> list[str]:
    """Disable scaling if the slope is 0 or NaN, as the standard says (ITK still adds the intercept)."""
    slope, inter = float(header["scl_slope"]), float(header["scl_inter"])
    if np.isinf(slope):
        raise ImageFileError(f"scl_slope is {slope}")
    if slope == 0 or np.isnan(slope):
        header["scl_slope"], header["scl_inter"] = np.nan, np.nan
        unused = np.isfinite(inter) and inter != 0
        return [f"scl_slope is {slope:g}, so scl_inter = {inter:g} is not added"] if unused else []
    if not np.isfinite(inter):
        raise ImageFileError(f"scl_inter is {inter}, but scl_slope is {slope:g}")
    return []


# Voxel positions --------------------------------------------------------------------------------------------


def _settle_forms(header: Any) -> list[str]:
    """Use the sform if it is valid, else the qform, else only the voxel sizes; set the other fields accordingly."""
    bad_q, bad_s = _qform_fault(header), _sform_fault(header)
    sizes = np.array(header["pixdim"][1:4], np.float64)
    remarks = []
    if header["sform_code"] > 0 and bad_s:
        if header["qform_code"] == 0 or bad_q:
            raise ImageFileError(bad_s if header["qform_code"] == 0 else f"{bad_s}, and {bad_q}")
        header["sform_code"] = 0
        remarks.append(f"{bad_s}; the qform is used")
    if header["sform_code"] > 0:
        return remarks + _settle_sform(header, sizes, bad_q)
    if header["qform_code"] == 0:
        remarks.append("sform_code and qform_code are 0, so the header does not say which side is left")
    elif bad_q:
        raise ImageFileError(bad_q)
    return remarks + _settle_pixdim(header, sizes)


def _qform_fault(header: Any) -> str:
    """Return why the quaternion is invalid, "" if it is valid; a length just above 1 is normalised."""
    b, c, d = (float(header[f"quatern_{axis}"]) for axis in "bcd")
    length = float(np.linalg.norm([b, c, d]))
    if not length <= 1 + QUATERNION_SLACK:
        return (
            f"quatern_b, quatern_c and quatern_d ({b:g}, {c:g}, {d:g}) are not a rotation: their length is {length:g}"
        )
    if not np.isfinite([float(header[f"qoffset_{axis}"]) for axis in "xyz"]).all():
        return "qoffset_x, qoffset_y or qoffset_z is not finite"
    if length > 1:
        for axis, value in zip("bcd", (b, c, d), strict=True):
            header[f"quatern_{axis}"] = value / length
    return ""


def _sform_fault(header: Any) -> str:
    sform = _sform(header)
    if not np.isfinite(sform).all():
        return f"sform_code is {int(header['sform_code'])} but srow_x, srow_y, srow_z contain NaN or infinite values"
    lengths = np.linalg.norm(sform[:, :3], axis=0)
    if not lengths.all() or abs(np.linalg.det(sform[:, :3] / lengths)) < 1e-6:
        return f"sform_code is {int(header['sform_code'])} but srow_x, srow_y, srow_z are singular"
    return ""


def _sform(header: Any) -> np.ndarray:
    return np.array([header[f"srow_{axis}"] for axis in "xyz"], np.float64)


def _settle_sform(header: Any, sizes: np.ndarray, bad_q: str) -> list[str]:
    """Make pixdim and qform consistent with a valid sform."""
    sform, remarks = _sform(header), []
    sform_sizes = np.linalg.norm(sform[:, :3], axis=0)
    is_stated = np.isfinite(sizes) & (sizes != 0)
    stated = np.where(is_stated, np.abs(sizes), sform_sizes)
    if not np.allclose(sform_sizes, stated, rtol=SAME_SIZE, atol=0):
        unscaled = np.allclose(sform_sizes, 1, atol=SAME_SIZE)
        if unscaled:
            for axis, row in zip("xyz", sform, strict=True):
                header[f"srow_{axis}"] = [*(row[:3] * stated), row[3]]
        remarks.append(
            f"srow_x, srow_y, srow_z give voxels of {_mm(sform_sizes)}, but pixdim gives {_mm(stated)}; "
            f"{'pixdim is' if unscaled else 'srow_x, srow_y, srow_z are'} used"
        )
    header["pixdim"][1:4] = stated
    header["pixdim"][0] = -1 if header["pixdim"][0] < 0 else 1
    if header["qform_code"] > 0 and bad_q:
        header["qform_code"] = 0
        return [*remarks, f"{bad_q}; the sform is used"]
    if header["qform_code"] > 0 and not remarks:
        return _form_contradiction(header)
    return remarks


def _form_contradiction(header: Any) -> list[str]:
    """Return a remark if sform and qform contradict each other.

    With equal codes they must give the same positions. With different codes they mean two coordinate systems, such as
    the scanner's and that of another scan, which may differ by a small rotation; only different axes are reported.
    """
    sform, qform = header.get_sform(), header.get_qform()
    extent = np.array(header.get_data_shape()[:3], np.float64)
    corners = np.array([(*(extent * corner), 1) for corner in np.ndindex(2, 2, 2)])
    distance = np.linalg.norm(corners @ (sform - qform).T, axis=1).max()
    sizes = voxel_sizes(qform)
    far = distance > max(APART_VOXELS * sizes.min(), APART_SHARE * np.linalg.norm(extent * sizes))
    codes = f"sform_code {int(header['sform_code'])} and qform_code {int(header['qform_code'])}"
    axes = ["".join(code or "?" for code in aff2axcodes(form)) for form in (sform, qform)]
    if far and axes[0] != axes[1]:
        return [f"its sform has orientation {axes[0]}, but its qform has {axes[1]} ({codes}); the sform is used"]
    if far and header["sform_code"] == header["qform_code"]:
        return [f"its sform and qform ({codes}) differ by {distance:.3g} mm at a corner; the sform is used"]
    return []


def _settle_pixdim(header: Any, sizes: np.ndarray) -> list[str]:
    """Repair the voxel sizes and qfac in pixdim, for headers without a valid sform."""
    for axis, size in enumerate(sizes, 1):
        if not np.isfinite(size) or size == 0:
            raise ImageFileError(f"pixdim[{axis}], a voxel size, is {size:g}")
    header["pixdim"][1:4] = np.abs(sizes)
    qfac = float(header["pixdim"][0])
    header["pixdim"][0] = -1 if qfac < 0 else 1
    remarks = []
    if (sizes < 0).any():
        remarks.append(f"pixdim has negative sizes ({_mm(sizes)}); absolute values are used")
    if qfac not in (-1, 0, 1) and header["qform_code"] > 0:
        remarks.append(f"pixdim[0] is {qfac:g} instead of 1 or -1; its sign is used")
    return remarks


def _mm(sizes: np.ndarray) -> str:
    return " x ".join(f"{size:.4g}" for size in sizes)
