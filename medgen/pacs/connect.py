"""From an address to the client of its protocol, DIMSE or DICOMweb."""

from urllib.parse import SplitResult, urlsplit

from medgen.errors import InputError
from medgen.pacs.server import EXTRA, Server


def connect(address: str, side: str) -> Server:
    """The server of an address.

    Args:
        address: ``dicom://CALLED@host:port?calling=MEDGEN`` or ``http(s)://host/dicom-web``.
        side: ``FROM`` or ``TO``: whose credentials in the environment are meant, see ``web.credentials``.

    Raises:
        InputError: neither of these, anything in the address that may be a credential, or the extra is not installed.
            No message repeats an address that is refused.
    """
    parts = _parts(address, side)
    try:
        if parts.scheme == "dicom":
            from medgen.pacs.dimse import Dimse

            return Dimse(address)
        from medgen.pacs.web import Web

        return Web(address, side)
    except ModuleNotFoundError as error:
        raise InputError("dependency-missing", f"--{side.lower()}-pacs needs {error.name}: {EXTRA}") from None


def _parts(address: str, side: str) -> SplitResult:
    """The parts of an address that holds no credentials. A password with # or / in it ends up in other parts."""
    try:
        parts = urlsplit(address)
        parts.port  # noqa: B018  (raises on what is no port)
    except ValueError:
        parts = SplitResult("", "", "", "", "")
    web = not address.lower().startswith("dicom:")
    secret = any(sign in address for sign in "@?#;\\") if web else address.count("@") > 1 or "#" in address
    if secret or parts.password is not None:
        raise InputError(
            "pacs-credentials-in-address",
            f"--{side.lower()}-pacs: credentials, a query (?) or a fragment (#) do not belong into an address, which "
            f"others can see; set MEDGEN_{side}_PACS_USER and MEDGEN_{side}_PACS_PASSWORD, or MEDGEN_{side}_PACS_TOKEN",
        )
    if not parts.hostname or parts.scheme not in ("dicom", "http", "https"):
        raise InputError(
            "pacs-address-invalid",
            f"--{side.lower()}-pacs: it is no address of a PACS; "
            "give dicom://CALLED_AET@host:port or https://host/dicom-web",
        )
    return parts
