"""The volumes of one series: some scanners and archives put several into it, which differ in some attribute."""

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
from pydicom.datadict import keyword_for_tag

from medgen.io.dicom.header import OTHERS, RECONSTRUCTION, SETTINGS, VARYING, Slice, numbers
from medgen.io.dicom.stack import why_no_volume

FEWEST = 4  # slices of each volume that ranges of a VARYING attribute tell apart: fewer may take turns by chance
MOST = 6  # volumes that such an attribute is tried for: a tube current that is modulated may repeat itself
# What differs between the passes of one MR volume, where every other slice is acquired first.
MR_PASSES = {"AcquisitionNumber", "EffectiveEchoTime", "EchoTime", "NominalPercentageOfCardiacPhase", *VARYING}
JOINT = RECONSTRUCTION + SETTINGS
# Of the whole file and not of its acquisition, and yet the same in all slices of a volume.
FILE = "SOPClassUID StudyDescription PhotometricInterpretation BitsAllocated BitsStored".split()
Groups = list[tuple[str, list[int]]]  # what sets a volume apart, and its places in the list of slices


def parts(slices: Sequence[Slice]) -> list[tuple[str, list[Slice]]]:
    """The volumes of one series, each with what sets it apart: acquisitions, echoes, phases, kernels.

    Slices that are an even stack are several volumes only where an attribute divides them into stacks that are even by
    themselves: interleaved ones by any element that may not differ between the slices of a scan, one above the other by
    those that one reconstruction has once.
    Attributes that vary along an ordinary scan (exposure, times) must have other values in each interleaved stack. Any
    other slices are divided by the first attribute, or by several together, whose groups are all even stacks. A
    series that nothing divides stays whole: what is wrong with it is said when it is read.
    """
    whole = not why_no_volume(slices)
    groups = _of_even(slices) if whole else _of_uneven(slices)
    found: list[tuple[str, list[Slice]]] = []
    for label, places in groups:
        inner = parts([slices[k] for k in places])
        found += [(", ".join(filter(None, (label, more))), group) for more, group in inner]
    return found or [("", list(slices))]


def differing(slices: Sequence[Slice]) -> list[str]:
    """Attributes that one reconstruction has one value of, and these slices several."""
    return [keyword for keyword in RECONSTRUCTION if len(_equal(slices, keyword)) > 1]


# Stacks that are even together -------------------------------------------------------------------------


def _of_even(slices: Sequence[Slice]) -> Groups:
    """Groups of an even stack that are even stacks by themselves; none where it is one volume."""
    order = _along(slices)
    ordered = [slices[k] for k in order]
    passes = MR_PASSES if slices[0].header.get("Modality") == "MR" else set()
    varying = [keyword for keyword in _differing(ordered) if keyword not in passes]
    several = [keyword for keyword in varying if keyword in JOINT and len(_equal(ordered, keyword)) <= MOST]
    joint = [_equal(ordered, *several)] if len(several) > 1 else []
    candidates = (_divided(ordered, keyword) for keyword in varying)
    groups = next(filter(None, candidates), None) or next(filter(_take_turns, joint), [])
    return [(label, [int(order[k]) for k in places]) for label, places in groups]


def _divided(ordered: Sequence[Slice], keyword: str) -> Groups:
    """Groups by one attribute of slices in their order; none where it does not divide them."""
    groups = _equal(ordered, keyword)
    if keyword in VARYING:
        return groups if len(groups) <= MOST and _take_turns(groups) else _turns(ordered, keyword)
    return groups if _take_turns(groups) or keyword in RECONSTRUCTION and _blocks(groups) else []


def _take_turns(groups: Groups) -> bool:
    """Whether each group is even by itself and has slices of others between its own."""
    steps = [{b - a for a, b in pairwise(places)} for _, places in groups]
    return len(groups) > 1 and all(len(step) == 1 and min(step) > 1 for step in steps)


def _blocks(groups: Groups) -> bool:
    """Whether the groups lie one above the other."""
    return len(groups) > 1 and all({b - a for a, b in pairwise(places)} == {1} for _, places in groups)


def _turns(slices: Sequence[Slice], keyword: str) -> Groups:
    """Every n-th slice together, where the ranges of their values lie apart, as along no single scan."""
    absent = [item.header.get(keyword) is None for item in slices]
    values = np.where(absent, -np.inf, _values(slices, keyword))
    for count in range(2, min(MOST, len(values) // FEWEST) + 1):
        ranges = [(values[k::count].min(), values[k::count].max()) for k in range(count)]
        if not np.isnan(values).any() and all(a[1] < b[0] for a, b in pairwise(sorted(ranges))):
            return [_ranged(slices, keyword, values, range(k, len(values), count)) for k in range(count)]
    return []


# Stacks that are not ------------------------------------------------------------------------------------


def _of_uneven(slices: Sequence[Slice]) -> Groups:
    """Groups that are all stacks; none where nothing divides slices so."""
    for groups in _candidates(slices):
        if all(len(places) > 1 and not why_no_volume([slices[k] for k in places]) for _, places in groups):
            return groups
    return []


def _candidates(slices: Sequence[Slice]) -> Iterator[Groups]:
    varying = _differing(slices)
    for keyword in varying:
        groups = _equal(slices, keyword)
        if keyword in JOINT or _overlap(slices, groups):
            yield groups
    several = [k for k in varying if k in JOINT and len(_equal(slices, k)) <= len(slices) // 2]
    if len(several) > 1:
        yield _equal(slices, *several)
    for keyword in varying:
        if keyword in VARYING:
            yield from (groups for groups in _clusters(slices, keyword) if _overlap(slices, groups))


def _clusters(slices: Sequence[Slice], keyword: str) -> Iterator[Groups]:
    """Values cut at their largest gaps, into 2 groups and more: volumes of which each slice has its own time."""
    values = _values(slices, keyword)
    order = np.argsort(values, kind="stable")
    if np.isnan(values).any():
        return
    gaps = np.argsort(-np.diff(values[order]), kind="stable") + 1
    for count in range(2, min(MOST, len(values) // 2) + 1):
        groups = np.split(order, np.sort(gaps[: count - 1]))
        yield [_ranged(slices, keyword, values, places.tolist()) for places in groups]


# Values -------------------------------------------------------------------------------------------------


def _equal(slices: Sequence[Slice], *keywords: str) -> Groups:
    """Places of the slices that have the same values; FrameType and the like as a whole."""
    groups: dict[str, list[int]] = {}
    for k, item in enumerate(slices):
        groups.setdefault(", ".join(_label(keyword, _value(item, keyword)) for keyword in keywords), []).append(k)
    return list(groups.items())


def _value(item: Slice, keyword: str) -> object:
    """The value of an attribute; of one that is known by its tag only, its CRC; None where it has none."""
    return item.header.get(keyword, item.header.get(OTHERS, {}).get(keyword))


def _label(keyword: str, value: object) -> str:
    if keyword[:4] in ("0008", "0018", "0020", "0028"):
        keyword = keyword_for_tag(int(keyword, 16)) or f"({keyword[:4]},{keyword[4:]})"
        value = f"variant {value:08x}" if isinstance(value, int) else None
    if isinstance(value, float):
        value = float(f"{value:.6g}")  # whatever digits a decimal string was rounded to
    text = "\\".join(map(str, value)) if isinstance(value, list) else value
    return f"no {keyword}" if value is None else f"{keyword} {text}"


def _ranged(slices: Sequence[Slice], keyword: str, values: np.ndarray, places: Sequence[int]) -> tuple[str, list[int]]:
    """The places, and the range of their values as the headers have them."""
    if np.isinf(values[places[0]]):
        return f"no {keyword}", list(places)
    ends = [min(places, key=values.__getitem__), max(places, key=values.__getitem__)]
    low, high = (slices[k].header.get(keyword) for k in ends)
    return f"{keyword} {low}" + (f" to {high}" if high != low else ""), list(places)


def _differing(slices: Sequence[Slice]) -> list[str]:
    """The attributes that have several values: those with a name first, for a label that says more."""
    first = slices[0].header.get(OTHERS, {})
    more: dict[str, None] = {}
    for item in slices:
        others = item.header.get(OTHERS, {})
        if others is not first and others != first:
            more |= dict.fromkeys(tag for tag, _ in first.items() ^ others.items())
    named = (*SETTINGS, *RECONSTRUCTION, *VARYING, *FILE)
    return [keyword for keyword in named if _varies(slices, keyword)] + sorted(more)


def _varies(slices: Sequence[Slice], keyword: str) -> bool:
    first = slices[0].header.get(keyword)
    return any(item.header.get(keyword) != first for item in slices)


def _values(slices: Sequence[Slice], keyword: str) -> np.ndarray:
    """Numbers, dates and times as numbers that order them; NaN for any other value."""
    return np.array([_number(item.header.get(keyword)) for item in slices])


def _number(value: object) -> float:
    found = re.match(r"-?\d+(\.\d*)?([eE][-+]?\d+)?", str(value))
    return float(found[0]) if found else np.nan


# Geometry -----------------------------------------------------------------------------------------------


def _along(slices: Sequence[Slice]) -> np.ndarray:
    """The order of slices along their stack."""
    places = np.array([item.header["ImagePositionPatient"] for item in slices], np.float64)
    return np.argsort(places @ (places[np.argmax(np.linalg.norm(places - places[0], axis=1))] - places[0]))


def _overlap(slices: Sequence[Slice], groups: Groups) -> bool:
    """Whether groups share a part of the stack: those on both sides of a missing slice do not."""
    if any(numbers(item.header, "ImagePositionPatient", 3) is None for item in slices):
        return False
    rank = np.argsort(_along(slices))
    ends = sorted((rank[places].min(), rank[places].max()) for _, places in groups)
    return any(a[1] > b[0] for a, b in pairwise(ends))
