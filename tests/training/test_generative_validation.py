"""The scores of generative models, and a training on a folder of images alone."""

import csv

import nibabel as nib
import numpy as np
import pytest
import torch
from refusal import refused
from small import small_settings, write_cohort

from medgen.checkpoint import load_model
from medgen.config import parse_settings
from medgen.data.cache import Cached
from medgen.data.intensity import Range
from medgen.data.patches import Patches
from medgen.data.prepared import ValidationCase, ValidationData
from medgen.training.generative_validation import GenerativeValidator, centred_patch
from medgen.training.loop import train
from medgen.training.preflight import check_method

METHOD = {"name": "vae", "generator": {"filters": 4, "levels": 2, "latent": 4}}


def channel(folder, n, shape=(12, 9, 10)):
    path = folder / f"{n}.npy"
    np.save(path, np.random.default_rng(n).normal(0, 1 + n % 2, shape).astype(np.float32))
    return Cached(path, np.zeros((0, 3), int), Range(-4, 4), (1.0, 1.0, 1.0), {})


def data(folder, cases=4):
    images = [(channel(folder, n),) for n in range(cases)]
    return ValidationData([ValidationCase(str(n), (), c, None, None) for n, c in enumerate(images)], {None: images})


class Known:
    """Samples that are the images themselves, and a known likelihood."""

    class method:  # noqa: N801
        pass

    def __init__(self, **functions):
        self.method = type("Method", (), {k: staticmethod(v) for k, v in functions.items()})()
        self.generator = torch.nn.Linear(1, 1)


def test_scores_equal_their_definitions(tmp_path):
    validator = GenerativeValidator(data(tmp_path), (8, 8, 8))
    images = iter(torch.from_numpy(validator.images))
    model = Known(
        log_likelihood=lambda x, generator: torch.full((1,), -512 * np.log(2.0)),
        reconstruct=lambda x: x + 0.25,
        sample=lambda n, shape, generator: next(images)[None],
    )
    scores = validator(model, tmp_path / "panel.png")
    assert scores.values["bits_per_dimension"] == pytest.approx(8) == scores.objective
    assert scores.values["reconstruction_error"] == pytest.approx(0.25)
    assert abs(scores.values["kernel_distance"]) < 0.02  # samples equal the real images
    far = Known(sample=lambda n, shape, generator: torch.zeros(n, 1, *shape))
    worse = validator(far, tmp_path / "panel.png")
    assert worse.objective == worse.values["kernel_distance"] > 0.2 and len(worse.values) == 1
    with pytest.raises(FloatingPointError, match="not finite"):
        validator(Known(reconstruct=lambda x: x * torch.nan), tmp_path / "panel.png")


def test_the_middle_is_cut_and_edges_are_repeated(tmp_path):
    c = channel(tmp_path, 0)
    patch = centred_patch((c,), (8, 16, 10))
    assert patch.shape == (1, 8, 16, 10)
    code = c.range.encode(np.load(c.path))
    assert np.array_equal(patch[0, :, 4:13], code[2:10]) and np.array_equal(patch[0, :, 0], code[2:10, 0])


def test_patches_of_images_alone(tmp_path):
    targets = {str(n): (channel(tmp_path, n),) for n in range(3)}
    patches = Patches({}, targets, paired=False, patch=(8, 8, 8), seed=0)
    samples = [patches[n] for n in range(3)]
    assert sorted(s["target_case"] for s in samples) == ["0", "1", "2"]
    assert all(set(s) == {"target", "target_case"} and s["target"].shape == (1, 8, 8, 8) for s in samples)
    assert torch.equal(samples[0]["target"], patches[0]["target"])


def settings(root, **more):
    values = {
        "data": {"root": str(root), "sources": [], "targets": ["images"], "validation": 0.3},
        "intensity": {"target": {"kind": "percentile"}},
        "sampling": {"patch": [8, 8, 8]},
        "method": METHOD,
        "train": {"steps": 2, "validate_every": 1},
    }
    return parse_settings({**values, **more}, "test")


def test_a_folder_of_images_and_labels_trains(tmp_path):
    """Images of other scales and sizes, smaller than the patch too."""
    write_cohort(tmp_path / "c", cases=4, targets=("images",), sources=(), labels=True)
    small = np.random.default_rng(0).random((6, 9, 7)) * 1e6
    nib.save(nib.Nifti1Image(small, np.diag([2, 2, 2, 1])), tmp_path / "c/images/small.nii.gz")
    best = train(settings(tmp_path / "c"), tmp_path / "run")
    rows = list(csv.DictReader(open(tmp_path / "run/validation.csv")))
    assert {"bits_per_dimension", "reconstruction_error", "kernel_distance"} <= set(rows[0])
    info = load_model(best).info
    assert info.source_range == [] and info.training_scans == [] and len(info.training_targets[0]) == 3
    assert len(list((tmp_path / "run/panels").iterdir())) == 2


def test_an_nnunet_folder_has_its_first_channel_as_image(tmp_path):
    from labelled import write_nnunet

    write_nnunet(tmp_path / "d", labels={"background": 0, "liver": 1, "lesion": 2})
    train(settings(tmp_path / "d"), tmp_path / "run")


@pytest.mark.parametrize(
    "sections, code, names",
    [
        ({"data": {"sources": []}}, "config-invalid-value", "data.sources"),
        ({"method": METHOD}, "config-invalid-value", "data.sources"),
        ({"method": METHOD, "data": {"sources": [], "align": "rigid"}}, "config-sources-needed", "data.align"),
        ({"method": METHOD, "data": {"sources": [], "paired": True}}, "config-invalid-value", "paired"),
        ({"method": METHOD, "data": {"sources": [], "labels": True}}, "config-invalid-value", "images alone"),
        ({"method": {"name": "ac_gan"}, "data": {"sources": []}}, "config-invalid-value", "data.labels to true"),
        (
            {"method": {"name": "dcgan", "adversary": {"minibatch": "std"}}, "data": {"sources": []}},
            "config-invalid-value",
            "sampling.batch to 2",
        ),
        (
            {"method": METHOD, "data": {"sources": []}, "sampling": {"patch": [16] * 3, "gamma": 0.2}},
            "config-sources-needed",
            "sampling.gamma",
        ),
        (
            {"method": METHOD, "data": {"sources": []}, "sampling": {"patch": [18, 16, 16]}},
            "config-method-invalid",
            "multiples of 4",
        ),
    ],
    ids=str,
)
def test_settings_that_contradict_each_other(sections, code, names):
    with refused(code, names=names):
        check_method(small_settings(**{"intensity": {}, **sections}))
