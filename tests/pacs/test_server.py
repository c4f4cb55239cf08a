"""Addresses, queries and what a server may say."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medgen.errors import InputError
from medgen.pacs.connect import connect
from medgen.pacs.server import fits, parse_query, retried, uid


@pytest.mark.parametrize(
    "texts, words",
    [
        ([], "asks for nothing"),
        (["PatientId=1"], "choose PatientID"),
        (["PatientName=Doe"], "choose Patient"),
        (["PatientID"], "give PatientID=VALUE"),
        (["PatientID= "], "give PatientID=VALUE"),
        (["PatientID=a\\b"], "without backslashes"),
        (["PatientID=a\nb"], "without backslashes"),
        (["StudyDate=2020"], "20200101-20201231"),
        (["PatientID=a", "PatientID=b"], "given twice"),
    ],
)
def test_queries_that_are_none(texts, words):
    with pytest.raises(InputError, match=words):
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
        ({"StudyInstanceUID": "1.2"}, True),  # the answer does not tell
        ({"PatientID": "P1", "StudyDate": "2019"}, False),
    ],
)
def test_what_a_server_answers_beside_the_query_is_dropped(query, expected):
    assert fits(STUDY, query) is expected


@pytest.mark.parametrize(
    "address, words",
    [
        ("https://me:secret@host/dicom-web", "MEDGEN_FROM_PACS_PASSWORD"),
        ("https://me@host/dicom-web", "MEDGEN_FROM_PACS_USER"),
        ("dicom://A:secret@host:104", "credentials"),
        ("https://host/dicom-web?access_token=secret", "MEDGEN_FROM_PACS_TOKEN"),
        ("https://host/dicom-web?secret", "MEDGEN_FROM_PACS_TOKEN"),
        ("https://host/dicom-web#secret", "MEDGEN_FROM_PACS_TOKEN"),
        ("https://host/dicom-web;jsessionid=secret", "MEDGEN_FROM_PACS_TOKEN"),
        ("https://me:pa#secret@host/dicom-web", "credentials"),
        ("https://me:pa/secret@host/dicom-web", "credentials"),
        ("https://me:pa?secret@host/dicom-web", "credentials"),
        ("https://me:secret%40host/dicom-web", "no address of a PACS"),
        ("https://[secret/dicom-web", "no address of a PACS"),
        ("HTTPS://me:secret@host", "credentials"),
        ("me:secret@host:104", "credentials"),
        ("dicom://A:pa#secret@host:104", "credentials"),
        ("dicom://A:pa/secret@host:104", "no address of a PACS"),
        ("dicom://A@secret@host:104", "credentials"),
        ("dicom://A@host:104?token=secret", "give dicom"),
        ("dicom://A@host:104/secret", "give dicom"),
        ("dicom://secretsecretsecret@host:104", "no AE title"),
        ("dicom://secret", "give dicom"),
        ("ftp://host", "no address of a PACS"),
        ("host:104", "no address of a PACS"),
        ("", "no address of a PACS"),
        ("http://host:a/", "no address of a PACS"),
        ("dicom://A@host", "give dicom"),
        ("dicom://A@host:104?called=x", "give dicom"),
        ("dicom://host:104", "no AE title"),
        ("dicom://ALONGERTITLETHANIS@host:104", "no AE title"),
        ("dicom://A@host:104?calling=a%5Cb", "no AE title"),
    ],
)
def test_addresses_that_are_none(address, words):
    pytest.importorskip("pynetdicom", reason="needs pip install 'medgen[pacs]'")
    with pytest.raises(InputError, match=words) as caught:
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
def test_what_is_no_uid(name):
    with pytest.raises(InputError, match="where a UID belongs"):
        uid(name, "server")


def test_a_lost_connection_is_tried_again(monkeypatch):
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
