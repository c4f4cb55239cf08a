"""Warnings about images that do not fit their codec."""

from types import SimpleNamespace

import numpy as np
import pytest

from medgen.data.cohort.modality import label_map_warnings, mask_warnings
from medgen.data.intensity import fit_range


def image(masked):
    data = np.random.default_rng(3).uniform(100, 200, (8, 8, 8)).astype(np.float32)
    if masked:
        data[:3] = 0
    return (SimpleNamespace(range=fit_range(data, kind="percentile", background=0.0)),)


@pytest.mark.parametrize(
    ("sources", "targets", "named"),
    [
        ("mm", "mm", None),
        ("--", "--", None),
        ("m-", "mm", "1 images have no masked background, unlike 3 others: 1 (source)"),
        ("--", "mm", "0 (source), 1 (source)"),
    ],
)
def test_a_cohort_that_is_masked_in_part_is_told(sources, targets, named):
    codec = SimpleNamespace(kind="percentile", background=0.0)
    settings = SimpleNamespace(intensity=SimpleNamespace(source=codec, target=codec))
    images = [{str(i): image(kind == "m") for i, kind in enumerate(side)} for side in (sources, targets)]
    texts = mask_warnings(settings, *images)
    assert bool(texts) == bool(named) and all(named in text for text in texts)


def test_label_maps_in_place_of_scans_are_told():
    rng = np.random.default_rng(0)
    scan = np.zeros((24, 24, 24), np.float32)
    scan[4:20, 4:20, 4:20] = rng.normal(100, 20, (16, 16, 16)).round()
    labels = np.zeros(scan.shape, np.float32)
    labels[4:20, 4:20, 4:12], labels[4:20, 4:20, 12:20] = 1, 7
    codec = SimpleNamespace(kind="percentile")
    settings = SimpleNamespace(intensity=SimpleNamespace(source=codec, target=codec))
    images = {"a": (SimpleNamespace(data=scan),), "b": (SimpleNamespace(data=scan), SimpleNamespace(data=labels))}
    (text,) = label_map_warnings(settings, {"a": images["a"]}, images)
    assert text.startswith("the target images of b have so few values")
    codec.kind = "labels"
    assert not label_map_warnings(settings, images, images)
