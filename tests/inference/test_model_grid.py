"""Outputs on the model's grid (inference.grid: model): isotropic volumes from thick slices, right in mm."""

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.orientations import apply_orientation, inv_ornt_aff
from refusal import refused
from scipy.spatial.transform import Rotation
from small import make_model, small_settings

from medgen.export.network import check_exportable
from medgen.inference.check import verdict
from medgen.inference.kind import check_keeps_grid
from medgen.inference.model_grid import other_grid_notes
from medgen.inference.output import check_grid
from medgen.inference.predict import translate_volume
from medgen.io.read import read_volume
from medgen.io.volume import Volume
from medgen.io.write import write_volume
from medgen.qa.run import named_checks
from medgen.reports.images.case_images import conversion_scene

INTENSITY = {"source": {"low": -1000, "high": 1000}, "target": {"low": -1000, "high": 1000}}
METHOD = {"name": "srgan", "generator": {"filters": 4, "blocks": 1}, "weight_gan": 0.0, "weight_features": 0.0}
DATA = {"sources": ["image"], "targets": ["image"], "degradation": {"thickness": [2, 4]}, "spacing": [1, 1, 1]}


def restoring(train=False, **more):
    sections = {"inference": {"grid": "model"}, "method": METHOD, "intensity": INTENSITY, "data": DATA}
    return make_model(small_settings(**{**sections, **more}), spacing=(1.0, 1.0, 1.0), train=train)


MODEL = restoring()  # before training it changes nothing, so the output is the interpolated input


def oblique(spacing, angles):
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() * spacing
    affine[:3, 3] = (-31, 12, 400)
    return affine


def ramp(shape, affine):
    """A linear function of the position in mm: right wherever a voxel is right."""
    points = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), -1) @ affine[:3, :3].T + affine[:3, 3]
    return (points @ [2.0, -1.5, 1.0]).astype(np.float32)


@settings(max_examples=25, deadline=None)
@given(
    axes=st.permutations([0, 1, 2]),
    signs=st.tuples(*[st.sampled_from([-1, 1])] * 3),
    angles=st.tuples(*[st.floats(-40, 40)] * 3),
    shape=st.tuples(st.integers(8, 24), st.integers(8, 24), st.integers(4, 9)),
    thickness=st.floats(2, 4),
)
def test_the_output_is_isotropic_and_every_voxel_lies_where_its_value_says(axes, signs, angles, shape, thickness):
    affine = oblique((1.0, 1.0, thickness), angles)
    orientation = np.array(list(zip(axes, signs, strict=True)), float)
    scan = Volume(
        apply_orientation(ramp(shape, affine), orientation),
        affine @ inv_ornt_aff(orientation, shape),
    )
    out = translate_volume(MODEL, scan)
    np.testing.assert_allclose(out.spacing, 1.0, rtol=0.05)
    before, after = (np.multiply(v.data.shape, v.spacing) for v in (scan, out))
    assert (np.abs(before - after) <= 0.5 + 1e-6).all(), "the extent differs by more than half a voxel"
    centres = [v.affine @ [*(np.array(v.data.shape) / 2 - 0.5), 1] for v in (scan, out)]
    np.testing.assert_allclose(*centres, atol=1e-6)
    directions = [v.affine[:3, :3] / v.spacing for v in (scan, out)]
    np.testing.assert_allclose(*directions, atol=1e-9)
    thick = [i for i, s in enumerate(scan.spacing) if s > 1.5]
    inside = tuple(
        slice(int(np.ceil(thickness / 2)) + 1, -int(np.ceil(thickness / 2)) - 1) if i in thick else slice(1, -1)
        for i in range(3)
    )
    np.testing.assert_allclose(out.data[inside], ramp(out.data.shape, out.affine)[inside], atol=1e-2)


def test_a_scan_on_the_models_grid_keeps_its_geometry():
    scan = Volume(np.random.default_rng(0).uniform(-500, 500, (9, 10, 11)), oblique((1, 1, 1), (3, 4, 5)))
    out = translate_volume(MODEL, scan)
    np.testing.assert_allclose(out.affine, scan.affine)
    np.testing.assert_allclose(out.data, scan.data, atol=2e-3)


def test_the_written_file_has_the_isotropic_geometry(tmp_path):
    header = nib.Nifti1Header()
    header.set_data_dtype(np.int16)
    header.set_sform(np.diag([1, 1, 4, 1.0]), 4)
    image = nib.Nifti1Image(np.zeros((12, 10, 5), np.int16), np.diag([1, 1, 4, 1.0]), header)
    nib.save(image, tmp_path / "thick.nii.gz")
    write_volume(tmp_path / "out.nii.gz", translate_volume(MODEL, read_volume(tmp_path / "thick.nii.gz")))
    read = nib.load(tmp_path / "out.nii.gz")
    assert read.shape == (12, 10, 20) and read.header.get_zooms() == (1, 1, 1)
    np.testing.assert_allclose(read.affine[:3, 3], [0, 0, -1.5])
    np.testing.assert_allclose(read.header.get_qform(), read.affine, atol=1e-5)
    assert read.get_data_dtype() == np.int16


def test_notes_tell_what_the_grid_changes():
    scan = Volume(np.zeros((20, 20, 5)), np.diag([0.5, 0.5, 6, 1.0]))
    notes = other_grid_notes(MODEL, scan)
    assert "1 x 1 x 1 mm, the input has 0.5 x 0.5 x 6 mm" in notes[0]
    assert "along x, y" in notes[1] and "6 mm apart" in notes[2]
    assert other_grid_notes(make_model(), scan) == []


def test_the_structure_check_compares_on_the_outputs_grid():
    rng = np.random.default_rng(0)
    data = np.full((40, 40, 12), -1000.0)
    data[6:-6, 6:-6, 1:-1] = 40 + 40 * rng.random((28, 28, 10))
    scan = Volume(data, np.diag([1.0, 1, 3, 1]))
    out = translate_volume(MODEL, scan)
    status, reasons, _ = verdict([scan], [out], ["image"], named_checks("general", None, "cpu"))
    assert status == "pass", reasons
    status, _, _ = verdict([scan], [out.replaced(out.data[::-1])], ["image"], named_checks("general", None, "cpu"))
    assert status == "fail"


def test_the_report_shows_the_input_on_the_outputs_grid(tmp_path):
    scan = Volume(np.random.default_rng(0).uniform(0, 500, (20, 22, 7)), np.diag([1.0, 1, 3, 1]))
    write_volume(tmp_path / "scan.nii.gz", scan)
    write_volume(tmp_path / "out.nii.gz", translate_volume(MODEL, scan))
    scene = conversion_scene(tmp_path / "scan.nii.gz", tmp_path / "out.nii.gz")
    assert {column.data.shape for column in scene.columns} == {(20, 22, 21)}
    other = Volume(np.zeros((20, 22, 21)), np.diag([1.0, 1, 1, 1]) + np.eye(4, k=3) * 40)
    write_volume(tmp_path / "elsewhere.nii.gz", other)
    with refused("report-grid-differs"):
        conversion_scene(tmp_path / "scan.nii.gz", tmp_path / "elsewhere.nii.gz")


def test_dicom_outputs_and_exports_are_refused(tmp_path):
    with refused("output-dicom-other-grid", names="--format nifti"):
        check_grid([tmp_path / "series"], MODEL)
    check_grid([tmp_path / "a.nii.gz"], MODEL)
    with refused("model-other-grid", names="label maps"):
        check_keeps_grid(MODEL)
    check_keeps_grid(make_model())
    with refused("export-model-grid", names="medgen translate"):
        check_exportable(MODEL)


def test_settings_that_contradict_the_grid_are_refused():
    for inference in ({"spacing": "ignore"}, {"transfer": "difference"}):
        with refused("config-invalid-value", names="inference.grid=model"):
            restoring(inference={"grid": "model", **inference})


@pytest.mark.parametrize("transfer", ["image", "difference"])
def test_low_dose_ct_keeps_its_grid(transfer):
    model = restoring(train=True, inference={"transfer": transfer}, data=DATA | {"degradation": {"noise": [5, 40]}})
    scan = Volume(np.random.default_rng(0).normal(0, 50, (20, 18, 6)), oblique((0.8, 0.8, 3), (0, 5, 0)))
    out = translate_volume(model, scan)
    assert out.data.shape == scan.data.shape and np.array_equal(out.affine, scan.affine)
