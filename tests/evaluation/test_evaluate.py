import csv
import json

import nibabel as nib
import numpy as np
import pytest
from evaluating import evaluate
from refusal import refused

from medgen.data.body_mask import body_mask
from medgen.evaluation.measure import is_enhancing
from medgen.evaluation.metrics.image_pair import measure
from medgen.evaluation.metrics.slice_continuity import relative_slice_jump

SHAPE = (20, 18, 16)
AFFINE = np.diag([2.0, 2.0, 3.0, 1.0])
LABELS = {"liver": 1, "lesion_hypovascular": 2, "aorta": 3}


def _write(path, data, affine=AFFINE):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(data, affine), path)


def _arrays(seed):
    """Tissue in air; the source has 100 HU more in the liver and 200 in the aorta, the prediction 10."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(SHAPE, np.uint8)
    labels[5:10, 5:10, 4:10], labels[11:13, 5:8, 4:10], labels[14:16, 5:8, 4:10] = 1, 2, 3
    truth = np.full(SHAPE, -1000.0, np.float32)
    truth[3:17, 3:15, 2:14] = 40 + rng.normal(0, 5, (14, 12, 12))
    source = truth + 100 * (labels == 1) + 200 * (labels == 3)
    prediction = truth + 10 * np.isin(labels, (1, 3)) - 3 * (labels == 2)
    return truth, source.astype(np.float32), prediction.astype(np.float32), labels


@pytest.fixture
def cohort(tmp_path):
    for seed, case in enumerate(("a", "b")):
        truth, source, prediction, labels = _arrays(seed)
        _write(tmp_path / "target" / f"{case}.nii.gz", truth)
        _write(tmp_path / "source" / f"{case}.nii.gz", source)
        _write(tmp_path / "converted" / f"{case}.nii.gz", prediction)
        _write(tmp_path / "labels" / f"{case}.nii.gz", labels)
    (tmp_path / "labels.json").write_text(json.dumps(LABELS))
    return tmp_path


def _run(cohort, **options):
    return evaluate(cohort / "target", cohort / "converted", cohort / "results", **options)


def _rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_every_number_of_a_case(cohort):
    evaluation = _run(cohort, source=cohort / "source", labels=cohort / "labels")
    assert not evaluation.failures and not evaluation.warnings
    rows = _rows(cohort / "results" / "cases.csv")
    assert list(rows[0])[:7] == ["case", "mae", "psnr", "ssim", "source_mae", "source_psnr", "source_ssim"]
    assert [row["case"] for row in rows] == ["a", "b"]
    truth, source, prediction, labels = _arrays(0)
    row = {name: float(value) for name, value in rows[0].items() if name not in ("case", "verdict", "reasons")}
    body = body_mask(truth)
    enhancing = np.isin(labels, (1, 3))
    for prefix, image in (("", prediction), ("source_", source)):
        error = np.abs(image - truth)
        square = np.mean((image - truth) ** 2)
        assert row[f"{prefix}mae"] == pytest.approx(error.mean(), rel=1e-5)
        assert row[f"{prefix}rmse"] == pytest.approx(square**0.5, rel=1e-5)
        assert row[f"{prefix}psnr"] == pytest.approx(10 * np.log10(4095**2 / square), rel=1e-5)
        assert row[f"{prefix}body_mae"] == pytest.approx(error[body].mean(), rel=1e-5)
        assert row[f"{prefix}enhancing_mae"] == pytest.approx(error[enhancing].mean(), rel=1e-5)
        assert row[f"{prefix}slice_jump"] == pytest.approx(relative_slice_jump(image, truth, body), rel=1e-5)
    assert row["ssim"] > row["source_ssim"] and row["body_ssim"] > row["source_body_ssim"]


def test_regions_and_the_correction_from_source_to_truth(cohort):
    evaluation = _run(cohort, source=cohort / "source", labels=cohort / "labels")
    rows = _rows(cohort / "results" / "regions.csv")
    fixed = ["case", "region", "voxels", "mean_prediction", "mean_reference", "mean_source"]
    assert list(rows[0])[:6] == fixed
    assert [row["region"] for row in rows if row["case"] == "a"] == ["body", *LABELS]
    truth, source, _, labels = _arrays(0)
    liver = next(row for row in rows if row["region"] == "liver")
    assert int(liver["voxels"]) == (labels == 1).sum()
    assert float(liver["mean_reference"]) == pytest.approx(truth[labels == 1].mean(), rel=1e-5)
    assert float(liver["mean_source"]) == pytest.approx(source[labels == 1].mean(), rel=1e-5)
    assert float(liver["error"]) == pytest.approx(10, rel=1e-4)
    regions = {row["region"]: row for row in evaluation.regions()}
    assert regions["liver"]["fraction"] == pytest.approx(0.9, rel=1e-4)
    assert regions["aorta"]["fraction"] == pytest.approx(0.95, rel=1e-4)
    assert regions["lesion_hypovascular"]["fraction"] is None  # the source is as dark as the truth there
    assert regions["lesion_hypovascular"]["abs_error"] == pytest.approx(3, rel=1e-4)
    assert regions["liver"]["cases"] == 2


def test_summary_is_strict_json_and_holds_statistics(cohort):
    _write(cohort / "converted" / "a.nii.gz", _arrays(0)[0])  # identical to the truth: PSNR is infinite
    _run(cohort, source=cohort / "source", labels=cohort / "labels")
    text = (cohort / "results" / "summary.json").read_text()
    summary = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert summary["number_of_cases"] == 2 and summary["data_range"] == 4095
    assert "generic" in summary["data_range_origin"]
    assert summary["settings"]["structures_that_take_up_contrast"] == ["liver", "aorta"]
    assert summary["cases"][0]["psnr"] is None and summary["metrics"]["psnr"]["n"] == 1
    rows = _rows(cohort / "results" / "cases.csv")
    assert rows[0]["psnr"] == "inf"
    errors = [float(row["mae"]) for row in rows]
    assert summary["metrics"]["mae"]["mean"] == pytest.approx(np.mean(errors))
    assert summary["metrics"]["mae"]["std"] == pytest.approx(np.std(errors, ddof=1))
    assert not [path for path in (cohort / "results").iterdir() if path.name.startswith(".")]


def test_without_source_and_labels_their_cells_are_empty(cohort):
    evaluation = _run(cohort)
    row = _rows(cohort / "results" / "cases.csv")[0]
    assert row["mae"] and row["body_ssim"]
    for column in ("source_mae", "source_ssim", "source_body_mae", "enhancing_mae", "source_enhancing_mae"):
        assert row[column] == ""
    regions = _rows(cohort / "results" / "regions.csv")
    assert [row["region"] for row in regions] == ["body", "body"] and regions[0]["mean_source"] == ""
    assert not evaluation.has_source and not evaluation.failures


def test_the_main_columns_count_inside_the_mask(cohort):
    truth, _, prediction, labels = _arrays(0)
    for case in ("a", "b"):
        _write(cohort / "mask" / f"{case}.nii.gz", (labels == 1).astype(np.uint8))
    evaluation = _run(cohort, mask=cohort / "mask")
    assert evaluation.cases[0].metrics["mae"] == pytest.approx(10, rel=1e-4)
    assert [row["region"] for row in evaluation.cases[0].regions] == ["mask", "body"]


def test_one_failing_case_is_reported_and_the_others_go_on(cohort):
    wrong = AFFINE.copy()
    wrong[0, 3] = 5
    _write(cohort / "converted" / "a.nii.gz", _arrays(0)[2], wrong)
    (cohort / "converted" / "extra.nii.gz").write_bytes((cohort / "converted" / "b.nii.gz").read_bytes())
    _write(cohort / "target" / "c.nii.gz", _arrays(2)[0])
    (cohort / "target" / "d.nii.gz").write_bytes(b"not a volume")
    (cohort / "converted" / "d.nii.gz").write_bytes(b"not a volume")
    seen = []
    evaluation = _run(cohort, progress=lambda *step: seen.append(step))
    assert [case.name for case in evaluation.cases] == ["b"]
    errors = {failure.case: failure.error for failure in evaluation.failures}
    assert set(errors) == {"a", "c", "d"}
    assert "(5, 0, 0)" in errors["a"] and "(0, 0, 0)" in errors["a"]  # both geometries
    assert "no prediction" in errors["c"] and "c.nii.gz" in errors["c"]
    assert "d.nii.gz" in errors["d"]
    assert any("extra.nii.gz" in warning for warning in evaluation.warnings)
    summary = json.loads((cohort / "results" / "summary.json").read_text())
    assert summary["number_of_failures"] == 3 and summary["failures"][0]["case"] == "a"
    assert seen == [(1, 4, "a"), (2, 4, "b"), (3, 4, "c"), (4, 4, "d")]


@pytest.mark.parametrize("role", ["source", "labels", "mask"])
def test_source_labels_and_mask_must_lie_on_the_grid_too(cohort, role):
    for case in ("a", "b"):
        _write(cohort / role / f"{case}.nii.gz", np.ones((4, 4, 4), np.uint8))
    evaluation = _run(cohort, **{role: cohort / role})
    assert not evaluation.cases and len(evaluation.failures) == 2
    assert "4 x 4 x 4" in evaluation.failures[0].error and "20 x 18 x 16" in evaluation.failures[0].error


def test_missing_source_and_labels_of_a_case_are_warned_of_and_a_missing_mask_fails(cohort):
    (cohort / "source" / "a.nii.gz").unlink()
    (cohort / "labels" / "a.nii.gz").unlink()
    evaluation = _run(cohort, source=cohort / "source", labels=cohort / "labels")
    assert len(evaluation.cases) == 2 and len(evaluation.warnings) == 2
    assert "source_mae" not in evaluation.cases[0].metrics
    _write(cohort / "mask" / "a.nii.gz", np.ones(SHAPE, np.uint8))
    _write(cohort / "mask" / "b.nii.gz", np.zeros(SHAPE, np.uint8))
    evaluation = _run(cohort, mask=cohort / "mask")
    assert ["empty" in failure.error for failure in evaluation.failures] == [True]
    (cohort / "mask" / "b.nii.gz").unlink()
    assert "no mask" in _run(cohort, mask=cohort / "mask").failures[0].error


def test_images_not_in_hu_need_a_data_range(cohort):
    for folder in ("target", "converted"):
        for case in ("a", "b"):
            data = np.random.default_rng(len(folder)).random(SHAPE, np.float32)
            _write(cohort / folder / f"{case}.nii.gz", data)
    with refused("metric-data-range-missing", names="--data-range"):
        _run(cohort)
    evaluation = _run(cohort, data_range=1.0)
    assert evaluation.data_range == 1 and evaluation.data_range_origin == "given by the user"
    assert "body_mae" not in evaluation.cases[0].metrics and evaluation.unit == ""
    with refused("metric-data-range-invalid"):
        _run(cohort, data_range=0)


def test_a_profile_of_hu_is_refused_for_other_images(tmp_path):
    for name, offset in (("truth", 0), ("made", 50)):
        (tmp_path / name).mkdir()
        data = np.random.default_rng(0).uniform(0, 500, (24, 24, 24)) + offset
        nib.save(nib.Nifti1Image(data.astype(np.float32), np.eye(4)), tmp_path / name / "a.nii.gz")
    with refused("metric-not-hu", names="synthrad2025"):
        evaluate(tmp_path / "truth", tmp_path / "made", tmp_path / "out", data_range=1000.0, profile="synthrad2025")


def test_a_prediction_that_is_not_in_hu_is_warned_of(cohort):
    _write(cohort / "converted" / "a.nii.gz", np.zeros(SHAPE, np.float32))
    warning = _run(cohort).warnings[0]
    assert warning.startswith("a: the prediction has no air") and "is in HU" in warning


@pytest.mark.parametrize("role, folder", [("reference", "target"), ("source", "source")])
def test_a_prediction_that_is_the_truth_or_the_input_itself_is_warned_of(cohort, role, folder):
    truth, source, _, _ = _arrays(0)
    _write(cohort / "converted/a.nii.gz", {"reference": truth, "source": source}[role])
    (found,) = [text for text in _run(cohort, source=cohort / "source").warnings if "in every voxel" in text]
    assert f"a: the prediction equals the {role} in every voxel" in found


def test_a_truth_that_is_the_input_itself_is_warned_of(cohort):
    _write(cohort / "target/a.nii.gz", _arrays(0)[1])
    (found,) = [text for text in _run(cohort, source=cohort / "source").warnings if "in every voxel" in text]
    assert "a: the reference equals the source" in found


def test_orientation_on_disk_does_not_matter(cohort):
    """The same volume stored with another axis order gives the same numbers, body mask and regions included."""
    plain = _run(cohort, source=cohort / "source", labels=cohort / "labels")
    for folder in ("target", "source", "converted", "labels"):
        for path in (cohort / folder).glob("*.nii.gz"):
            turned = nib.load(path).as_reoriented(np.array([[1, -1], [2, 1], [0, -1]]))
            nib.save(nib.Nifti1Image(np.asarray(turned.dataobj), turned.affine), path)
    turned = _run(cohort, source=cohort / "source", labels=cohort / "labels")
    for a, b in zip(plain.cases, turned.cases, strict=True):
        assert a.metrics == pytest.approx(b.metrics, rel=1e-5)


def test_single_files_are_a_pair_whatever_their_names(cohort):
    evaluation = evaluate(
        cohort / "target" / "a.nii.gz",
        cohort / "converted" / "b.nii.gz",
        cohort / "one",
        source=cohort / "source",
        labels=cohort / "labels" / "b.nii.gz",
    )
    assert [case.name for case in evaluation.cases] == ["a"]
    assert evaluation.cases[0].files["source"].name == "a.nii.gz"
    assert "liver" in [row["region"] for row in evaluation.cases[0].regions]  # labels.json one folder above
    with refused("evaluation-file-for-folder"):
        evaluate(cohort / "target", cohort / "converted" / "b.nii.gz", cohort / "one")


def test_results_may_not_lie_among_the_inputs(cohort):
    with refused("output-is-input", names=("--out", "--reference")):
        evaluate(cohort / "target", cohort / "converted", cohort / "target")
    with refused("metric-tolerance-range", names="--tolerance"):
        _run(cohort, tolerance_mm=-1)
    with refused("file-missing", names=("--source", "nowhere")):
        _run(cohort, source=cohort / "nowhere")


def test_labels_without_a_table_of_names_are_warned_of(cohort):
    (cohort / "labels.json").unlink()
    found = _run(cohort, labels=cohort / "labels").warnings
    assert len(found) == 1 and "labels.json" in found[0] and "neither organs nor lesions" in found[0]


def test_label_values_without_a_name_are_numbered(cohort):
    (cohort / "labels.json").unlink()
    evaluation = _run(cohort, labels=cohort / "labels")
    assert [row["region"] for row in evaluation.cases[0].regions] == ["body", "label_1", "label_2", "label_3"]


@pytest.mark.parametrize(
    "text, code",
    [
        ("{", "json-unreadable"),
        ("[1]", "labels-table-type"),
        ('{"liver": "1"}', "labels-table-value"),
        ('{"liver": true}', "labels-table-type"),
        ('{"liver": 1, "spleen": 1}', "labels-table-value-twice"),
    ],
)
def test_a_broken_labels_json_is_refused(cohort, text, code):
    (cohort / "labels.json").write_text(text)
    with refused(code, names="labels.json"):
        _run(cohort, labels=cohort / "labels")


def test_labels_that_are_not_whole_numbers_fail_that_case(cohort):
    _write(cohort / "labels" / "a.nii.gz", np.full(SHAPE, 0.5, np.float32))
    evaluation = _run(cohort, labels=cohort / "labels")
    assert [case.name for case in evaluation.cases] == ["b"]
    assert "labels/a.nii.gz" in evaluation.failures[0].error


def test_paths_that_cannot_work_are_refused(cohort):
    with refused("file-missing"):
        evaluate(cohort / "nowhere", cohort / "converted", cohort / "results")
    (cohort / "empty").mkdir()
    with refused("folder-no-volumes"):
        evaluate(cohort / "target", cohort / "empty", cohort / "results")
    (cohort / "other").mkdir()
    (cohort / "converted" / "a.nii.gz").rename(cohort / "other" / "x.nii.gz")
    with refused("folder-names-unmatched"):
        evaluate(cohort / "target", cohort / "other", cohort / "results")
    (cohort / "file").write_text("")
    with refused("folder-not-creatable"):
        evaluate(cohort / "target", cohort / "converted", cohort / "file" / "results")


def test_intervals_agreement_and_profile_are_in_the_summary(cohort):
    _run(cohort, labels=cohort / "labels", profile="synthrad2023", patient_pattern="[ab]")
    summary = json.loads((cohort / "results" / "summary.json").read_text())
    low, high = summary["metrics"]["mae"]["mean_interval"]
    values = [case["mae"] for case in summary["cases"]]
    assert min(values) <= low <= summary["metrics"]["mae"]["mean"] <= high <= max(values)
    errors = [case["regions"][1]["error"] for case in summary["cases"]]
    liver = summary["agreement"]["liver"]
    assert liver["bias"] == pytest.approx(np.mean(errors)) and liver["sd"] == pytest.approx(np.std(errors, ddof=1))
    assert [point["difference"] for point in liver["points"]] == pytest.approx(errors)
    row = _rows(cohort / "results" / "cases.csv")[0]
    truth, _, prediction, _ = _arrays(0)
    expected = measure(truth, prediction, body_mask(truth), profile="synthrad2023")["synthrad2023_mae"]
    assert float(row["synthrad2023_mae"]) == pytest.approx(expected, rel=1e-6)
    assert "-1024" in summary["settings"]["profile"]
    regions = {row["region"]: row for row in _rows(cohort / "results" / "regions.csv") if row["case"] == "a"}
    for name in ("mae", "rmse", "psnr", "ssim", "ncc", "gradient_error"):
        assert row[name] != row[f"body_{name}"] == regions["body"][name] and regions["liver"][name], name
    with refused("metric-profile-unknown", names="synthrad2023"):
        _run(cohort, profile="synthrad")


def test_several_cases_of_a_patient_count_as_one(cohort):
    evaluation = _run(cohort, patient_pattern="[a-z]")
    assert [case.patient for case in evaluation.cases] == ["a", "b"]
    for case in ("a", "b"):
        for folder in ("target", "converted"):
            (cohort / folder / f"{case}.nii.gz").rename(cohort / folder / f"p1_{case}.nii.gz")
    evaluation = _run(cohort, patient_pattern="^(p[0-9])_")
    assert {case.patient for case in evaluation.cases} == {"p1"}
    assert evaluation.statistics()["mae"].mean_interval is None  # one patient shows no variation between patients


def test_segmentations_of_the_predictions_are_scored(cohort):
    for seed, case in enumerate(("a", "b")):
        labels = _arrays(seed)[3].copy()
        labels[labels == 2] = 0
        _write(cohort / "found" / f"{case}.nii.gz", labels)
    evaluation = _run(cohort, labels=cohort / "labels", prediction_labels=cohort / "found", tolerance_mm=1.0)
    rows = _rows(cohort / "results" / "segmentation.csv")
    assert [(row["case"], row["label"]) for row in rows[:3]] == [
        ("a", "liver"),
        ("a", "lesion_hypovascular"),
        ("a", "aorta"),
    ]
    assert [float(row["dice"]) for row in rows[:3]] == [1, 0, 1]
    section = json.loads((cohort / "results" / "summary.json").read_text())["segmentation"]
    assert section["tolerance_mm"] == 1 and section["labels"]["liver"]["dice"]["mean"] == 1
    assert section["labels"]["lesion_hypovascular"]["hd95"]["mean"] is None  # infinite in both
    assert not evaluation.failures


def test_without_truth_regions_and_smoothness_beside_the_source(cohort):
    evaluation = evaluate(
        None, cohort / "converted", cohort / "results", source=cohort / "source", labels=cohort / "labels"
    )
    assert not evaluation.failures and evaluation.unit == "HU"
    _, source, prediction, labels = _arrays(0)
    row = next(row for row in evaluation.cases[0].regions if row["region"] == "aorta")
    assert row["mean_prediction"] == pytest.approx(prediction[labels == 3].mean())
    assert row["mean_source"] == pytest.approx(source[labels == 3].mean()) and "error" not in row
    expected = relative_slice_jump(prediction, source, body_mask(source))
    assert evaluation.cases[0].metrics == {"slice_jump": pytest.approx(expected, rel=1e-3)}
    assert json.loads((cohort / "results" / "summary.json").read_text())["regions"]["aorta"]["mean_reference"] is None
    with refused("evaluation-nothing-to-compare"):
        evaluate(None, cohort / "converted", cohort / "results")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("aorta", True),
        ("inferior_vena_cava", True),
        ("hepatic vessels", True),
        ("kidney_left", True),
        ("kidney_cyst_left", False),
        ("lesion_hyper", True),
        ("lesion_hypo", False),
        ("bone", False),
        ("arteries", True),
        ("collecting_system", True),
        ("adrenal_glands", False),
        ("Liver", True),
    ],
)
def test_structures_that_take_up_contrast(name, expected):
    assert is_enhancing(name) is expected


def test_the_model_is_named_and_its_training_cases_warned_of(cohort):
    model = {"sha256": "ab", "step": 3, "training_data": {"training": ["a"], "validation": []}}
    (cohort / "converted" / "manifest.json").write_text(json.dumps({"model": model, "cases": {}}))
    evaluation = _run(cohort)
    seen, how = evaluation.warnings
    assert "1 of 2 cases (a) were used to train or select the model" in seen and "by name only" in how
    summary = json.loads((cohort / "results" / "summary.json").read_text())
    assert summary["provenance"]["model"]["step"] == "3"


def test_every_case_with_a_source_gets_a_verdict(cohort):
    flipped = _arrays(1)[2][::-1].copy()
    _write(cohort / "converted" / "b.nii.gz", flipped)
    evaluation = _run(cohort, source=cohort / "source", labels=cohort / "labels")
    rows = {row["case"]: row for row in _rows(cohort / "results" / "cases.csv")}
    assert rows["b"]["verdict"] == "fail" and "flipped left-right" in rows["b"]["reasons"]
    section = json.loads((cohort / "results" / "summary.json").read_text())["structure"]
    assert sum(section["counts"].values()) == 2 and section["counts"]["fail"] >= 1
    assert section["thresholds"]["edge_correlation"] == 0.5 and "organ_ranges" not in section["thresholds"]
    assert section["cases"][1]["values"]["flip_gain_left-right"] > 0 and not evaluation.failures
    _run(cohort)
    assert "verdict" not in _rows(cohort / "results" / "cases.csv")[0]
    with refused("evaluation-source-needed", names="--source"):
        _run(cohort, lesions=cohort / "labels")


def test_lesion_masks_are_cases_files_like_others(cohort):
    _write(cohort / "lesions" / "a.nii.gz", (_arrays(0)[3] == 2).astype(np.uint8))
    evaluation = _run(cohort, source=cohort / "source", lesions=cohort / "lesions")
    assert [w for w in evaluation.warnings if "no lesions file" in w] == [
        f"b: no lesions file for this case in {cohort / 'lesions'}"
    ]
    values = [case.structure["values"] for case in evaluation.cases]
    assert "lesions" in values[0] and "lesions" not in values[1]


@pytest.mark.parametrize("role", ["lesions", "mask"])
def test_a_probability_map_is_no_mask(cohort, role):
    """As lesions, it would be one that fills the volume, and no lesion could be lost."""
    inside = (_arrays(0)[3] == 2).astype(np.float32)
    for name in ("a", "b"):
        _write(cohort / role / f"{name}.nii.gz", inside * 0.004)  # one value is a mask, whatever it is
    assert not _run(cohort, source=cohort / "source", **{role: cohort / role}).failures
    _write(cohort / role / "a.nii.gz", np.clip(inside, 1e-4, 0.97) + 0.01 * inside)
    evaluation = _run(cohort, source=cohort / "source", **{role: cohort / role})
    assert [failure.case for failure in evaluation.failures] == ["a"]
    assert "probability map" in evaluation.failures[0].error


def test_segmentations_have_the_challenges_scores_beside_ours(cohort):
    found = _run(cohort, labels=cohort / "labels", prediction_labels=cohort / "labels", profile="synthrad2025")
    metrics = found.cases[0].metrics
    assert metrics["synthrad2025_dice"] == 1 and metrics["synthrad2025_hd95"] == 0
