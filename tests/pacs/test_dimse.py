"""Classic DICOM client against a local pynetdicom archive with preset errors."""

import warnings
from contextlib import contextmanager

import pytest
from archive import free_port
from dicom_series import stored, write_ct
from pydicom import Dataset, dcmread
from refusal import refused

pytest.importorskip("pynetdicom", reason="needs pip install 'medgen[pacs]'")

from pynetdicom import AE, evt  # noqa: E402
from pynetdicom.sop_class import (  # noqa: E402
    CTImageStorage,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
)

from medgen.errors import InputError
from medgen.pacs import dimse  # noqa: E402
from medgen.pacs.connect import connect
from medgen.pacs.retrieve import retrieved  # noqa: E402

FIND, GET = StudyRootQueryRetrieveInformationModelFind, StudyRootQueryRetrieveInformationModelGet


@contextmanager
def archive(*contexts, title="PACS", knows=(), **handlers):
    """Yield a client of an archive with these presentation contexts and handlers (find, get, store)."""
    entity = AE(title)
    entity.require_called_aet, entity.require_calling_aet = True, list(knows)
    for context in contexts:
        entity.add_supported_context(context, scu_role=True, scp_role=True)
    events = {"find": evt.EVT_C_FIND, "get": evt.EVT_C_GET, "store": evt.EVT_C_STORE}
    bound = [(events[name], handler) for name, handler in handlers.items()]
    server = entity.start_server(("127.0.0.1", free_port()), block=False, evt_handlers=bound)
    try:
        yield connect(f"dicom://PACS@127.0.0.1:{server.server_address[1]}", "FROM")
    finally:
        server.shutdown()


def answers(*found, status=0xFF00):
    def find(event):
        for keys in found:
            ds = Dataset()
            for keyword, value in {"QueryRetrieveLevel": event.identifier.QueryRetrieveLevel, **keys}.items():
                with warnings.catch_warnings(action="ignore"):
                    setattr(ds, keyword, value)
            yield status, ds

    return find


def test_unreachable_and_refusing_archives_are_reported():
    with pytest.raises(ConnectionError, match="cannot be reached"):
        connect(f"dicom://PACS@127.0.0.1:{free_port()}", "FROM").series("1.2")
    with (
        archive(FIND, title="ANOTHER") as server,
        refused("pacs-association-refused", names=("MEDGEN", "PACS")),
    ):
        server.series("1.2")
    with (
        archive(FIND, knows=["OTHER"]) as server,
        refused("pacs-association-refused", names=("MEDGEN", "calling=")),
    ):
        server.series("1.2")
    with archive(CTImageStorage) as server, refused("pacs-nothing-offered"):
        server.series("1.2")


def test_query_errors_are_reported(tmp_path):
    with archive(FIND, find=answers({}, status=0xA900)) as server, refused("pacs-request-refused", names="A900"):
        server.series("1.2")
    with archive(FIND, find=answers({}, status=0xA700)) as server, pytest.raises(ConnectionError, match="A700"):
        server.series("1.2")
    with archive(FIND, find=answers({"StudyInstanceUID": "../../x", "PatientID": "p1"})) as server:
        (scan,) = (s for s in retrieved(server, {"PatientID": "p1"}, tmp_path / "in", pauses=()) if s)
        assert "'../../x' instead of a UID" in scan.fault
        with refused("pacs-no-study"):
            retrieved(server, {"PatientID": "p2"}, tmp_path / "in", pauses=())


def test_endless_responses_are_refused(monkeypatch):
    monkeypatch.setattr(dimse, "MOST", 5)
    with archive(FIND, find=answers(*[{"StudyInstanceUID": "1"}] * 9)) as server:
        with refused("pacs-too-many-entries"):
            server.studies({"PatientID": "p1"})
    with archive(FIND, find=answers(*[{}] * 9)) as server, monkeypatch.context() as patch:
        patch.delattr("pynetdicom.association.decode")  # identifiers that cannot be read count too
        with refused("pacs-too-many-entries"):
            server.studies({"PatientID": "p1"})
    monkeypatch.setattr(dimse, "LARGEST", 200_000)
    with archive(FIND, find=answers({"StudyInstanceUID": "1", "PatientComments": "x" * 400_000})) as server:
        with refused("pacs-answer-too-large"):
            server.studies({"PatientID": "p1"})


def gives(*images):
    def get(event):
        yield len(images)
        for image in images:
            yield 0xFF00, image

    return get


def test_images_are_received_as_files_and_local_errors_are_raised(tmp_path, monkeypatch):
    write_ct(tmp_path / "a", stored(2, 64, 68))
    images = [dcmread(path) for path in sorted((tmp_path / "a").iterdir())]
    with archive(GET, CTImageStorage, get=gives(*images)) as server:
        got = []
        server.retrieve("1.2", "1.3", None, got.append)
        (tmp_path / "x.dcm").write_bytes(got[1])
        assert len(got) == 2 and dcmread(tmp_path / "x.dcm") == images[1]

        def full(data):
            raise InputError("disk-full", "disk full")

        with refused("disk-full"):
            server.retrieve("1.2", "1.3", ["1.4"], full)
        monkeypatch.setattr(dimse, "LARGEST", 6000)
        with refused("pacs-answer-too-large"):
            server.retrieve("1.2", "1.3", None, got.append)
    with archive(FIND) as server, refused("pacs-nothing-offered"):
        server.retrieve("1.2", "1.3", None, got.append)


def test_store_reports_the_outcome_of_each_image(tmp_path):
    write_ct(tmp_path / "a", stored(6, 8, 9))
    files = sorted((tmp_path / "a").iterdir())
    codes = iter([0x0000, 0xB000, 0xB007, 0x0111, 0xA700, 0xC123])
    with archive(CTImageStorage, store=lambda event: next(codes)) as server:
        _, reasons, stored_flags = zip(*server.store(files), strict=True)
    assert stored_flags == (True, True, True, True, False, False)
    assert reasons[0] == "" and "warning B000" in reasons[1] and "already" in reasons[3] and "C123" in reasons[5]

    def breaks(event):
        event.assoc.abort()
        return 0

    with archive(CTImageStorage, store=breaks) as server, pytest.raises(ConnectionError, match="closed the connection"):
        list(server.store(files))
