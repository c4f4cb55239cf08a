import numpy as np
import pytest
from lesion_cases import NAMES, ball, case
from refusal import refused
from scipy import ndimage

from medgen.augmentation.lesions.host_organ import host_mask, ranks_of, robust_sd, shell


def test_host_by_name_and_by_value():
    image, label = case()
    by_name = host_mask([image.data], label.data, NAMES, "organ")
    assert np.array_equal(by_name, label.data == 2) and by_name.any()
    assert np.array_equal(by_name, host_mask([image.data], label.data, NAMES, 2))


def test_a_missing_host_is_refused():
    image, label = case()
    with refused("lesions-host-label-unknown", names="spleen"):
        host_mask([image.data], label.data, NAMES, "spleen")
    with refused("lesions-host-absent", names="scan7"):
        host_mask([image.data], label.data, NAMES, 9, case="scan7")


def test_without_a_label_the_host_is_tissue_of_the_same_look():
    image, label = case(lesions=False)
    organ = label.data == NAMES["organ"]
    body = image.data[label.data > 0]
    found = host_mask([image.data], np.zeros_like(label.data), NAMES, None, [ranks_of(image.data[organ], body)])
    overlap = 2 * (found & organ).sum() / (found.sum() + organ.sum())
    assert overlap > 0.8


def test_unlabelled_host_leaves_labels_alone():
    image, label = case()
    organ = label.data == NAMES["organ"]
    labels = np.where(organ, 0, label.data)
    ranks = [ranks_of(image.data[organ], image.data[label.data > 0])]
    assert not (host_mask([image.data], labels, NAMES, None, ranks) & (labels > 0)).any()


def test_shell_lies_2_to_6_mm_outside_in_the_host():
    mask = ball((25, 25, 25), (12, 12, 12), 4)
    host = np.zeros_like(mask)
    host[:, :12] = True
    around = shell(mask, host & ~mask, (1.0, 1.0, 1.0))
    distance = ndimage.distance_transform_edt(~mask)[around]
    assert 2 < distance.min() < 3 and 5 < distance.max() <= 6
    assert not around[:, 12:].any()


def test_shell_takes_all_host_where_little_is_near():
    mask = ball((25, 25, 25), (12, 12, 12), 4)
    host = np.zeros_like(mask)
    host[0:2] = True
    assert np.array_equal(shell(mask, host, (1.0, 1.0, 1.0)), host)


def test_spread_ignores_outliers():
    values = np.random.default_rng(0).normal(50, 7, 4000)
    assert robust_sd(np.append(values, [900.0] * 40)) == pytest.approx(7, rel=0.1)


def test_ranks_are_percentiles_of_the_body():
    body = np.arange(1000.0)
    low, high = ranks_of(np.arange(200.0, 300.0), body)
    assert low == pytest.approx(21, abs=1) and high == pytest.approx(29, abs=1)
