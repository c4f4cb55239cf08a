"""What is refused before a run begins, and what is not: the check is a step on the meta device."""

import pytest
from small import SMALL_METHOD, merged, small_settings

from medgen.errors import InputError
from medgen.training.preflight import check_method

UNPAIRED = {"data": {"paired": False}}
CUT = {
    "name": "cut",
    "generator": {"name": "unet", "filters": 4, "levels": 2, "norm": "none", "antialias": False},
    "adversary": {"filters": 4, "layers": 1, "antialias": False},
}
SEGMENTED = {**CUT, "preserve": {"weight_segmentation": 1.0}}


@pytest.mark.parametrize(
    "keys",
    [
        {"adversary": {"augment": ["flip", "translate", "cutout", "intensity"]}},
        {"adversary": {"consistency": 10.0}},
        {"adversary": {"pool": 1}},
        {"adversary": {"r1": 1.0, "r1_every": 1}},
        {"adversary": {"objective": "wasserstein", "gradient_penalty": 10.0}},
        {"adversary": {"spectral_norm": True, "norm": "none"}},
        {"adversary": {"scales": 2}},
        {"preserve": {"weight_gradient": 1.0, "weight_mind": 1.0}},
        {"flip_equivariance": True, "nce_identity": False},
    ],
    ids=str,
)
def test_every_stabiliser_passes(keys):
    check_method(small_settings(**UNPAIRED, method=merged(CUT, keys)))


def test_segmentation_passes_with_labels():
    data = {"paired": False, "labels": True, "classes": 3}
    check_method(small_settings(data=data, method=SEGMENTED))


@pytest.mark.parametrize(
    "data, method, words",
    [
        ({"paired": False}, SMALL_METHOD, "learns from pairs"),
        ({"paired": False}, SEGMENTED, r"data\.labels"),
        ({"paired": False}, {**SEGMENTED, "classes": 3}, r"data\.classes"),
        ({"paired": False}, {**CUT, "nce_layers": []}, "layers"),
        ({"paired": False}, merged(CUT, {"generator": {"name": "resnet", "kernel": 4}}), "odd"),
        ({}, {**SMALL_METHOD, "weight_diversity": 1.0, "noise": 1}, "residual"),
        ({}, merged(SMALL_METHOD, {"generator": {"levels": 5}}), r"multiple of 32"),
    ],
)
def test_what_cannot_train_is_refused_with_its_key(data, method, words):
    with pytest.raises(InputError, match=words):
        check_method(small_settings(data=data, method=method))


@pytest.mark.parametrize(
    "data, words",
    [
        ({"domains": ["none"], "paired": False}, "at least two"),
        ({"domains": ["none", "none"], "paired": False}, "at least two"),
        ({"domains": ["none", "late"]}, "set paired to false"),
        ({"domains": ["none", "late"], "paired": False, "sources": ["a", "b"]}, "one contrast"),
        ({"classes": 3}, "^test: data.classes .*set data.labels to true"),
    ],
)
def test_data_that_contradicts_itself(data, words):
    with pytest.raises(InputError, match=words):
        small_settings(data=data)
