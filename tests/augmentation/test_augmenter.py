"""Translators as augmenters: the image is the model's translation, the label is unchanged."""

import json
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from labelled import voxels, write_nnunet
from refusal import refused
from scipy import ndimage
from small import SMALL_METHOD, make_model, small_settings

from medgen.augmentation.augmenter import augmenter_for
from medgen.augmentation.dataset.read import read_case
from medgen.augmentation.read import read_dataset
from medgen.checkpoint import load_model, save_model
from medgen.inference.predict import translate_case
from medgen.io.atomic import atomic_folder
from medgen.io.read import read_volume
from medgen.io.volume import same_geometry
from medgen.io.write import write_volume
from medgen.model_info import TableInfo

SMALL = {"generator": {"filters": 4, "blocks": 1, "kernel": 3}, "adversary": {"filters": 4, "layers": 1}}
METHODS = {
    "pix2pix": SMALL_METHOD,
    "cyclegan": {"name": "cyclegan", **SMALL},
    "cut": {"name": "cut", **SMALL},
    "multi_domain": {"name": "multi_domain", **SMALL, "classifier_filters": 4, "classifier_layers": 1},
}
DOMAINS = ["none", "arterial", "late"]


@cache
def model_of(method, sources=1, targets=1):
    data = {"sources": [f"s{i}" for i in range(sources)], "targets": [f"t{i}" for i in range(targets)]}
    data = {"domains": DOMAINS, "paired": False} if method == "multi_domain" else data | {"paired": method == "pix2pix"}
    return make_model(small_settings(method=METHODS[method], data=data))


def saved(folder, method="pix2pix", **contrasts):
    model = model_of(method, **contrasts)
    with atomic_folder(folder) as staging:
        save_model(staging, model.generator, model.info)
    return folder


def one_case(tmp_path, channels=("CT",)):
    dataset = read_dataset(write_nnunet(tmp_path / "given", channels=channels))
    return dataset, *read_case(dataset, dataset.cases[0])


@pytest.mark.parametrize("method", METHODS)
def test_every_translator(tmp_path, method):
    dataset, images, label = one_case(tmp_path)
    folder = saved(tmp_path / "best", method)
    augmenter = augmenter_for(str(folder), dataset)
    targets = DOMAINS if method == "multi_domain" else [None]
    assert len(augmenter.ways) == len(targets) and not augmenter.random and augmenter.channels == 1
    assert augmenter.model["method"] == method and len(augmenter.model["sha256"]) == 64
    seen = []
    for way, target in zip(augmenter.ways, targets, strict=True):
        made, kept, (operation,) = way(images, label, dataset.labels, np.random.default_rng(0))
        expected = translate_case(load_model(folder, target=target), images)
        np.testing.assert_array_equal(made[0].data, expected[0].data)
        assert kept is label and operation["operation"] == "translate" and json.dumps(operation)
        assert operation["to"] == [target or "t0"]
        seen.append(made[0].data.tobytes())
    assert len(set(seen)) == len(targets) and images[0].data.tobytes() not in seen
    np.testing.assert_array_equal(images[0].data, voxels(0)[0][..., 0])


def test_chosen_domains_in_their_order(tmp_path):
    dataset, *_ = one_case(tmp_path)
    folder = str(saved(tmp_path / "best", "multi_domain"))
    chosen = augmenter_for(folder, dataset, targets=["late", "none"])
    assert chosen.model["targets"] == ["late", "none"] and len(chosen.ways) == 2
    assert chosen.identity != augmenter_for(folder, dataset).identity
    with refused("model-target-unknown", names="venous"):
        augmenter_for(folder, dataset, targets=["venous"])


def test_a_moved_model_is_the_same_one(tmp_path):
    dataset, *_ = one_case(tmp_path)
    a, b = (augmenter_for(str(saved(tmp_path / name)), dataset) for name in ("a", "b"))
    assert a.identity == b.identity and a.model != b.model


def test_scans_outside_the_training_distribution_give_a_warning(tmp_path):
    dataset, images, label = one_case(tmp_path)
    far = [images[0].replaced(images[0].data + 2500)]
    augmenter = augmenter_for(str(saved(tmp_path / "best")), dataset)
    _, _, (operation,) = augmenter.ways[0](far, label, {}, np.random.default_rng(0))
    assert "outside the training distribution" in operation["warnings"][0]


def test_two_contrasts_to_two(tmp_path):
    dataset, images, label = one_case(tmp_path, channels=("a", "b"))
    augmenter = augmenter_for(str(saved(tmp_path / "best", sources=2, targets=2)), dataset)
    made, _, _ = augmenter.ways[0](images, label, {}, np.random.default_rng(0))
    assert augmenter.channels == len(made) == 2


def label_model(folder, labels):
    generator = {"filters": 4, "hidden": 4, "levels": 2, "latent": 4}
    method = {"name": "spade", "generator": generator, "adversary": {"filters": 4, "layers": 1}}
    data = {"sources": ["labels"], "classes": 1 + len(labels)}
    model = make_model(small_settings(data=data, intensity={"source": {"kind": "labels"}}, method=method))
    model.info.source_range[0] = TableInfo(labels=labels, tissues=0, smoothing=1.0)
    with atomic_folder(folder) as staging:
        save_model(staging, model.generator, model.info)
    return str(folder)


def test_images_of_bent_label_maps(tmp_path):
    dataset, images, label = one_case(tmp_path)
    augmenter = augmenter_for(label_model(tmp_path / "best", {"lesion": 3, "liver": 7}), dataset)
    assert augmenter.random and augmenter.channels == 1 and augmenter.model["method"] == "spade"
    (made,), bent, operations = augmenter.ways[0](images, label, dataset.labels, np.random.default_rng(0))
    (again,), *_ = augmenter.ways[0](images, label, dataset.labels, np.random.default_rng(0))
    assert np.array_equal(made.data, again.data) and [o["operation"] for o in operations][0] == "deform"
    assert same_geometry(made.geometry, images[0].geometry) and same_geometry(bent.geometry, label.geometry)
    liver = bent.data == dataset.labels["liver"]
    assert set(np.unique(bent.data)) <= set(dataset.labels.values()) and (bent.data != label.data).any()
    assert 0.5 < liver.sum() / (label.data == dataset.labels["liver"]).sum() < 2


def test_anatomy_between_two_patients_names_both(tmp_path):
    dataset, *_ = one_case(tmp_path)
    first = dataset.cases[0]
    donor = replace(first, name="other", patient="other")
    donor = replace(donor, label=tmp_path / "other.nii.gz")
    volume = read_volume(first.label)
    larger = ndimage.binary_dilation(volume.data == dataset.labels["liver"], iterations=2)
    write_volume(donor.label, volume.replaced(np.where(larger, dataset.labels["liver"], volume.data)))
    model = label_model(tmp_path / "best", {"lesion": 3, "liver": 7})
    with refused("augmentation-single-patient"):
        augmenter_for(model, replace(dataset, cases=(first,)), recombine=True)
    with refused("option-recombine-not-applicable"):
        augmenter_for("cutpaste", dataset, recombine=True)
    both = replace(dataset, cases=(first, donor))
    images, label = read_case(both, first)
    plain, mixed = (augmenter_for(model, both, recombine=mix).ways[0] for mix in (False, True))
    _, bent, _ = plain(images, label, dataset.labels, np.random.default_rng(0))
    _, between, operations = mixed(images, label, dataset.labels, np.random.default_rng(0))
    assert operations[0]["operation"] == "recombine" and operations[0]["patients"] == ["other"]
    assert (between.data != bent.data).any() and (between.data == dataset.labels["liver"]).any()


def test_label_maps_that_the_model_does_not_know(tmp_path):
    dataset, *_ = one_case(tmp_path)
    with refused("model-label-unknown", names="lesion"):
        augmenter_for(label_model(tmp_path / "best", {"liver": 1, "spleen": 2}), dataset)


def test_invalid_augmenters_are_refused(tmp_path):
    dataset, *_ = one_case(tmp_path)
    with refused("model-json-missing"):
        augmenter_for(str(tmp_path / "absent"), dataset)
    with refused("option-lesion-not-applicable"):
        augmenter_for(str(saved(tmp_path / "other")), dataset, host="liver")
    with refused("model-target-count-differs"):
        augmenter_for(str(saved(tmp_path / "best", sources=2)), dataset)


def test_targets_are_for_translators(tmp_path):
    dataset = read_dataset(write_nnunet(tmp_path / "data"))
    with refused("option-target-not-applicable"):
        augmenter_for("cutpaste", dataset, targets=["late"], lesions=["tumour"])
