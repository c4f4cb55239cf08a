"""Values of DICOM elements as plain Python objects and numbers."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from pydicom import Dataset
from pydicom.multival import MultiValue

Header = dict[str, Any]  # keyword -> str, int, float or a list of them; absent if the file has no valid value


def plain(dataset: Dataset, keywords: list[str]) -> Header:
    """Return elements as built-in Python values; absent, empty and malformed elements are omitted."""
    found = {}
    for keyword in keywords:
        try:
            value = dataset.get(keyword)
            if value is None or value == "":
                continue
            found[keyword] = [_plain(v) for v in value] if isinstance(value, MultiValue) else _plain(value)
        except Exception:  # pydicom raises arbitrary exceptions when a malformed value is accessed
            continue
    return found


def _plain(value: Any) -> Any:
    for kind in (int, float):
        if isinstance(value, kind):
            return kind(value)
    return str(value)


def texts(header: Mapping[str, Any], keyword: str) -> list[str]:
    """The value of an element as it is stored, then, if it has several, each of them.

    A backslash separates values, as in the kernel "Br40d\\3" of Siemens, and in descriptions where it should not be.
    """
    value = header.get(keyword, "")
    values = [str(part) for part in value] if isinstance(value, list) else [str(value)]
    return ["\\".join(values), *(values if len(values) > 1 else ())]


def numbers(header: Header, keyword: str, count: int) -> np.ndarray | None:
    """Return ``count`` finite numbers of an element (float64); None if it is absent, empty or malformed."""
    try:
        values = np.atleast_1d(np.asarray(header.get(keyword), np.float64))
    except (TypeError, ValueError):
        return None
    return values if values.shape == (count,) and np.isfinite(values).all() else None
