"""Several volumes in one series, told apart by any attribute of acquisition or reconstruction; one volume stays one."""

from pathlib import Path

import numpy as np
import pytest
from pydicom.datadict import dictionary_VR, tag_for_keyword

from medgen.io.dicom_header import RECONSTRUCTION, SETTINGS, VARYING, Slice
from medgen.io.dicom_parts import MR_PASSES, differing, parts

TEXT = {"DA": "2020{:04}", "TM": "10{:04}.5", "DT": "2020010110{:04}"}
KEYWORDS = [*RECONSTRUCTION, *SETTINGS, *VARYING]
NUMBERS = {"DS", "IS", "FD", "FL", "US", "UL"}


def value(keyword, n):
    """The n-th of several values of an attribute, as a header has it."""
    kind = dictionary_VR(tag_for_keyword(keyword))
    if kind in TEXT:
        return TEXT[kind].format(n)
    return ["ORIGINAL", "PRIMARY", f"V{n}"] if keyword == "ImageType" else 1.0 + n if kind in NUMBERS else f"V{n}"


def slices(heights, modality="CT", **tags):
    """Slices at heights (mm) along an oblique normal; tags: what each has, by its number."""
    normal, found = np.array([0, 0.6, 0.8]), []
    for k, height in enumerate(heights):
        header = {
            "Modality": modality,
            "Rows": 8,
            "Columns": 8,
            "PixelSpacing": [1.0, 1.0],
            "ImageOrientationPatient": [1, 0, 0, 0, 0.8, -0.6],
            "ImagePositionPatient": (height * normal).tolist(),
            "SOPInstanceUID": f"1.{k}",
        }
        header |= {keyword: of(k) for keyword, of in tags.items() if of(k) is not None}
        found.append(Slice(Path(f"{k:03}.dcm"), 0, header))
    return found


def heights_of(found):
    return sorted(sorted(int(item.header["SOPInstanceUID"][2:]) for item in group) for _, group in found)


ARRANGED = {  # name: heights of the slices of each volume
    "half a step apart": [np.arange(8) * 5.0, 2.5 + np.arange(8) * 5.0],
    "a third of a step apart": [np.arange(8) * 6.0, 2.0 + np.arange(8) * 6.0],
    "three": [np.arange(6) * 6.0, 2.0 + np.arange(6) * 6.0, 4.0 + np.arange(6) * 6.0],
    "at the same places": [np.arange(8) * 5.0] * 2,
    "overlapping in part": [np.arange(8) * 5.0, 22.5 + np.arange(8) * 5.0],
    "of other steps": [np.arange(12) * 4.0, 2.0 + np.arange(6) * 8.0, 6.0 + np.arange(6) * 8.0],
}


@pytest.mark.parametrize("order", ["one after the other", "interleaved"])
@pytest.mark.parametrize("name", ARRANGED)
def test_every_attribute_divides_volumes_that_overlap(name, order):
    owner = np.repeat(np.arange(len(ARRANGED[name])), [len(h) for h in ARRANGED[name]])
    heights = np.concatenate(ARRANGED[name])
    if order == "interleaved":
        mixed = np.argsort(heights, kind="stable")
        heights, owner = heights[mixed], owner[mixed]
    expected = sorted(np.flatnonzero(owner == n).tolist() for n in range(owner.max() + 1))
    some = (
        KEYWORDS if name == "half a step apart" else ("ConvolutionKernel", "ImageType", "EchoTime", "AcquisitionTime")
    )
    for keyword in some:
        if name == "of other steps" and keyword in VARYING:
            continue  # those need as many slices each
        found = parts(slices(heights, **{keyword: lambda k, keyword=keyword: value(keyword, owner[k])}))
        assert heights_of(found) == expected, keyword
        assert all(label.startswith(keyword) for label, _ in found)


@pytest.mark.parametrize("keyword", KEYWORDS)
def test_an_attribute_that_only_one_of_two_volumes_has_divides_them(keyword):
    found = parts(slices(np.arange(16) * 2.5, **{keyword: lambda k: value(keyword, 1) if k % 2 else None}))
    assert [label for label, _ in found] == [f"no {keyword}", found[1][0]] and len(found[0][1]) == 8


@pytest.mark.parametrize("name", ["half a step apart", "at the same places", "three"])
@pytest.mark.parametrize("keyword", VARYING)
def test_times_and_exposures_of_each_slice_divide_volumes_that_were_acquired_apart(keyword, name):
    """Every slice has another value; a volume's lie together, whatever their order."""
    count, rng = len(ARRANGED[name]), np.random.default_rng(0)
    heights = np.concatenate(ARRANGED[name])
    each = len(heights) // count
    place = np.concatenate([n * 300 + rng.permutation(each) * 3 for n in range(count)])
    found = parts(slices(heights, **{keyword: lambda k: value(keyword, int(place[k]))}))
    assert heights_of(found) == [list(range(n * each, (n + 1) * each)) for n in range(count)]


@pytest.mark.parametrize("shape", ["rising", "a hill", "random", "few levels", "one for all", "of rotations"])
def test_what_varies_along_one_scan_does_not_divide_it(shape):
    rng, along = np.random.default_rng(1), np.arange(24)
    values = {
        "rising": along,
        "a hill": np.round(50 + 40 * np.sin(along / 8)).astype(int),
        "random": rng.integers(0, 1000, 24),
        "few levels": rng.integers(0, 3, 24),
        "one for all": np.zeros(24, int),
        "of rotations": along // 4,
    }[shape]
    for keyword in VARYING:
        found = parts(slices(along * 2.0, **{keyword: lambda k, keyword=keyword: value(keyword, int(values[k]))}))
        assert [len(group) for _, group in found] == [24], keyword


@pytest.mark.parametrize("keyword", VARYING)
def test_a_missing_slice_does_not_divide_a_scan(keyword):
    heights = np.delete(np.arange(12) * 2.0, 5)
    assert len(parts(slices(heights, **{keyword: lambda k: value(keyword, int(heights[k]))}))) == 1


def test_the_passes_of_an_mr_volume_stay_one_and_other_attributes_divide_it():
    for keyword in KEYWORDS:
        found = parts(slices(np.arange(16) * 2.0, "MR", **{keyword: lambda k, keyword=keyword: value(keyword, k % 2)}))
        assert len(found) == (1 if keyword in MR_PASSES else 2), keyword


def test_volumes_one_above_the_other_are_divided_by_what_a_reconstruction_has_once():
    for keyword in KEYWORDS:
        found = parts(slices(np.arange(16) * 2.0, **{keyword: lambda k, keyword=keyword: value(keyword, k // 8)}))
        assert len(found) == (2 if keyword in RECONSTRUCTION else 1), keyword


def test_a_reconstruction_that_changes_within_a_volume_is_said():
    odd = slices(np.arange(9) * 2.0, ConvolutionKernel=lambda k: "B70f" if k == 4 else "B30f")
    assert len(parts(odd)) == 1 and differing(odd) == ["ConvolutionKernel"]
    assert differing(slices(np.arange(9) * 2.0, KVP=lambda k: 120.0)) == []


@pytest.mark.parametrize("offset", [0.0, 0.25, 0.3])
def test_four_volumes_of_two_kernels_before_and_after_contrast(offset):
    heights = np.concatenate([np.arange(6) * 8.0 + n * 8.0 * offset for n in range(4)])
    found = parts(
        slices(
            heights,
            ConvolutionKernel=lambda k: "BB"[k // 6 % 2] + str(k // 6 % 2),
            ContrastBolusAgent=lambda k: "Iohexol" if k // 12 else None,
        )
    )
    assert heights_of(found) == [list(range(n * 6, n * 6 + 6)) for n in range(4)]
    assert all("ConvolutionKernel" in label and "ContrastBolusAgent" in label for label, _ in found)
