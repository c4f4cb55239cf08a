"""From a tiny training on label maps to images of them: geometry, seeds, provenance, resume, bad input."""

import json
import shutil

import nibabel as nib
import numpy as np
import pytest
from refusal import refused
from small import make_model, small_settings, write_cohort

from medgen.checkpoint import load_model
from medgen.config import parse_settings
from medgen.data.labels.codec import LabelTable
from medgen.inference.cohort.run import convert
from medgen.inference.style import Grain, make_images, reference_style
from medgen.inference.synthesize import synthesize
from medgen.training.loop import train

METHOD = {
    "name": "spade",
    "generator": {
        "filters": 4, "levels": 2, "hidden": 4, "latent": 3, "style": "everywhere", "style_norm": "none"
    },
    "adversary": {"filters": 4, "layers": 1},
    "lr": 0.002,
    "texture": 3,
}  # fmt: skip


def settings(cohort, method=None, **sections):
    values = {
        "data": {
            "root": str(cohort), "sources": ["labels"], "classes": 3, "validation": 0.25, **sections.pop("data", {})
        },
        "intensity": {"source": {"kind": "labels"}, "target": {"kind": "percentile"}},
        "sampling": {"patch": [16, 24, 16], **sections.pop("sampling", {})},
        "method": {**METHOD, **(method or {})},
        "train": {"steps": 8, "validate_every": 8, "ema": 0.0, **sections.pop("train", {})},
        **sections,
    }  # fmt: skip
    return parse_settings(values, "test")


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return write_cohort(tmp_path_factory.mktemp("cohort"), shape=(19, 23, 14), labels=True)


@pytest.fixture(scope="module")
def model(cohort, tmp_path_factory):
    return load_model(train(settings(cohort), tmp_path_factory.mktemp("run") / "run", say=lambda _: None))


@pytest.fixture(scope="module")
def tissue_model(cohort, tmp_path_factory):
    out = tmp_path_factory.mktemp("tissues") / "run"
    return load_model(train(settings(cohort, data={"tissues": 3}), out, say=lambda _: None))


def images(out, folder="images"):
    return {p.name.removesuffix(".nii.gz"): nib.load(p) for p in sorted((out / folder).iterdir())}


def turned(path, out):
    """The same label map with axes permuted and flipped, oblique and off the origin."""
    image = nib.load(path)
    data = np.asarray(image.dataobj).transpose(2, 0, 1)[::-1]
    affine = image.affine @ np.array([[0, 1.0, 0, 0], [0, 0, 1, 0], [-1, 0, 0, data.shape[0] - 1], [0, 0, 0, 1]])
    affine[:3, 3] += (13.3, -40.2, 7.7)
    out.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.ascontiguousarray(data), affine), out)
    return out


def test_images_lie_on_the_grid_of_their_labels(model, cohort, tmp_path):
    odd = turned(cohort / "labels/case1.nii.gz", tmp_path / "in/case1.nii.gz")
    results = synthesize(model, tmp_path / "in", tmp_path / "out")
    assert [r.status for r in results] == ["made"]
    (name, image), (_, labels) = images(tmp_path / "out").popitem(), images(tmp_path / "out", "labels").popitem()
    given = nib.load(odd)
    assert name == "case1_synthetic_0" and image.get_data_dtype() == np.float32
    for made in (image, labels):
        assert made.shape == given.shape and np.array_equal(made.affine, given.affine)
    assert np.array_equal(np.asarray(labels.dataobj), np.asarray(given.dataobj))
    assert json.loads((tmp_path / "out/labels.json").read_text()) == {"organ": 7, "body": 3}
    # upright both are one map, and called the same, so they give one image
    synthesize(model, cohort / "labels/case1.nii.gz", tmp_path / "straight")
    upright = images(tmp_path / "straight")["case1_synthetic_0"].get_fdata()
    assert np.array_equal(image.get_fdata()[::-1].transpose(1, 2, 0), upright)


def test_a_seed_is_an_image_bit_for_bit(model, cohort, tmp_path):
    one = cohort / "labels/case0.nii.gz"
    synthesize(model, one, tmp_path / "a", samples=2, seed=5, deform=True)
    synthesize(model, cohort / "labels", tmp_path / "b", samples=2, seed=5, deform=True)
    synthesize(model, one, tmp_path / "c", samples=1, seed=6, deform=True)
    a, b, c = (images(tmp_path / out) for out in "abc")
    assert len(a) == 2 and len(b) == 8
    for name, image in a.items():
        assert np.array_equal(image.get_fdata(), b[name].get_fdata())
    first, second = (image.get_fdata() for image in a.values())
    assert not np.array_equal(first, second) and not np.array_equal(first, c["case0_synthetic_0"].get_fdata())


def test_deformed_labels_are_written_as_the_image_was_made(model, cohort, tmp_path):
    synthesize(model, cohort / "labels", tmp_path / "out", deform=True)
    for name, labels in images(tmp_path / "out", "labels").items():
        given = np.asarray(nib.load(cohort / "labels" / f"{name.partition('_')[0]}.nii.gz").dataobj)
        made = np.asarray(labels.dataobj)
        assert set(np.unique(made)) == {0, 3, 7} and made.dtype == given.dtype and (made != given).any()
        share = (made == 7).sum() / (given == 7).sum()
        assert 0.4 < share < 2.5


def test_recombined_labels_lie_between_two_cases_named_in_the_record(tissue_model, cohort, tmp_path):
    small = nib.load(cohort / "labels/case0.nii.gz")
    large = np.asarray(small.dataobj).copy()
    large[4:15, 4:15, 3:13] = 7
    (tmp_path / "in").mkdir()
    nib.save(small, tmp_path / "in/case0.nii.gz")
    nib.save(nib.Nifti1Image(large, small.affine), tmp_path / "in/case1.nii.gz")
    options = {"images": cohort / "target", "samples": 2, "seed": 3, "recombine": True}
    results = synthesize(tissue_model, tmp_path / "in", tmp_path / "out", **options)
    assert [r.status for r in results] == ["made"] * 4
    made = images(tmp_path / "out", "labels")
    ends = sorted((np.asarray(v) == 7).sum() for v in (small.dataobj, large))
    for r in results:
        step = r.operations[0]
        assert step["operation"] == "recombine" and 0.2 <= step["share"] <= 0.5
        assert {step["with"][-12:-7], r.source_case} == {"case0", "case1"}
        data = np.asarray(made[r.case].dataobj)
        assert np.array_equal(made[r.case].affine, small.affine) and set(np.unique(data)) == {0, 3, 7}
        assert ends[0] < (data == 7).sum() < ends[1]
    assert len({r.operations[0]["share"] for r in results}) == 4
    again = synthesize(tissue_model, tmp_path / "in", tmp_path / "out", **options)
    assert {r.status for r in again} == {"skipped"}
    with refused("labels-recombine-needs-two"):
        synthesize(tissue_model, tmp_path / "in/case0.nii.gz", tmp_path / "one", recombine=True)


def test_style_image_gives_look_and_scale(model, cohort, tmp_path):
    bright = nib.load(cohort / "target/case0.nii.gz")
    nib.save(nib.Nifti1Image(bright.get_fdata().astype(np.float32) * 1e4, bright.affine), tmp_path / "bright.nii.gz")
    one = cohort / "labels/case0.nii.gz"
    plain = synthesize(model, one, tmp_path / "a", style=cohort / "target/case0.nii.gz")
    scaled = synthesize(model, one, tmp_path / "b", style=tmp_path / "bright.nii.gz")
    assert plain[0].style.endswith("case0.nii.gz") and scaled[0].operations[0] == {"operation": "style"}
    a, b = (next(iter(images(tmp_path / out).values())).get_fdata() for out in "ab")
    np.testing.assert_allclose(b, a * 1e4, rtol=1e-3, atol=1e4)  # the code, and so z, does not see the scale


def test_second_run_skips_and_repairs(model, cohort, tmp_path):
    out = tmp_path / "out"
    assert {r.status for r in synthesize(model, cohort / "labels", out, samples=2)} == {"made"}
    before = {name: image.get_fdata() for name, image in images(out).items()}
    (out / "images/case1_synthetic_0.nii.gz").write_bytes(b"damaged")
    (out / "labels/case2_synthetic_1.nii.gz").unlink()
    status = {r.case: r.status for r in synthesize(model, cohort / "labels", out, samples=2)}
    assert {k for k, v in status.items() if v == "made"} == {"case1_synthetic_0", "case2_synthetic_1"}
    assert all(np.array_equal(image.get_fdata(), before[name]) for name, image in images(out).items())
    with refused("folder-not-empty", names="seed"):
        synthesize(model, cohort / "labels", out, samples=2, seed=1)
    assert {r.status for r in synthesize(model, cohort / "labels", out, samples=2, seed=1, overwrite=True)} == {"made"}


def test_label_maps_whose_names_differ_in_letter_case_only_are_one_case(model, cohort, tmp_path):
    (tmp_path / "labels").mkdir()
    for name in ("CASE0", "case0"):
        shutil.copy(cohort / "labels/case0.nii.gz", tmp_path / f"labels/{name}.nii.gz")
    found = synthesize(model, tmp_path / "labels", tmp_path / "out")
    assert [entry.status for entry in found] == ["made", "failed"] and "case0" in found[1].error


def test_manifest_records_the_origin_of_each_image(model, cohort, tmp_path):
    synthesize(model, cohort / "labels", tmp_path, samples=2, seed=3, deform=True)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["model"]["sha256"] == model.info.sha256 and manifest["model"]["method"] == "spade"
    entry = manifest["cases"]["case2_synthetic_1"]
    assert entry["source_case"] == "case2" and entry["seed"] == 3 and entry["sample"] == 1
    assert [step["operation"] for step in entry["operations"]] == ["deform", "style", "texture"]
    assert len({e["operations"][0]["seed"] for e in manifest["cases"].values()}) == 8
    assert len(entry["input_sha256"]) == len(entry["output_sha256"]) == 64


def test_one_bad_map_does_not_stop_the_others(model, cohort, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("case0", "case1"):
        (folder / f"{name}.nii.gz").write_bytes((cohort / f"labels/{name}.nii.gz").read_bytes())
    odd = nib.load(cohort / "labels/case2.nii.gz")
    nib.save(nib.Nifti1Image(np.asarray(odd.dataobj) + 1, odd.affine), folder / "case2.nii.gz")
    (folder / "case3.nii.gz").write_bytes(b"no volume")
    results = synthesize(model, folder, tmp_path / "out")
    assert [r.status for r in results] == ["made", "made", "failed", "failed"]
    assert "case2.nii.gz has unknown label values: 1, 4, 8" in results[2].error
    assert "case3.nii.gz" in results[3].error
    assert len(images(tmp_path / "out")) == 2


def test_tissue_classes_come_from_images_or_in_the_maps(tissue_model, cohort, tmp_path):
    labels, real = cohort / "labels", cohort / "target"
    assert tissue_model.source_code.tissues == 3
    alone = synthesize(tissue_model, labels, tmp_path / "alone")
    assert {r.status for r in alone} == {"failed"} and "--images" in alone[0].error
    results = synthesize(tissue_model, labels, tmp_path / "out", images=real)
    assert {r.status for r in results} == {"made"} and results[0].images == str(real / "case0.nii.gz")
    for name, made in images(tmp_path / "out", "labels").items():
        given = nib.load(labels / f"{name.partition('_')[0]}.nii.gz")
        assert np.array_equal(np.asarray(made.dataobj), np.asarray(given.dataobj))
    carried = np.asarray(nib.load(labels / "case0.nii.gz").dataobj).copy()
    carried[carried == 0] = 9
    nib.save(nib.Nifti1Image(carried, given.affine), tmp_path / "carried.nii.gz")
    (result,) = synthesize(tissue_model, tmp_path / "carried.nii.gz", tmp_path / "carried")
    assert result.status == "made"
    written = np.asarray(images(tmp_path / "carried", "labels")["carried_synthetic_0"].dataobj)
    assert set(np.unique(written)) == {0, 3, 7}


@pytest.mark.parametrize("beside", [".", ".."])
@pytest.mark.parametrize("shift", [0, 1])
def test_a_table_that_contradicts_the_model_is_refused(model, cohort, tmp_path, beside, shift):
    folder = tmp_path / "in/maps"
    folder.mkdir(parents=True)
    shutil.copy(cohort / "labels/case0.nii.gz", folder)
    names = list(model.source_code.labels)
    values = {name.upper(): model.source_code.labels[names[i - shift]] for i, name in enumerate(names)}
    (folder / beside / "labels.json").write_text(json.dumps(values | {"other": 99}))
    if shift:
        with refused("labels-tables-differ", names="maps"):
            synthesize(model, folder, tmp_path / "out")
    else:
        assert [r.status for r in synthesize(model, folder, tmp_path / "out")] == ["made"]


def test_a_table_of_another_kind_beside_label_maps_is_ignored(model, cohort, tmp_path):
    shutil.copy(cohort / "labels/case0.nii.gz", tmp_path / "case0.nii.gz")
    (tmp_path / "labels.json").write_text("[1, 2]")
    assert [r.status for r in synthesize(model, tmp_path / "case0.nii.gz", tmp_path / "out")] == ["made"]


def test_image_on_another_grid_and_missing_image(tissue_model, cohort, tmp_path):
    folder = tmp_path / "real"
    folder.mkdir()
    nib.save(nib.Nifti1Image(np.random.default_rng(0).normal(size=(5, 6, 7)), np.eye(4)), folder / "case0.nii.gz")
    results = synthesize(tissue_model, cohort / "labels", tmp_path / "out", images=folder)
    assert "case0.nii.gz has the grid [19 x 23 x 14" in results[0].error and "5 x 6 x 7" in results[0].error
    assert "no image case1" in results[1].error


def test_unsuitable_models_and_folders_are_refused(model, cohort, tmp_path):
    with refused("model-translates-scans", names="medgen translate"):
        synthesize(make_model(), cohort / "labels", tmp_path / "out")
    with refused("model-needs-label-maps", names="medgen synthesize"):
        convert(model, cohort / "labels", tmp_path / "out")
    with refused("output-is-input"):
        synthesize(model, cohort / "labels", cohort)
    (tmp_path / "labels.json").write_text('{"liver": 1}')
    with refused("folder-not-empty", names="labels.json"):
        synthesize(model, cohort / "labels", tmp_path)
    flat = tmp_path / "flat.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros((8, 8, 8)), np.eye(4)), flat)
    with refused("volume-constant", names="flat.nii.gz"):
        synthesize(model, cohort / "labels", tmp_path / "out", style=flat)
    with refused("style-label-map", names="case0.nii.gz"):
        synthesize(model, cohort / "labels", tmp_path / "out", style=cohort / "labels/case0.nii.gz")


@pytest.mark.parametrize("moved", [0, 1024])
def test_a_style_that_is_not_in_hu_is_refused_by_a_model_of_hu(tmp_path, moved):
    model = make_model(small_settings(
        method=METHOD, data={"sources": ["labels"], "classes": 2},
        intensity={"source": {"kind": "labels"}, "target": {"kind": "window", "low": -1000, "high": 1000}},
    ))  # fmt: skip
    data = np.random.default_rng(0).normal(40, 30, (16, 16, 16)).astype(np.float32)
    data[:4] = -1000
    nib.save(nib.Nifti1Image(data + moved, np.diag([2.0, 2.0, 2.0, 1])), tmp_path / "ct.nii.gz")
    if moved:
        with refused("style-not-hu", names="ct.nii.gz"):
            reference_style(model, tmp_path / "ct.nii.gz")
    else:
        reference_style(model, tmp_path / "ct.nii.gz")


def test_grain_is_the_volumes_not_the_windows():
    """With windows of 16³, a model that returns its grain channel gives the grain of the whole volume."""
    model = make_model(small_settings(
        method={**METHOD, "texture": 1}, data={"sources": ["labels"], "classes": 2},
        intensity={"source": {"kind": "labels"}, "target": {"kind": "window", "low": -1, "high": 1}},
        inference={"window": "patch"},
    ))  # fmt: skip
    model.method.translate = lambda x: x[:, 2:3] / 10
    labels = np.zeros((28, 20, 24), np.float32)
    grain = Grain(1, 5).encode(labels)[0]
    (made,) = make_images(model, labels, LabelTable({"a": 1}), seed=5)
    np.testing.assert_allclose(made * 10, grain, atol=1e-4)
    assert abs(grain.std() - 1) < 0.02 and not np.array_equal(grain, Grain(1, 6).encode(labels)[0])


def test_slices(cohort, tmp_path):
    given = settings(cohort, {"spatial_dims": 2}, sampling={"patch": [16, 24, 3]}, train={"steps": 2})
    model = load_model(train(given, tmp_path / "run", say=lambda _: None))
    (result,) = synthesize(
        model, cohort / "labels/case0.nii.gz", tmp_path / "out", style=cohort / "target/case1.nii.gz"
    )
    assert result.status == "made"


def test_settings_that_contradict_label_maps(cohort):
    for wrong, code, names in (
        ({"data": {"classes": None}}, "config-invalid-value", "data.classes"),
        ({"data": {"paired": False}}, "config-source-labels-conflict", "data.paired"),
        ({"sampling": {"gamma": 0.2}}, "config-source-labels-conflict", "sampling.gamma"),
        ({"data": {"tissues": 1}}, "config-invalid-value", "tissues"),
        ({"data": {"align": "rigid"}}, "config-source-labels-conflict", "data.align"),
        ({"intensity": {"target": {"kind": "labels"}}}, "config-invalid-value", "intensity.target.kind"),
        ({"data": {"class_groups": {"host": ["a"], "lesion": ["b"]}}}, "config-invalid-value", "data.class_groups"),
    ):
        with refused(code, names=names):
            train(settings(cohort, **wrong), cohort / "never")
    with refused("config-classes-differ", names="data.classes = 5"):
        train(settings(cohort, data={"classes": 5}), cohort / "never")
    assert not (cohort / "never/last").exists()


def test_another_method_learns_from_label_maps_too(cohort, tmp_path):
    generator = {"filters": 4, "levels": 2, "norm": "instance"}
    method = {"name": "pix2pix", "generator": generator, "adversary": {"filters": 4, "layers": 1}}
    values = settings(cohort).model_dump(mode="json") | {"method": method}
    values["train"] |= {"steps": 2, "validate_every": 2}
    model = load_model(train(parse_settings(values, "test"), tmp_path / "run", say=lambda _: None))
    (result,) = synthesize(model, cohort / "labels/case0.nii.gz", tmp_path / "out")
    assert result.status == "made"
    with refused("model-without-styles"):
        synthesize(model, cohort / "labels", tmp_path / "styled", style=cohort / "target/case0.nii.gz")


def test_names_in_the_header_that_contradict_the_model_are_refused(model, cohort, tmp_path):
    """A segmentation of 3D Slicer numbers its structures in its own order."""
    (tmp_path / "in").mkdir()
    image = nib.load(cohort / "labels/case0.nii.gz")
    names = list(model.source_code.labels.items())
    swapped = dict(zip((name for name, _ in names), (value for _, value in names[::-1]), strict=True))
    table = "".join(f'<Label Key="{value}" Red="1"><![CDATA[{name}]]></Label>' for name, value in swapped.items())
    image.header.extensions.append(nib.nifti1.Nifti1Extension(0, table.encode()))
    nib.save(image, tmp_path / "in/case0.nii.gz")
    (result,) = synthesize(model, tmp_path / "in", tmp_path / "out")
    assert result.status != "made" and "the header of" in result.error
