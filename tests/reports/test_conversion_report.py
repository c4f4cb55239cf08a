import re

import nibabel as nib
import numpy as np
import pytest

from medgen.reports.conversion import conversion_report

EVIL = "<script>alert(1)</script>"
VIEWER = 9  # images of a case: three planes of input, output and difference


@pytest.fixture
def rows(tmp_path):
    data = np.full((20, 18, 16), -1000.0, np.float32)
    data[4:16, 4:14, 2:14] = 40
    affine = np.diag([2.0, 2.0, 3.0, 1.0])
    made = []
    for case in ("a", "b", "c"):
        paths = {role: tmp_path / f"{case}_{role}.nii.gz" for role in ("input", "output")}
        nib.save(nib.Nifti1Image(data + 100 * (data > 0), affine), paths["input"])
        nib.save(nib.Nifti1Image(data, affine), paths["output"])
        made.append({"case": case, **paths, "warnings": [], "seconds": 1.5, "error": None})
    return made


def _text(rows, tmp_path, **options):
    return conversion_report(rows, tmp_path / "report.html", **options).read_text(encoding="utf-8")


def test_warned_cases_come_first_and_in_red(rows, tmp_path):
    rows[2]["warnings"] = ["outside the training distribution: spacing 3 mm"]
    text = _text(rows, tmp_path, notes=["a note"], warnings=["a warning about all"])
    assert re.findall(r"<h3>(\w+)", text) == ["c", "a", "b"]
    assert text.index("outside the training distribution") < text.index("<table")
    assert re.search(r'class="bad">⚠ outside the training distribution: spacing 3 mm', text)
    assert "(1 of 3 cases: c)" in text and "a note" in text and "a warning about all" in text
    assert "There is no truth for comparison" in text
    assert text.count("data:image/jpeg;base64,") == 3 * VIEWER and text.count("(identical in input and output)") == 3
    assert not re.search(r"https?://|@import|<link", text)


def test_failed_and_unreadable_cases_say_why(rows, tmp_path):
    rows[0]["error"] = "a_input.nii.gz is truncated: copy it again"
    rows[1]["output"].unlink()
    text = _text(rows, tmp_path)
    assert "2 of 3 cases converted" in text and "1 failed" in text
    assert "Not converted: a_input.nii.gz is truncated" in text and "No picture:" in text
    assert text.count("data:image/jpeg;base64,") == VIEWER


def test_names_and_warnings_are_escaped(rows, tmp_path):
    rows[0] |= {"case": EVIL, "warnings": [EVIL]}
    rows[1] |= {"case": EVIL, "error": EVIL}
    text = _text(rows, tmp_path, title=EVIL)
    assert EVIL not in text and text.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 6


def test_pictures_are_capped_and_the_rest_is_counted(rows, tmp_path):
    text = _text(rows, tmp_path, most_figures=1)
    assert text.count("data:image/jpeg;base64,") == VIEWER and "2 more converted cases" in text


def test_no_rows_still_make_a_page(tmp_path):
    assert "0 of 0 cases converted" in _text([], tmp_path)


def test_verdicts_are_counted_and_the_worst_comes_first(rows, tmp_path):
    verdicts = {"a": "pass", "b": "review", "c": "fail"}
    for row in rows:
        row |= {"verdict": verdicts[row["case"]], "reasons": [] if row["case"] == "a" else ["9 ml are <b>enhanced</b>"]}
    text = _text(rows, tmp_path)
    assert re.findall(r"<h3>(\w+)", text) == ["c", "b", "a"]
    assert "1 pass, 1 review" in text and "1 fail" in text
    assert text.count("9 ml are &lt;b&gt;enhanced") == 2
    assert "Structure check" not in _text([row | {"verdict": None} for row in rows], tmp_path)
