"""docs/how-to/public_data_sets.md: every command runs on tiny stand-ins of the data sets' layouts."""

import json
import re
import shlex
import subprocess
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from dicom_series import AXIAL, write_ct
from dicom_structures import write_rtstruct, write_segmentation
from typer.testing import CliRunner

from medgen.cli import app
from medgen.config import load_settings
from medgen.phantom.cohort import make_patient

PAGE = Path(__file__).parents[1] / "docs/how-to/public_data_sets.md"
BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```", re.MULTILINE | re.DOTALL)
SECTIONS = dict(re.findall(r"^## ([^\n:]+)[^\n]*\n(.*?)(?=^## |\Z)", PAGE.read_text(), re.MULTILINE | re.DOTALL))
QUICK = [
    "train.steps=1",
    "train.minutes=null",
    "train.validate_every=1",
    "sampling.patch=[16,16,16]",
    "sampling.workers=0",
]
SMALL = ["method.generator.filters=4", "method.generator.levels=2", "data.spacing=null"]
MM = (4.0, 4.0, 5.0)


def head(seed, shape=(24, 26, 20), masked=True):
    rng = np.random.default_rng(seed)
    grids = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    inside = sum(g**2 for g in grids) < 0.8
    data = 400 + 90 * np.sin(5 * grids[0]) + rng.normal(0, 20, shape)
    return np.where(inside, data, 0 if masked else np.abs(rng.normal(0, 9, shape)))


def nifti(path, data, mm=MM):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.asarray(data, np.float32), np.diag([*mm, 1.0])), path)


def synthrad(root):
    for first, region in enumerate(("AB", "HN", "TH")):
        for number in (1, 2):
            mr = head(10 * first + number)
            body = mr > 0
            folder = root / f"Task1/{region}/1{region}A00{number}"
            folder.mkdir(parents=True)
            for name, data in (("mr", mr), ("ct", np.where(body, mr - 400, -1000)), ("mask", body)):
                image = sitk.GetImageFromArray(data.T.astype(np.uint8 if name == "mask" else np.int16))
                image.SetSpacing(MM)
                sitk.WriteImage(image, str(folder / f"{name}.mha"))
        (root / f"Task1/{region}/overview").mkdir()
        (root / f"Task1/{region}/overview/1{region}A001.png").write_bytes(b"")


def brats(root):
    for case in ("00000-000", "00000-001", "00002-000", "00003-000"):
        for n, name in enumerate(("t1n", "t1c", "t2w", "t2f")):
            nifti(
                root / f"BraTS2023/BraTS-GLI-{case}/BraTS-GLI-{case}-{name}.nii.gz", (n + 1) * head(int(case[:5]) + n)
            )
        nifti(root / f"BraTS2023/BraTS-GLI-{case}/BraTS-GLI-{case}-seg.nii.gz", head(1) > 470)


def ixi(root):
    for n in (2, 12, 13):
        name = f"IXI{n:03d}-Guys-0828"
        nifti(root / f"IXI-T1/{name}-T1.nii.gz", head(n, masked=False))
        nifti(root / f"IXI-T2/{name}-T2.nii.gz", 2 * head(n, (26, 24, 18), masked=False), (3.7, 4.3, 5.5))


def bids(root):
    for n, place in enumerate(("sub-01/ses-1/anat/sub-01_ses-1", "sub-02/anat/sub-02", "sub-03/anat/sub-03")):
        nifti(root / f"bids/{place}_T1w.nii.gz", head(n, masked=False))
        nifti(root / f"bids/{place}_T2w.nii.gz", 2 * head(n, masked=False))
    (root / "bids/dataset_description.json").write_text('{"Name": "Heads", "BIDSVersion": "1.9.0"}')


def decathlon(root):
    brain, liver = root / "Task01_BrainTumour", root / "Task03_Liver"
    for n in (1, 2, 3):
        contrasts = [k * head(n) for k in (1, 2, 3, 4)]
        nifti(brain / f"imagesTr/BRATS_00{n}.nii.gz", np.stack(contrasts, -1))
        nifti(brain / f"labelsTr/BRATS_00{n}.nii.gz", head(n) > 470)
        ct = np.random.default_rng(n).normal(60, 10, (40, 40, 20))
        labels = np.zeros(ct.shape)
        labels[4:36, 4:36, 2:18] = 1
        labels[8 + 2 * n : 14 + 2 * n, 10:16, 6:11] = 2
        nifti(liver / f"imagesTr/liver_{n}.nii.gz", np.where(labels == 0, -900, ct - 60 * (labels == 2)), (3, 3, 3))
        nifti(liver / f"labelsTr/liver_{n}.nii.gz", labels, (3, 3, 3))
    for folder, modality, labels in (
        (brain, {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"}, {"0": "background", "1": "tumour"}),
        (liver, {"0": "CT"}, {"0": "background", "1": "liver", "2": "cancer"}),
    ):
        names = sorted(path.name for path in (folder / "imagesTr").iterdir())
        training = [{"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"} for name in names]
        table = {"name": folder.name, "modality": modality, "labels": labels, "training": training, "test": []}
        (folder / "dataset.json").write_text(json.dumps(table | {"numTraining": len(names), "tensorImageSize": "4D"}))


def coltea(root):
    for n in (1, 2):
        patient = make_patient(n, size=(72, 56, 20), spacing=(5.0, 5.0, 8.0), phase="arterial")
        for phase, data in (
            ("ARTERIAL", patient.contrast),
            ("NATIVE", patient.noncontrast),
            ("VENOUS", patient.contrast),
        ):
            slices = np.round(data).clip(-1024, 3000).astype(np.int16).transpose(2, 1, 0)
            write_ct(root / f"Coltea-Lung-CT-100W/{n:04d}/{phase}/DICOM", slices + 1024, AXIAL)


def dicom_labels(root):
    """One square in the slices 1 and 2, as contours and as a segmentation."""
    folder = root / "patient"
    write_ct(folder / "ct", np.full((5, 12, 14), 1000))
    square = [(2.5, 3.5), (7.5, 3.5), (7.5, 8.5), (2.5, 8.5)]
    write_rtstruct(folder / "rtstruct.dcm", folder / "ct", {"liver": [(1, square), (2, square)]})
    liver = np.zeros((14, 12, 5), bool)
    liver[3:8, 4:9, 1:3] = True
    write_segmentation(folder / "seg.dcm", folder / "ct", {"liver": liver})


STAND_INS = {
    "SynthRAD2025": (synthrad, []),
    "BraTS 2023 and later": (brats, []),
    "IXI": (ixi, []),
    "BIDS data sets": (bids, []),
    "Medical Segmentation Decathlon": (decathlon, []),
    "Coltea-Lung-CT-100W": (coltea, []),
    "Labels from DICOM": (dicom_labels, []),
}


def test_every_recipe_has_a_stand_in():
    assert SECTIONS.keys() == STAND_INS.keys()


@pytest.mark.parametrize("name", STAND_INS)
def test_a_recipe_runs_as_it_is_written(name, tmp_path, monkeypatch):
    make, more = STAND_INS[name]
    make(tmp_path)
    monkeypatch.chdir(tmp_path)
    for kind, text in BLOCK.findall(SECTIONS[name]):
        if kind == "python":
            exec(compile(text, "recipe", "exec"), {})  # noqa: S102
            continue
        for line in text.splitlines():
            words = shlex.split(line)
            if words[0] != "medgen":
                subprocess.run(["bash", "-c", line], check=True)
                continue
            if words[1] == "train":
                words[3:3] = [*QUICK, *SMALL, *more]
            result = CliRunner().invoke(app, words[1:])
            assert result.exit_code == 0, f"{line}\n{result.output}\n{result.exception!r}"
    if name == "BraTS 2023 and later":
        split = json.loads((tmp_path / "run/split.json").read_text())
        assert {len(part) for part in split.values() if any("00000" in case for case in part)} & {2, 3}
    if name == "BIDS data sets":
        made = sorted(path.name for path in (tmp_path / "medgen_derivatives").rglob("*.nii.gz"))
        assert made[0] == "sub-01_ses-1_desc-synthetic_T2w.nii.gz" and len(made) == 3
    if name == "Labels from DICOM":
        one, other = (
            nib.load(tmp_path / f"{folder}/patient.nii.gz").get_fdata() for folder in ("labels", "labels_seg")
        )
        assert one.sum() == 50 and np.array_equal(one, other)
        return
    assert name == "Coltea-Lung-CT-100W" or load_settings(tmp_path / "run/config.yaml", []).data.root
