"""A PACS by DICOMweb (PS3.18): QIDO-RS, WADO-RS and STOW-RS over dicomweb-client."""

import ipaddress
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from dicomweb_client.web import DICOMwebClient
from pydicom import Dataset, dcmread
from pydicom.datadict import tag_for_keyword

from medgen.errors import InputError
from medgen.io.dicom.header import Header
from medgen.pacs.server import HAD, LARGEST, MOST, SERIES, STUDY, header

TIMES = (10, 60)  # seconds to wait for a connection and for the next bytes
TOGETHER = 2**24  # bytes of images in one STOW request
PAGE = 1000  # answers asked for at once
BUSY = (408, 425, 429, 500, 502, 503, 504)  # another attempt may help
DUPLICATE = 0x0111  # FailureReason: the server has an image of this UID
logging.getLogger("dicomweb_client").addHandler(logging.NullHandler())  # its warnings quote the server


def credentials(side: str, url: str) -> Callable[[requests.PreparedRequest], requests.PreparedRequest] | None:
    """What signs requests: MEDGEN_FROM_PACS_TOKEN, or MEDGEN_FROM_PACS_USER and _PASSWORD (TO for the other side).

    Raises:
        InputError: they would go over the network unencrypted.
    """
    token, user, password = (os.environ.get(f"MEDGEN_{side}_PACS_{name}") for name in ("TOKEN", "USER", "PASSWORD"))
    if not token and not user:
        return None
    parts = urlsplit(url)
    if parts.scheme != "https" and not _is_here(parts.hostname or ""):
        raise InputError(
            "pacs-credentials-unencrypted", f"{url}: credentials would be sent unencrypted; give its https address"
        )
    if not token:
        return requests.auth.HTTPBasicAuth(str(user).encode(), (password or "").encode())

    def sign(request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {token}"
        return request

    return sign


def _is_here(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Web:
    """``http(s)://host:port/dicom-web``, see ``server.Server``."""

    def __init__(self, address: str, side: str) -> None:
        self.name = address.rstrip("/")
        session = requests.Session()
        session.auth = credentials(side, self.name)
        session.hooks["response"] = [_bounded]
        try:
            self.client = DICOMwebClient(
                self.name, session, permissive_uid=True, timeout=TIMES, chunk_size=2 * LARGEST
            )  # requests of known length: some servers take no others
        except ValueError:
            raise InputError(
                "pacs-address-invalid",
                f"{urlsplit(address).hostname}: its address is none of a DICOMweb server; give https://host/dicom-web",
            ) from None
        self.client.set_http_retry_params(retry=False)  # a lost connection is ours to try again

    # Query ---------------------------------------------------------------------------------------------

    def studies(self, query: Mapping[str, str]) -> list[Header]:
        return self._pages(self.client.search_for_studies, STUDY, search_filters=dict(query))

    def series(self, study: str) -> list[Header]:
        return self._pages(self.client.search_for_series, SERIES, study_instance_uid=study)

    def instances(self, study: str, series: str) -> list[str]:
        search = self.client.search_for_instances
        found = self._pages(search, ("SOPInstanceUID",), study_instance_uid=study, series_instance_uid=series)
        return [str(image.get("SOPInstanceUID")) for image in found]

    def _pages(self, search: Callable[..., list[dict]], wanted: Sequence[str], **options: Any) -> list[Header]:
        """All answers, page by page: servers bound how many they give at once."""
        found: list[Header] = []
        while True:
            with self._answering("the query"):
                page = search(fields=list(wanted), limit=PAGE, offset=len(found), **options)
                fresh = [_header(answer, wanted) for answer in page]
            if not fresh or fresh[0] in found:  # a server that knows no offset begins anew
                return found
            found += fresh
            if len(found) > MOST:
                raise InputError(
                    "pacs-too-many-entries", f"{self.name} answers a query with more than {MOST} entries; ask for less"
                )

    # Retrieval -----------------------------------------------------------------------------------------

    def retrieve(self, study: str, series: str, instances: Sequence[str] | None, keep: Callable[[bytes], None]) -> None:
        """Image by image: what has arrived when a connection is lost is whole."""
        for instance in self.instances(study, series) if instances is None else instances:
            try:
                with self._answering("the retrieval"):
                    data = _encoded(self.client.retrieve_instance(study, series, instance))
            except _Absent:
                continue
            keep(data)

    # Storage -------------------------------------------------------------------------------------------

    def store(self, files: Sequence[Path]) -> Iterator[tuple[Path, str, bool]]:
        for batch in _batches(files):
            images = [dcmread(file) for file in batch]
            with self._answering("to store images"):
                try:
                    answer = self.client.store_instances(images)
                except requests.HTTPError as error:
                    if error.response is None or error.response.status_code != 409:
                        raise  # 409 Conflict: it took none, and says why
                    answer = _json(error.response)
            told = _told(answer)
            for file, image in zip(batch, images, strict=True):
                yield (file, *told.get(str(image.SOPInstanceUID), ("does not say that it has stored it", False)))

    @contextmanager
    def _answering(self, what: str) -> Iterator[None]:
        """Errors of HTTP as what they mean here, see ``server.Server``; they may quote what no log should hold."""
        try:
            yield
        except requests.HTTPError as error:
            code = 0 if error.response is None else error.response.status_code
            if code in BUSY:
                raise ConnectionError(f"{self.name} cannot answer now (HTTP {code})") from None
            if code in (404, 410) and what == "the retrieval":
                raise _Absent from None
            hint = "check the credentials" if code in (401, 403) else "check the address"
            raise InputError("pacs-request-refused", f"{self.name} refuses {what} (HTTP {code}); {hint}") from None
        except requests.exceptions.SSLError:
            raise InputError(
                "pacs-certificate-untrusted",
                f"{self.name} has no certificate that this machine trusts; see docs/how-to",
            ) from None
        except requests.exceptions.JSONDecodeError:
            raise InputError(
                "pacs-not-dicomweb", f"{self.name} does not answer as DICOMweb does; check the address"
            ) from None
        except requests.Timeout:
            raise ConnectionError(f"{self.name} does not answer in time") from None
        except requests.RequestException:
            raise ConnectionError(f"{self.name} cannot be reached or broke off the connection") from None
        except (InputError, ConnectionError):
            raise
        except Exception as error:  # pydicom and dicomweb-client raise nearly anything on what is no DICOM
            raise InputError(
                "pacs-answer-not-dicom", f"{self.name} answers with what is no DICOM ({type(error).__name__})"
            ) from None


class _Absent(Exception):
    """The server does not have an image that it lists."""


def _bounded(response: requests.Response, *_: object, **__: object) -> None:
    """Read a response here, so that its size is bounded and a multipart one that is cut off is noticed."""
    content = bytearray()
    for chunk in response.iter_content(2**20):
        content += chunk
        if len(content) > LARGEST:
            raise InputError(
                "pacs-answer-too-large",
                f"{response.url.split('?')[0]} answers with more than {LARGEST} bytes; ask for less",
            )
    multipart = response.headers.get("content-type", "").lower().startswith("multipart/")
    if multipart and not content.rstrip().endswith(b"--"):
        raise requests.ConnectionError("cut off")
    response._content = bytes(content)


def _header(answer: dict[str, Any], wanted: Sequence[str]) -> Header:
    tags = {f"{tag_for_keyword(keyword):08X}" for keyword in wanted}
    return header(Dataset.from_json({tag: element for tag, element in answer.items() if tag in tags}), wanted)


def _encoded(image: Dataset) -> bytes:
    with BytesIO() as stream:
        image.save_as(stream, enforce_file_format=True)
        return stream.getvalue()


def _batches(files: Sequence[Path]) -> Iterator[list[Path]]:
    batch: list[Path] = []
    for file in files:
        if batch and sum(f.stat().st_size for f in (*batch, file)) > TOGETHER:
            yield batch
            batch = []
        batch.append(file)
    if batch:
        yield batch


def _json(response: requests.Response) -> Dataset:
    try:
        return Dataset.from_json(response.json())
    except Exception:
        return Dataset()


def _told(answer: Dataset) -> dict[str, tuple[str, bool]]:
    """(what the server says, whether it has the image) by SOP instance UID (PS3.18 10.5.3, PS3.3 C.12.1 of STOW)."""
    told: dict[str, tuple[str, bool]] = {}
    for item in answer.get("FailedSOPSequence") or ():
        reason = int(item.get("FailureReason") or 0)
        said = (HAD, True) if reason == DUPLICATE else (f"refuses it (reason {reason:04X})", False)
        told[str(item.get("ReferencedSOPInstanceUID"))] = said
    for item in answer.get("ReferencedSOPSequence") or ():
        warning = int(item.get("WarningReason") or 0)
        remark = f"stored it changed or in part (warning {warning:04X})" if warning else ""
        told[str(item.get("ReferencedSOPInstanceUID"))] = (remark, True)
    return told
