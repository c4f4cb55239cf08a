"""Silence the warnings of the DICOM packages, because they quote header values."""

import logging
import re
import warnings

# Filter for all warnings of pydicom and libraries built on it; many quote patient names and other header values.
QUIET = ("ignore", None, Warning, re.compile(r"(pydicom|highdicom|pynetdicom|dicomweb_client)\b"), 0)


def quiet_pydicom() -> None:
    """Silence the warnings of pydicom and of libraries built on it, permanently and for the whole process.

    The log level of pydicom is raised from WARNING to ERROR, because it also logs warnings about invalid values; any
    other level is kept. ``warnings.catch_warnings`` is not used: it is not thread-safe and restores wrong filters when
    two blocks overlap. A repeated call only moves the filter back to the front.
    """
    if not warnings.filters or warnings.filters[0] != QUIET:
        warnings.filterwarnings("ignore", module=QUIET[3].pattern)
    if (log := logging.getLogger("pydicom")).level == logging.WARNING:
        log.setLevel(logging.ERROR)
