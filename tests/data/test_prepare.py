"""From settings to training data: contrasts and labels of a cohort."""

import nibabel as nib
import numpy as np
import pytest
import torch
from refusal import refused
from small import small_settings, write_cohort

from medgen.data.patches import Patches, batches
from medgen.data.prepare import prepare


def prepared(root, out, sections=None, **data):
    settings = small_settings(data={"root": str(root), "validation": 0.25, **data}, **(sections or {}))
    return prepare(settings, out, say=lambda _: None)


def test_every_contrast_has_its_own_range_and_looks(tmp_path):
    names = {"sources": ("t1", "flair"), "targets": ("t2",)}
    root = write_cohort(tmp_path / "cohort", **names)
    intensity = {"source": {"kind": "percentile"}, "target": {"kind": "percentile"}}
    settings = small_settings(data={"root": str(root), "validation": 0.25, **names}, intensity=intensity)
    found = prepare(settings, tmp_path / "run", say=lambda _: None)
    assert [len(c) for c in found.patches.sources.values()] == [2, 2, 2]
    assert len(found.model.source_range) == len(found.model.training_scans) == 2 and len(found.model.target_range) == 1
    assert found.model.source_range[0].high > found.model.source_range[1].high > found.model.target_range[0].high
    (case,) = found.validation.cases
    assert len(case.sources) == 2 and len(case.truths) == 1 and case.domain is None


def test_labels_of_the_training_sources(tmp_path):
    root = write_cohort(tmp_path / "cohort", labels=True)
    found = prepared(root, tmp_path / "run", labels=True, classes=3)
    assert found.model.training_data["classes"] == 3
    assert found.model.training_data["labels"] == {"background": 0, "body": 1, "organ": 2}
    assert found.patches.labels.keys() == found.patches.sources.keys()
    assert set(np.unique(np.load(next(iter(found.patches.labels.values()))))) == {0, 1, 2}
    off = prepared(root, tmp_path / "off")
    assert off.patches.labels == {} and "classes" not in off.model.training_data
    assert off.model.training_data["sha256"] != found.model.training_data["sha256"]


@pytest.mark.parametrize("slab, patch", [(None, (8, 8, 8)), (2, (8, 8, 3))])
@pytest.mark.parametrize("paired", [True, False])
def test_labels_are_transformed_with_their_source(tmp_path, slab, patch, paired):
    """The organ is the only thing above 100 HU, wherever crop, flip and rotation have moved it."""
    root = write_cohort(tmp_path / "cohort", cases=6, unpaired=not paired, labels=True)
    found = prepared(root, tmp_path / "run", labels=True, classes=3, paired=paired, validation=0.0)
    options = {"flip": ("x", "y", "z"), "rotate": 20.0, "scale": 0.1, "slab": slab}
    data, options = found.patches, {**options, "paired": paired, "patch": patch, "seed": 0}
    patches = Patches(data.sources, data.targets, labels=data.labels, **options)
    plain = Patches(data.sources, data.targets, **options)
    agree, seen = [], set()
    for n, batch in enumerate(batches(patches, batch=2, first_step=0, steps=15)):
        labels = batch["labels"]
        assert labels.dtype.is_floating_point is False and labels.shape == batch["source"].shape
        bright = batch["source"] * 1000 > 100
        agree.append(float((bright == (labels == 2)).float().mean()))
        seen |= set(labels.unique().tolist())
        assert (
            bool((batch["source"][0] == patches[2 * n]["source"].movedim(3, 1).flatten(0, 1)).all()) if slab else True
        )
        assert bool((plain[2 * n]["target"] == patches[2 * n]["target"]).all())
    assert np.mean(agree) > 0.97 and seen == {0, 1, 2}


def test_labels_that_are_missing_or_miscounted(tmp_path):
    root = write_cohort(tmp_path / "cohort", labels=True)
    for classes in (None, 4):
        with refused("config-classes-differ", names=f"data.classes = {classes}"):
            prepared(root, tmp_path / "run", labels=True, classes=classes)
    for i in range(4):
        (root / f"labels/case{i}.nii.gz").unlink()
    with refused("label-missing"):
        prepared(root, tmp_path / "run", labels=True, classes=3)


def domain_cohort(root, cases=4):
    """Three phases of the same patients, one folder each."""
    for i, phase in enumerate(("none", "arterial", "late")):
        write_cohort(root / f"part{i}", cases=cases)
        (root / f"part{i}" / "source").rename(root / phase)
    return root


def test_domains_are_sampled_pairwise_and_patients_are_never_in_two_subsets(tmp_path):
    root = domain_cohort(tmp_path / "cohort")
    domains = ("none", "arterial", "late")
    found = prepared(root, tmp_path / "run", domains=domains, paired=False)
    assert len(found.patches.sources) == 9 and set(found.patches.domains.values()) == {0, 1, 2}
    held = {name.partition("/")[2] for name in found.model.training_data["validation"]}
    assert len(held) == 1 and not held & {name.partition("/")[2] for name in found.patches.sources}
    assert {case.domain for case in found.validation.cases} == {0, 1, 2}
    assert all(found.patches.domains[c.name] != c.domain and not c.truths for c in found.validation.cases)
    data = found.patches
    patches = Patches(data.sources, data.targets, domains=data.domains, paired=False, patch=(8, 8, 8), seed=0)
    seen = set()
    for n in range(60):
        sample = patches[n]
        for side in ("source", "target"):
            assert sample[f"{side}_domain"] == domains.index(sample[f"{side}_case"].partition("/")[0])
        seen.add((sample["source_domain"], sample["target_domain"]))
    assert seen == {(a, b) for a in range(3) for b in range(3) if a != b}


def test_paired_domains_of_a_patient_are_sampled_at_one_position(tmp_path):
    root = domain_cohort(tmp_path / "cohort")
    alone = next((root / "late").glob("*"))
    others = [root / phase / alone.name for phase in ("none", "arterial")]
    for path in others:
        path.unlink()
    options = {"domains": ("none", "arterial", "late"), "paired": False, "validation": 0.0}
    found = prepared(root, tmp_path / "run", paired_domains=True, **options)
    lonely = [name for name in found.patches.sources if name not in found.patches.siblings]
    assert len(lonely) == 1 and lonely[0].startswith("late/")
    turned = {"flip": ("x",), "rotate": 20.0}
    data = found.patches
    domains = {"domains": data.domains, "siblings": data.siblings}
    patches = Patches(data.sources, data.sources, paired=False, patch=(8, 8, 8), seed=0, **domains, **turned)
    for n in range(40):
        sample = patches[n]
        (of, x), (to, y) = (sample[f"{side}_case"].split("/") for side in ("source", "target"))
        assert of != to and sample["paired"] == (sample["source_case"] not in lonely)
        if sample["paired"]:  # the phases have one seed: the same image
            assert x == y and torch.equal(sample["source"], sample["target"])


def test_validation_uses_the_true_target_if_the_patient_has_both_domains(tmp_path):
    domains = ("none", "arterial", "late")
    root = domain_cohort(tmp_path / "cohort")
    for phase in domains:  # identify the phases: each has its own brightness
        for path in (root / phase).glob("*"):
            image = nib.load(path)
            nib.save(nib.Nifti1Image(np.asarray(image.dataobj) + 10 * domains.index(phase), image.affine), path)
    options = {"domains": domains, "paired": False, "validation": 0.3, "paired_domains": True}
    found = prepared(root, tmp_path / "run", **options)
    assert len(found.validation.cases) == 4
    for case in found.validation.cases:
        change = np.asarray(case.truths[0].data, float) - np.asarray(case.sources[0].data, float)
        own = found.patches.domains[case.name]
        assert case.domain != own
        np.testing.assert_allclose(change, 10 * (case.domain - own), atol=0.01)


def test_paired_domains_must_exist_and_share_a_grid(tmp_path):
    options = {"domains": ("none", "arterial", "late"), "paired": False, "paired_domains": True, "validation": 0.0}
    root = domain_cohort(tmp_path / "cohort")
    path = next((root / "late").glob("*"))
    image = nib.load(path)
    affine = image.affine.copy()
    affine[0, 3] += 5
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), affine), path)
    with refused("pair-grid-differs"):
        prepared(root, tmp_path / "run", **options)
    for i, phase in enumerate(options["domains"]):
        for path in list((root / phase).glob("*")):
            path.rename(path.with_name(f"{i}{path.name}"))
    for path in list((root / "labels").glob("*")) if (root / "labels").exists() else ():
        path.unlink()
    with refused("cohort-no-domain-pairs"):
        prepared(root, tmp_path / "run2", **options)


def test_missing_domains_are_refused(tmp_path):
    root = domain_cohort(tmp_path / "cohort")
    with refused("cohort-domain-empty", names="portal"):
        prepared(root, tmp_path / "run", domains=("none", "portal"), paired=False)


STRUCTURES = {"host": ["body"], "lesion": ["organ"]}


def test_labels_are_merged_into_classes_and_give_patch_centres(tmp_path):
    root = write_cohort(tmp_path / "cohort", labels=True)
    sampling = {"foreground_fraction": 1.0, "foreground_classes": ["lesion"], "patch": [16, 16, 16]}
    found = prepared(root, tmp_path / "run", labels=True, class_groups=STRUCTURES, sections={"sampling": sampling})
    assert found.model.training_data["labels"] == {"background": 0, "host": 1, "lesion": 2}
    for name, file in found.patches.labels.items():
        classes = np.load(file)
        assert (classes[tuple(found.patches.centres[name].T)] == 2).all()
    only = prepared(root, tmp_path / "only", labels=True, class_groups={"lesion": ["organ"]})
    assert only.model.training_data["classes"] == 2 and only.patches.centres == {}
    assert set(np.unique(np.load(next(iter(only.patches.labels.values()))))) == {0, 1}


@pytest.mark.parametrize(
    "structures, sampling, code, names",
    [
        ({"host": ["liver"], "lesion": ["organ"]}, {}, "config-structure-unknown", ("liver", "body")),
        (
            STRUCTURES,
            {"foreground_fraction": 0.5, "foreground_classes": ["cyst"]},
            "config-centred-class-unknown",
            ("cyst", "lesion"),
        ),
        (
            {"host": ["body"], "lesion": []},
            {"foreground_fraction": 0.5, "foreground_classes": ["lesion"]},
            "cohort-centred-class-absent",
            "lesion",
        ),
        (STRUCTURES, {"foreground_fraction": 0.5}, "config-invalid-value", "set both"),
        ({"host": ["body"], "lesion": ["body"]}, {}, "config-invalid-value", "a label twice"),
    ],
)
def test_impossible_class_groups_are_refused(tmp_path, structures, sampling, code, names):
    root = write_cohort(tmp_path / "cohort", labels=True)
    with refused(code, names=names):
        prepared(root, tmp_path / "run", labels=True, class_groups=structures, sections={"sampling": sampling})


def test_a_method_that_needs_classes_refuses_data_without(tmp_path):
    from medgen.checkpoint import build_method
    from medgen.config import parse_settings

    with refused("config-labels-required", names=("lesion_gan", "data.class_groups")):
        build_method(parse_settings({"method": {"name": "lesion_gan"}}, "test"))


def test_median_spacing_is_that_of_the_training_targets(tmp_path):
    """Each case has another voxel size; the model's is the median along each axis, in canonical axes."""
    root = write_cohort(tmp_path / "cohort", cases=3)
    sizes = {"case0": (1.0, 2.0, 3.0), "case1": (1.5, 2.0, 4.0), "case2": (3.0, 2.5, 3.5)}
    for side in ("source", "target"):
        for name, size in sizes.items():
            file = root / side / f"{name}.nii.gz"
            image = nib.load(file)
            data = np.asarray(image.dataobj)
            turned = np.array([[0, 0, size[0], 0], [size[1], 0, 0, 0], [0, size[2], 0, 0], [0, 0, 0, 1.0]])
            nib.save(nib.Nifti1Image(data, turned), file)
    with refused("cohort-spacing-differs"):
        prepared(root, tmp_path / "own", validation=0.0)
    found = prepared(root, tmp_path / "run", validation=0.0, spacing="median")
    assert found.model.spacing == (1.5, 2.0, 3.5)
