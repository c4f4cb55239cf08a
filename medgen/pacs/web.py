"""Access a PACS by DICOMweb (PS3.18): QIDO-RS, WADO-RS and STOW-RS through dicomweb-client."""

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
from medgen.io.dicom.elements import Header
from medgen.pacs.server import HAD, LARGEST, MOST, SERIES, STUDY, header

TIMES = (10, 60)  # timeouts in seconds: connection, next bytes
TOGETHER = 2**24  # maximum bytes of images in one STOW request, unless a single image is larger
PAGE = 1000  # responses requested per page
BUSY = (408, 425, 429, 500, 502, 503, 504)  # HTTP status codes for which a retry may help
DUPLICATE = 0x0111  # FailureReason: the server has an image of this UID
logging.getLogger("dicomweb_client").addHandler(logging.NullHandler())  # its warnings quote server responses


def credentials(side: str, url: str) -> Callable[[requests.PreparedRequest], requests.PreparedRequest] | None:
    """Return a callable that adds credentials to requests; None if no credentials are set.

    The environment variables are MEDGEN_FROM_PACS_TOKEN, or MEDGEN_FROM_PACS_USER and MEDGEN_FROM_PACS_PASSWORD; for
    the side ``TO``, they are MEDGEN_TO_PACS_TOKEN and so on.

    Raises:
        InputError: the credentials would be sent over the network unencrypted.
    """
    token, user, password = (os.environ.get(f"MEDGEN_{side}_PACS_{name}") for name in ("TOKEN", "USER", "PASSWORD"))
    if not token and not user:
        return None
    parts = urlsplit(url)
    if parts.scheme != "https" and not _is_here(parts.hostname or ""):
        raise InputError(
            "pacs-credentials-unencrypted", f"{url}: credentials would be sent unencrypted; use an https address"
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
    """Client for ``http(s)://host:port/dicom-web``, see ``server.Server``."""

    def __init__(self, address: str, side: str) -> None:
        self.name = address.rstrip("/")
        session = requests.Session()
        session.auth = credentials(side, self.name)
        session.hooks["response"] = [_bounded]
        try:
            self.client = DICOMwebClient(
                self.name, session, permissive_uid=True, timeout=TIMES, chunk_size=2 * LARGEST
            )  # sends requests with a known length: some servers reject chunked ones
        except ValueError:
            raise InputError(
                "pacs-address-invalid",
                f"{urlsplit(address).hostname}: the address is not a DICOMweb address; give https://host/dicom-web",
            ) from None
        self.client.set_http_retry_params(retry=False)  # the caller retries lost connections

    # Query ---------------------------------------------------------------------------------------------

    def studies(self, query: Mapping[str, str]) -> list[Header]:
        return self._pages(self.client.search_for_studies, STUDY, search_filters=dict(query))

    def series(self, study: str) -> list[Header]:
        return self._pages(self.client.search_for_series, SERIES, study_instance_uid=study)

    def instances(self, study: str, series: str) -> list[str]:
        search = self.client.search_for_instances
        found = self._pages(search, ("SOPInstanceUID",), study_instance_uid=study, series_instance_uid=series)
        return [str(image.get("SOPInstanceUID")) for image in found]

    def _pages(self, search: Callable[..., list[dict]], keywords: Sequence[str], **options: Any) -> list[Header]:
        """Return all responses, requested page by page, because servers limit the number per response."""
        found: list[Header] = []
        while True:
            with self._translated_errors("the query"):
                page = search(fields=list(keywords), limit=PAGE, offset=len(found), **options)
                new = [_header(answer, keywords) for answer in page]
            if not new or new[0] in found:  # a server without offset support repeats the first page
                return found
            found += new
            if len(found) > MOST:
                raise InputError(
                    "pacs-too-many-entries",
                    f"{self.name} returned more than {MOST} entries for a query; narrow the query",
                )

    # Retrieval -----------------------------------------------------------------------------------------

    def retrieve(self, study: str, series: str, instances: Sequence[str] | None, keep: Callable[[bytes], None]) -> None:
        """Retrieve image by image, so that images received before a connection is lost are complete."""
        for instance in self.instances(study, series) if instances is None else instances:
            try:
                with self._translated_errors("the retrieval"):
                    data = _encoded(self.client.retrieve_instance(study, series, instance))
            except _Absent:
                continue
            keep(data)

    # Storage -------------------------------------------------------------------------------------------

    def store(self, files: Sequence[Path]) -> Iterator[tuple[Path, str, bool]]:
        for batch in _batches(files):
            images = [dcmread(file) for file in batch]
            with self._translated_errors("to store images"):
                try:
                    answer = self.client.store_instances(images)
                except requests.HTTPError as error:
                    if error.response is None or error.response.status_code != 409:
                        raise  # 409 Conflict: all images were refused; the response has the reasons
                    answer = _json(error.response)
            outcomes = _outcomes(answer)
            for file, image in zip(batch, images, strict=True):
                yield (
                    file,
                    *outcomes.get(str(image.SOPInstanceUID), ("did not confirm that it stored the image", False)),
                )

    @contextmanager
    def _translated_errors(self, request_name: str) -> Iterator[None]:
        """Convert HTTP errors to those of ``server.Server``, without their text, which may contain patient data."""
        try:
            yield
        except requests.HTTPError as error:
            code = 0 if error.response is None else error.response.status_code
            if code in BUSY:
                raise ConnectionError(f"{self.name} is unavailable (HTTP {code})") from None
            if code in (404, 410) and request_name == "the retrieval":
                raise _Absent from None
            hint = "check the credentials" if code in (401, 403) else "check the address"
            raise InputError(
                "pacs-request-refused", f"{self.name} refuses {request_name} (HTTP {code}); {hint}"
            ) from None
        except requests.exceptions.SSLError:
            raise InputError(
                "pacs-certificate-untrusted",
                f"{self.name} has no certificate that this machine trusts; see docs/how-to",
            ) from None
        except requests.exceptions.JSONDecodeError:
            raise InputError(
                "pacs-not-dicomweb", f"{self.name} does not respond as a DICOMweb server; check the address"
            ) from None
        except requests.Timeout:
            raise ConnectionError(f"{self.name} did not respond in time") from None
        except requests.RequestException:
            raise ConnectionError(f"{self.name} cannot be reached or closed the connection") from None
        except (InputError, ConnectionError):
            raise
        except Exception as error:  # pydicom and dicomweb-client raise arbitrary exceptions on data that is not DICOM
            raise InputError(
                "pacs-answer-not-dicom",
                f"{self.name} sent a response that is not DICOM ({type(error).__name__}); check the address",
            ) from None


class _Absent(Exception):
    """Raised if the server does not have an image that it lists."""


def _bounded(response: requests.Response, *_: object, **__: object) -> None:
    """Read a response with a size limit and detect truncated multipart responses."""
    content = bytearray()
    for chunk in response.iter_content(2**20):
        content += chunk
        if len(content) > LARGEST:
            raise InputError(
                "pacs-answer-too-large",
                f"{response.url.split('?')[0]} sent more than {LARGEST} bytes in one response; narrow the query",
            )
    multipart = response.headers.get("content-type", "").lower().startswith("multipart/")
    if multipart and not content.rstrip().endswith(b"--"):
        raise requests.ConnectionError("truncated response")
    response._content = bytes(content)


def _header(answer: dict[str, Any], keywords: Sequence[str]) -> Header:
    tags = {f"{tag_for_keyword(keyword):08X}" for keyword in keywords}
    return header(Dataset.from_json({tag: element for tag, element in answer.items() if tag in tags}), keywords)


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


def _outcomes(answer: Dataset) -> dict[str, tuple[str, bool]]:
    """Return {SOP instance UID: (server message, whether it has the image)} (PS3.18 10.5.3, PS3.3 C.12.1 of STOW)."""
    outcomes: dict[str, tuple[str, bool]] = {}
    for item in answer.get("FailedSOPSequence") or ():
        reason = int(item.get("FailureReason") or 0)
        outcome = (HAD, True) if reason == DUPLICATE else (f"refuses the image (reason {reason:04X})", False)
        outcomes[str(item.get("ReferencedSOPInstanceUID"))] = outcome
    for item in answer.get("ReferencedSOPSequence") or ():
        warning = int(item.get("WarningReason") or 0)
        remark = f"stored the image changed or incomplete (warning {warning:04X})" if warning else ""
        outcomes[str(item.get("ReferencedSOPInstanceUID"))] = (remark, True)
    return outcomes
