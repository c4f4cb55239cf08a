"""Addresses, queries and responses of a server."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from refusal import refused

from medgen.errors import InputError
from medgen.pacs.connect import connect
from medgen.pacs.server import matches_query, parse_query, retried, uid


@pytest.mark.parametrize(
    "texts, code, name",
    [
        ([], "pacs-query-missing", ""),
        (["PatientId=1"], "pacs-query-key-unknown", "PatientID"),
        (["PatientName=Doe"], "pacs-query-key-unknown", "PatientID"),
        (["PatientID"], "pacs-query-value-invalid", "PatientID"),
        (["PatientID= "], "pacs-query-value-invalid", "PatientID"),
        (["PatientID=a\\b"], "pacs-query-value-invalid", "PatientID"),
        (["PatientID=a\nb"], "pacs-query-value-invalid", "PatientID"),
        (["StudyDate=2020"], "pacs-query-date-invalid", "StudyDate"),
        (["PatientID=a", "PatientID=b"], "pacs-query-key-twice", "PatientID"),
    ],
)
def test_invalid_query_is_refused(texts, code, name):
    with refused(code, names=name):
        parse_query(texts)


def test_a_query_may_hold_equals_signs():
    assert parse_query(["StudyDescription=a=b", "StudyDate=20200101-"]) == {
        "StudyDescription": "a=b",
        "StudyDate": "20200101-",
    }


STUDY = {
    "PatientID": "P1", "StudyDate": "20200304", "ModalitiesInStudy": ["CT", "SR"],
    "StudyDescription": "Abdomen [a.b]", "AccessionNumber": "",
}  # fmt: skip


@pytest.mark.parametrize(
    "query, expected",
    [
        ({"PatientID": "P1"}, True),
        ({"PatientID": "P10"}, False),
        ({"PatientID": "P"}, False),
        ({"PatientID": "p?"}, True),
        ({"StudyDate": "20200304"}, True),
        ({"StudyDate": "20200101-20200304"}, True),
        ({"StudyDate": "20200305-"}, False),
        ({"StudyDate": "-20200303"}, False),
        ({"ModalitiesInStudy": "SR"}, True),
        ({"ModalitiesInStudy": "MR"}, False),
        ({"StudyDescription": "abdomen [a.b]"}, True),
        ({"StudyDescription": "Abdomen ?a?b*"}, True),
        ({"StudyDescription": "Abdomen a"}, False),
        ({"StudyInstanceUID": "1.2"}, True),  # the response lacks the element
        ({"PatientID": "P1", "StudyDate": "2019"}, False),
    ],
)
def test_responses_that_do_not_match_the_query_are_dropped(query, expected):
    assert matches_query(STUDY, query) is expected


@pytest.mark.parametrize(
    "address, code, name",
    [
        ("https://me:secret@host/dicom-web", "pacs-credentials-in-address", "MEDGEN_FROM_PACS_PASSWORD"),
        ("https://me@host/dicom-web", "pacs-credentials-in-address", "MEDGEN_FROM_PACS_USER"),
        ("dicom://A:secret@host:104", "pacs-credentials-in-address", ""),
        ("https://host/dicom-web?access_token=secret", "pacs-credentials-in-address", "MEDGEN_FROM_PACS_TOKEN"),
        ("https://host/dicom-web?secret", "pacs-credentials-in-address", "MEDGEN_FROM_PACS_TOKEN"),
        ("https://host/dicom-web#secret", "pacs-credentials-in-address", "MEDGEN_FROM_PACS_TOKEN"),
        ("https://host/dicom-web;jsessionid=secret", "pacs-credentials-in-address", "MEDGEN_FROM_PACS_TOKEN"),
        ("https://me:pa#secret@host/dicom-web", "pacs-credentials-in-address", ""),
        ("https://me:pa/secret@host/dicom-web", "pacs-credentials-in-address", ""),
        ("https://me:pa?secret@host/dicom-web", "pacs-credentials-in-address", ""),
        ("https://me:secret%40host/dicom-web", "pacs-address-invalid", ""),
        ("https://[secret/dicom-web", "pacs-address-invalid", ""),
        ("HTTPS://me:secret@host", "pacs-credentials-in-address", ""),
        ("me:secret@host:104", "pacs-credentials-in-address", ""),
        ("dicom://A:pa#secret@host:104", "pacs-credentials-in-address", ""),
        ("dicom://A:pa/secret@host:104", "pacs-address-invalid", ""),
        ("dicom://A@secret@host:104", "pacs-credentials-in-address", ""),
        ("dicom://A@host:104?token=secret", "pacs-address-invalid", ""),
        ("dicom://A@host:104/secret", "pacs-address-invalid", ""),
        ("dicom://secretsecretsecret@host:104", "pacs-ae-title-invalid", ""),
        ("dicom://secret", "pacs-address-invalid", ""),
        ("ftp://host", "pacs-address-invalid", ""),
        ("host:104", "pacs-address-invalid", ""),
        ("", "pacs-address-invalid", ""),
        ("http://host:a/", "pacs-address-invalid", ""),
        ("dicom://A@host", "pacs-address-invalid", ""),
        ("dicom://A@host:104?called=x", "pacs-address-invalid", ""),
        ("dicom://host:104", "pacs-ae-title-invalid", ""),
        ("dicom://ALONGERTITLETHANIS@host:104", "pacs-ae-title-invalid", ""),
        ("dicom://A@host:104?calling=a%5Cb", "pacs-ae-title-invalid", ""),
    ],
)
def test_invalid_address_is_refused(address, code, name):
    pytest.importorskip("pynetdicom", reason="needs pip install 'medgen[pacs]'")
    with refused(code, names=name) as caught:
        connect(address, "FROM")
    assert "secret" not in str(caught.value)


def test_titles_may_be_quoted():
    pytest.importorskip("pynetdicom", reason="needs pip install 'medgen[pacs]'")
    server = connect("dicom://MY%20PACS@[::1]:104?calling=US", "TO")
    assert (server.called, server.calling, server.host, server.port) == ("MY PACS", "US", "::1", 104)


@given(st.text("0123456789./\\ \0\n٣", max_size=70))
def test_only_a_uid_becomes_a_name(text):
    try:
        name = uid(text, "server")
    except InputError as error:
        assert str(error).isprintable()
        return
    assert set(name) <= set("0123456789.") and ".." not in name and len(name) <= 64
    assert name[0] != "." and name == str(text).strip(" \0")


@pytest.mark.parametrize("name", ["../1", "1/2", "1..2", ".1", "1.", "", "1" * 65, "1.2\n", "٣.٤", "None"])
def test_invalid_uid_is_refused(name):
    with refused("pacs-uid-invalid"):
        uid(name, "server")


def test_lost_connection_is_retried(monkeypatch):
    waited, answers = [], [ConnectionError, ConnectionError, "there"]
    monkeypatch.setattr("medgen.pacs.server.time.sleep", waited.append)

    def ask():
        answer = answers.pop(0)
        if answer is ConnectionError:
            raise answer("lost")
        return answer

    assert retried(ask, (1, 2, 3)) == "there" and waited == [1, 2]
    answers[:] = [ConnectionError] * 3
    with pytest.raises(ConnectionError):
        retried(ask, (1, 2))
