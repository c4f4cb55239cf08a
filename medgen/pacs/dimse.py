"""A PACS by classic DICOM (DIMSE, PS3.7): C-FIND, C-GET or C-MOVE, and C-STORE over pynetdicom.

C-GET returns images over the connection that asked for them, so no port has to be opened and no archive has to be
told where to send (PS3.4 C.4.3). For archives without it there is C-MOVE, see ``move``. Nothing is encrypted.
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
from medgen.io.dicom.header import Header
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
PACKED = (  # a context each, so that the archive can send every image as it holds it
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
TOGETHER = 500  # UIDs in one request; an element of VR UI ends at 65,534 bytes
CONNECT, ANSWER = 10, 60  # seconds to wait for a connection and for the next message
MOVED = 600  # the same while images come by another connection: some archives say nothing until the last one
PORT = re.compile(r"([1-9]\d{0,4})?", re.ASCII)
PDU = 2**17 - 2  # bytes of a message's piece that we take
_config.LOG_REQUEST_IDENTIFIERS = _config.LOG_RESPONSE_IDENTIFIERS = False  # they hold what patients are called
DUPLICATE = 0x0111  # the server has an image of this UID: what was sent before a connection was lost


class Dimse:
    """``dicom://CALLED@host:port?calling=MEDGEN``, with ``&move=PORT`` by C-MOVE; see ``server.Server``."""

    def __init__(self, address: str) -> None:
        parts = urlsplit(address)
        asked = parse_qs(parts.query)
        self.called, self.calling = unquote(parts.username or ""), asked.pop("calling", ["MEDGEN"])[-1]
        move = asked.pop("move", [""])[-1]
        if asked or parts.path.strip("/") or parts.port is None or not PORT.fullmatch(move) or int(move or 1) > 65535:
            raise InputError(
                "pacs-address-invalid",
                "an address of a PACS is dicom://CALLED_AET@host:port, if need be with ?calling=OUR_AET and "
                "&move=OUR_PORT; give dicom://CALLED_AET@host:port",
            )
        self.ours = int(move) if move else None  # the port where we take what is moved
        for title in (self.called, self.calling):
            if not title.strip() or len(title) > 16 or not (title.isascii() and title.isprintable()) or "\\" in title:
                raise InputError(
                    "pacs-ae-title-invalid",
                    "the address of a PACS has no AE title of 1 to 16 ASCII characters (PS3.5 6.2) in it; give "
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

    def _find(self, level: str, wanted: Sequence[str], query: Mapping[str, str]) -> list[Header]:
        asked = _identifier(level, {**dict.fromkeys(wanted, ""), **query})
        found: list[Header] = []
        model, arrived = StudyRootQueryRetrieveInformationModelFind, _Arrived(f"{self.name} answers a query with")
        with self._connected([build_context(model, PLAIN)], evt_handlers=arrived.handlers) as connection:
            self._check_offered(connection, model, "C-FIND")
            for answer in self._pending(connection.send_c_find(asked, model), arrived, "the query"):
                if answer is not None:
                    found.append(header(answer, wanted))
        return found

    def _pending(
        self, answers: Iterator[tuple[Dataset, Dataset | None]], arrived: "_Arrived", what: str
    ) -> Iterator[Dataset | None]:
        """The answers after which more follow; raises what a status that is no success means (PS3.4 C.4.1.1.4,
        C.4.3.1.4)."""
        for number, (status, answer) in enumerate(answers):
            if arrived.fault:
                raise arrived.fault
            if "Status" not in status:
                raise ConnectionError(f"{self.name} broke off the connection or fell silent")
            code = int(status.Status)
            if code in (0xFF00, 0xFF01):
                if number == MOST:
                    raise InputError(
                        "pacs-too-many-entries",
                        f"{self.name} answers {what} with more than {MOST} entries; ask for less",
                    )
                yield answer
            elif code == 0xA801:
                raise InputError(
                    "pacs-destination-unknown",
                    f"{self.name} does not know {self.calling}, or cannot reach it at port {self.ours}",
                )
            elif code & 0xFF00 == 0xA700:
                raise ConnectionError(f"{self.name} could not do it now: {what} (status {code:04X})")
            elif code not in (0x0000, 0xB000):  # B000: some images failed; those that are missing tell
                raise InputError(
                    "pacs-request-refused", f"{self.name} refuses {what} (status {code:04X}); ask its administrator"
                )

    # Retrieval -----------------------------------------------------------------------------------------

    def retrieve(self, study: str, series: str, instances: Sequence[str] | None, keep: Callable[[bytes], None]) -> None:
        keys: dict[str, Any] = {"StudyInstanceUID": study, "SeriesInstanceUID": series}
        fetch = self._get if self.ours is None else self._move
        if instances is None:
            fetch(_identifier("SERIES", keys), keep)
            return
        for start in range(0, len(instances), TOGETHER):
            some = list(instances[start : start + TOGETHER])
            fetch(_identifier("IMAGE", {**keys, "SOPInstanceUID": some}), keep)

    def _get(self, asked: Dataset, keep: Callable[[bytes], None]) -> None:
        arrived, model = _Arrived(f"{self.name} sends an image of"), StudyRootQueryRetrieveInformationModelGet
        contexts = [build_context(model, PLAIN)]
        for kind in SCANS:
            contexts += [build_context(kind, PLAIN), *(build_context(kind, syntax) for syntax in PACKED)]
        with self._connected(
            contexts,  # 128 at most, PS3.8 9.3.2.2
            ext_neg=[build_role(kind, scp_role=True) for kind in SCANS],
            evt_handlers=arrived.kept_by(keep),
        ) as connection:
            self._check_offered(connection, model, "C-GET")
            for _ in self._pending(connection.send_c_get(asked, model), arrived, "the retrieval"):
                pass
        if arrived.fault:
            raise arrived.fault

    def _move(self, asked: Dataset, keep: Callable[[bytes], None]) -> None:
        assert self.ours is not None
        arrived, model = _Arrived(f"{self.name} sends an image of"), StudyRootQueryRetrieveInformationModelMove
        handlers, what = arrived.kept_by(keep), f"to send to {self.calling} at port {self.ours} of this machine"
        with receiving(self.calling, self.ours, self.host, SCANS, [*PLAIN, *PACKED], handlers) as others:
            try:
                with self._connected([build_context(model, PLAIN)], patience=MOVED) as connection:
                    self._check_offered(connection, model, "C-MOVE")
                    for _ in self._pending(connection.send_c_move(asked, self.calling, model), arrived, what):
                        pass
            except (InputError, ConnectionError):
                if not others or arrived.images:
                    raise
        if arrived.fault:
            raise arrived.fault
        if others and not arrived.images:
            raise InputError(
                "pacs-sender-foreign",
                f"{', '.join(sorted(others))} was turned away at port {self.ours}: images are taken from {self.host} "
                f"only, and {self.name} sent none from there; give the name of the machine that sends, or use DICOMweb",
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
                    yield file, f"does not take images of the kind {dicom.UID(kinds[file][0]).name}", False
                    continue
                except RuntimeError:  # no association any more
                    status = Dataset()
                if "Status" not in status:
                    raise ConnectionError(f"{self.name} broke off the connection or fell silent")
                yield (file, *_stored(int(status.Status)))

    # Connection ----------------------------------------------------------------------------------------

    @contextmanager
    def _connected(self, contexts: Sequence[Any], patience: float = ANSWER, **options: Any) -> Iterator[Association]:
        entity = AE(self.calling)
        entity.connection_timeout = entity.acse_timeout = CONNECT
        entity.dimse_timeout = entity.network_timeout = patience
        connection = entity.associate(
            self.host, self.port, list(contexts), ae_title=self.called, max_pdu=PDU, **options
        )
        try:
            if connection.is_rejected:
                answer = connection.acceptor.primitive
                said = getattr(answer, "reason_str", "no reason given")
                if getattr(answer, "result", 1) == 2:  # transient, PS3.8 9.3.4
                    raise ConnectionError(f"{self.name} is busy ({said})")
                raise InputError(
                    "pacs-association-refused", f"{self.name} refuses {self.calling} ({said}); {self._hint(answer)}"
                )
            if not connection.is_established:
                if connection.rejected_contexts:
                    raise InputError(
                        "pacs-nothing-offered", f"{self.name} offers none of what is needed; ask its administrator"
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
        """What to do about a rejected association, by its reason (PS3.8 9.3.4)."""
        if getattr(answer, "result_source", 1) == 1 and getattr(answer, "diagnostic", 1) == 3:
            return (
                f"its administrator has to enter our AE title {self.calling}, or add ?calling=TITLE to the address "
                "with one that it knows"
            )
        if getattr(answer, "result_source", 1) == 1 and getattr(answer, "diagnostic", 1) == 7:
            return f"its own AE title is not {self.called}; correct what stands before the @ of the address"
        return "check both AE titles, and that the archive knows this machine"

    def _check_offered(self, connection: Association, model: str, name: str) -> None:
        if model not in [context.abstract_syntax for context in connection.accepted_contexts]:
            other = "add ?move=OUR_PORT for C-MOVE, or " if name == "C-GET" else ""
            raise InputError(
                "pacs-service-not-offered",
                f"{self.name} does not offer {name} to {self.calling}; {other}use its DICOMweb address",
            )


class _Arrived:
    """Counts the bytes that come over a connection, so that nothing without end fills the memory."""

    def __init__(self, what: str) -> None:
        self.what, self.bytes, self.images = what, 0, 0
        self.fault: Exception | None = None
        self.handlers: list[Any] = [(evt.EVT_DATA_RECV, self._count)]

    def kept_by(self, keep: Callable[[bytes], None]) -> list[Any]:
        """Handlers that give each image to ``keep``."""

        one = threading.Lock()  # an archive may send by several connections

        def store(event: evt.Event) -> int:
            self.bytes, self.images = 0, self.images + 1
            try:
                with one:
                    keep(event.encoded_dataset())
            except Exception as error:  # a full disk, say; it belongs to the caller, not to pynetdicom
                self.fault = self.fault or error
                return 0xA700
            return 0x0000

        return [(evt.EVT_C_STORE, store), *self.handlers]

    def _count(self, event: evt.Event) -> None:
        self.bytes += len(event.data)
        if self.bytes > LARGEST and not self.fault and event.assoc.dul.socket is not None:
            self.fault = InputError(
                "pacs-answer-too-large", f"{self.what} more than {LARGEST} bytes; ask its administrator"
            )
            event.assoc.dul.socket.close()  # an abort from here would wait for the messages that follow


def _identifier(level: str, keys: Mapping[str, Any]) -> Dataset:
    identifier = Dataset()
    for keyword, value in {"QueryRetrieveLevel": level, "SpecificCharacterSet": "ISO_IR 192", **keys}.items():
        setattr(identifier, keyword, value)
    return identifier


def _kind(file: Path) -> tuple[str, str]:
    meta = dcmread(file, specific_tags=["SOPClassUID"]).file_meta
    return str(meta.MediaStorageSOPClassUID), str(meta.TransferSyntaxUID)


def _stored(code: int) -> tuple[str, bool]:
    """What a status of C-STORE says, and whether the server has the image (PS3.4 B.2.3, PS3.7 C)."""
    if code == 0x0000:
        return "", True
    if code == DUPLICATE:
        return HAD, True
    if code & 0xF000 == 0xB000 or code in (0x0001, 0x0107, 0x0116):
        return f"stored it changed or in part (warning {code:04X})", True
    if code & 0xFF00 == 0xA700:
        return f"is out of resources (status {code:04X})", False
    return f"refuses it (status {code:04X})", False
