"""NIfTI headers: the one reading of odd or contradicting fields, and a remark on each contradiction.

nibabel and ITK read such headers differently, and in silence. The fields are set right here, so that what nibabel makes
of the header, and what is written with it later, is that reading.
"""

from contextlib import suppress
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.affines import voxel_sizes
from nibabel.filebasedimages import ImageFileError
from nibabel.orientations import aff2axcodes
from nibabel.spatialimages import HeaderDataError

HIGHEST_CODE = 5  # of the standard's coordinate systems
ALIGNED = 2  # the standard's code for "some other scan's coordinates"
QUATERNION_SLACK = 1e-3  # a length beyond 1 by more is no rounding
SAME_SIZE = 1e-3  # relative: voxel sizes that differ by more are two statements
APART_VOXELS, APART_SHARE = 0.1, 6e-4  # of the smallest voxel, of the diagonal: what a float32 quaternion rounds


def settled_header(block: bytes) -> tuple[Any, list[str]]:
    """The nibabel header of a single NIfTI file, set right, and remarks on what its fields contradict.

    Args:
        block: the file's first 540 bytes (348 do for NIfTI-1).

    Raises:
        ImageFileError: fields that have no reading; the message names them.
    """
    header = _parsed(block)
    _settle_dim(header)
    _check_datatype(header)
    return header, [*_settle_codes(header), *_settle_scaling(header), *_settle_forms(header)]


def _parsed(block: bytes) -> Any:
    sizes = {(348, block[344:348]): nib.Nifti1Header, (540, block[4:8]): nib.Nifti2Header}
    for (size, magic), kind in sizes.items():
        for order in ("little", "big"):
            if int.from_bytes(block[:4], order) == size:  # type: ignore[arg-type]
                _check_magic(magic)
                item = kind.template_dtype.itemsize
                if len(block) < item:
                    raise ImageFileError(f"it ends within its header of {item} bytes")
                return kind(block[:item], "<" if order == "little" else ">", check=False)
    raise ImageFileError("sizeof_hdr is neither 348 nor 540")


def _check_magic(magic: bytes) -> None:
    if magic[:3] in (b"ni1", b"ni2"):
        raise ImageFileError("it is the header of an .hdr/.img pair, without voxels")
    if magic[:3] not in (b"n+1", b"n+2"):
        raise ImageFileError("its magic is not that of a NIfTI file: Analyze files are not read")


def _settle_dim(header: Any) -> None:
    """Lengths below 1 of axes beyond the third count as 1, as in ITK."""
    dim = header["dim"]
    axes = int(dim[0])
    if not 1 <= axes <= 7:
        raise ImageFileError(f"dim[0] is {axes}, where the number of axes belongs")
    if axes < 3 and dim[3] > 1:
        raise ImageFileError(f"dim[0] is {axes}, the number of axes, and dim[3] is {int(dim[3])}")
    dim[4 : axes + 1] = np.maximum(dim[4 : axes + 1], 1)


def _check_datatype(header: Any) -> None:
    with suppress(HeaderDataError, KeyError):
        if header.get_data_dtype().itemsize > 0:
            return
    raise ImageFileError(f"datatype is {int(header['datatype'])}, a kind of voxel that is not read")


def _settle_codes(header: Any) -> list[str]:
    remarks = []
    for key in ("qform_code", "sform_code"):
        code = int(header[key])
        header[key] = max(code, 0)
        if code > HIGHEST_CODE:
            header[key] = ALIGNED
            remarks.append(f"{key} is {code}, which the standard does not know; its coordinates are taken")
    return remarks


def _settle_scaling(header: Any) -> list[str]:
    """A slope of 0 or NaN means no scaling, by the standard; ITK adds the intercept all the same."""
    slope, inter = float(header["scl_slope"]), float(header["scl_inter"])
    if np.isinf(slope):
        raise ImageFileError(f"scl_slope is {slope}")
    if slope == 0 or np.isnan(slope):
        header["scl_slope"], header["scl_inter"] = np.nan, np.nan
        unused = np.isfinite(inter) and inter != 0
        return [f"scl_slope is {slope:g}, so its scl_inter of {inter:g} is not added"] if unused else []
    if not np.isfinite(inter):
        raise ImageFileError(f"scl_inter is {inter} beside a scl_slope of {slope:g}")
    return []


# Where the voxels lie --------------------------------------------------------------------------------------


def _settle_forms(header: Any) -> list[str]:
    """Keep the sform where it can be used, else the qform, else the sizes alone; set the fields to agree with that."""
    bad_q, bad_s = _qform_fault(header), _sform_fault(header)
    sizes = np.array(header["pixdim"][1:4], np.float64)
    remarks = []
    if header["sform_code"] > 0 and bad_s:
        if header["qform_code"] == 0 or bad_q:
            raise ImageFileError(bad_s if header["qform_code"] == 0 else f"{bad_s}, and {bad_q}")
        header["sform_code"] = 0
        remarks.append(f"{bad_s}; its qform is taken")
    if header["sform_code"] > 0:
        return remarks + _settle_sform(header, sizes, bad_q)
    if header["qform_code"] == 0:
        remarks.append("sform_code and qform_code are 0: which side is left it does not say")
    elif bad_q:
        raise ImageFileError(bad_q)
    return remarks + _settle_pixdim(header, sizes)


def _qform_fault(header: Any) -> str:
    """Why the quaternion cannot be used, empty where it can; one too long by rounding becomes one of length 1."""
    b, c, d = (float(header[f"quatern_{axis}"]) for axis in "bcd")
    length = float(np.linalg.norm([b, c, d]))
    if not length <= 1 + QUATERNION_SLACK:
        return f"quatern_b, quatern_c and quatern_d ({b:g}, {c:g}, {d:g}) are no rotation: their length is {length:g}"
    if not np.isfinite([float(header[f"qoffset_{axis}"]) for axis in "xyz"]).all():
        return "qoffset_x, qoffset_y or qoffset_z is not finite"
    if length > 1:
        for axis, value in zip("bcd", (b, c, d), strict=True):
            header[f"quatern_{axis}"] = value / length
    return ""


def _sform_fault(header: Any) -> str:
    sform = _sform(header)
    if not np.isfinite(sform).all():
        return f"sform_code is {int(header['sform_code'])} and srow_x, srow_y, srow_z hold NaN or infinite values"
    lengths = np.linalg.norm(sform[:, :3], axis=0)
    if not lengths.all() or abs(np.linalg.det(sform[:, :3] / lengths)) < 1e-6:
        return f"sform_code is {int(header['sform_code'])} and srow_x, srow_y, srow_z are singular"
    return ""


def _sform(header: Any) -> np.ndarray:
    return np.array([header[f"srow_{axis}"] for axis in "xyz"], np.float64)


def _settle_sform(header: Any, sizes: np.ndarray, bad_q: str) -> list[str]:
    """An sform that can be used: against pixdim, and against the qform where there is one."""
    sform, remarks = _sform(header), []
    own = np.linalg.norm(sform[:, :3], axis=0)
    told = np.isfinite(sizes) & (sizes != 0)
    stated = np.where(told, np.abs(sizes), own)
    if not np.allclose(own, stated, rtol=SAME_SIZE, atol=0):
        unscaled = np.allclose(own, 1, atol=SAME_SIZE)
        if unscaled:
            for axis, row in zip("xyz", sform, strict=True):
                header[f"srow_{axis}"] = [*(row[:3] * stated), row[3]]
        remarks.append(
            f"srow_x, srow_y, srow_z say voxels of {_mm(own)}, pixdim of {_mm(stated)}: "
            f"{'pixdim is' if unscaled else 'the former are'} taken"
        )
    header["pixdim"][1:4] = stated
    header["pixdim"][0] = -1 if header["pixdim"][0] < 0 else 1
    if header["qform_code"] > 0 and bad_q:
        header["qform_code"] = 0
        return [*remarks, f"{bad_q}; its sform is taken"]
    if header["qform_code"] > 0 and not remarks:
        return _apart(header)
    return remarks


def _apart(header: Any) -> list[str]:
    """A remark where sform and qform contradict each other: of one code they are of one place, of two codes the
    scanner's and another's, which turn the scan as little as heads and registrations do."""
    sform, qform = header.get_sform(), header.get_qform()
    extent = np.array(header.get_data_shape()[:3], np.float64)
    corners = np.array([(*(extent * corner), 1) for corner in np.ndindex(2, 2, 2)])
    apart = np.linalg.norm(corners @ (sform - qform).T, axis=1).max()
    sizes = voxel_sizes(qform)
    far = apart > max(APART_VOXELS * sizes.min(), APART_SHARE * np.linalg.norm(extent * sizes))
    codes = f"sform_code {int(header['sform_code'])} and qform_code {int(header['qform_code'])}"
    axes = ["".join(code or "?" for code in aff2axcodes(form)) for form in (sform, qform)]
    if far and axes[0] != axes[1]:
        return [f"its sform says {axes[0]} and its qform {axes[1]} ({codes}): the sform is taken"]
    if far and header["sform_code"] == header["qform_code"]:
        return [f"its sform and its qform ({codes}) put a corner {apart:.3g} mm apart: the sform is taken"]
    return []


def _settle_pixdim(header: Any, sizes: np.ndarray) -> list[str]:
    """Sizes that alone say how large voxels are, and the sign of the third axis in pixdim[0]."""
    for axis, size in enumerate(sizes, 1):
        if not np.isfinite(size) or size == 0:
            raise ImageFileError(f"pixdim[{axis}] is {size:g}, the size of its voxels")
    header["pixdim"][1:4] = np.abs(sizes)
    qfac = float(header["pixdim"][0])
    header["pixdim"][0] = -1 if qfac < 0 else 1
    remarks = []
    if (sizes < 0).any():
        remarks.append(f"pixdim has negative sizes ({_mm(sizes)}): they are taken as positive")
    if qfac not in (-1, 0, 1) and header["qform_code"] > 0:
        remarks.append(f"pixdim[0] is {qfac:g} where 1 or -1 belongs: its sign is taken")
    return remarks


def _mm(sizes: np.ndarray) -> str:
    return " x ".join(f"{size:.4g}" for size in sizes)
