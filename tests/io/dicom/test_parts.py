"""Any acquisition or reconstruction attribute separates the volumes of a series; a single volume is not split."""

import re
from pathlib import Path

import numpy as np
import pytest
from dicom_series import item, write_ct, write_enhanced_ct
from pydicom import dcmread
from pydicom.datadict import dictionary_VR, tag_for_keyword

from medgen.io.dicom.header import RECONSTRUCTION, SETTINGS, VARYING, Slice
from medgen.io.dicom.parts import MR_PASSES, differing, numbered_apart, parts
from medgen.io.dicom.series import list_series

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
    """Slices at heights (mm) along an oblique normal; ``tags``: elements of each slice, as functions of its number."""
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
def test_every_attribute_splits_overlapping_volumes(name, order):
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
            continue  # these need the same number of slices per volume
        found = parts(slices(heights, **{keyword: lambda k, keyword=keyword: value(keyword, owner[k])}))
        assert heights_of(found) == expected, keyword
        assert all(label.startswith(keyword) for label, _ in found)


@pytest.mark.parametrize("keyword", KEYWORDS)
def test_attribute_present_in_only_one_volume_splits_the_series(keyword):
    found = parts(slices(np.arange(16) * 2.5, **{keyword: lambda k: value(keyword, 1) if k % 2 else None}))
    assert [label for label, _ in found] == [f"no {keyword}", found[1][0]] and len(found[0][1]) == 8


@pytest.mark.parametrize("name", ["half a step apart", "at the same places", "three"])
@pytest.mark.parametrize("keyword", VARYING)
def test_per_slice_times_and_exposures_split_separate_acquisitions(keyword, name):
    """Each slice has its own value; the values of one volume are contiguous, in any order."""
    count, rng = len(ARRANGED[name]), np.random.default_rng(0)
    heights = np.concatenate(ARRANGED[name])
    each = len(heights) // count
    place = np.concatenate([n * 300 + rng.permutation(each) * 3 for n in range(count)])
    found = parts(slices(heights, **{keyword: lambda k: value(keyword, int(place[k]))}))
    assert heights_of(found) == [list(range(n * each, (n + 1) * each)) for n in range(count)]


@pytest.mark.parametrize("shape", ["rising", "a hill", "random", "few levels", "one for all", "of rotations"])
def test_attributes_that_vary_along_one_scan_do_not_split_it(shape):
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
def test_missing_slice_does_not_split_a_scan(keyword):
    heights = np.delete(np.arange(12) * 2.0, 5)
    assert len(parts(slices(heights, **{keyword: lambda k: value(keyword, int(heights[k]))}))) == 1


@pytest.mark.parametrize("keyword", ["AcquisitionNumber", "StackID", "ImageComments"])
@pytest.mark.parametrize(("gap", "count"), [(1, 1), (3, 1), (12, 2)])
def test_slices_missing_between_two_acquisitions_are_no_border_of_volumes(keyword, gap, count):
    heights = np.delete(np.arange(30) * 2.0, range(10, 10 + gap))
    assert len(parts(slices(heights, **{keyword: lambda k: value(keyword, int(k >= 10))}))) == count


def test_passes_of_an_mr_volume_stay_one_series_and_other_attributes_split_it():
    for keyword in KEYWORDS:
        found = parts(slices(np.arange(16) * 2.0, "MR", **{keyword: lambda k, keyword=keyword: value(keyword, k % 2)}))
        assert len(found) == (1 if keyword in MR_PASSES else 2), keyword


def test_adjacent_volumes_are_split_by_attributes_constant_in_a_reconstruction():
    for keyword in KEYWORDS:
        found = parts(slices(np.arange(16) * 2.0, **{keyword: lambda k, keyword=keyword: value(keyword, k // 8)}))
        assert len(found) == (2 if keyword in RECONSTRUCTION else 1), keyword


def test_reconstruction_that_changes_within_a_volume_is_reported():
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


# Elements that are in no list -----------------------------------------------------------------------------


def code(k):
    return [item(CodeValue=f"{113072 + k % 2}", CodingSchemeDesignator="DCM", CodeMeaning="x")]


UNNAMED = {
    "energy in a sequence": lambda k: {"MultienergyCTAcquisitionSequence": [item(KVP=80 + 20 * (k % 2))]},
    "irradiation event": lambda k: {"IrradiationEventUID": f"1.2.{k % 2}"},
    "agent in one stack": lambda k: {"ContrastBolusAgentSequence": code(0)} if k % 2 else {},
    "protocol": lambda k: {"AcquisitionProtocolName": ["ARTERIAL", "VENOUS"][k % 2]},
    "centre": lambda k: {"ReconstructionTargetCenterPatient": [10.0 * (k % 2), 0.0, 0.0]},
    "derivation": lambda k: {"DerivationCodeSequence": code(k)},
    "creation time": lambda k: {"InstanceCreationTime": f"10{k % 2 * 20:02}{k:02}"},
    "bits": lambda k: {"BitsStored": [12, 16][k % 2], "HighBit": [11, 15][k % 2]},
    "not in the dictionary": lambda k: {0x00189999: f"V{k % 2}"},
}
OF_EACH_IMAGE = {
    "window": lambda k: {"WindowCenter": 40 + k % 2},
    "values": lambda k: {"SliceLocation": k % 2},
    "names": lambda k: {"OperatorsName": "AB"[k % 2]},
    "own identifiers": lambda k: {"IrradiationEventUID": f"1.2.{k}"},
    "private": lambda k: {0x00190010: "X", 0x00191001: f"V{k % 2}"},
    "along the scan": lambda k: {"AcquisitionProtocolName": "AB"[k // 4]},
}


def written(folder, elements, undefined=False):
    """A series of eight slices, each with its own elements."""
    write_ct(folder, np.zeros((8, 4, 4), int))
    for k, path in enumerate(sorted(folder.iterdir())):
        ds = dcmread(path)
        for keyword, given in elements(k).items():
            if isinstance(keyword, int):
                ds.add_new(keyword, "LO", given)
            else:
                setattr(ds, keyword, given)
                ds[keyword].is_undefined_length = undefined
        ds.save_as(path)
    return [len(series.slices) for series in list_series(folder)]


@pytest.mark.parametrize("undefined", [False, True])
@pytest.mark.parametrize("kind", UNNAMED)
def test_any_element_that_is_not_per_image_splits_interleaved_volumes(tmp_path, kind, undefined):
    if undefined and "Sequence" not in str(UNNAMED[kind](1)):
        pytest.skip("only sequences have no length")
    assert written(tmp_path, UNNAMED[kind], undefined) == [4, 4]


@pytest.mark.parametrize("kind", OF_EACH_IMAGE)
def test_per_image_attributes_do_not_split_a_scan(tmp_path, kind):
    assert written(tmp_path, OF_EACH_IMAGE[kind]) == [8]


def test_missing_slice_where_an_unlisted_element_changes_does_not_split_a_scan(tmp_path):
    written(tmp_path, lambda k: {"AcquisitionProtocolName": "AB"[k // 4]})
    sorted(tmp_path.iterdir())[4].unlink()
    assert [len(series.slices) for series in list_series(tmp_path)] == [7]


@pytest.mark.parametrize("place", ["shared", "frame"])
def test_unlisted_elements_of_functional_groups_split_frames(tmp_path, place):
    path = tmp_path / "a.dcm"
    write_enhanced_ct(path, np.zeros((8, 4, 4), int))
    ds = dcmread(path)
    for k, group in enumerate(ds.PerFrameFunctionalGroupsSequence):
        protocol = item(AcquisitionProtocolName="AB"[k % 2 if place == "frame" else 0])
        group.CTAcquisitionTypeSequence = [protocol]
    ds.save_as(path)
    assert [len(series.slices) for series in list_series(tmp_path)] == ([4, 4] if place == "frame" else [8])


def test_label_names_the_element_and_not_its_value(tmp_path):
    written(tmp_path, UNNAMED["protocol"])
    assert all(re.fullmatch("AcquisitionProtocolName variant [0-9a-f]{8}", s.part) for s in list_series(tmp_path))


@pytest.mark.parametrize("count", [4, 6])
def test_one_time_per_short_stack_splits_them(count):
    for keyword in ("AcquisitionTime", "ContentTime", "InstanceCreationTime"):
        found = parts(slices(np.arange(count) * 2.0, **{keyword: lambda k, keyword=keyword: value(keyword, k % 2)}))
        assert [len(group) for _, group in found] == [count // 2] * 2
        found = parts(slices(np.arange(count) * 2.0, **{keyword: lambda k, keyword=keyword: value(keyword, k)}))
        assert len(found) == 1


def test_stacks_that_only_two_attributes_together_separate():
    found = parts(
        slices(np.arange(24) * 2.0, FilterType=lambda k: "AABB"[k % 4], AcquisitionNumber=lambda k: [1, 2, 2, 1][k % 4])
    )
    assert heights_of(found) == [list(range(n, 24, 4)) for n in range(4)]


@pytest.mark.parametrize("count", [2, 3])
def test_interleaved_slices_numbered_apart_are_reported(count):
    """Two phases without times: only InstanceNumber tells them apart. Acquired order of one MR scan looks the same."""
    numbers = {"InstanceNumber": lambda k: k // count + 100 * (k % count) + 1}
    text = numbered_apart(slices(np.arange(24) * 2.5, **numbers))
    assert text.startswith("slices are numbered (InstanceNumber) 1 to ") and f"{count} interleaved scans" in text
    assert not numbered_apart(slices(np.arange(24) * 2.5, "MR", **numbers))
    for of_one_scan in (lambda k: k + 1, lambda k: 24 - k, lambda k: None, lambda k: 1):
        assert not numbered_apart(slices(np.arange(24) * 2.5, InstanceNumber=of_one_scan))
