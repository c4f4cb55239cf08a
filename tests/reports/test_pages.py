import math

import pytest
from refusal import refused

from medgen.reports.pages import number, percent, signed, write_page


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (math.nan, "–"),
        (math.inf, "∞"),
        (-math.inf, "−∞"),
        (0.0, "0.0"),
        (-0.04, "0.0"),
        (-12.34, "−12.3"),
        (12345.6, "12\u202f345.6"),
    ],
)
def test_numbers_read_as_in_print(value, text):
    assert number(value) == text


def test_signs_and_percent():
    assert [signed(v) for v in (3.0, -3.0, 0.0, 0.01, None)] == ["+3.0", "−3.0", "0.0", "0.0", "–"]
    assert [percent(v) for v in (0.873, -0.1, None)] == ["87\u00a0%", "−10\u00a0%", "–"]


def test_an_unwritable_path_is_refused_and_leaves_no_file(tmp_path):
    (tmp_path / "file").write_text("")
    with refused("folder-not-creatable"):
        write_page("page.html.j2", tmp_path / "file" / "report.html", title="t")
    (tmp_path / "report.html").mkdir()
    with refused("output-not-writable", names="report.html"):
        write_page("page.html.j2", tmp_path / "report.html", title="t")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "report.html"]
