"""Files that may be scans and are not read are named."""

import gzip
import logging
import os

import nibabel as nib
import numpy as np
import pytest
from dicom_series import stored, write_ct

from medgen.evaluation.folders import match_folders
from medgen.inference.inputs import find_scans

PACKED = [
    "b.nii.gz.part",
    "b.mha.gz",
    "b.nii.gz.gz",
    "b.NII.GZ.1",
    "b.nii_",
    "b.nifti",
    "b",
    "b.gz",
    ".b.nii.gz.x7Gh2k",
]


def volume(path):
    nib.save(nib.Nifti1Image(np.ones((4, 5, 6), np.float32), np.eye(4)), path)
    return path


def told(caplog):
    return [record.getMessage() for record in caplog.records if "are left out" in record.getMessage()]


@pytest.mark.parametrize("name", PACKED)
@pytest.mark.parametrize("cut", [False, True])
def test_a_volume_of_another_name_is_told(tmp_path, caplog, name, cut):
    volume(tmp_path / "a.nii.gz")
    content = volume(tmp_path.parent / f"{tmp_path.name}.nii.gz").read_bytes()
    content = gzip.decompress(content) if "gz" not in name.lower() else content
    content = b"ObjectType = Image" if name == "b.mha.gz" else content
    content = gzip.compress(content) if name in ("b.nii.gz.gz", "b.mha.gz") else content
    (tmp_path / name).write_bytes(content[: len(content) // 2] if cut else content)
    with caplog.at_level(logging.WARNING):
        assert len(find_scans(tmp_path, ["source"])) == 1
    assert [name in text for text in told(caplog)] == [True]


@pytest.mark.parametrize(
    "name", ["b.nii.gz.filepart", "b.nii.gz.crdownload", "b.zip", "b.mgz", "b.mat", "b.dcm.lz4", "b.DCM_old", "IM4"]
)
def test_an_empty_file_is_told_by_its_name(tmp_path, caplog, name):
    volume(tmp_path / "a.nii.gz")
    (tmp_path / name).write_bytes(b"")
    with caplog.at_level(logging.WARNING):
        find_scans(tmp_path, ["source"])
    assert [name in text for text in told(caplog)] == [True]


@pytest.mark.parametrize("name", [".IM2.dcm.x7Gh2k", ".syncthing.IM2.dcm.tmp", "~syncthing~IM2.dcm.tmp", ".nfs00a1"])
def test_a_hidden_slice_of_an_unfinished_transfer_is_told(tmp_path, caplog, name):
    write_ct(tmp_path / "in", stored(4, 8, 9))
    (tmp_path / "in/003.dcm").rename(tmp_path / "in" / name)
    with caplog.at_level(logging.WARNING):
        find_scans(tmp_path / "in", ["source"])
    assert [name in text for text in told(caplog)] == [True]


def test_other_files_are_not_told(tmp_path, caplog):
    volume(tmp_path / "a.nii.gz")
    write_ct(tmp_path / "in", stored(4, 8, 9))
    (tmp_path / "in/003.dcm").rename(tmp_path / "in/IM0003")
    for name in ("README", "a.nii.gz.md5", "a.json", "LICENSE.txt", "Thumbs.db", ".DS_Store", "desktop.ini", "x.py"):
        (tmp_path / name).write_text("some text")
    (tmp_path / "._a.nii.gz").write_bytes(bytes.fromhex("00051607") + bytes(200))
    (tmp_path / "log.gz").write_bytes(gzip.compress(b"some text"))
    with caplog.at_level(logging.WARNING):
        find_scans(tmp_path, ["source"], series="1")
        find_scans(tmp_path / "in", ["source"])
    assert told(caplog) == []


def test_a_pipe_is_not_opened(tmp_path, caplog):
    volume(tmp_path / "a.nii.gz")
    os.mkfifo(tmp_path / "pipe")
    with caplog.at_level(logging.WARNING):
        assert len(find_scans(tmp_path, ["source"])) == 1
    assert told(caplog) == []


def test_an_evaluation_tells_them(tmp_path, caplog):
    for side in ("truth", "made"):
        (tmp_path / side).mkdir()
        volume(tmp_path / side / "a.nii.gz")
        (tmp_path / side / "b.nii.gz.part").write_bytes((tmp_path / side / "a.nii.gz").read_bytes())
    with caplog.at_level(logging.WARNING):
        match_folders({"reference": tmp_path / "truth", "prediction": tmp_path / "made"})
    assert len(told(caplog)) == 2
