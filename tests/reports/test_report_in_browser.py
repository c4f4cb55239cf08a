"""The page in headless Chromium from Debian's package."""

import json
import shutil

import nibabel as nib
import numpy as np
import pytest
from chromium import BINARY, Chromium
from PIL import Image

from medgen.reports.conversion import conversion_report
from medgen.reports.evaluation import write_report
from medgen.reports.images.windows import PRESETS

pytestmark = pytest.mark.skipif(BINARY is None, reason="Chromium is not installed: apt-get install chromium")
EVIL = "<script>alert(1)</script>"
WIDTHS = (1280, 390)
# Image.decode fails for images outside the page, which only the linked planes use.
NO_DECODER = """const decode = HTMLImageElement.prototype.decode; HTMLImageElement.prototype.decode = function () {
  return this.isConnected ? decode.call(this) : Promise.reject(new Error("no decoder")); };"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    chromium = Chromium(tmp_path_factory.mktemp("profile"))
    yield chromium
    chromium.close()


def linked(browser):
    """Scroll to the first viewer and wait until its planes are linked."""
    waiting = "new Promise(done => { const look = () => document.querySelector('.viewer.linked') ? done(true) :"
    waiting += "setTimeout(look, 20); document.querySelector('.viewer').scrollIntoView({block: 'start'}); look(); })"
    assert browser.run(waiting)


@pytest.fixture(scope="module")
def report(two_results, tmp_path_factory):
    """Report of one system in which the names of a case, a region and the system are scripts."""
    root = tmp_path_factory.mktemp("report")
    shutil.copytree(two_results[0], root / "results")
    for name in ("cases.csv", "summary.json"):
        path = root / "results" / name
        text = path.read_text().replace("patient_001", EVIL).replace("spleen", EVIL)
        path.write_text(text.replace(f"/{EVIL}.nii.gz", "/patient_001.nii.gz"))  # a script is no file name
    return write_report([root / "results"], root / "report.html", pdf=False, title=f"Report {EVIL}", names=[EVIL])


def test_the_page_opens_without_console_errors_or_requests(browser, report):
    browser.open(report)
    loaded = "[...document.images].map(i => [i.complete && i.naturalWidth > 30, i.alt])"
    images = browser.run(loaded)
    assert len(images) == 2 * 12 + 6 and all(ok for ok, _ in images)
    linked(browser)
    assert browser.run("document.querySelectorAll('svg circle').length") == 2
    assert browser.problems == []


def test_a_script_for_a_name_is_shown_as_text(browser, report):
    browser.open(report)
    text = browser.run("document.body.innerText")
    assert text.count(EVIL) >= 5 and browser.run("document.title") == f"Report {EVIL}"
    assert (
        browser.run("[...document.querySelectorAll('h3')].map(h => h.textContent)").count(f"Worst case: {EVIL} fail")
        == 1
    )
    assert browser.run("document.scripts.length") == 1 + 6 + 2  # the page's own, frames of six sliders, two volumes
    assert browser.problems == []


def test_the_slider_moves_all_pictures_of_its_plane(browser, report):
    browser.open(report, first=NO_DECODER)
    state = "(() => { const p = document.querySelector('.plane'); return {value: +p.querySelector('input').value,"
    state += "place: p.querySelector('output').textContent, says: p.querySelector('input').ariaValueText ??"
    state += "p.querySelector('input').getAttribute('aria-valuetext'), images: [...p.querySelectorAll('img')]"
    state += ".map(i => i.src.slice(-4000)), other: document.querySelectorAll('.plane img')[4].src.slice(-4000)}; })()"
    before = browser.run(state)
    browser.run("document.querySelector('.plane input').focus()")
    browser.press("ArrowRight", 39)
    after = browser.run(state)
    assert after["value"] == before["value"] + 1
    assert all(a != b for a, b in zip(after["images"], before["images"], strict=True))
    assert after["place"] != before["place"] and after["says"] == after["place"] and after["place"].endswith(" mm")
    assert after["other"] == before["other"]  # the next plane stays
    assert browser.run("document.querySelector('.plane img').decode().then(() => true)")
    browser.press("Home", 36)
    assert browser.run(state)["value"] == 0
    browser.click(".plane input")  # the middle of the track
    assert browser.run(state)["value"] > 0
    browser.press("ArrowLeft", 37)
    assert browser.problems == []


def grey(browser, tmp_path):
    """Return the mean of the first picture and the median of its corner as displayed, after the window filter."""
    browser.run("document.querySelector('.plane img').scrollIntoView({block: 'center'})")
    box = browser.run(
        "(b => [b.left, b.top, b.right, b.bottom])(document.querySelector('.plane img').getBoundingClientRect())"
    )
    browser.screenshot(tmp_path / "page.png")
    seen = np.asarray(Image.open(tmp_path / "page.png").convert("L").crop([round(side) for side in box]), float)
    return seen.mean(), np.median(seen[2:12, 2:12])


@pytest.mark.parametrize("scripts", [True, False])
def test_ct_windows_are_switched_in_the_page(browser, report, tmp_path, scripts):
    browser.open(report, scripts=scripts, first=NO_DECODER)
    try:
        seen = {}
        for window in ("lung", "bone", "brain", "soft-tissue"):
            browser.click(f'.viewer input[value="{window}"]')
            seen[window] = grey(browser, tmp_path)
        air = {window: corner for window, (_, corner) in seen.items()}
        assert 40 < air.pop("lung") < 80 and max(air.values()) < 3  # -1000 HU is black but in the window of lung
        assert seen["soft-tissue"][0] > seen["bone"][0] > 3 and abs(seen["brain"][0] - seen["soft-tissue"][0]) > 3
        filters = "[...document.querySelectorAll('.viewer img')].map(i => getComputedStyle(i).filter)"
        assert set(browser.run(filters)) == {'url("#window-soft-tissue")', "none"}  # none: of the differences
        assert browser.problems == []
    finally:
        browser.call("Emulation.setScriptExecutionDisabled", value=False)


@pytest.mark.parametrize("first", [NO_DECODER, ""])
def test_a_findings_button_moves_every_plane_to_it(browser, report, first):
    browser.open(report, first=first)
    if not first:
        linked(browser)
    state = (
        "[...document.querySelectorAll('.viewer')[0].querySelectorAll('.plane')].map(p => [+p.querySelector('input')"
    )
    state += ".value, [...p.querySelectorAll('figure:first-child .mark:not([hidden]) b')].map(b => b.textContent)])"
    first = browser.run(state)
    assert all("1" in marks and "2" not in marks for _, marks in first), "the planes open at the first finding"
    browser.click(".findings li:nth-child(2) button")
    second = browser.run(state)
    assert all("2" in marks and "1" not in marks for _, marks in second)
    browser.click(".findings li:nth-child(1) button")
    assert browser.run(state) == first and browser.problems == []


def test_tables_sort_by_a_click_or_a_key_on_the_head(browser, report):
    browser.open(report)
    column = "[...document.querySelectorAll('#regions tbody tr')].map(r => parseFloat(r.cells[{}].dataset.value))"
    head = "#regions thead th:nth-child(4)"
    browser.click(head)
    down = browser.run(column.format(3))
    assert len(down) >= 4 and down == sorted(down, reverse=True)
    browser.click(head)
    assert browser.run(column.format(3)) == down[::-1]
    assert browser.run(f"document.querySelector('{head}').ariaSort") == "ascending"
    browser.run("document.querySelector('#regions th').focus()")
    browser.press("Enter", 13)
    names = browser.run("[...document.querySelectorAll('#regions tbody tr')].map(r => r.cells[0].textContent)")
    assert names == browser.run("(names => names.sort((a, b) => b.localeCompare(a)))(" + json.dumps(names) + ")")
    assert browser.run("document.querySelectorAll('#regions th[aria-sort=descending]').length") == 1


@pytest.mark.parametrize("width", WIDTHS)
def test_no_page_scrolls_sideways(browser, report, two_results, tmp_path, width):
    several = write_report(two_results, tmp_path / "two.html", pdf=False, most_figures=1)
    for page in (report, several, conversion_page(two_results[0], tmp_path)):
        browser.open(page, width=width)
        linked(browser)
        browser.run("document.querySelectorAll('details').forEach(d => d.open = true)")
        assert browser.run("document.documentElement.scrollWidth") <= width, page
        beyond = browser.run(
            "[...document.querySelectorAll('main *')].filter(e => !e.closest('.scroll') &&"
            f"e.getBoundingClientRect().right > {width} + 1).map(e => e.outerHTML.slice(0, 80))"
        )
        assert beyond == [], page
    assert browser.problems == []


def test_a_table_that_goes_on_has_a_shadow_until_its_end(browser, report, tmp_path):
    browser.open(report, width=390)
    table = "document.querySelector('#regions .scroll')"

    def edge(left):
        """Return the median of the table's last pixel column after scrolling."""
        browser.run(f"{table}.scrollIntoView(), {table}.scrollLeft = {left}")
        box = browser.run(f"(b => [b.right, b.top, b.bottom])({table}.getBoundingClientRect())")
        browser.screenshot(tmp_path / "page.png")
        right, top, bottom = (round(side) for side in box)
        return np.median(Image.open(tmp_path / "page.png").convert("L").crop((right - 1, top, right, bottom)))

    assert edge(0) < 200 and edge(9999) == 255
    browser.resize(1280)
    assert edge(0) == 255, "all of it is seen"


def conversion_page(results, out):
    files = json.loads((results / "summary.json").read_text())["cases"][0]["files"]
    row = {"case": EVIL, "input": files["source"], "output": files["prediction"], "warnings": ["w"], "seconds": 1.0}
    return conversion_report([row | {"error": None}], out / "conversion.html")


def test_without_scripts_the_slice_that_shows_most_is_there(browser, report):
    browser.open(report, scripts=False)
    try:
        assert browser.problems == []
    finally:
        browser.call("Emulation.setScriptExecutionDisabled", value=False)
    visible = "getComputedStyle(document.querySelector('.slide input')).visibility"
    assert browser.run(visible) == "hidden" and browser.run("document.querySelector('.plane img').naturalWidth") > 30
    assert browser.run("document.querySelector('.plane output').textContent").endswith(" mm")


def canvas(browser, figure, plane=1):
    """Return the pixels (rows, columns, RGB) of an image of the first viewer; figures and planes count from 1."""
    script = "(c => { const copy = Object.assign(document.createElement('canvas'), {width: c.width, height: c.height})"
    script += ".getContext('2d', {willReadFrequently: true}); copy.drawImage(c, 0, 0);"
    script += "return [c.height, c.width, [...copy.getImageData(0, 0, c.width, c.height).data]]; })"
    where = f"(document.querySelectorAll('.viewer')[0].querySelectorAll('.plane')[{plane - 1}]"
    where += f".querySelectorAll('canvas')[{figure - 1}])"
    height, width, data = browser.run(script + where)
    return np.array(data).reshape(height, width, 4)[..., :3]


PLACES = "[...document.querySelectorAll('.viewer')[0].querySelectorAll('.plane output')].map(o => o.value)"
READING = "document.querySelector('.viewer .reading').textContent"


def test_a_click_in_one_plane_moves_the_others_to_the_same_place(browser, report):
    browser.open(report)
    linked(browser)
    first = "document.querySelector('.plane .frame')"
    browser.run(f"{first}.scrollIntoView({{block: 'center'}})")
    box = browser.run(f"(b => [b.x, b.y, b.width, b.height])({first}.getBoundingClientRect())")
    before = browser.run(PLACES)

    def drag(kind, x, y):
        where = {"x": box[0] + x * box[2], "y": box[1] + y * box[3]}
        browser.call("Input.dispatchMouseEvent", type=kind, button="left", buttons=1, clickCount=1, **where)

    drag("mousePressed", 0.75, 0.4)
    clicked = browser.run(PLACES)
    assert clicked[0] == before[0] and clicked[1] != before[1] and clicked[2] != before[2]
    assert clicked[2].startswith("L"), "the patient's left is on the right of an axial image"
    drag("mouseMoved", 0.25, 0.4)
    dragged = browser.run(PLACES)
    assert dragged[2].startswith("R") and dragged[:2] == clicked[:2]
    drag("mouseReleased", 0.25, 0.4)
    drag("mouseMoved", 0.5, 0.5)
    assert browser.run(PLACES) == dragged, "the button is up"
    cross = "[...document.querySelectorAll('.plane:nth-of-type(1) .cross.v')].map(c => parseFloat(c.style.left))"
    assert all(abs(left - 25) < 3 for left in browser.run(cross))
    # The coronal slice's row at this height is the axial slice's row at this depth.
    axial, coronal = canvas(browser, 3, 1), canvas(browser, 3, 2)
    top = [
        browser.run(f"parseFloat(document.querySelectorAll('.plane')[{n}].querySelector('.cross.h').style.top)")
        for n in (0, 1)
    ]
    rows = [int(share / 100 * len(image)) for share, image in zip(top, (axial, coronal), strict=True)]
    assert (axial[rows[0]] == coronal[rows[1]]).all() and axial[rows[0]].std() > 5
    browser.press("ArrowRight", 39)
    assert browser.run(PLACES)[2] != dragged[2]
    browser.press("PageUp", 33)
    assert browser.run(PLACES)[0] != dragged[0] and browser.problems == []


def test_the_planes_show_the_voxels_of_the_files_in_each_window(browser, report, two_results):
    browser.open(report)
    linked(browser)
    files = json.loads((two_results[0] / "summary.json").read_text())["cases"]
    truths = {case["case"]: nib.load(case["files"]["reference"]) for case in files}
    name = browser.run("document.querySelector('.viewer').closest('section').querySelector('h3').textContent")
    image = next(image for case, image in truths.items() if case in name or EVIL in name and case == "patient_001")
    truth, affine = image.get_fdata(), image.affine
    said = browser.run(READING)
    sides = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}
    mm = np.zeros(3)
    for part in said.split(":")[0].split(", "):
        axis, sign = sides[part[0]]
        mm[axis] = sign * float(part.split()[1])
    voxel = tuple(np.rint(np.linalg.solve(affine, [*mm, 1])[:3]).astype(int))
    value = float(said.split("truth about ")[1].split(" HU")[0].replace("−", "-"))
    assert value == pytest.approx(truth[voxel], abs=15)
    for window in ("bone", "soft-tissue"):
        browser.click(f'.viewer input[value="{window}"]')
        width, level = PRESETS[window.replace("-", " ")]
        expected = 255 * np.clip((truth[:, :, voxel[2]].T[::-1, ::-1] - level) / width + 0.5, 0, 1)
        seen = canvas(browser, 3)[..., 0]
        assert seen.shape == expected.shape  # the body fills this small phantom, so the view is the whole slice
        assert np.median(np.abs(seen - expected)) < 4, window


def test_the_difference_is_laid_over_the_output_only_and_boxes_and_crosshair_can_be_hidden(browser, report):
    browser.open(report)
    linked(browser)
    plain = [canvas(browser, n) for n in (1, 2, 3)]
    assert all((image[..., 0] == image[..., 2]).all() for image in plain)
    browser.click('[data-tool="overlay"]')
    source, output, truth = (canvas(browser, n) for n in (1, 2, 3))
    assert (source == plain[0]).all() and (truth == plain[2]).all()
    orange = output[..., 0] - output[..., 2]
    assert orange.max() > 30, "the system leaves contrast medium, so it is too bright"
    shown = "getComputedStyle(document.querySelector('{}')).display"
    for tool, element in (("findings", ".mark:not([hidden])"), ("crosshair", ".cross")):
        assert browser.run(shown.format(element)) != "none"
        browser.click(f'[data-tool="{tool}"]')
        assert browser.run(shown.format(element)) == "none"
    browser.click('[data-tool="image 0"]')
    assert browser.run("document.querySelector('.plane figure').hidden")
    assert browser.run("document.querySelector('.plane .panels').style.getPropertyValue('--columns')") == "3"
    assert browser.problems == []


@pytest.mark.parametrize(
    "first",
    [NO_DECODER, "const f = CanvasRenderingContext2D.prototype.getImageData; CanvasRenderingContext2D.prototype"
     ".getImageData = function (...a) { const r = f.apply(this, a); r.data.fill(255); return r; };"],
    ids=["no decoder", "a browser that hides pixels"],
)  # fmt: skip
def test_where_volumes_cannot_be_read_the_sliders_stay_and_the_page_says_so(browser, report, first):
    browser.open(report, first=first)
    browser.run(
        "new Promise(done => { document.querySelector('.viewer').scrollIntoView(); const look = () =>"
        "document.querySelector('.unlinked:not([hidden])') ? done() : setTimeout(look, 20); look(); })"
    )
    assert browser.run("document.querySelector('.unlinked').textContent").startswith("The linked planes did not open")
    assert browser.run("document.querySelectorAll('.linked, canvas').length") == 0
    before = browser.run("document.querySelector('.plane img').src.slice(-3000)")
    browser.run("document.querySelector('.plane input').focus()")
    browser.press("ArrowRight", 39)
    assert browser.run("document.querySelector('.plane img').src.slice(-3000)") != before and browser.problems == []
