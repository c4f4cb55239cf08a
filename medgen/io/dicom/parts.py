"""Split a series into its volumes: some scanners and archives store several volumes in one series."""

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
from pydicom.datadict import keyword_for_tag

from medgen.io.dicom.elements import numbers
from medgen.io.dicom.header import OTHERS, RECONSTRUCTION, SETTINGS, VARYING, Slice
from medgen.io.dicom.stack import why_no_volume

FEWEST = 4  # minimum slices per volume in a split by ranges of a VARYING attribute: fewer may alternate by chance
LOST = 3  # maximum slices missing between two parts of one stack; a larger gap separates volumes
MOST = 6  # maximum volumes tried for such an attribute: a modulated tube current may be periodic
# Attributes that may differ between the passes of one interleaved MR volume (every other slice is acquired first).
MR_PASSES = {"AcquisitionNumber", "EffectiveEchoTime", "EchoTime", "NominalPercentageOfCardiacPhase", *VARYING}
JOINT = RECONSTRUCTION + SETTINGS
# Attributes of the file rather than the acquisition, which are nevertheless equal in all slices of a volume.
FILE = "SOPClassUID StudyDescription PhotometricInterpretation BitsAllocated BitsStored".split()
Groups = list[tuple[str, list[int]]]  # (label of a volume, positions of its slices in the list)


def parts(slices: Sequence[Slice]) -> list[tuple[str, list[Slice]]]:
    """Split the slices of a series into volumes (acquisitions, echoes, phases, kernels), each with a label.

    Evenly spaced slices are split only if an attribute divides them into stacks that are evenly spaced themselves.
    Interleaved stacks may differ in any element that must be constant within a scan; adjacent stacks must differ in an
    element of RECONSTRUCTION. Attributes that vary along an ordinary scan (exposure, times) must have separate value
    ranges in the interleaved stacks.

    Unevenly spaced slices are split by the first attribute, or by several attributes together, whose groups are all
    evenly spaced. A series that no attribute divides is returned as one volume; reading it raises the error.

    Returns:
        (label, slices) of each volume; the label is empty if there is only one.
    """
    even = not why_no_volume(slices)
    groups = _split_even(slices) if even else _split_uneven(slices)
    found: list[tuple[str, list[Slice]]] = []
    for label, positions in groups:
        nested = parts([slices[k] for k in positions])
        found += [(", ".join(filter(None, (label, extra))), group) for extra, group in nested]
    return found or [("", list(slices))]


def differing(slices: Sequence[Slice]) -> list[str]:
    """Return the attributes of RECONSTRUCTION that differ between slices; one reconstruction has one value each."""
    return [keyword for keyword in RECONSTRUCTION if len(_equal(slices, keyword)) > 1]


def numbered_apart(slices: Sequence[Slice]) -> str:
    """Say that every n-th slice has InstanceNumbers of its own range, as of several volumes; empty if not.

    In an MR scan with interleaved acquisition, such numbers can be the order of acquisition.
    """
    if slices[0].header.get("Modality") == "MR":
        return ""
    ordered = [slices[k] for k in _sort_order(slices)]
    groups = _interleaved_ranges(ordered, "InstanceNumber")
    if not groups:
        return ""
    ranges = " and ".join(
        f"{low:g} to {high:g}" for low, high in sorted(_range(ordered, places) for _, places in groups)
    )
    return (
        f"slices are numbered (InstanceNumber) {ranges} in turn along the patient: the volume may combine "
        f"{len(groups)} interleaved scans, such as two phases; look at neighbouring slices"
    )


def instance_step(slices: Sequence[Slice]) -> int:
    """The step of InstanceNumbers that increase evenly, above 1 where every other image is missing; else 0."""
    found = sorted({int(n[0]) for item in slices if (n := numbers(item.header, "InstanceNumber", 1)) is not None})
    steps = {b - a for a, b in pairwise(found)}
    return min(steps) if len(found) > 2 and len(steps) == 1 else 0


def _range(slices: Sequence[Slice], places: Sequence[int]) -> tuple[float, float]:
    values = _values([slices[k] for k in places], "InstanceNumber")
    return float(values.min()), float(values.max())


# Evenly spaced slices ---------------------------------------------------------------------------------


def _split_even(slices: Sequence[Slice]) -> Groups:
    """Split an evenly spaced stack into evenly spaced groups; empty if it is one volume."""
    order = _sort_order(slices)
    ordered = [slices[k] for k in order]
    passes = MR_PASSES if slices[0].header.get("Modality") == "MR" else set()
    varying = [keyword for keyword in _differing(ordered) if keyword not in passes]
    several = [keyword for keyword in varying if keyword in JOINT and len(_equal(ordered, keyword)) <= MOST]
    joint = [_equal(ordered, *several)] if len(several) > 1 else []
    candidates = (_groups_by(ordered, keyword) for keyword in varying)
    groups = next(filter(None, candidates), None) or next(filter(_interleaved, joint), [])
    return [(label, [int(order[k]) for k in positions]) for label, positions in groups]


def _groups_by(ordered: Sequence[Slice], keyword: str) -> Groups:
    """Group sorted slices by one attribute; empty if the attribute does not separate volumes."""
    groups = _equal(ordered, keyword)
    if keyword in VARYING:
        return groups if len(groups) <= MOST and _interleaved(groups) else _interleaved_ranges(ordered, keyword)
    return groups if _interleaved(groups) or keyword in RECONSTRUCTION and _blocks(groups) else []


def _interleaved(groups: Groups) -> bool:
    """Whether the groups are interleaved and each is evenly spaced."""
    steps = [{b - a for a, b in pairwise(positions)} for _, positions in groups]
    return len(groups) > 1 and all(len(step) == 1 and min(step) > 1 for step in steps)


def _blocks(groups: Groups) -> bool:
    """Whether each group is a block of adjacent slices."""
    return len(groups) > 1 and all({b - a for a, b in pairwise(positions)} == {1} for _, positions in groups)


def _interleaved_ranges(slices: Sequence[Slice], keyword: str) -> Groups:
    """Group every n-th slice if the value ranges of the groups do not overlap, which does not occur within one scan."""
    absent = [item.header.get(keyword) is None for item in slices]
    values = np.where(absent, -np.inf, _values(slices, keyword))
    for count in range(2, min(MOST, len(values) // FEWEST) + 1):
        ranges = [(values[k::count].min(), values[k::count].max()) for k in range(count)]
        if not np.isnan(values).any() and all(a[1] < b[0] for a, b in pairwise(sorted(ranges))):
            return [_ranged(slices, keyword, values, range(k, len(values), count)) for k in range(count)]
    return []


# Unevenly spaced slices ---------------------------------------------------------------------------------


def _split_uneven(slices: Sequence[Slice]) -> Groups:
    """Return the first grouping in which every group is a valid volume; empty if there is none."""
    for groups in _candidates(slices):
        if all(len(positions) > 1 and not why_no_volume([slices[k] for k in positions]) for _, positions in groups):
            return groups
    return []


def _candidates(slices: Sequence[Slice]) -> Iterator[Groups]:
    varying = _differing(slices)
    for keyword in varying:
        groups = _equal(slices, keyword)
        if _overlap(slices, groups) or (keyword in JOINT and not _lost_between(slices, groups, [keyword])):
            yield groups
    several = [k for k in varying if k in JOINT and len(_equal(slices, k)) <= len(slices) // 2]
    if len(several) > 1 and not _lost_between(slices, groups := _equal(slices, *several), several):
        yield groups
    for keyword in varying:
        if keyword in VARYING:
            yield from (groups for groups in _clusters(slices, keyword) if _overlap(slices, groups))


def _clusters(slices: Sequence[Slice], keyword: str) -> Iterator[Groups]:
    """Split the values at their largest gaps into 2 to MOST groups, for volumes whose slices have different times."""
    values = _values(slices, keyword)
    order = np.argsort(values, kind="stable")
    if np.isnan(values).any():
        return
    gaps = np.argsort(-np.diff(values[order]), kind="stable") + 1
    for count in range(2, min(MOST, len(values) // 2) + 1):
        groups = np.split(order, np.sort(gaps[: count - 1]))
        yield [_ranged(slices, keyword, values, positions.tolist()) for positions in groups]


# Values -------------------------------------------------------------------------------------------------


def _equal(slices: Sequence[Slice], *keywords: str) -> Groups:
    """Group the indices of slices with equal values; a multi-valued element is compared as a whole."""
    groups: dict[str, list[int]] = {}
    for k, item in enumerate(slices):
        groups.setdefault(", ".join(_label(keyword, _value(item, keyword)) for keyword in keywords), []).append(k)
    return list(groups.items())


def _value(item: Slice, keyword: str) -> object:
    """Return the value of an attribute (the CRC of the value if only the tag is stored); None if absent."""
    return item.header.get(keyword, item.header.get(OTHERS, {}).get(keyword))


def _label(keyword: str, value: object) -> str:
    if keyword[:4] in ("0008", "0018", "0020", "0028"):
        keyword = keyword_for_tag(int(keyword, 16)) or f"({keyword[:4]},{keyword[4:]})"
        value = f"variant {value:08x}" if isinstance(value, int) else None
    if isinstance(value, float):
        value = float(f"{value:.6g}")  # ignore the rounding of decimal strings
    text = "\\".join(map(str, value)) if isinstance(value, list) else value
    return f"no {keyword}" if value is None else f"{keyword} {text}"


def _ranged(
    slices: Sequence[Slice], keyword: str, values: np.ndarray, positions: Sequence[int]
) -> tuple[str, list[int]]:
    """Return a label with the range of the header values, and the positions."""
    if np.isinf(values[positions[0]]):
        return f"no {keyword}", list(positions)
    ends = [min(positions, key=values.__getitem__), max(positions, key=values.__getitem__)]
    low, high = (slices[k].header.get(keyword) for k in ends)
    return f"{keyword} {low}" + (f" to {high}" if high != low else ""), list(positions)


def _differing(slices: Sequence[Slice]) -> list[str]:
    """Return the attributes with several values; named ones first, because their labels are more informative."""
    first = slices[0].header.get(OTHERS, {})
    extra: dict[str, None] = {}
    for item in slices:
        others = item.header.get(OTHERS, {})
        if others is not first and others != first:
            extra |= dict.fromkeys(tag for tag, _ in first.items() ^ others.items())
    named = (*SETTINGS, *RECONSTRUCTION, *VARYING, *FILE)
    return [keyword for keyword in named if _varies(slices, keyword)] + sorted(extra)


def _varies(slices: Sequence[Slice], keyword: str) -> bool:
    first = slices[0].header.get(keyword)
    return any(item.header.get(keyword) != first for item in slices)


def _values(slices: Sequence[Slice], keyword: str) -> np.ndarray:
    """Convert numbers, dates and times to sortable numbers; other values become NaN."""
    return np.array([_number(item.header.get(keyword)) for item in slices])


def _number(value: object) -> float:
    found = re.match(r"-?\d+(\.\d*)?([eE][-+]?\d+)?", str(value))
    return float(found[0]) if found else np.nan


# Geometry -----------------------------------------------------------------------------------------------


def _sort_order(slices: Sequence[Slice]) -> np.ndarray:
    """Return the indices that sort slices along their stack."""
    positions = np.array([item.header["ImagePositionPatient"] for item in slices], np.float64)
    return np.argsort(
        positions @ (positions[np.argmax(np.linalg.norm(positions - positions[0], axis=1))] - positions[0])
    )


def _lost_between(slices: Sequence[Slice], groups: Groups, keywords: Sequence[str]) -> bool:
    """Whether the groups are parts of one stack of which only a few slices between them are missing.

    Acquisitions that follow each other (step and shoot) are one volume, unless they are reconstructed differently.
    """
    if not set(RECONSTRUCTION).isdisjoint(keywords) or _overlap(slices, groups):
        return False
    if any(numbers(item.header, "ImagePositionPatient", 3) is None for item in slices):
        return False
    order = _sort_order(slices)
    of = {k: n for n, (_, members) in enumerate(groups) for k in members}
    places = np.array([slices[k].header["ImagePositionPatient"] for k in order], np.float64)
    steps = np.linalg.norm(np.diff(places, axis=0), axis=1)
    border = np.array([of[a] != of[b] for a, b in pairwise(order)])
    if border.all() or not steps[~border].mean():
        return False
    ratio = steps / steps[~border].mean()
    lost = np.rint(ratio) - 1
    return bool((np.abs(ratio - 1 - lost) < 0.05).all() and not lost[~border].any() and 0 < lost.max() <= LOST)


def _overlap(slices: Sequence[Slice], groups: Groups) -> bool:
    """Whether groups overlap along the stack; groups on both sides of a missing slice do not."""
    if any(numbers(item.header, "ImagePositionPatient", 3) is None for item in slices):
        return False
    rank = np.argsort(_sort_order(slices))
    ends = sorted((rank[positions].min(), rank[positions].max()) for _, positions in groups)
    return any(a[1] > b[0] for a, b in pairwise(ends))
