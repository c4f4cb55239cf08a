"""Retrieve studies into the cache: complete or not at all, each image once, no file outside the folder."""

import shutil
import tempfile
import warnings
from io import BytesIO
from pathlib import Path

import pytest
from dicom_series import stored, write_ct
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian
from refusal import refused
from small import make_model, small_settings

from medgen.inference.cohort.run import convert
from medgen.inference.series import Rule, Rules
from medgen.io.dicom.derived.references import NOTICE
from medgen.pacs.retrieve import retrieve_study, retrieved


def image(study, series, instance):
    ds = Dataset()
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID = study, series, instance
    ds.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, instance
    with BytesIO() as stream:
        ds.save_as(stream, enforce_file_format=True)
        return stream.getvalue()


class Fake:
    """Server in memory: study -> series -> instance -> file. ``cuts``: images sent before each connection loss."""

    name = "fake"

    def __init__(self, *names, counts=True):
        self.held, self.cuts, self.sent, self.about, self.counts = {}, [], [], {}, counts
        for study, series, instance in names:
            self.held.setdefault(study, {}).setdefault(series, {})[instance] = image(study, series, instance)

    def studies(self, query):
        return [{"StudyInstanceUID": study} for study in self.held]

    def series(self, study):
        self._lose()
        listed = []
        for series, images in self.held[study].items():
            count = {"NumberOfSeriesRelatedInstances": len(images)} if self.counts else {}
            listed.append({"SeriesInstanceUID": series, "Modality": "CT", **count, **self.about.get(series, {})})
        return listed

    def instances(self, study, series):
        return list(self.held[study][series])

    def retrieve(self, study, series, instances, keep):
        for instance, data in self.held[study][series].items():
            if instances is None or instance in instances:
                self._lose(1)
                self.sent.append(instance)
                keep(data)

    def _lose(self, images=0):
        if self.cuts:
            if self.cuts[0] == 0:
                self.cuts.pop(0)
                raise ConnectionError("lost")
            self.cuts[0] -= images


def names(folder):
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


WHOLE = [("1.1", f"1.1.{s}", f"1.1.{s}.{n}") for s in (1, 2) for n in range(4)]
FILES = {f"1.1/{series}_{instance}.dcm" for _, series, instance in WHOLE}


@given(st.lists(st.integers(0, 5), max_size=8), st.booleans())
@settings(max_examples=60, deadline=None)
def test_interrupted_retrieval_transfers_every_image_once(cuts, counts):
    folder = Path(tempfile.mkdtemp())
    try:
        server = Fake(*WHOLE, counts=counts)
        server.cuts = list(cuts)
        for _ in range(len(cuts) + 1):  # consecutive runs
            try:
                retrieve_study(server, "1.1", folder, pauses=())
                break
            except ConnectionError:
                assert not (folder / "1.1").exists()
        assert names(folder) == FILES and sorted(server.sent) == sorted(instance for *_, instance in WHOLE)
        for _, series, instance in WHOLE:
            assert (folder / f"1.1/{series}_{instance}.dcm").read_bytes() == server.held["1.1"][series][instance]
        assert retrieve_study(server, "1.1", folder, pauses=()) == (8, 0)
    finally:
        shutil.rmtree(folder)


def test_incomplete_files_of_a_killed_run_are_ignored(tmp_path):
    part = tmp_path / ".1.1.part"
    part.mkdir()
    (part / ".part-1.1.1_1.1.1.0.dcm").write_bytes(b"half")
    (part / "1.1.1_1.1.1.1.dcm").write_bytes(Fake(*WHOLE).held["1.1"]["1.1.1"]["1.1.1.1"])
    server = Fake(*WHOLE)
    assert retrieve_study(server, "1.1", tmp_path, pauses=()) == (8, 7)
    assert names(tmp_path) == FILES and "1.1.1.1" not in server.sent


def test_complete_study_is_used_while_the_server_is_unreachable(tmp_path):
    server = Fake(*WHOLE)
    retrieve_study(server, "1.1", tmp_path, pauses=())
    server.cuts = [0]
    assert retrieve_study(server, "1.1", tmp_path, pauses=()) == (8, 0)


def test_images_that_were_not_requested_are_not_kept(tmp_path):
    server = Fake(*WHOLE)
    series = server.held["1.1"]["1.1.1"]
    with warnings.catch_warnings(action="ignore"):
        series["1.1.1.0"] = image("1.1", "1.1.1", "../../evil")
    series["1.1.1.1"] = image("9.9", "1.1.1", "1.1.1.1")
    series["1.1.1.2"] = b"no DICOM"
    with refused("pacs-images-not-sent", names="1.1.1"):
        retrieve_study(server, "1.1", tmp_path, pauses=())
    assert names(tmp_path) == {".1.1.part/1.1.1_1.1.1.3.dcm"}


@pytest.mark.parametrize("place", ["study", "series", "instance"])
def test_uid_that_points_outside_the_folder_is_refused(tmp_path, place):
    server = Fake(*WHOLE, ("2.2", "2.2.1", "2.2.1.1"))
    if place == "study":
        server.held["../../x"] = server.held["1.1"]
    elif place == "series":
        server.held["2.2"]["../../x"] = {"1.2": b""}
    else:
        server.held["2.2"]["2.2.1"]["../../x"] = b""
    found = [scan for scan in retrieved(server, {}, tmp_path / "in", pauses=()) if scan is not None]
    faults = [scan.fault for scan in found if scan.fault and "instead of a UID" in scan.fault]
    assert len(faults) == 1 and "'../../x'" in faults[0]
    assert FILES <= names(tmp_path / "in") and [p.name for p in tmp_path.iterdir()] == ["in"]


def test_series_excluded_by_the_rules_are_not_retrieved(tmp_path):
    server = Fake(*WHOLE)
    rules = Rules(include=[Rule(modality="CT")])
    for about in ({"Modality": "SR"}, {"Modality": "MR"}, {"SeriesDescription": NOTICE + ": portal"}):
        server.about = {"1.1.2": about}
        assert retrieve_study(server, "1.1", tmp_path, rules, ())[0] == 4
    assert retrieve_study(server, "1.1", tmp_path, Rules(include=[Rule(modality="PT")]), ()) == (4, 0)
    assert set(server.sent) == {f"1.1.1.{n}" for n in range(4)}


@pytest.mark.parametrize(
    "counted, lists, words", [(12, 4, "4 images of 12"), (4, 0, "0 images of 4"), (None, 0, "0 images")]
)
def test_list_that_differs_from_the_servers_count_is_an_error(tmp_path, counted, lists, words):
    server = Fake(*WHOLE)
    server.about = {"1.1.2": {"NumberOfSeriesRelatedInstances": counted}}
    every = server.instances
    server.instances = lambda study, series: every(study, series)[: lists if series == "1.1.2" else None]
    (scan,) = (s for s in retrieved(server, {}, tmp_path, pauses=()) if s)
    assert f"lists {words} of series 1.1.2" in scan.fault and names(tmp_path) == set()


def test_images_replaced_in_the_archive_are_replaced_in_the_cache(tmp_path):
    server = Fake(*WHOLE)
    retrieve_study(server, "1.1", tmp_path, pauses=())
    series = server.held["1.1"]["1.1.1"]
    del series["1.1.1.0"]
    series["1.1.1.9"] = image("1.1", "1.1.1", "1.1.1.9")
    assert retrieve_study(server, "1.1", tmp_path, pauses=()) == (8, 1)
    assert names(tmp_path) == FILES - {"1.1/1.1.1_1.1.1.0.dcm"} | {"1.1/1.1.1_1.1.1.9.dcm"}


def test_one_bad_study_does_not_stop_the_others(tmp_path):
    write_ct(tmp_path / "a", stored(8, 32, 34) // 3, StudyInstanceUID="3.1")
    server = Fake(*WHOLE)
    for path in sorted((tmp_path / "a").iterdir()):
        ds = dcmread(path)
        held = server.held.setdefault("3.1", {}).setdefault(str(ds.SeriesInstanceUID), {})
        held[str(ds.SOPInstanceUID)] = path.read_bytes()
    server.held["1.1"]["1.1.1"]["1.1.1.0"] = b""
    model = make_model(small_settings(inference={"spacing": "ignore"}))
    scans = retrieved(server, {}, tmp_path / "in", pauses=())
    bad, good = convert(model, scans, tmp_path / "out")
    assert good.status == "converted" and len(list((tmp_path / "out/3.1").iterdir())) == 8
    assert bad.case == "1.1" and "1 images of series 1.1.1 but does not send them" in bad.error


def test_empty_query_result_is_refused(tmp_path):
    with refused("pacs-no-study", names="PatientID=x"):
        retrieved(Fake(), {"PatientID": "x"}, tmp_path)
