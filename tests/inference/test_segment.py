"""``medgen segment``: label maps of a cohort, DICOM as DICOM."""

import json

import numpy as np
import pydicom
import pytest
import torch
from dicom_series import OBLIQUE, stored, write_ct
from refusal import refused
from torch import nn
from typer.testing import CliRunner

from medgen.cli import app
from medgen.inference.segment import segment_cohort
from medgen.io.read import read_volume
from medgen.io.volume import Volume
from medgen.io.write import write_volume
from medgen.segmentation.load import named_segmenter


class Threshold(nn.Module):
    def forward(self, x):
        return torch.cat([1000 - x, x - 1000], 1)


@pytest.fixture
def network(tmp_path):
    (tmp_path / "net").mkdir()
    torch.jit.save(torch.jit.script(Threshold()), tmp_path / "net/bright.ts")
    (tmp_path / "net/grid.json").write_text(json.dumps({"values": [0, 5]}))
    (tmp_path / "net/labels.json").write_text('{"liver": 5}')
    return str(tmp_path / "net/bright.ts")


def test_volumes_become_label_maps(network, tmp_path):
    volume = Volume(np.random.default_rng(0).normal(1000, 50, (9, 8, 7)).astype(np.float32), np.diag([1, 2, 3, 1]))
    write_volume(tmp_path / "in/a.nii.gz", volume)
    (tmp_path / "in/b.nii.gz").write_bytes(b"broken")
    found = segment_cohort(named_segmenter(network), tmp_path / "in", tmp_path / "out")
    assert found[0].error is None and "b.nii.gz" in found[1].error
    back = read_volume(tmp_path / "out/a.nii.gz")
    np.testing.assert_array_equal(back.data, 5 * (volume.data > 1000))
    np.testing.assert_array_equal(back.affine, volume.affine)
    assert back.dtype == np.uint8 and json.loads((tmp_path / "out/labels.json").read_text()) == {"liver": 5}
    (result,) = segment_cohort(named_segmenter(network), tmp_path / "in/a.nii.gz", tmp_path / "d", format="dicom")
    assert "not DICOM" in result.error


def test_names_that_differ_in_letter_case_only_are_one_case(network, tmp_path):
    """A file system that ignores letter case would overwrite the first label map with the second."""
    for name in ("Case", "case"):
        write_volume(tmp_path / f"in/{name}.nii.gz", Volume(np.full((9, 8, 7), 990, np.float32), np.eye(4)))
    found = segment_cohort(named_segmenter(network), tmp_path / "in", tmp_path / "out")
    assert [entry.status for entry in found] == ["segmented", "failed"] and "case name" in found[1].error


def test_what_is_done_is_not_done_again(network, tmp_path):
    for name in "ab":
        volume = Volume(np.full((9, 8, 7), 990 + 20 * (name == "b"), np.float32), np.eye(4))
        write_volume(tmp_path / f"in/{name}.nii.gz", volume)

    def run(**options):
        segmenter = named_segmenter(network)
        return [entry.status for entry in segment_cohort(segmenter, tmp_path / "in", tmp_path / "out", **options)]

    assert run() == ["segmented", "segmented"] and run() == ["skipped", "skipped"]
    (tmp_path / "out/a.nii.gz").write_bytes(b"damaged")
    write_volume(tmp_path / "in/b.nii.gz", volume.replaced(volume.data + 1))
    assert run() == ["segmented", "segmented"] and run() == ["skipped", "skipped"]
    (tmp_path / "net/grid.json").write_text(json.dumps({"values": [0, 6]}))
    with refused("folder-not-empty", names="weights"):
        run()
    assert run(overwrite=True) == ["segmented", "segmented"]
    assert read_volume(tmp_path / "out/b.nii.gz").data.max() == 6


def test_dicom_becomes_a_segmentation(network, tmp_path):
    hd = pytest.importorskip("highdicom", reason="highdicom (medgen[dicom]) is absent")
    write_ct(tmp_path / "in/one", stored(3, 8, 9), OBLIQUE)
    (tmp_path / "in/two").mkdir()
    (tmp_path / "in/two/x.dcm").write_bytes(b"broken")
    call = CliRunner().invoke(app, ["segment", network, str(tmp_path / "in"), str(tmp_path / "out"), "--device", "cpu"])
    assert call.exit_code == 2 and "[1/2] one: segmented" in call.output and "x.dcm" in call.output
    volume = read_volume(tmp_path / "in/one")
    seg = hd.seg.segread(tmp_path / "out/one.dcm")
    uids = [pydicom.dcmread(file, stop_before_pixels=True).SOPInstanceUID for file, _ in volume.frames]
    planes = seg.get_pixels_by_source_instance(uids, combine_segments=True, assert_missing_frames_are_empty=True)
    np.testing.assert_array_equal(planes, (volume.data > 1000).transpose(2, 1, 0))
    assert seg.SegmentSequence[0].SegmentedPropertyTypeCodeSequence[0].CodeMeaning == "Liver"
