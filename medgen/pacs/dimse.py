"""Access a PACS by classic DICOM (DIMSE, PS3.7): C-FIND, C-GET or C-MOVE, and C-STORE through pynetdicom.

C-GET returns images over the connection of the request, so no local port has to be opened and no destination has to be
configured in the archive (PS3.4 C.4.3). C-MOVE is for archives without C-GET, see ``move``. Nothing is encrypted.
"""

import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from pydicom import Dataset, dcmread
from pydicom import uid as dicom
from pynetdicom import AE, _config, build_context, build_role, evt
from pynetdicom.association import Association
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
)

from medgen.errors import InputError
from medgen.io.dicom.elements import Header
from medgen.pacs.move import receiving
from medgen.pacs.server import HAD, LARGEST, MOST, SERIES, STUDY, header

SCANS = (
    dicom.CTImageStorage,
    dicom.MRImageStorage,
    dicom.PositronEmissionTomographyImageStorage,
    dicom.EnhancedCTImageStorage,
    dicom.EnhancedMRImageStorage,
    dicom.EnhancedPETImageStorage,
    dicom.LegacyConvertedEnhancedCTImageStorage,
    dicom.LegacyConvertedEnhancedMRImageStorage,
    dicom.LegacyConvertedEnhancedPETImageStorage,
)
PLAIN: list[Any] = [dicom.ExplicitVRLittleEndian, dicom.ImplicitVRLittleEndian]
PACKED = (  # one context per syntax, so that the archive can send each image as stored
    dicom.RLELossless,
    dicom.JPEGLossless,
    dicom.JPEGLosslessSV1,
    dicom.JPEGLSLossless,
    dicom.JPEGLSNearLossless,
    dicom.JPEG2000Lossless,
    dicom.JPEG2000,
    dicom.JPEGBaseline8Bit,
    dicom.JPEGExtended12Bit,
    dicom.HTJ2KLossless,
    dicom.HTJ2K,
    dicom.DeflatedExplicitVRLittleEndian,
)
TOGETHER = 500  # maximum UIDs per request; an element of VR UI has at most 65,534 bytes
CONNECT, ANSWER = 10, 60  # timeouts in seconds: connection, next message
MOVED = 600  # ANSWER for C-MOVE: some archives send no message until the last image is sent
PORT = re.compile(r"([1-9]\d{0,4})?", re.ASCII)
PDU = 2**17 - 2  # maximum size in bytes of a received PDU
_config.LOG_REQUEST_IDENTIFIERS = _config.LOG_RESPONSE_IDENTIFIERS = False  # identifiers contain patient names
DUPLICATE = 0x0111  # the server has an image with this UID, e.g. sent before a connection was lost


class Dimse:
    """Client for ``dicom://CALLED@host:port?calling=MEDGEN``; ``&move=PORT`` uses C-MOVE. See ``server.Server``."""

    def __init__(self, address: str) -> None:
        parts = urlsplit(address)
        request = parse_qs(parts.query)
        self.called, self.calling = unquote(parts.username or ""), request.pop("calling", ["MEDGEN"])[-1]
        move = request.pop("move", [""])[-1]
        if request or parts.path.strip("/") or parts.port is None or not PORT.fullmatch(move) or int(move or 1) > 65535:
            raise InputError(
                "pacs-address-invalid",
                "the PACS address is invalid; give dicom://CALLED_AET@host:port, optionally with ?calling=OUR_AET and "
                "&move=OUR_PORT",
            )
        self.move_port = int(move) if move else None  # local port for images sent by C-MOVE
        for title in (self.called, self.calling):
            if not title.strip() or len(title) > 16 or not (title.isascii() and title.isprintable()) or "\\" in title:
                raise InputError(
                    "pacs-ae-title-invalid",
                    "the PACS address has an AE title that is not 1 to 16 ASCII characters (PS3.5 6.2); give "
                    "dicom://CALLED_AET@host:port",
                )
        self.host, self.port = parts.hostname or "", parts.port
        self.name = f"dicom://{self.called}@{self.host}:{self.port}"

    # Query ---------------------------------------------------------------------------------------------

    def studies(self, query: Mapping[str, str]) -> list[Header]:
        return self._find("STUDY", STUDY, query)

    def series(self, study: str) -> list[Header]:
        return self._find("SERIES", SERIES, {"StudyInstanceUID": study})

    def instances(self, study: str, series: str) -> list[str]:
        keys = {"StudyInstanceUID": study, "SeriesInstanceUID": series}
        return [str(image.get("SOPInstanceUID")) for image in self._find("IMAGE", ("SOPInstanceUID",), keys)]

    def _find(self, level: str, keywords: Sequence[str], query: Mapping[str, str]) -> list[Header]:
        request = _identifier(level, {**dict.fromkeys(keywords, ""), **query})
        found: list[Header] = []
        model, received = StudyRootQueryRetrieveInformationModelFind, _Received(f"{self.name} answered a query with")
        with self._connected([build_context(model, PLAIN)], evt_handlers=received.handlers) as connection:
            self._check_offered(connection, model, "C-FIND")
            for answer in self._pending(connection.send_c_find(request, model), received, "the query"):
                if answer is not None:
                    found.append(header(answer, keywords))
        return found

    def _pending(
        self, answers: Iterator[tuple[Dataset, Dataset | None]], received: "_Received", description: str
    ) -> Iterator[Dataset | None]:
        """Yield the pending responses; raise an error for a failure status (PS3.4 C.4.1.1.4, C.4.3.1.4)."""
        for number, (status, answer) in enumerate(answers):
            if received.fault:
                raise received.fault
            if "Status" not in status:
                raise ConnectionError(f"{self.name} closed the connection or did not respond")
            code = int(status.Status)
            if code in (0xFF00, 0xFF01):
                if number == MOST:
                    raise InputError(
                        "pacs-too-many-entries",
                        f"{self.name} answered {description} with more than {MOST} entries; narrow the query",
                    )
                yield answer
            elif code == 0xA801:
                raise InputError(
                    "pacs-destination-unknown",
                    f"{self.name} does not know {self.calling} or cannot reach it at port {self.move_port}; "
                    "ask its administrator",
                )
            elif code & 0xFF00 == 0xA700:
                raise ConnectionError(f"{self.name} is temporarily unable to process {description} (status {code:04X})")
            elif code not in (0x0000, 0xB000):  # B000: some images failed; the caller detects missing images
                raise InputError(
                    "pacs-request-refused",
                    f"{self.name} refuses {description} (status {code:04X}); ask its administrator",
                )

    # Retrieval -----------------------------------------------------------------------------------------

    def retrieve(self, study: str, series: str, instances: Sequence[str] | None, keep: Callable[[bytes], None]) -> None:
        keys: dict[str, Any] = {"StudyInstanceUID": study, "SeriesInstanceUID": series}
        fetch = self._get if self.move_port is None else self._move
        if instances is None:
            fetch(_identifier("SERIES", keys), keep)
            return
        for start in range(0, len(instances), TOGETHER):
            batch = list(instances[start : start + TOGETHER])
            fetch(_identifier("IMAGE", {**keys, "SOPInstanceUID": batch}), keep)

    def _get(self, request: Dataset, keep: Callable[[bytes], None]) -> None:
        received, model = _Received(f"{self.name} sent an image of"), StudyRootQueryRetrieveInformationModelGet
        contexts = [build_context(model, PLAIN)]
        for kind in SCANS:
            contexts += [build_context(kind, PLAIN), *(build_context(kind, syntax) for syntax in PACKED)]
        with self._connected(
            contexts,  # at most 128, PS3.8 9.3.2.2
            ext_neg=[build_role(kind, scp_role=True) for kind in SCANS],
            evt_handlers=received.handlers_for(keep),
        ) as connection:
            self._check_offered(connection, model, "C-GET")
            for _ in self._pending(connection.send_c_get(request, model), received, "the retrieval"):
                pass
        if received.fault:
            raise received.fault

    def _move(self, request: Dataset, keep: Callable[[bytes], None]) -> None:
        assert self.move_port is not None
        received, model = _Received(f"{self.name} sent an image of"), StudyRootQueryRetrieveInformationModelMove
        handlers, description = received.handlers_for(keep), f"the transfer to {self.calling} at port {self.move_port}"
        with receiving(self.calling, self.move_port, self.host, SCANS, [*PLAIN, *PACKED], handlers) as foreign_hosts:
            try:
                with self._connected([build_context(model, PLAIN)], response_timeout=MOVED) as connection:
                    self._check_offered(connection, model, "C-MOVE")
                    for _ in self._pending(connection.send_c_move(request, self.calling, model), received, description):
                        pass
            except (InputError, ConnectionError):
                if not foreign_hosts or received.images:
                    raise
        if received.fault:
            raise received.fault
        if foreign_hosts and not received.images:
            raise InputError(
                "pacs-sender-foreign",
                f"{', '.join(sorted(foreign_hosts))} was refused at port {self.move_port}: images are accepted only "
                f"from {self.host}, but {self.name} sent none from there; give the host that sends the images, "
                "or use DICOMweb",
            )

    # Storage -------------------------------------------------------------------------------------------

    def store(self, files: Sequence[Path]) -> Iterator[tuple[Path, str, bool]]:
        kinds = {file: _kind(file) for file in files}
        contexts = [
            build_context(kind, PLAIN if syntax in PLAIN else [syntax])
            for kind, syntax in sorted({(k, PLAIN[0] if s in PLAIN else s) for k, s in kinds.values()})
        ]
        with self._connected(contexts) as connection:
            for number, file in enumerate(files):
                try:
                    status = connection.send_c_store(file, msg_id=number % 65535 + 1)
                except ValueError:
                    yield file, f"does not accept images of type {dicom.UID(kinds[file][0]).name}", False
                    continue
                except RuntimeError:  # the association is closed
                    status = Dataset()
                if "Status" not in status:
                    raise ConnectionError(f"{self.name} closed the connection or did not respond")
                yield (file, *_stored(int(status.Status)))

    # Connection ----------------------------------------------------------------------------------------

    @contextmanager
    def _connected(
        self, contexts: Sequence[Any], response_timeout: float = ANSWER, **options: Any
    ) -> Iterator[Association]:
        entity = AE(self.calling)
        entity.connection_timeout = entity.acse_timeout = CONNECT
        entity.dimse_timeout = entity.network_timeout = response_timeout
        connection = entity.associate(
            self.host, self.port, list(contexts), ae_title=self.called, max_pdu=PDU, **options
        )
        try:
            if connection.is_rejected:
                answer = connection.acceptor.primitive
                cause = getattr(answer, "reason_str", "no reason given")
                if getattr(answer, "result", 1) == 2:  # transient, PS3.8 9.3.4
                    raise ConnectionError(f"{self.name} is busy ({cause})")
                raise InputError(
                    "pacs-association-refused",
                    f"{self.name} refuses connections from {self.calling} ({cause}); {self._hint(answer)}",
                )
            if not connection.is_established:
                if connection.rejected_contexts:
                    raise InputError(
                        "pacs-nothing-offered",
                        f"{self.name} offers none of the required services; ask its administrator",
                    )
                raise ConnectionError(f"{self.name} cannot be reached")
            yield connection
        except BaseException:
            if connection.is_established:
                connection.abort()
            raise
        if connection.is_established:
            connection.release()

    def _hint(self, answer: Any) -> str:
        """Return advice on a rejected association, by its reason (PS3.8 9.3.4)."""
        if getattr(answer, "result_source", 1) == 1 and getattr(answer, "diagnostic", 1) == 3:
            return (
                f"ask its administrator to register the AE title {self.calling}, or add ?calling=TITLE with a "
                "registered AE title to the address"
            )
        if getattr(answer, "result_source", 1) == 1 and getattr(answer, "diagnostic", 1) == 7:
            return f"its AE title is not {self.called}; correct the part of the address before the @"
        return "check both AE titles and whether this machine is registered in the archive"

    def _check_offered(self, connection: Association, model: str, name: str) -> None:
        if model not in [context.abstract_syntax for context in connection.accepted_contexts]:
            other = "add ?move=OUR_PORT for C-MOVE, or " if name == "C-GET" else ""
            raise InputError(
                "pacs-service-not-offered",
                f"{self.name} does not offer {name} to {self.calling}; {other}use its DICOMweb address",
            )


class _Received:
    """Counts received bytes and images, and closes the connection if a response could fill the memory."""

    def __init__(self, description: str) -> None:
        self.description, self.bytes, self.images = description, 0, 0
        self.fault: Exception | None = None
        self.handlers: list[Any] = [(evt.EVT_DATA_RECV, self._count)]

    def handlers_for(self, keep: Callable[[bytes], None]) -> list[Any]:
        """Return event handlers that pass each image to ``keep``."""

        lock = threading.Lock()  # an archive may send over several connections

        def store(event: evt.Event) -> int:
            self.bytes, self.images = 0, self.images + 1
            try:
                with lock:
                    keep(event.encoded_dataset())
            except Exception as error:  # e.g. a full disk; passed to the caller instead of pynetdicom
                self.fault = self.fault or error
                return 0xA700
            return 0x0000

        return [(evt.EVT_C_STORE, store), *self.handlers]

    def _count(self, event: evt.Event) -> None:
        self.bytes += len(event.data)
        if self.bytes > LARGEST and not self.fault and event.assoc.dul.socket is not None:
            self.fault = InputError(
                "pacs-answer-too-large", f"{self.description} more than {LARGEST} bytes; ask its administrator"
            )
            event.assoc.dul.socket.close()  # an abort would wait for the following messages


def _identifier(level: str, keys: Mapping[str, Any]) -> Dataset:
    identifier = Dataset()
    for keyword, value in {"QueryRetrieveLevel": level, "SpecificCharacterSet": "ISO_IR 192", **keys}.items():
        setattr(identifier, keyword, value)
    return identifier


def _kind(file: Path) -> tuple[str, str]:
    meta = dcmread(file, specific_tags=["SOPClassUID"]).file_meta
    return str(meta.MediaStorageSOPClassUID), str(meta.TransferSyntaxUID)


def _stored(code: int) -> tuple[str, bool]:
    """Return the message for a C-STORE status, and whether the server has the image (PS3.4 B.2.3, PS3.7 C)."""
    if code == 0x0000:
        return "", True
    if code == DUPLICATE:
        return HAD, True
    if code & 0xF000 == 0xB000 or code in (0x0001, 0x0107, 0x0116):
        return f"stored the image changed or incomplete (warning {code:04X})", True
    if code & 0xFF00 == 0xA700:
        return f"is out of resources (status {code:04X})", False
    return f"refuses the image (status {code:04X})", False
