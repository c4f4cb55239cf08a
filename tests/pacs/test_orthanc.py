"""With a real PACS: find, convert and store studies; resume after a lost connection."""

import json
import sys
from io import BytesIO
from types import SimpleNamespace

import numpy as np
import pydicom
import pytest
from archive import ABSENT, ORTHANC, PLUGIN, Line, Orthanc
from dicom_series import stored, write_ct
from refusal import refused
from small import make_model, small_settings

pytest.importorskip("pynetdicom", reason="needs pip install 'medgen[pacs]'")
pytest.importorskip("dicomweb_client", reason="needs pip install 'medgen[pacs]'")

from pydicom.uid import JPEGLSLossless, RLELossless  # noqa: E402

from medgen import cli  # noqa: E402
from medgen.checkpoint import save_model  # noqa: E402
from medgen.io.atomic import atomic_folder
from medgen.io.dicom.derived.references import NOTICE
from medgen.io.read import read_volume
from medgen.pacs import retrieve, store  # noqa: E402
from medgen.pacs import server as server_module  # noqa: E402
from medgen.pacs.connect import connect

pytestmark = pytest.mark.skipif(ORTHANC is None or not PLUGIN.exists(), reason=ABSENT)
SLICES = 6
STUDIES = ("1.2.40.1", "1.2.40.2")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with Orthanc(tmp_path_factory.mktemp("orthanc")) as running:
        yield running


@pytest.fixture
def orthanc(server):
    server.empty()
    return server


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "best"
    model = make_model(small_settings(inference={"spacing": "ignore"}))
    with atomic_folder(folder) as temporary:
        save_model(temporary, model.generator, model.info)
    return folder


@pytest.fixture(params=["get", "move", "web"])
def line(request, orthanc):
    with Line(orthanc.web_port if request.param == "web" else orthanc.port) as line:
        kind = "http://127.0.0.1:{}/dicom-web" if request.param == "web" else "dicom://ORTHANC@127.0.0.1:{}"
        line.address = kind.format(line.port) + (f"?move={orthanc.moved_to}" if request.param == "move" else "")
        yield line


@pytest.fixture
def run(capsys, monkeypatch, model_folder, tmp_path, line):
    """Run medgen translate from and to the PACS; return (exit code, stdout, stderr)."""

    def call(*options):
        arguments = ["translate", model_folder, tmp_path / "cache", tmp_path / "out", "--from-pacs", line.address]
        arguments += ["--query", "PatientID=p1", "--to-pacs", line.address, "--no-report", *options]
        monkeypatch.setattr(sys, "argv", ["medgen", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        shown = capsys.readouterr()
        return caught.value.code or 0, shown.out, shown.err

    return call


@pytest.fixture
def studies(tmp_path, orthanc):
    """Fill the archive: two compressed studies of patient p1 with a second series, and one study of another patient."""
    folder = tmp_path / "scanner"
    pixels = np.clip(stored(SLICES, 64, 68) // 3, 100, 2000)
    for uid, syntax in zip(STUDIES, (JPEGLSLossless, RLELossless), strict=True):
        write_ct(folder / uid, pixels, StudyInstanceUID=uid, syntax=syntax)
        write_ct(folder / f"{uid}b", pixels[:2], StudyInstanceUID=uid, SeriesDescription="scout", Modality="SR")
    write_ct(folder / "other", pixels, StudyInstanceUID="1.2.40.3", PatientID="p10")
    orthanc.take(sorted(folder.glob("*/*")))
    return folder


def derived(orthanc):
    """Instances of both studies in series that are marked as synthetic, listed by DICOMweb."""
    web = connect(f"http://127.0.0.1:{orthanc.web_port}/dicom-web", "FROM")
    found = {}
    for study in STUDIES:
        series = [s for s in web.series(study) if s["SeriesDescription"].startswith(NOTICE)]
        found[study] = []
        for one in series:
            web.retrieve(study, one["SeriesInstanceUID"], None, found[study].append)
    return {study: [pydicom.dcmread(BytesIO(data)) for data in images] for study, images in found.items()}


def check_stored(orthanc, out):
    """The archive contains exactly the converted images."""
    for study, images in derived(orthanc).items():
        written = [pydicom.dcmread(path) for path in sorted((out / study).iterdir())]
        assert len(images) == len(written) == SLICES
        made = {image.SOPInstanceUID: image for image in images}
        for image in written:
            assert made[image.SOPInstanceUID] == image
            assert image.ImageType[:2] == ["DERIVED", "SECONDARY"] and image.StudyInstanceUID == study
    assert orthanc.ask("statistics")["CountInstances"] == 3 * SLICES + 2 * 2 + 2 * SLICES


def test_studies_are_found_converted_and_stored_once(run, line, studies, orthanc, tmp_path):
    code, out, err = run()
    assert code == 0, err
    assert "2 converted" in out and out.count(f"{SLICES} images, {SLICES} of them") == 4
    for study in STUDIES:
        source, here = read_volume(studies / study), read_volume(tmp_path / "cache" / study)
        np.testing.assert_array_equal(here.data, source.data)
        np.testing.assert_array_equal(here.affine, source.affine)
    check_stored(orthanc, tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "cache").glob("[!.]*")) == list(STUDIES)
    line.passed = 0
    code, out, err = run()
    assert code == 0 and "2 skipped" in out and out.count("images, 0 of them") == 4, err
    check_stored(orthanc, tmp_path / "out")
    assert line.passed < 40_000  # lists only, no images


def test_a_connection_lost_halfway_is_resumed(run, line, studies, orthanc, tmp_path, monkeypatch):
    waited, cache = [], tmp_path / "cache"
    monkeypatch.setattr(retrieve, "time", SimpleNamespace(sleep=waited.append))
    monkeypatch.setattr(store, "time", SimpleNamespace(sleep=waited.append))
    monkeypatch.setattr(server_module, "time", SimpleNamespace(sleep=waited.append))

    def some_have_arrived(study):
        return lambda _: len(list((cache / f".{study}.part").glob("1.*"))) >= 2

    # the connection ends during the first study and is not restored
    line.cut(some_have_arrived(STUDIES[0]), then_down=True)
    code, out, err = run()
    assert code == 2 and "0 converted" in out and "Traceback" not in err
    assert all(f"{study} could not be retrieved" in err for study in STUDIES)
    assert not (cache / STUDIES[0]).exists() and not list((tmp_path / "out").glob("1.2*"))
    part = list((cache / f".{STUDIES[0]}.part").glob("1.*"))
    assert 2 <= len(part) < SLICES and waited == [*server_module.PAUSES]
    kept = {path: path.stat().st_mtime_ns for path in part}
    # the connection is restored and interrupted once during the second study
    line.cut(some_have_arrived(STUDIES[1]))
    code, out, err = run()
    assert code == 0 and "2 converted" in out, err
    assert line.when is None
    assert f"study {STUDIES[0]}: {SLICES} images, {SLICES - len(part)} of them retrieved now" in out
    for path, time in kept.items():
        assert (cache / STUDIES[0] / path.name).stat().st_mtime_ns == time
    check_stored(orthanc, tmp_path / "out")


def test_interrupted_storing_is_resumed(line, orthanc, studies, tmp_path):
    for study in STUDIES:  # file names as conversion writes them
        for n, path in enumerate(sorted((studies / study).iterdir())):
            path.rename(path.with_name(f"{n:05}.dcm"))
    orthanc.empty()
    archive = connect(line.address, "TO")
    line.cut(lambda passed: passed > 30_000, then_down=True)
    storage = store.Storage(archive, tmp_path, pauses=())
    for study in STUDIES:  # no retries for the second study
        with refused("pacs-images-not-stored", names=f"of {SLICES} images"):
            storage.store(studies / study)
    line.down = False
    there = orthanc.ask("statistics")["CountInstances"]
    again = store.Storage(archive, tmp_path)
    results = [again.store(studies / study) for study in STUDIES]
    assert [r.images for r in results] == [SLICES, SLICES] and results[1].sent == SLICES
    assert there < SLICES and results[0].sent <= SLICES - there + 1  # at most one response was lost
    assert orthanc.ask("statistics")["CountInstances"] == 2 * SLICES
    assert [again.store(studies / study).sent for study in STUDIES] == [0, 0]


def test_study_changed_in_the_archive_is_updated_in_the_cache(orthanc, line, tmp_path):
    write_ct(tmp_path / "all", stored(SLICES + 3, 32, 34), StudyInstanceUID="1.2.40.9")
    files = sorted((tmp_path / "all").iterdir())
    server, cache = connect(line.address, "FROM"), tmp_path / "cache"

    def names():
        return {pydicom.dcmread(path).SOPInstanceUID for path in (cache / "1.2.40.9").iterdir()}

    for sent, count in ((files[:SLICES], SLICES), (files[SLICES:], 3)):
        orthanc.take(sent)
        assert retrieve.retrieve_study(server, "1.2.40.9", cache)[1] == count
    assert names() == {pydicom.dcmread(path).SOPInstanceUID for path in files}
    orthanc.empty()
    orthanc.take(files[2:])
    assert retrieve.retrieve_study(server, "1.2.40.9", cache) == (SLICES + 1, 0)
    assert names() == {pydicom.dcmread(path).SOPInstanceUID for path in files[2:]}


def test_a_wrong_name_is_refused(orthanc):
    with refused("pacs-association-refused", names="MEDGEN"):
        connect(f"dicom://OTHER@127.0.0.1:{orthanc.port}", "FROM").studies({"PatientID": "p1"})
    with refused("pacs-request-refused", names="HTTP 404"):
        connect(f"http://127.0.0.1:{orthanc.web_port}/dicomweb", "FROM").studies({"PatientID": "p1"})


def test_series_excluded_by_rules_are_not_transferred(run, line, studies, tmp_path):
    (tmp_path / "rules.yaml").write_text("include: [{modality: MR}]")
    line.passed = 0
    code, out, err = run("--rules", tmp_path / "rules.yaml")
    assert code == 0 and "0 converted" in out and line.passed < 20_000, err
    assert json.loads((tmp_path / "out/manifest.json").read_text())["cases"] == {}
