"""Silence for warnings of the DICOM packages, which quote values of headers."""

import logging
import re
import warnings

# Of pydicom and what is built on it, whatever the warning: many quote names and other values of the header.
QUIET = ("ignore", None, Warning, re.compile(r"(pydicom|highdicom|pynetdicom|dicomweb_client)\b"), 0)


def quiet_pydicom() -> None:
    """Silence pydicom's warnings, and those of the libraries built on it, in the whole process and for good.

    Of values that break the standard it warns in its log, too, unless it was set to another level.

    Not by ``warnings.catch_warnings``, which sets the filters of all threads and, where two overlap, restores the wrong
    ones. Called again it only brings the filter back to the front where others were put before it or took it away.
    """
    if not warnings.filters or warnings.filters[0] != QUIET:
        warnings.filterwarnings("ignore", module=QUIET[3].pattern)
    if (log := logging.getLogger("pydicom")).level == logging.WARNING:
        log.setLevel(logging.ERROR)
