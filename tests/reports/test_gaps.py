"""A part that cannot be shown becomes one line with section, case and reason; the rest of the report stays."""

import json
import logging
import sys
from pathlib import Path

import numpy as np
import pytest
from evaluating import evaluate

from medgen.errors import InputError, reason
from medgen.reports import augmentation, case_items, conversion, evaluation
from medgen.reports.augmentation import augmentation_report
from medgen.reports.conversion import conversion_report
from medgen.reports.evaluation import SECTIONS, Section, write_report
from medgen.reports.images import stacks

sys.path.insert(0, str(Path(__file__).parent))
from odd import HUGE, VOLUMES, write  # noqa: E402


@pytest.fixture(autouse=True)
def few_slices(monkeypatch):
    """Limit pictures to a few slices; the tests only need some."""
    monkeypatch.setattr(stacks, "MOST", {"axial": 8, "coronal": 4, "sagittal": 4})


def broken(*_, **__):
    raise ZeroDivisionError("float <division> by zero")


def refused(*_, **__):
    raise InputError("file-missing", "/data/<a>.nii.gz is gone")


def report(folders, tmp_path, **options):
    page = write_report(folders, tmp_path / "report.html", **{"pdf": False, "most_figures": 0, **options})
    return page.read_text(encoding="utf-8")


@pytest.mark.parametrize("key", SECTIONS)
def test_a_failing_section_becomes_one_line_and_the_others_stay(results, tmp_path, monkeypatch, caplog, key):
    section = SECTIONS[key]
    monkeypatch.setitem(SECTIONS, key, Section(section.title, broken, section.empty))
    with caplog.at_level(logging.WARNING):
        text = report([results], tmp_path)
    line = f"{section.title}: cannot be shown: ZeroDivisionError in test_gaps.py"
    assert text.count(line) == 1 and "float &lt;division&gt; by zero" in text and line in caplog.text
    headings = [name for name in ("Main metrics", "Structure and safety", "Cases, worst first") if name in text]
    assert len(headings) >= 2


def test_all_sections_may_fail_at_once(results, tmp_path, monkeypatch):
    for key, section in SECTIONS.items():
        monkeypatch.setitem(SECTIONS, key, Section(section.title, refused, section.empty))
    text = report([results], tmp_path)
    assert text.count("cannot be shown: /data/&lt;a&gt;.nii.gz is gone") == len(SECTIONS)


@pytest.mark.parametrize(
    ("module", "name", "title"),
    [
        (evaluation, "compare", "Paired comparison"),
        (evaluation, "_chosen", "Pictures"),
        (evaluation, "_warnings", "Warnings"),
        (evaluation, "_errors", "Errors, patient_001"),
        (evaluation, "volume_scene", "Picture, patient_000 and train_007"),
        (evaluation, "case_scene", "Picture, patient_001"),
        (case_items, "findings", "Findings, patient_001"),
        (case_items, "stacks", "Slices, patient_001"),
    ],
)
def test_a_failing_part_of_a_case_becomes_one_line(results, tmp_path, monkeypatch, module, name, title):
    monkeypatch.setattr(module, name, broken)
    assert f"{title}: cannot be shown: ZeroDivisionError" in report([results], tmp_path, most_figures=1)


def test_a_pdf_that_fails_leaves_the_page_and_no_older_one(results, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation, "missing", lambda: None)
    monkeypatch.setattr(evaluation, "write_pdf", broken)
    (tmp_path / "report.pdf").write_bytes(b"older")
    assert "PDF: cannot be shown" in report([results], tmp_path, pdf=True) and not (tmp_path / "report.pdf").exists()


@pytest.mark.parametrize(
    ("module", "name", "title"),
    [
        (conversion, "conversion_scene", "Picture, a"),
        (conversion, "read_geometry", "Grid, a"),
        (case_items, "stacks", "Slices, a"),
        (case_items, "findings", "Findings, a"),
    ],
)
def test_a_conversion_report_continues_after_a_failing_part(tmp_path, monkeypatch, module, name, title):
    path = write(tmp_path / "a.nii.gz", *VOLUMES["ordinary"])
    monkeypatch.setattr(module, name, broken)
    row = {"case": "a", "input": path, "output": path, "seconds": 1.0, "verdict": "pass"}
    text = conversion_report([row, row | {"case": "b"}], tmp_path / "r.html").read_text(encoding="utf-8")
    assert f"{title}: cannot be shown: ZeroDivisionError" in text and "<h3>b" in text


def test_an_augmentation_report_continues_after_a_failing_part(tmp_path, monkeypatch):
    monkeypatch.setattr(augmentation, "_arms", broken)
    sets = [
        {"draw": 0, "generator": "g", "lacking": ["Pictures, g: cannot be shown: why"], "memorisation": {"flagged": 3}}
    ]
    text = augmentation_report([], sets, [], {}, tmp_path / "r.html").read_text()
    for line in ("Dice: cannot be shown", "Synthetic images: cannot be shown: KeyError", "Pictures, g: cannot be"):
        assert line in text


def test_a_summary_with_anything_in_it_still_makes_a_page(results, tmp_path):
    """Sections of a summary replaced by text, a number or a list give lines, not a traceback."""
    summary = json.loads((results / "summary.json").read_text())
    (tmp_path / "cases.csv").write_text((results / "cases.csv").read_text())
    for odd in ("text", 7, [1], {"cases": 3}):
        changed = {key: odd for key in summary if key not in ("cases", "medgen")}
        (tmp_path / "summary.json").write_text(json.dumps(summary | changed))
        assert "cannot be shown" in report([tmp_path], tmp_path, most_figures=1)


def test_odd_volumes_are_measured_reported_and_pictured(tmp_path):
    """No volume stops the run; one that cannot be measured is a failure with its reason."""
    for name, (data, spacing) in VOLUMES.items():
        data = np.asarray(data, float)
        for role, factor in (("source", 1.1), ("target", 1.0), ("made", 0.9)):
            write(tmp_path / role / f"{name}.nii.gz", np.clip(data * factor, -HUGE, HUGE), spacing)
        write(tmp_path / "labels" / f"{name}.nii.gz", data > 0, spacing)
    (tmp_path / "labels.json").write_text('{"liver": 1}')
    roles = {role: tmp_path / role for role in ("source", "labels")}
    out = tmp_path / "out"
    found = evaluate(tmp_path / "target", tmp_path / "made", out, data_range=4095, **roles)
    assert {failure.case for failure in found.failures} == {"huge", "huge_both_ways", "one_bright_voxel"}
    assert all("values of up to" in failure.error for failure in found.failures)
    for _ in range(2):  # and again
        text = write_report([out], out / "report.html", pdf=False, most_figures=99).read_text(encoding="utf-8")
        assert "cannot be shown" not in text and text.count('<div class="viewer">') == len(VOLUMES) - 3


def test_odd_volumes_are_pictured_after_a_conversion(tmp_path):
    rows = []
    for name in ("huge", "huge_both_ways", "one_voxel", "thin_line", "needle", "microscopic"):
        data, spacing = VOLUMES[name]
        paths = [write(tmp_path / role / f"{name}.nii.gz", data, spacing) for role in ("in", "out")]
        rows.append({"case": name, "input": paths[0], "output": paths[1], "seconds": None, "verdict": "review"})
    text = conversion_report(rows, tmp_path / "r.html", most_figures=len(rows)).read_text(encoding="utf-8")
    assert "cannot be shown" not in text and all(f"<h3>{row['case']}" in text for row in rows)


def test_a_reason_is_one_line_and_names_the_code_line_unless_the_user_can_correct_it():
    try:
        broken()
    except ZeroDivisionError as error:
        assert reason(error).startswith("ZeroDivisionError in test_gaps.py, line ")
    assert reason(InputError("x", "a\n  b")) == "a b" and reason(KeyError()) == "KeyError"
