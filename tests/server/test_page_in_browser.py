"""The page of medgen serve in headless Chromium: a scan is uploaded, watched, seen and saved."""

import threading
import time

import numpy as np
import pytest
from chromium import BINARY, Chromium
from serving import scan
from typer.testing import CliRunner

from medgen.cli import app as cli
from medgen.io.read import read_volume

pytest.importorskip("fastapi")
uvicorn = pytest.importorskip("uvicorn")
from medgen.server.app import Access, build_app  # noqa: E402
from medgen.server.jobs import Jobs  # noqa: E402
from medgen.server.uploads import Limits  # noqa: E402

pytestmark = pytest.mark.skipif(BINARY is None, reason="Chromium is not installed: apt-get install chromium")
TOKEN = "right-token-0123456"
SEEN = "document.getElementById('{0}').hidden === false"
GREYS = """(id => { const c = document.getElementById(id), own = document.createElement('canvas');
  own.width = c.width; own.height = c.height;
  const to = own.getContext('2d', {willReadFrequently: true}); to.drawImage(c, 0, 0);
  const d = to.getImageData(0, 0, c.width, c.height);
  return [c.width, c.height, new Set(d.data.filter((_, i) => i % 4 === 0)).size]; })"""


@pytest.fixture(scope="module")
def address(model, tmp_path_factory):
    """Address of a running server that needs a token."""
    jobs = Jobs({"tiny": model}, tmp_path_factory.mktemp("work"), Limits(), qa_limits="general")
    app = build_app(jobs, Access(TOKEN, None), {"tiny": "A model"})
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join(timeout=20)


@pytest.fixture(scope="module")
def browser(address, tmp_path_factory):
    chromium = Chromium(tmp_path_factory.mktemp("profile"), own=(address, "blob:"))
    yield chromium
    chromium.close()


def open_page(browser, address, width):
    """Open the page and give the token, for which it asks."""
    browser.open(address, width=width)
    browser.wait(SEEN.format("locked"))
    browser.run(f"document.getElementById('token').value = '{TOKEN}'")
    browser.click("#unlock")
    browser.wait("document.querySelectorAll('#model option').length === 1")
    browser.problems.clear()  # the refusal without a token


def fits(browser, width):
    return browser.run("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("width", [1280, 390])
def test_a_scan_is_uploaded_watched_seen_and_saved(browser, address, model, tmp_path, width):
    path = scan(tmp_path / "scan.nii.gz")
    open_page(browser, address, width)
    assert fits(browser, width)
    browser.run(
        "window.said = new Set(); new MutationObserver(() => said.add(document.getElementById('state').textContent))"
        ".observe(document.getElementById('state'), {childList: true, characterData: true, subtree: true})"
    )
    browser.choose_file("#file", path)
    browser.wait(SEEN.format("result"))
    said = " ".join(browser.run("[...said]"))
    assert "Uploading" in said and "Done (" in said and browser.run("document.getElementById('bar').value") == 100
    assert browser.run("document.getElementById('verdict').textContent").startswith("Quality check: ")
    for plane, side in (("coronal", "right side"), ("sagittal", "front"), ("axial", "right side")):
        browser.run(f"[...document.querySelectorAll('#planes button')].find(b => b.textContent === '{plane}').click()")
        browser.wait(f"document.getElementById('side').textContent.includes('The {side} of the patient')")
    for image in ("input", "output"):
        browser.wait(f"{GREYS}('{image}')[2] > 20")
        assert max(browser.run(f"{GREYS}('{image}')")[:2]) == 640
    assert browser.run("document.getElementById('number').textContent") == "5 of 10"
    assert fits(browser, width)

    browser.call("Page.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path / "saved"))
    browser.click("#download")
    saved = tmp_path / "saved" / "result.nii.gz"
    end = time.monotonic() + 20
    while not (saved.exists() and not list(saved.parent.glob("*.crdownload"))):
        assert time.monotonic() < end
        time.sleep(0.05)
    call = ["translate", model, path, tmp_path / "out.nii.gz", "--qa-limits", "none"]
    assert CliRunner().invoke(cli, [str(text) for text in call]).exit_code == 0
    got, wanted = read_volume(saved), read_volume(tmp_path / "out.nii.gz")
    assert np.array_equal(got.data, wanted.data) and np.array_equal(got.affine, wanted.affine)
    browser.click("#remove")
    browser.wait(SEEN.format("ask"))
    assert browser.problems == []


@pytest.mark.parametrize("width", [1280, 390])
def test_a_file_that_is_no_scan_is_refused_in_a_sentence(browser, address, tmp_path, width):
    (tmp_path / "notes.nii.gz").write_text("not a scan")
    open_page(browser, address, width)
    browser.choose_file("#file", tmp_path / "notes.nii.gz")
    browser.wait(SEEN.format("error"))
    text = browser.run("document.getElementById('error').textContent")
    assert len(text) > 20 and str(tmp_path) not in text and fits(browser, width)
    browser.click("#again")
    browser.wait(SEEN.format("ask"))
