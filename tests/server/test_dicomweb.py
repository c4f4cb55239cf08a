"""STOW-RS starts jobs, and answers as PS3.18 says."""

import io
import zipfile

import pytest
from dicom_series import stored, write_ct
from pydicom import Dataset, dcmread
from serving import ended

pytest.importorskip("fastapi")
pytest.importorskip("httpx")
from medgen.server.uploads import Limits  # noqa: E402

TYPE = 'multipart/related; type="application/dicom"; boundary="b-1"'


def message(parts, kind="application/dicom", end="--b-1--\r\n"):
    heads = f"--b-1\r\nContent-Type: {kind}\r\n\r\n".encode()
    return b"".join(heads + part + b"\r\n" for part in parts) + end.encode()


def post(client, parts, path="/dicom-web/studies", **more):
    return client.post(path, content=message(parts, **more), headers={"Content-Type": TYPE})


@pytest.fixture
def series(tmp_path):
    write_ct(tmp_path / "series", stored(16, 16, 16))
    return [path.read_bytes() for path in sorted((tmp_path / "series").iterdir())]


def uids(dataset, keyword="ReferencedSOPSequence"):
    return [item.ReferencedSOPInstanceUID for item in dataset.get(keyword, [])]


def test_a_series_becomes_a_job_and_every_image_is_referenced(served, series, quick):
    client = served()
    answer = post(client, series)
    assert answer.status_code == 200 and answer.headers["content-type"] == "application/dicom+json"
    told = Dataset.from_json(answer.json())
    sent = [dcmread(io.BytesIO(content)) for content in series]
    assert uids(told) == [image.SOPInstanceUID for image in sent] and "FailedSOPSequence" not in told
    assert {item.ReferencedSOPClassUID for item in told.ReferencedSOPSequence} == {sent[0].SOPClassUID}
    state = ended(client, answer.headers["location"])
    assert state["state"] == "done" and len(state["cases"]) == 1, state
    result = client.get(answer.headers["location"] + "/result").content
    assert len(zipfile.ZipFile(io.BytesIO(result)).namelist()) == 16


def test_what_is_no_image_is_told_and_the_rest_converted(served, series, quick):
    report = dcmread(io.BytesIO(series[0]))
    report.SOPClassUID = report.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.88.11"  # a text report
    report.Modality = "SR"
    del report.PixelData, report.Rows, report.Columns
    content = io.BytesIO()
    report.save_as(content)
    client = served()
    answer = post(client, [content.getvalue(), b"no DICOM", *series[1:]])
    told = Dataset.from_json(answer.json())
    assert answer.status_code == 202 and len(uids(told)) == 15
    assert uids(told, "FailedSOPSequence") == [report.SOPInstanceUID]
    assert told.FailedSOPSequence[0].FailureReason == 0x0122
    assert [item.FailureReason for item in told.OtherFailuresSequence] == [0xC000]
    assert ended(client, answer.headers["location"])["cases"][0]["error"] is None


def test_images_of_another_study_are_refused(served, series, quick):
    client, study = served(), str(dcmread(io.BytesIO(series[0])).StudyInstanceUID)
    answer = post(client, series[:2], "/dicom-web/studies/1.2.3")
    assert answer.status_code == 409 and len(Dataset.from_json(answer.json()).FailedSOPSequence) == 2
    assert not client.jobs._jobs and not list(client.jobs.work.iterdir())
    assert post(client, series, f"/dicom-web/tiny/studies/{study}").status_code == 200


def test_two_series_of_one_request_are_two_cases(served, series, tmp_path, quick):
    write_ct(
        tmp_path / "other",
        stored(16, 16, 16),
    )
    other = [path.read_bytes() for path in sorted((tmp_path / "other").iterdir())]
    client = served()
    answer = post(client, [content for pair in zip(series, other, strict=True) for content in pair])
    state = ended(client, answer.headers["location"])
    assert [case["error"] for case in state["cases"]] == [None, None], state


def test_several_models_need_a_name(served, series, quick):
    client = served(names=("tiny", "other"))
    assert post(client, series).status_code == 400
    assert post(client, series, "/dicom-web/none/studies").status_code == 404
    answer = post(client, series, "/dicom-web/other/studies")
    assert answer.status_code == 200 and ended(client, answer.headers["location"])["model"] == "other"


def test_damaged_messages_are_refused_and_leave_nothing(served, series):
    client, types = served(Limits(upload=100_000)), {"Content-Type": TYPE}
    assert post(client, []).status_code == 400
    assert post(client, series, end="").status_code == 400
    assert post(client, series, kind="application/dicom+json").status_code == 415
    assert post(client, [bytes(200_000)]).status_code == 413
    assert client.post("/dicom-web/studies", content=b"nothing", headers=types).status_code == 400
    assert client.post("/dicom-web/studies", content=message(series)).status_code == 415
    single = {"Content-Type": "application/dicom"}
    assert client.post("/dicom-web/studies", content=series[0], headers=single).status_code == 415
    xml = types | {"Accept": "application/dicom+xml"}
    assert client.post("/dicom-web/studies", content=message(series), headers=xml).status_code == 406
    assert not client.jobs._jobs and not list(client.jobs.work.iterdir())


def test_a_client_of_dicomweb_can_store(served, series, quick):
    web = pytest.importorskip("dicomweb_client.web")
    client = served()

    class Session:
        """The calls of requests.Session that the client uses, over the test client."""

        def __getattr__(self, name):
            return getattr(client, name)

        def post(self, url, data=None, headers=None, **_):
            answer = client.post(url, content=data, headers=headers)
            answer.ok = answer.is_success
            return answer

    stow = web.DICOMwebClient("http://127.0.0.1:8000/dicom-web", session=Session())
    told = stow.store_instances([dcmread(io.BytesIO(content)) for content in series])
    assert len(told.ReferencedSOPSequence) == 16
