import base64
import re
from html.parser import HTMLParser

import nibabel as nib
import numpy as np
import pytest

from medgen.evaluation.evaluate import evaluate
from medgen.reports.evaluation import write_report

SHAPE = (20, 18, 16)
EVIL = "<script>alert(1)<&\"'"


class Page(HTMLParser):
    """The words a reader sees, the images, and every attribute that could reach for the network."""

    def __init__(self, text):
        super().__init__()
        self.words, self.images, self.links, self.scripts = [], [], [], 0
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.scripts += tag == "script"
        if tag == "img":
            self.images.append(attributes["src"])
        self.links += [v for k, v in attrs if k in ("href", "src", "action", "data", "srcset") and tag != "img"]

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def _write(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(data, np.diag([2.0, 2.0, 3.0, 1.0])), path)


def _cohort(root, errors, hu=True):
    """A case for each entry of ``errors``: {name: HU that the prediction is wrong by in the liver}."""
    for seed, (case, error) in enumerate(errors.items()):
        labels = np.zeros(SHAPE, np.uint8)
        labels[5:10, 5:10, 4:10] = 1
        truth = np.full(SHAPE, -1000.0 if hu else 0, np.float32)
        truth[3:17, 3:15, 2:14] = 40 + np.random.default_rng(seed).normal(0, 5, (14, 12, 12))
        _write(root / "target" / f"{case}.nii.gz", truth)
        _write(root / "source" / f"{case}.nii.gz", truth + np.float32(100) * labels)
        _write(root / "converted" / f"{case}.nii.gz", truth + np.float32(error) * labels)
        _write(root / "labels" / f"{case}.nii.gz", labels)
    (root / "labels.json").write_text('{"liver": 1}')
    return root


def _report(root, *, source=True, labels=True, data_range=None, **options):
    evaluation = evaluate(
        root / "target",
        root / "converted",
        root / "results",
        source=root / "source" if source else None,
        labels=root / "labels" if labels else None,
        data_range=data_range,
    )
    text = write_report(evaluation, root / "out" / "report.html", **options).read_text(encoding="utf-8")
    return text, Page(text)


def test_report_tells_numbers_regions_and_cases_worst_first(tmp_path):
    _, page = _report(_cohort(tmp_path, {"good": 5, "bad": 60, "fair": 20}), title="Demo", notes=["a note"])
    assert page.text.startswith("Demo") and "a note" in page.text and "3 cases measured" in page.text
    assert "closer to the truth than the unconverted ones." in page.text
    assert "28.3 HU in enhancing structures against 100.0 (28 % of it)" in page.text
    # liver: cases, source, converted, truth, signed error, error of a voxel for both, way to the truth
    assert re.search(r"liver 3 139\.8 68\.1 39\.8 \+28\.3 28\.3 100\.0 72 %", page.text)
    table = page.text[page.text.index("Cases, worst first") :]
    assert table.index("bad") < table.index("fair") < table.index("good")
    assert len(page.images) == 3 and "Worst case" in page.text and "Best case" in page.text


def test_report_stands_alone(tmp_path):
    text, page = _report(_cohort(tmp_path, {"a": 5}))
    assert not page.links and page.scripts == 1
    assert not re.search(r"https?://|//[a-z]+\.|@import|url\(|<link|<iframe", text)
    for image in page.images:
        head, data = image.split(",", 1)
        assert head == "data:image/jpeg;base64" and base64.b64decode(data)[:2] == b"\xff\xd8"


def test_text_from_files_and_users_is_escaped(tmp_path):
    root = _cohort(tmp_path, {EVIL: 5, "b": 5})
    (root / "labels.json").write_text('{"<b>liver</b>": 1}')
    (root / "converted" / "b.nii.gz").unlink()
    (root / "target" / "b.nii.gz").rename(root / "target" / "<i>lost.nii.gz")
    text, page = _report(root, title=EVIL, notes=[EVIL], warnings=[EVIL])
    assert page.scripts == 1 and "<script>alert" not in text and "<b>" not in text and "<i>" not in text
    assert page.text.count(EVIL) >= 5 and "<b>liver</b>" in page.text and "<i>lost" in page.text


def test_failures_and_warnings_are_shown(tmp_path):
    root = _cohort(tmp_path, {"a": 5, "b": 5})
    (root / "converted" / "b.nii.gz").rename(root / "converted" / "other.nii.gz")
    _, page = _report(root, warnings=["outside the training distribution: spacing"])
    assert "1 not measured" in page.text and "no prediction for the reference" in page.text
    assert "other.nii.gz has no reference" in page.text and "outside the training distribution" in page.text


@pytest.mark.parametrize(("source", "labels"), [(False, True), (True, False), (False, False)])
def test_report_without_source_or_labels(tmp_path, source, labels):
    _, page = _report(_cohort(tmp_path, {"a": 5, "b": 9}), source=source, labels=labels)
    assert len(page.images) == 2
    assert ("unconverted source" in page.text.replace("unconverted source to compare", "")) is source
    assert ("liver" in page.text) is labels


def test_a_conversion_that_makes_it_worse_is_called_so(tmp_path):
    _, page = _report(_cohort(tmp_path, {"a": 300}))
    assert "not closer to the truth than the unconverted ones" in page.text


def test_images_without_units_have_no_hu(tmp_path):
    _, page = _report(_cohort(tmp_path, {"a": 5}, hu=False), data_range=200)
    assert "HU" not in page.text and "Mean intensity by region" in page.text


def test_many_cases_picture_the_worst_the_median_and_the_best(tmp_path):
    errors = {f"case{index:02}": float(index + 1) for index in range(7)}
    text, page = _report(_cohort(tmp_path, errors), most_figures=4)
    shown = re.findall(r"<h3>(\w+)</h3>", text)
    assert shown == ["case06", "case05", "case03", "case00"] and len(page.images) == 4
    assert "Median case" in page.text and len(text) < 10e6


def test_identical_images_and_no_case_at_all(tmp_path):
    _, page = _report(_cohort(tmp_path / "same", {"a": 0}))
    assert "∞" in page.text
    root = _cohort(tmp_path / "none", {"a": 0})
    _write(root / "converted" / "a.nii.gz", np.zeros((3, 3, 3), np.float32))
    _, page = _report(root)
    assert "No case could be measured" in page.text and not page.images


def test_a_file_gone_since_the_evaluation_costs_only_its_picture(tmp_path):
    root = _cohort(tmp_path, {"a": 5, "b": 9})
    evaluation = evaluate(root / "target", root / "converted", root / "results")
    (root / "converted" / "a.nii.gz").unlink()
    page = Page(write_report(evaluation, tmp_path / "report.html").read_text(encoding="utf-8"))
    assert len(page.images) == 1 and "No picture:" in page.text
