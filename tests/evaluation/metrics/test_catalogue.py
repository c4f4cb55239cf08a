"""A metric is declared once: the example of CONTRIBUTING.md appears in every table without another change."""

import csv
import json
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from evaluating import evaluate

from medgen.evaluation.console import console_lines
from medgen.evaluation.metrics import catalogue
from medgen.evaluation.metrics.image_pair import metrics_by_label, metrics_in_mask
from medgen.evaluation.metrics.metric import Metric, Pair
from medgen.reports.evaluation import write_report

EXAMPLE = re.search(
    r"```python\n(LARGE_ERRORS = .*?)```", (Path(__file__).parents[3] / "CONTRIBUTING.md").read_text(), re.S
)
SHAPE = (18, 17, 16)


@pytest.fixture
def declared(monkeypatch):
    """Register the metric of the example during a test."""
    scope = vars(catalogue).copy()
    exec(EXAMPLE[1], scope)
    monkeypatch.setattr(catalogue, "METRICS", (*catalogue.METRICS, scope["LARGE_ERRORS"]))


def cohort(root):
    """Tissue of 40 HU in air with a liver, converted 80 HU too bright in half of the liver, source in all of it."""
    labels = np.zeros(SHAPE, np.uint8)
    labels[5:9, 5:9, 4:12] = 1
    truth = np.full(SHAPE, -1000, np.float32)
    truth[2:16, 2:15, 2:14] = 40
    images = {"target": truth, "source": truth + 80 * labels, "labels": labels, "made": truth.copy()}
    images["made"][5:7] += 80 * labels[5:7]
    for role, data in images.items():
        (root / role).mkdir()
        nib.save(nib.Nifti1Image(data, np.eye(4)), root / role / "a.nii.gz")
    (root / "labels.json").write_text(json.dumps({"liver": 1}))
    return {role: root / role for role in ("source", "labels")}


def test_a_declaration_is_all_that_a_new_metric_takes(declared, tmp_path):
    found = evaluate(*(tmp_path / role for role in ("target", "made", "out")), **cohort(tmp_path))
    rows = {name: list(csv.DictReader(open(tmp_path / "out" / name))) for name in ("cases.csv", "regions.csv")}
    case, liver = rows["cases.csv"][0], next(row for row in rows["regions.csv"] if row["region"] == "liver")
    assert float(case["large_errors"]) == pytest.approx(64 / np.prod(SHAPE), rel=1e-6)
    assert float(case["source_body_large_errors"]) == pytest.approx(2 * float(case["body_large_errors"]))
    assert (float(liver["large_errors"]), float(liver["source_large_errors"])) == (0.5, 1.0)
    assert any(line.startswith("large_errors ") and "unconverted source" in line for line in console_lines(found))
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert summary["regions"]["liver"]["large_errors"] == 0.5 and summary["metrics"]["body_large_errors"]["n"] == 1
    page = write_report([tmp_path / "out"], tmp_path / "r.html", pdf=False, most_figures=0).read_text()
    assert "Errors above 50 in the body" in page and "part of the voxels with an absolute error above 50" in page


def test_a_metric_without_a_label_map_function_is_measured_in_each_mask(monkeypatch):
    def largest(pair, mask):
        return float(np.abs(pair.prediction - pair.reference)[... if mask is None else mask].max())

    nothing = Metric("nothing", "Nothing", "", 1, "lower", "", within=lambda pair, mask: None)
    metrics = (Metric("largest", "Largest error", "*", 1, "lower", "", within=largest), nothing)
    monkeypatch.setattr(catalogue, "METRICS", metrics)
    labels = np.repeat(np.array([0, 2, 7], np.uint8), 9).reshape(3, 3, 3)
    pair = Pair(np.zeros((3, 3, 3)), np.arange(27.0).reshape(3, 3, 3))
    assert metrics_by_label(pair, labels) == {2: {"largest": 17.0}, 7: {"largest": 26.0}}
    assert metrics_in_mask(pair) == {"largest": 26.0}


def test_every_column_has_one_metric_and_every_metric_its_explanation():
    columns = [of.column for of in catalogue.METRICS]
    assert len(columns) == len(set(columns)) and all(of.about for of in catalogue.METRICS if of.better)
    for name in ("enhancing_mae", "body_ms_ssim", "mask_psnr", "slice_jump", "synthrad2025_hd95"):
        assert name.endswith(catalogue.find(name)[0].column)
    assert catalogue.find("volume_error")[0].label == "volume error" and catalogue.find("synthrad2024_mae") is None
