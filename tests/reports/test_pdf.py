import base64
import builtins
import contextlib
import json
import re
import shutil
import subprocess
import zlib

import pytest
from PIL import Image
from refusal import refused

from medgen.reports import pdf
from medgen.reports.evaluation import write_report

EVIL = "<script>alert(1)</script>"
needs_weasyprint = pytest.mark.skipif(pdf.missing() is not None, reason=str(pdf.missing()))


def unpacked(content):
    """Return the content of the compressed streams of a PDF."""
    found = []
    for stream in re.findall(rb"stream\r?\n(.*?)\r?\nendstream", content, re.DOTALL):
        with contextlib.suppress(zlib.error):
            found.append(zlib.decompress(stream))
    return b"\n".join(found)


@pytest.fixture
def without_weasyprint(monkeypatch, request):
    """Make the import of WeasyPrint fail as without WeasyPrint or the system's Pango."""
    real = builtins.__import__

    def refuse(name, *arguments, **options):
        if name.split(".")[0] == "weasyprint":
            print("WeasyPrint could not import some external libraries ...")
            raise request.param
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    return request.param


@pytest.mark.parametrize(
    "without_weasyprint",
    [ImportError("No module named 'weasyprint'"), OSError("cannot load library 'libpango-1.0-0'")],
    indirect=True,
)
def test_a_missing_extra_is_one_message_and_only_the_pdf_is_absent(results, tmp_path, without_weasyprint, capsys):
    stale = tmp_path / "report.pdf"
    stale.write_bytes(b"of an earlier page")
    messages = []
    page = write_report([results], tmp_path / "report.html", most_figures=0, say=messages.append)
    assert page.exists() and not stale.exists() and capsys.readouterr().out == ""
    remedy = "pip install 'medgen[pdf]'" if isinstance(without_weasyprint, ImportError) else "apt-get install libpango"
    assert len(messages) == 1 and remedy in messages[0] and "\n" not in messages[0]


@needs_weasyprint
def test_the_report_is_printed_with_its_pictures_and_page_numbers(results, tmp_path):
    write_report([results], tmp_path / "report.html", title=f"Report {EVIL}", most_figures=1)
    content = (tmp_path / "report.pdf").read_bytes()
    pages = len(re.findall(rb"/Type /Page\b", unpacked(content)))
    assert content.startswith(b"%PDF-") and 3 <= pages <= 12
    assert content.count(b"/DCTDecode") >= 1  # the pictures stay JPEG
    if shutil.which("pdftotext") is None:
        pytest.skip("pdftotext is not installed: what the pages say was not read")
    text = subprocess.run(["pdftotext", "-layout", tmp_path / "report.pdf", "-"], capture_output=True, text=True).stdout
    assert EVIL in text and re.search(rf"{pages} ?/ ?{pages}\b", text)
    assert "lesion lost." in text and "not for primary diagnosis" in text and "Bland–Altman" in text


@needs_weasyprint
def test_nothing_is_printed_beyond_the_margins(two_results, tmp_path, monkeypatch):
    """Every word of the wide tables of two systems is inside the page, and inside its cell."""
    import weasyprint

    pages = []
    monkeypatch.setattr("medgen.reports.evaluation.write_pdf", lambda html, out: pages.append(html))
    write_report(two_results, tmp_path / "report.html", most_figures=0)
    printed = []
    for page in weasyprint.HTML(string=pages[0]).render().pages:
        for box in page._page_box.descendants():
            if type(box).__name__ == "TextBox":
                printed.append(box.text)
                assert box.position_x >= 0 and box.position_x + box.width <= page.width - 30, box.text
            if type(box).__name__ == "TableCellBox":
                for inner in box.descendants():
                    if type(inner).__name__ == "TextBox":
                        assert inner.position_x + inner.width <= box.position_x + box.border_width() + 0.1, inner.text
    assert "beta" in " ".join(printed)


@needs_weasyprint
def test_no_number_is_broken_in_two(results, tmp_path, monkeypatch):
    """Next to long reasons, a number's cell breaks lines only at spaces."""
    import weasyprint

    pages = []
    monkeypatch.setattr("medgen.reports.evaluation.write_pdf", lambda html, out: pages.append(html))
    folder = tmp_path / "results"
    shutil.copytree(results, folder)
    path = folder / "summary.json"
    summary = json.loads(path.read_text())
    values = {f"value_{place}": -0.2373 - place for place in range(16)}
    case = {"case": "a", "status": "review", "reasons": ["A sentence about what was found. " * 9], "values": values}
    path.write_text(json.dumps(summary | {"structure": {"cases": [case]}}))
    write_report([folder], tmp_path / "report.html", most_figures=0)
    shown = []
    for page in weasyprint.HTML(string=pages[0]).render().pages:
        for box in page._page_box.descendants():
            cell = box.element if type(box).__name__ == "TextBox" else None
            if cell is not None and cell.tag == "td" and "words" not in cell.get("class").split():
                assert f" {box.text.strip(' ')} " in f" {cell.text} "
                shown.append(box.text)
    assert "−15.24" in shown


@needs_weasyprint
def test_nothing_is_fetched(tmp_path):
    """A picture in a file next to the page is not loaded; the same picture embedded in the page is drawn."""
    red = Image.new("RGB", (9, 9), "red")
    red.save(tmp_path / "beside.png")
    inside = "data:image/png;base64," + base64.b64encode((tmp_path / "beside.png").read_bytes()).decode()
    for url, drawn in (((tmp_path / "beside.png").as_uri(), False), (inside, True)):
        out = pdf.write_pdf(f'<p>text</p><img src="{url}" alt="instead">', tmp_path / "page.pdf")
        assert (b"/Subtype /Image" in out.read_bytes()) is drawn


@needs_weasyprint
def test_an_unwritable_path_is_refused(tmp_path):
    (tmp_path / "page.pdf").mkdir()
    with refused("output-not-writable", names="page.pdf"):
        pdf.write_pdf("<p>text</p>", tmp_path / "page.pdf")
