import base64
import json
import re
import shutil
from html.parser import HTMLParser

import nibabel as nib
import numpy as np
import pytest
from evaluating import evaluate
from refusal import refused

from medgen.reports.evaluation import write_report
from medgen.reports.results import read_systems

SHAPE = (20, 18, 16)
VIEWER = 12  # images of a case: three planes of input, output, truth and difference
EVIL = "<script>alert(1)<&\"'"


class Page(HTMLParser):
    """Visible text, images, and every attribute that could load from the network."""

    def __init__(self, text):
        super().__init__()
        self.words, self.images, self.links, self.scripts, self.hidden = [], [], [], 0, False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.scripts += tag == "script" and attributes.get("type") is None
        self.hidden = tag in ("script", "style")
        if tag == "img":
            self.images.append(attributes["src"])
        self.links += [v for k, v in attrs if k in ("href", "src", "action", "data", "srcset") and tag != "img"]

    def handle_endtag(self, tag):
        self.hidden = False

    def handle_data(self, data):
        if not self.hidden:
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def _write(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(data, np.diag([2.0, 2.0, 3.0, 1.0])), path)


def _cohort(root, errors, hu=True):
    """Write one case per entry of ``errors``: {name: error of the prediction in the liver in HU}."""
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
    evaluate(
        root / "target",
        root / "converted",
        root / "results",
        source=root / "source" if source else None,
        labels=root / "labels" if labels else None,
        data_range=data_range,
    )
    return _page([root / "results"], root / "out" / "report.html", **options)


def _page(folders, out, **options):
    text = write_report(folders, out, **{"pdf": False, **options}).read_text(encoding="utf-8")
    return text, Page(text)


def test_report_shows_metrics_regions_and_cases_worst_first(tmp_path):
    _, page = _report(_cohort(tmp_path, {"good": 5, "bad": 60, "fair": 20}), title="Demo", notes=["a note"])
    assert page.text.startswith("Demo") and "a note" in page.text and "3 cases evaluated" in page.text
    assert "closer to the truth than the unconverted ones." in page.text
    assert "28.3 HU in enhancing structures versus 100.0 (28 % of it)" in page.text
    # liver: cases, source, truth, converted, signed error, error of a voxel, correction achieved, source's error
    assert re.search(r"liver 3 139\.8 39\.8 68\.1 \+28\.3 28\.3 72 % 100\.0", page.text)
    table = page.text[page.text.index("Cases, worst first") :]
    assert table.index("bad") < table.index("fair") < table.index("good")
    assert len(page.images) == 3 * VIEWER and "Worst case" in page.text and "Best case" in page.text


def test_report_is_self_contained(tmp_path):
    text, page = _report(_cohort(tmp_path, {"a": 5}))
    assert page.scripts == 1 and len(page.links) == 3
    assert all(re.match(r"data:(text/csv|application/json);base64,", link) for link in page.links)
    assert not re.search(r"https?://|//[a-z]+\.|@import|url\((?!#)|<link|<iframe", text)
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
    assert "1 not evaluated" in page.text and "has no prediction" in page.text
    assert "other.nii.gz has no reference" in page.text and "outside the training distribution" in page.text


@pytest.mark.parametrize(("source", "labels"), [(False, True), (True, False), (False, False)])
def test_report_without_source_or_labels(tmp_path, source, labels):
    _, page = _report(_cohort(tmp_path, {"a": 5, "b": 9}), source=source, labels=labels)
    assert len(page.images) == 2 * (VIEWER if source else VIEWER - 3)
    assert ("unconverted source" in page.text.replace("no unconverted source for comparison", "")) is source
    assert bool(re.search(r"liver \d", page.text)) is labels


def test_a_conversion_that_increases_the_error_is_reported(tmp_path):
    _, page = _report(_cohort(tmp_path, {"a": 300}))
    assert "not closer to the truth than the unconverted ones" in page.text


def test_images_without_units_have_no_hu(tmp_path):
    _, page = _report(_cohort(tmp_path, {"a": 5}, hu=False), data_range=200)
    assert "HU" not in page.text and "Mean intensity by region" in page.text


def test_many_cases_picture_the_worst_the_median_and_the_best(tmp_path):
    errors = {f"case{index:02}": float(index + 1) for index in range(7)}
    text, page = _report(_cohort(tmp_path, errors), most_figures=4)
    shown = re.findall(r"<h3>(?:Worst case: )?(\w+)", text)
    assert shown == ["case06", "case05", "case03", "case00"] and len(page.images) == 4 * VIEWER
    assert "Median case" in page.text and len(text) < 10e6


def test_identical_images_and_no_case_at_all(tmp_path):
    _, page = _report(_cohort(tmp_path / "same", {"a": 0, "b": 200}))
    psnr = r"PSNR in the body \(dB\) (\S+), 1 of 2 infinite – (\S+) \[.*?\] \S+ 1 of 2"
    assert re.search(psnr, page.text) and "Infinite: images identical to the truth" in page.text
    root = _cohort(tmp_path / "none", {"a": 0})
    _write(root / "converted" / "a.nii.gz", np.zeros((3, 3, 3), np.float32))
    _, page = _report(root)
    assert "No case could be evaluated" in page.text and not page.images


def test_a_file_deleted_after_the_evaluation_loses_only_its_picture(tmp_path):
    root = _cohort(tmp_path, {"a": 5, "b": 9})
    evaluate(root / "target", root / "converted", root / "results")
    (root / "converted" / "a.nii.gz").unlink()
    _, page = _page([root / "results"], tmp_path / "report.html")
    assert len(page.images) == VIEWER - 3 and "No picture:" in page.text


def test_every_section_of_a_summary_has_its_place(results, tmp_path):
    text, page = _page([results], tmp_path / "report.html")
    assert "1 pass" in page.text and "0 review" in page.text and "1 fail" in page.text
    assert "model: name demo" in page.text and "model: weights abababababab…" in page.text
    assert "model weights " + "ab" * 32 in page.text and "conversion: to non-contrast CT" in page.text
    assert re.search(r"aorta \+12\.5 \[11\.0,\s14\.0\] 2\.0", page.text)
    assert "bias +12.5" in page.text and text.count("<circle") == 2
    assert re.search(r"liver 0\.912 \[0\.900,\s0\.930\] 4\.3 0\.81", page.text)
    assert "Fréchet radiomics distance 3.418 ± 0.012 radiomics none 2.5 mm 64 samples, 2 volumes 32" in page.text
    assert "Flagged" in page.text and "p < 0.001" in page.text and "patient_000 train_007 2.5" in page.text
    assert "real → synthetic liver 0.870 [0.800, 0.900] 6" in page.text
    assert len(re.findall(r"structure check: edge correlation 0\.\d", page.text)) == 1
    assert len(re.findall(r"edge correlation", page.text)) == 1, "each limit once"
    assert page.text.index("patient_001 fail lesion lost. liver too bright. all is odd. 0.61") < page.text.index(
        "patient_000 pass – 0.91"
    )
    assert "9.083e" not in text and re.search(r"all is odd\. 0\.61 0\.0 0\.0", page.text), "of a HU scale in %, of mm"


def test_the_first_page_shows_the_worst_case_with_its_reasons_and_their_places(results, tmp_path):
    """patient_000 has the smaller error, but the verdict decides: failed cases come first."""
    summary = json.loads((results / "summary.json").read_text())
    changed = tmp_path / "changed"
    shutil.copytree(results, changed)
    summary["structure"]["cases"][0] |= {"status": "fail", "reasons": ["flipped."]}
    summary["structure"]["cases"][1] |= {"status": "review"}
    (changed / "summary.json").write_text(json.dumps(summary))
    _, page = _page([changed], tmp_path / "other.html")
    assert page.text.index("Worst case: patient_000 fail") < page.text.index("Main metrics")
    cases = page.text[page.text.index("Cases, worst first") :]
    assert cases.index("patient_000 fail") < cases.index("patient_001 review")
    text, page = _page([results], tmp_path / "report.html")
    first = page.text[: page.text.index("Main metrics")]
    assert re.search(
        r"Worst case: patient_001 fail .* 1 fail : lesion lost\. show 2 fail : liver too bright\. show", first
    )
    assert re.search(r"– review : all is odd\. \(no single location\)", first)
    assert re.search(r"lesion lost\. .* input [12 ]+output [12 ]+truth [12 ]+output − truth", first)
    assert text.count('class="mark"') == 2 * 4 * 3  # two findings in four columns of three planes


def test_each_metric_has_an_explanation(results, tmp_path):
    _, page = _page([results], tmp_path / "report.html", most_figures=0)
    for words in (
        "MAE : mean absolute voxel error",
        "PSNR : 10 log",
        "SSIM : similarity of local mean",
        "Slice jump : between-slice over within-slice change",
    ):
        assert page.text.count(words) == 1, words
    for words in (
        "NCC : correlation",
        "Gradient error : mean",
        "scale drift : change of the HU scale",
        "Dice : overlap",
    ):
        assert words in page.text, words


def test_systems_are_shown_side_by_side(two_results, tmp_path):
    row = {"metric": "body_mae", "a": "alpha", "b": EVIL, "n": 2, "mean_difference": -3.26, "interval": [-4, -2]}
    row |= {"p": 0.0001, "p_holm": 0.02, "effect": -1.0, "wins": 2, "ties": 0, "losses": 0}
    text, page = _page(two_results, tmp_path / "report.html", comparisons=[row], most_figures=1)
    assert "alpha, mean" in page.text and "beta, mean" in page.text
    assert "MAE in the body (HU) alpha " + EVIL + " 2 −3.3 [−4.0, −2.0] < 0.001 0.020 −1.00 2 / 0 / 0" in page.text
    assert len([image for image in page.images if image]) == 18 + 2 * 6  # a viewer of six columns; two closest pairs
    assert "alpha − truth" in page.text and "beta − truth" in page.text and "different cases" not in page.text
    assert EVIL not in text


def test_systems_that_cannot_be_compared_are_reported(two_results, tmp_path):
    changed = tmp_path / "changed"
    shutil.copytree(two_results[1], changed)
    summary = json.loads((changed / "summary.json").read_text())
    summary["cases"].pop()
    summary |= {"data_range": 2000, "settings": summary["settings"] | {"reference": "/elsewhere"}}
    (changed / "summary.json").write_text(json.dumps(summary))
    _, page = _page([two_results[0], changed], tmp_path / "report.html", most_figures=0)
    assert "different cases (alpha 2, beta 1)" in page.text
    assert "different data range (alpha 4095.0, beta 2000)" in page.text
    assert "is in different folders" not in page.text  # a copy: the files are the same, by their hashes


def test_files_that_changed_after_the_evaluation_are_told(tmp_path):
    root = _cohort(tmp_path, {"a": 5, "b": 9})
    assert "changed after" not in _report(root, most_figures=0)[1].text
    shutil.copy(root / "target/a.nii.gz", root / "converted")
    _, page = _page([root / "results"], tmp_path / "b.html", most_figures=0)
    assert "converted: 1 files, such as" in page.text and "were changed after the evaluation" in page.text


@pytest.mark.parametrize(
    ("folders", "names", "code", "file"),
    [
        ([], None, "report-no-results", ()),
        (["none"], None, "report-results-unreadable", "none/summary.json"),
        (["broken"], None, "json-unreadable", "broken/summary.json"),
        (["other"], None, "report-not-summary", "other/summary.json"),
        (["bare"], None, "report-table-unreadable", "bare/cases.csv"),
        (["good", "good"], ["a", "b"], "report-folder-twice", ()),
        (["good", "copy"], ["a", "a"], "report-names-not-unique", "a, a"),
    ],
)
def test_folders_without_results_are_refused(results, tmp_path, folders, names, code, file):
    for name, content in (("broken", "{"), ("other", "[]"), ("bare", '{"cases": []}')):
        (tmp_path / name).mkdir()
        (tmp_path / name / "summary.json").write_text(content)
    (tmp_path / "good").symlink_to(results)
    shutil.copytree(results, tmp_path / "copy")
    with refused(code, names=file):
        write_report([tmp_path / name for name in folders], tmp_path / "report.html", names=names)
    assert not (tmp_path / "report.html").exists()


def test_without_truth_the_page_shows_what_changed(tmp_path):
    root = _cohort(tmp_path, {"a": 5})
    evaluate(None, root / "converted", root / "results", source=root / "source", labels=root / "labels")
    _, page = _page([root / "results"], tmp_path / "report.html")
    assert "There is no truth for comparison" in page.text and "output − input" in page.text
    assert re.search(r"region cases source converted body 1 .* liver 1 139\.\d 44\.\d", page.text)
    assert len(page.images) == VIEWER - 3 and "correction achieved" not in page.text


def test_challenge_metrics_carry_the_challenges_name(tmp_path):
    root = _cohort(tmp_path, {"a": 5})
    evaluate(root / "target", root / "converted", root / "results", profile="synthrad2023")
    _, page = _page([root / "results"], tmp_path / "report.html", most_figures=0)
    assert "MAE by synthrad2023 (HU)" in page.text and "PSNR by synthrad2023 (dB)" in page.text
    assert "Gradient error in the body (HU/mm)" in page.text and "NCC in the body" in page.text


def test_names_that_look_like_formulas_are_text_in_the_tables_and_unchanged_in_the_report(tmp_path):
    """Also for a name that is not UTF-8: the report must find its numbers in the table."""
    names = ("=1+1", "@SUM(A1)", "+1", "-2", "b\udcff")
    root = _cohort(tmp_path, dict.fromkeys(names, 5))
    (root / "labels.json").write_text('{"-liver": 1}')
    evaluate(root / "target", root / "converted", root / "results", source=root / "source", labels=root / "labels")
    for name in ("cases.csv", "regions.csv"):
        cells = [line.split(",")[:2] for line in (root / "results" / name).read_text().splitlines()]
        assert not [cell for line in cells for cell in line if cell.startswith(("=", "+", "-", "@"))]
    (system,) = read_systems([root / "results"])
    assert {case.name for case in system.cases} == set(names) and all(case.metrics["mae"] > 0 for case in system.cases)
