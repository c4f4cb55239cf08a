"""Create the client for the protocol of a PACS address: DIMSE or DICOMweb."""

from urllib.parse import SplitResult, urlsplit

from medgen.errors import InputError
from medgen.pacs.server import EXTRA, Server


def connect(address: str, side: str) -> Server:
    """Create a client for the server at an address.

    Args:
        address: ``dicom://CALLED@host:port?calling=MEDGEN`` or ``http(s)://host/dicom-web``.
        side: ``FROM`` or ``TO``; selects the environment variables with the credentials, see ``web.credentials``.

    Raises:
        InputError: the address has another form or may contain credentials, or the optional dependency is not
            installed. Messages do not repeat a refused address.
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
    """Split an address; raise InputError if it may contain credentials.

    The whole address is checked for separators, because a password that contains # or / ends up in other parts.
    """
    try:
        parts = urlsplit(address)
        parts.port  # noqa: B018  (raises ValueError on an invalid port)
    except ValueError:
        parts = SplitResult("", "", "", "", "")
    is_web = not address.lower().startswith("dicom:")
    has_secret = (
        any(character in address for character in "@?#;\\") if is_web else address.count("@") > 1 or "#" in address
    )
    if has_secret or parts.password is not None:
        raise InputError(
            "pacs-credentials-in-address",
            f"--{side.lower()}-pacs: the address must not contain credentials, a query (?) or a fragment (#), because "
            f"other users can see it; set MEDGEN_{side}_PACS_USER and MEDGEN_{side}_PACS_PASSWORD, "
            f"or MEDGEN_{side}_PACS_TOKEN",
        )
    if not parts.hostname or parts.scheme not in ("dicom", "http", "https"):
        raise InputError(
            "pacs-address-invalid",
            f"--{side.lower()}-pacs: the value is not a PACS address; "
            "give dicom://CALLED_AET@host:port or https://host/dicom-web",
        )
    return parts
