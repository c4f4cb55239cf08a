"""Label maps that their header names are not taken for scans."""

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from refusal import refused

from medgen.inference.inputs import find_scans, read_scan
from medgen.io.label_headers import is_label_map

SEGMENTS = ["Segment0_LabelValue:=3", "Segment0_Name:=liver", "Segment0_ID:=a", "Segment1_Name:=without a value"]


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_the_intent_of_a_nifti_file(tmp_path, kind, order, ending):
    for intent in ("none", "label", "vector"):
        header = kind.header_class(endianness=order)
        header.set_data_dtype(np.dtype(f"{order}i2"))
        image = kind(np.zeros((4, 4, 4), np.int16), np.eye(4), header)
        image.header.set_intent(intent)
        nib.save(image, path := tmp_path / f"{intent}{ending}")
        assert is_label_map(path) == (intent == "label")


def test_a_label_map_among_scans_is_refused(tmp_path):
    image = nib.Nifti1Image(np.zeros((4, 4, 4), np.int16), np.eye(4))
    nib.save(image, tmp_path / "a.nii.gz")
    image.header.set_intent("label")
    nib.save(image, tmp_path / "b.nii.gz")
    header = ["NRRD0004", "type: uchar", "dimension: 3", "sizes: 4 4 4", "encoding: raw", *SEGMENTS]
    (tmp_path / "c.seg.nrrd").write_bytes("\n".join(header).encode() + b"\n\n" + bytes(64))
    scans = {scan.case: scan for scan in find_scans(tmp_path, ["source"])}
    assert read_scan(scans["a"])[0].data.shape == (4, 4, 4)
    for case in ("b", "c.seg"):
        with refused("input-is-label-map", names=case):
            read_scan(scans[case])


@pytest.mark.parametrize("content", [b"", b"\x1f\x8b\x08", b"abc", b"\0" * 600])
def test_damaged_files_are_left_to_the_reader(tmp_path, content):
    for name in ("a.nii", "a.nii.gz", "a.nrrd"):
        (tmp_path / name).write_bytes(content)
        assert not is_label_map(tmp_path / name)
    assert not is_label_map(tmp_path / "missing.nii.gz")


def test_label_maps_of_mitk_say_so_in_their_header(tmp_path):
    path = tmp_path / "a.nrrd"
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((3, 4, 5), np.uint16)), path)
    assert not is_label_map(path)
    header, pixels = path.read_bytes().split(b"\n\n", 1)
    path.write_bytes(header + b"\nmodality:=org.mitk.multilabel.segmentation\n\n" + pixels)
    assert is_label_map(path)
