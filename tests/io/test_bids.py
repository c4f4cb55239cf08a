"""BIDS data sets are translated into derivatives with the names of the standard."""

import json
import re

import nibabel as nib
import numpy as np
import pytest
from refusal import refused
from small import make_model, small_settings
from typer.testing import CliRunner

from medgen.checkpoint import save_model
from medgen.cli import app
from medgen.inference.inputs import find_scans
from medgen.io.bids import bids_images, derivative, is_bids

SIZE = (16, 16, 16)


def image(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    data = np.random.default_rng(seed).normal(0, 300, SIZE).astype(np.float32)
    nib.save(nib.Nifti1Image(data, np.diag([2.0, 2.0, 2.0, 1])), path)


@pytest.fixture
def dataset(tmp_path):
    root = tmp_path / "raw"
    for n, place in enumerate(
        ("sub-01/ses-1/anat/sub-01_ses-1", "sub-01/ses-2/anat/sub-01_ses-2", "sub-02/anat/sub-02")
    ):
        image(root / f"{place}_T1w.nii.gz", n)
        (root / f"{place}_T1w.json").write_text("{}")
        if n < 2:
            image(root / f"{place}_T2w.nii.gz", 10 + n)
    image(root / "derivatives/other/sub-01/anat/sub-01_desc-x_T1w.nii.gz")
    (root / "dataset_description.json").write_text(json.dumps({"Name": "Heads", "BIDSVersion": "1.8.0"}))
    (root / "participants.tsv").write_text("participant_id\n")
    return root


def model(folder, sources, targets):
    folder.mkdir()
    made = make_model(small_settings(data={"sources": sources, "targets": targets}, intensity={}))
    save_model(folder, made.generator, made.info)
    return folder


def translate(*arguments):
    return CliRunner().invoke(app, ["translate", *map(str, arguments), "--qa-limits", "none", "--no-report"])


def test_a_data_set_becomes_derivatives(dataset, tmp_path):
    folder, out = model(tmp_path / "m", ["t1W"], ["T2w"]), tmp_path / "derivatives/medgen"
    result = translate(folder, dataset, out)
    assert result.exit_code == 0, result.output
    names = sorted(path.relative_to(out).as_posix() for path in out.rglob("*.nii.gz"))
    assert names == [
        "sub-01/ses-1/anat/sub-01_ses-1_desc-synthetic_T2w.nii.gz",
        "sub-01/ses-2/anat/sub-01_ses-2_desc-synthetic_T2w.nii.gz",
        "sub-02/anat/sub-02_desc-synthetic_T2w.nii.gz",
    ]
    about = json.loads((out / "dataset_description.json").read_text())
    assert about["DatasetType"] == "derivative" and about["GeneratedBy"][0]["Name"] == "medgen"
    assert about["Name"] == "Synthetic images of Heads" and not is_bids(out)
    ignored = (out / ".bidsignore").read_text().split()
    beside = {path.name for path in out.iterdir() if path.is_file() and not path.name.startswith(".")}
    assert beside - {"dataset_description.json"} <= set(ignored)
    again = translate(folder, dataset, out)
    assert again.exit_code == 0 and "3 skipped" in again.output


def test_a_session_behind_a_link_is_read(dataset, tmp_path):
    (dataset / "sub-01/ses-2").rename(tmp_path / "elsewhere")
    (dataset / "sub-01/ses-2").symlink_to(tmp_path / "elsewhere")
    assert [image.name for image in bids_images(dataset, ["T2w"])] == ["sub-01_ses-1_T2w", "sub-01_ses-2_T2w"]


def test_odd_names_are_told_and_two_files_of_one_name_refused(dataset, caplog):
    for name in ("sub-P-002_T1w", "sub-02_T1w_defaced", "sub_02_T1w", "sub-02_part-phase_T1w"):
        image(dataset / "sub-02/anat" / f"{name}.nii.gz")
    image(dataset / "sub-02/anat/sub-02_T1w.nii")
    found = {scan.case: scan.fault for scan in find_scans(dataset, ["T1w"])}
    assert "one name" in found.pop("sub-02_T1w") and set(found.values()) == {None}
    assert all(name in caplog.text for name in ("sub-P-002_T1w", "sub-02_T1w_defaced", "part-phase"))


def test_contrasts_together_are_of_one_session(dataset, tmp_path):
    result = translate(model(tmp_path / "m", ["T1w", "T2w"], ["FLAIR", "a b"]), dataset, tmp_path / "out")
    assert result.exit_code == 2 and "sub-02_T1w has no T2w" in result.output
    names = {path.name for path in (tmp_path / "out").rglob("*.nii.gz")}
    assert names == {f"sub-01_ses-{n}_desc-synthetic_{target}.nii.gz" for n in (1, 2) for target in ("FLAIR", "ab")}


def test_another_contrast_is_taken_only_if_it_is_the_only_one(dataset):
    with refused("bids-contrast-missing", names=("source", "T1w, T2w")):
        bids_images(dataset, ["source"])
    for path in dataset.rglob("sub-*_T2w.nii.gz"):
        path.unlink()
    assert [found.name for found in bids_images(dataset, ["source"])] == [
        "sub-01_ses-1_T1w",
        "sub-01_ses-2_T1w",
        "sub-02_T1w",
    ]


def test_training_reads_the_same_layout(dataset):
    from medgen.data.cohort.layouts import Contrasts, case_folders

    found = case_folders(dataset, Contrasts(("T1w",), ("T2w",)))
    paired = [case.name for case in found.cases if case.source and case.target]
    assert paired == ["sub-01_ses-1_anat", "sub-01_ses-2_anat"]


def test_names_of_derivatives_are_those_of_the_standard(dataset):
    """The pattern of file names in BIDS: entities, then a suffix of letters and digits."""
    for found in bids_images(dataset, ["T1w"]):
        name = derivative(found.place, "t2 (fat-sat)").name
        assert re.fullmatch(r"sub-[A-Za-z0-9]+(_[a-z]+-[A-Za-z0-9]+)*_[A-Za-z0-9]+", name), name


def test_other_folders_are_no_data_sets(tmp_path):
    assert not is_bids(tmp_path)
    (tmp_path / "sub-01").mkdir()
    assert not is_bids(tmp_path)
    (tmp_path / "dataset_description.json").write_text('{"BIDSVersion": "1.9.0", "DatasetType": "derivative"}')
    assert not is_bids(tmp_path)


def test_segmentations_are_not_taken_for_the_one_contrast(tmp_path):
    root = tmp_path / "raw"
    image(root / "sub-01/anat/sub-01_dseg.nii.gz")
    with refused("bids-contrast-missing", names=("dseg",)):
        bids_images(root, ["source"])
    image(root / "sub-01/anat/sub-01_ct.nii.gz")
    (only,) = bids_images(root, ["source"])
    assert [file.name for file in only.files] == ["sub-01_ct.nii.gz"]


def test_a_translation_of_an_image_with_a_description_has_one(tmp_path):
    root = tmp_path / "raw"
    image(root / "sub-01/anat/sub-01_desc-preproc_T1w.nii.gz")
    (only,) = bids_images(root, ["T1w"])
    assert derivative(only.place, "T2w").as_posix() == "sub-01/anat/sub-01_desc-preprocSynthetic_T2w"


@pytest.mark.parametrize("options", [["--series", "1"], ["--rules", "rules.yaml"], ["--watch"]])
def test_options_that_choose_among_other_files_are_refused(dataset, tmp_path, options):
    """They would convert every volume of the data set, whatever its contrast."""
    (tmp_path / "rules.yaml").write_text("include: [{modality: CT}]")
    folder = tmp_path / "model"
    folder.mkdir()
    model = make_model(small_settings())
    save_model(folder, model.generator, model.info)
    options = [str(tmp_path / o) if o.endswith("yaml") else o for o in options]
    result = CliRunner().invoke(app, ["translate", str(folder), str(dataset), str(tmp_path / "out"), *options])
    assert result.exception.code in ("option-series-with-bids", "option-watch-with-bids")
    assert not (tmp_path / "out").exists()
