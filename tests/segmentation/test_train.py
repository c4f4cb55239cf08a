"""A segmenter learns simple shapes in seconds, the same way twice, and names the cases it could not use."""

import dataclasses

import nibabel as nib
import numpy as np
import pytest
import torch
from refusal import refused

from medgen.io.read import read_volume
from medgen.segmentation import train as module
from medgen.segmentation.train import Example, label_values, make_plan, schedule, train_segmenter

TINY = {"filters": 4, "voxels": 16**3, "batch": 2, "steps": 2}


def write_case(folder, seed, *, gain=1.0, low=0.0, shape=(18, 16, 17)):
    """A bright ball (label 2) and a dark one (label 5) in noise."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(shape, np.uint8)
    for value, centre in ((2, (5, 6, 6)), (5, (12, 10, 11))):
        away = np.indices(shape) - np.reshape(centre + rng.integers(-1, 2, 3), (3, 1, 1, 1))
        labels[(away**2).sum(0) < 3.6**2] = value
    data = gain * (np.choose(np.searchsorted((0, 2, 5), labels), (50.0, 100.0, 0.0)) + rng.normal(0, 5, shape)) + low
    paths = folder / f"image{seed}.nii.gz", folder / f"labels{seed}.nii.gz"
    folder.mkdir(exist_ok=True)
    for path, array in zip(paths, (data.astype(np.float32), labels), strict=True):
        nib.save(nib.Nifti1Image(array, np.diag([1.0, 1.0, 1.0, 1.0])), path)
    return Example(f"case{seed}", f"patient{seed}", *paths)


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cases")
    return [write_case(folder, seed, gain=10.0 ** (seed % 4)) for seed in range(6)]


def test_it_learns_whatever_the_gain_of_a_case(examples, tmp_path):
    settings = {"filters": 4, "voxels": 16**3, "steps": 60, "lr": 1e-2}
    made = train_segmenter(examples[:4], tmp_path / "made", **settings)
    for example in examples[4:]:
        truth, found = read_volume(example.labels).data, made(read_volume(example.image))
        for value in (2, 5):
            a, b = truth == value, found == value
            assert 2 * (a & b).sum() / (a.sum() + b.sum()) > 0.8
    assert made.record["steps"] == 60 and made.record["training"] == [f"case{i}" for i in range(4)]


def test_the_same_seed_gives_the_same_weights(examples, tmp_path):
    def weights(name, seed):
        network = train_segmenter(examples[:3], tmp_path / name, seed=seed, cache=tmp_path / "cache", **TINY).network
        return torch.cat([p.detach().ravel() for p in network.parameters()])

    first = weights("a", 1)
    assert torch.equal(first, weights("b", 1)) and not torch.equal(first, weights("c", 2))


def test_a_finished_segmenter_is_loaded_and_another_budget_trains_again(examples, tmp_path, monkeypatch):
    made = train_segmenter(examples[:2], tmp_path / "made", **TINY)
    fitted = []
    fit = module._fit
    monkeypatch.setattr(module, "_fit", lambda *a, **k: fitted.append(1) or fit(*a, **k))
    assert train_segmenter(examples[:2][::-1], tmp_path / "made", **TINY).record == made.record and not fitted
    train_segmenter(examples[:2], tmp_path / "made", **(TINY | {"steps": 3}))
    train_segmenter(examples[:3], tmp_path / "made", **(TINY | {"steps": 3}))
    assert len(fitted) == 2


def test_minutes_end_a_training(examples, tmp_path):
    made = train_segmenter(examples[:2], tmp_path / "made", **(TINY | {"minutes": 0.01, "steps": 10_000}))
    assert 1 <= made.record["steps"] < 10_000


def test_unusable_cases_are_excluded_and_named(examples, tmp_path):
    cut = tmp_path / "cut.nii.gz"
    cut.write_bytes(examples[0].image.read_bytes()[:200])
    small = write_case(tmp_path / "small", 8, shape=(17, 16, 17))
    bad = [
        examples[0]._replace(name="absent", image=tmp_path / "no.nii.gz"),
        examples[0]._replace(name="cut", image=cut),
        examples[0]._replace(name="grid", labels=small.labels),
    ]
    made = train_segmenter([*bad, *examples[:2]], tmp_path / "made", values=(2, 5), **TINY)
    assert set(made.record["skipped"]) == {"absent", "cut", "grid"} and made.record["training"] == ["case0", "case1"]
    assert "grid" in made.record["skipped"]["grid"]
    with refused("segmenter-no-examples"):
        train_segmenter(bad, tmp_path / "none", values=(2, 5), **TINY)
    with refused("segmenter-example-name-twice"):
        train_segmenter([examples[0], examples[0]], tmp_path / "none", **TINY)


def test_mr_is_normalised_per_case_and_ct_by_the_window_of_the_labels(examples, tmp_path):
    assert make_plan(examples, (0, 2, 5)).intensity == {"kind": "zscore"}
    ct = [write_case(tmp_path, seed, gain=10, low=-400) for seed in (0, 1)]
    plan = make_plan(ct, (0, 2, 5))
    labelled = np.concatenate([read_volume(e.image).data[read_volume(e.labels).data > 0] for e in ct])
    assert plan.intensity["kind"] == "window"
    assert [plan.intensity["low"], plan.intensity["high"]] == pytest.approx(np.percentile(labelled, [0.5, 99.5]))
    assert plan.spacing == (1, 1, 1) and plan.values == (0, 2, 5)
    assert make_plan(ct, (0, 2, 5), intensities="mr").intensity == {"kind": "zscore"}


def test_labels_are_found(examples, tmp_path):
    assert label_values(examples) == (0, 2, 5)
    empty = tmp_path / "empty.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4), np.uint8), np.eye(4)), empty)
    with refused("labels-all-background"):
        label_values([examples[0]._replace(labels=empty)])


def test_the_learning_rate_rises_and_falls_to_zero():
    rates = [schedule(p) for p in np.linspace(0, 1, 101)]
    top = int(np.argmax(rates))
    assert rates[top] == pytest.approx(1) and 3 <= top <= 6 and rates[0] > 0
    assert (np.diff(rates[: top + 1]) > 0).all() and (np.diff(rates[top:]) < 0).all()
    assert rates[-1] == pytest.approx(0, abs=1e-12)


def test_segmenter_augmentation_rotates_in_millimetres(tmp_path, monkeypatch):
    """A ball in voxels of 1.5 × 1.5 × 3 mm is not augmented to an ellipsoid, neither in the image nor in the labels."""
    mm, shape = np.array([1.5, 1.5, 3.0]), (48, 48, 24)
    apart = ((np.indices(shape) - (np.reshape(shape, (3, 1, 1, 1)) - 1) / 2) * mm.reshape(3, 1, 1, 1)) ** 2
    ball = np.exp(-apart.sum(0) / (2 * 9.0**2)).astype(np.float32)
    paths = tmp_path / "image.nii.gz", tmp_path / "labels.nii.gz"
    for path, array in zip(paths, (ball, (ball > 0.2).astype(np.uint8)), strict=True):
        nib.save(nib.Nifti1Image(array, np.diag([*mm, 1.0])), path)
    seen = []
    monkeypatch.setattr(module, "batches", lambda patches, **options: seen.append(patches) or iter(()))
    monkeypatch.setattr(module, "_fit", lambda *args, **options: {})
    train_segmenter([Example("a", "a", *paths)], tmp_path / "made", **TINY | {"voxels": 48 * 48 * 24})
    (patches,) = seen
    assert patches.spatial.rotate > 0 and patches.spatial.scale > 0
    patches.spatial = dataclasses.replace(patches.spatial, scale=0.0)
    for n in range(6):
        sample = patches[n]
        weight = sample["labels"][0].numpy().astype(float)
        places = np.indices(weight.shape).reshape(3, -1) * mm[:, None]
        places = places - (places * weight.ravel()).sum(1, keepdims=True) / weight.sum()
        lengths = np.sqrt(np.linalg.eigvalsh(places * weight.ravel() @ places.T))
        assert lengths[-1] / lengths[0] < 1.08  # up to 1.3 if voxels were rotated
        bright = sample["source"][0].numpy() > np.median(sample["source"][0][weight > 0]) * 0.3
        assert weight[bright].mean() > 0.7
