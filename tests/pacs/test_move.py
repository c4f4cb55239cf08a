"""C-MOVE from a local pynetdicom archive; ``test_orthanc`` tests it with Orthanc."""

import socket
from contextlib import contextmanager

import pytest
from archive import free_port
from dicom_series import stored, write_ct
from pydicom import dcmread
from refusal import refused

pytest.importorskip("pynetdicom", reason="needs pip install 'medgen[pacs]'")

from pynetdicom import AE, evt  # noqa: E402
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelMove  # noqa: E402

from medgen.errors import InputError
from medgen.pacs import dimse, move  # noqa: E402
from medgen.pacs.connect import connect


@contextmanager
def archive(ours, *answers):
    """Yield a client of an archive that responds to C-MOVE with this destination, count, statuses and images."""

    def moves(event):
        yield from answers

    entity = AE("PACS")
    entity.add_supported_context(StudyRootQueryRetrieveInformationModelMove)
    for kind in dimse.SCANS:
        entity.add_requested_context(kind)
    server = entity.start_server(("127.0.0.1", free_port()), block=False, evt_handlers=[(evt.EVT_C_MOVE, moves)])
    try:
        yield connect(f"dicom://PACS@127.0.0.1:{server.server_address[1]}?move={ours}", "FROM")
    finally:
        server.shutdown()


@pytest.fixture
def images(tmp_path):
    write_ct(tmp_path / "a", stored(3, 16, 18))
    return [dcmread(path) for path in sorted((tmp_path / "a").iterdir())]


def test_images_are_received_and_the_port_is_closed(images, tmp_path):
    ours, got = free_port(), []
    with archive(ours, ("127.0.0.1", ours), 3, *[(0xFF00, image) for image in images]) as server:
        for _ in range(2):  # the port can be opened again at once
            server.retrieve("1.2", "1.3", None, got.append)
        assert len(got) == 6
        (tmp_path / "x.dcm").write_bytes(got[2])
        assert dcmread(tmp_path / "x.dcm") == images[2]
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", ours), timeout=5)

        def full(data):
            raise InputError("disk-full", "disk full")

        with refused("disk-full"):
            server.retrieve("1.2", "1.3", ["1.4"], full)


def test_only_the_archive_may_send(images, monkeypatch):
    ours, got = free_port(), []
    monkeypatch.setattr(move, "_addresses", lambda host: {"192.0.2.1"})
    with archive(ours, ("127.0.0.1", ours), 1, (0xFF00, images[0])) as server:
        with refused("pacs-sender-foreign", names="127.0.0.1"):
            server.retrieve("1.2", "1.3", None, got.append)
    assert not got


def test_archive_without_our_move_destination_is_reported(images):
    with archive(free_port(), (None, None)) as server:
        with refused("pacs-destination-unknown", names="MEDGEN"):
            server.retrieve("1.2", "1.3", None, print)


def test_used_and_invalid_ports_are_refused():
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        with archive(port) as server, refused("pacs-port-unavailable", names=f"port {port}"):
            server.retrieve("1.2", "1.3", None, print)
    for port in ("0", "x", "123456", "-1", "99999"):
        with refused("pacs-address-invalid"):
            connect(f"dicom://PACS@127.0.0.1:104?move={port}", "FROM")
