"""``medgen sample``: geometry, units, seeds and provenance of generated images, and what is refused."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from refusal import refused
from small import make_model, small_settings, write_cohort

from medgen.augmentation.augmenter import translator
from medgen.augmentation.sample import sample, volume_warnings
from medgen.checkpoint import save_model
from medgen.commands.sample import _numbers
from medgen.config import parse_settings
from medgen.data.prepare import prepare
from medgen.inference.cohort.run import convert
from medgen.inference.predict import translate_case
from medgen.inference.synthesize import synthesize
from medgen.io.read import read_volume

METHOD = {"name": "vae", "generator": {"filters": 4, "levels": 2, "latent": 4}}


def model(seed=0, training=(), **more):
    method = {**METHOD, **more.pop("method", {})}
    settings = small_settings(**{"method": method, "data": {"sources": []}, "intensity": {}, **more})
    made = make_model(settings, spacing=(1.0, 2.0, 3.0), seed=seed)
    return replace(made, info=made.info.model_copy(update={"training_data": {"training": list(training)}}))


def test_geometry_units_and_seeds(tmp_path):
    made = sample(model(), tmp_path / "a", count=2, seed=3)
    assert [(one.case, one.status) for one in made] == [
        ("sample_synthetic_0000", "made"),
        ("sample_synthetic_0001", "made"),
    ]
    a, b = (read_volume(one.output) for one in made)
    assert a.data.shape == (16, 16, 16) and a.spacing == (1.0, 2.0, 3.0) and a.dtype == np.int16
    assert np.allclose(a.affine @ [7.5, 7.5, 7.5, 1], [0, 0, 0, 1])
    assert a.data.min() >= -1000 and a.data.max() <= 1000 and a.data.std() > 0 and not np.array_equal(a.data, b.data)
    more = sample(model(), tmp_path / "a", count=3, seed=3)
    assert [one.status for one in more] == ["skipped", "skipped", "made"]
    (again,) = sample(model(), tmp_path / "b", seed=3)
    assert np.array_equal(read_volume(again.output).data, a.data)
    (other,) = sample(model(), tmp_path / "c", seed=4)
    assert not np.array_equal(read_volume(other.output).data, a.data)
    assert len(sample(model(), tmp_path / "a", count=1, seed=3)) == 1
    assert len(list((tmp_path / "a/images").iterdir())) == 1
    with refused("folder-not-empty"):
        sample(model(), tmp_path / "a", seed=4)


def test_units_of_mr_and_several_contrasts(tmp_path):
    of_two = {"data": {"sources": [], "targets": ["t1", "t2"], "target_channels": [0, 1]}}
    scaled = {"intensity": {"target": {"kind": "percentile", "low": 0.5, "high": 99.5}}}
    sample(model(**of_two, **scaled), tmp_path / "a", count=2)
    for name in ("t1", "t2"):
        files = sorted((tmp_path / "a" / name).iterdir())
        assert len(files) == 2 and read_volume(files[0]).dtype == np.float32


def test_a_split_uses_samples_only_where_their_training_cases_are(tmp_path):
    """Samples of a model are not trained on if one of its training cases is held out."""
    cohort = write_cohort(tmp_path / "c", cases=4, sources=(), targets=("images",))

    def prepared(root, run):
        data = {"root": str(root), "sources": [], "targets": ["images"], "spacing": [2, 2, 2]}
        values = {"data": data, "sampling": {"patch": [16, 16, 16]}, "method": METHOD}
        return prepare(parse_settings(values, "test"), tmp_path / run, say=lambda _: None)

    before = prepared(cohort, "before")
    trained, (held_out,) = sorted(before.patches.targets), before.validation.cases
    for names, used in ((trained, True), ([*trained, held_out.name], False)):
        out, joined = tmp_path / f"samples{used}", tmp_path / f"joined{used}"
        sample(model(training=names), out)
        record = json.loads((out / "provenance.json").read_text())["synthetic"]["sample_synthetic_0000"]
        assert record["operations"][0]["cases"] == names and record["model"]["method"] == "vae"
        shutil.copytree(cohort, joined)
        shutil.copy(out / "images/sample_synthetic_0000.nii.gz", joined / "images")
        shutil.copy(out / "provenance.json", joined)
        after = prepared(joined, f"run{used}")
        assert after.validation.cases[0].name == held_out.name
        assert ("sample_synthetic_0000" in after.patches.targets) == used


def test_the_volumes_of_structures_reach_the_model_in_voxels(tmp_path):
    sizes = {"generator": {"filters": 4, "levels": 2, "latent": 4}, "adversary": {"filters": 4, "layers": 1}}
    method = {"name": "ac_gan", **sizes}
    data = {"sources": [], "labels": True, "classes": 3}
    made = model(method=method, data=data)
    G, given = made.generator, []
    G.remember(torch.tensor([[100.0, 50.0], [300.0, 70.0]]))
    condition = G.condition
    G.condition = lambda volumes: given.append(volumes) or condition(volumes)
    (small,) = sample(made, tmp_path / "a", volumes=(600.0, 300.0))
    assert given[-1].tolist() == [[100.0, 50.0]]  # voxels of 1 × 2 × 3 mm
    (large,) = sample(made, tmp_path / "b", volumes=(1800.0, 420.0))
    assert not np.array_equal(read_volume(small.output).data, read_volume(large.output).data)
    assert volume_warnings(made, (600.0, 420.0)) == []
    assert volume_warnings(made, (1801.0, 299.0)) == [
        "structure 1: 1801 mm³, training had 600 to 1800",
        "structure 2: 299 mm³, training had 300 to 420",
    ]
    record = json.loads((tmp_path / "b/provenance.json").read_text())
    assert "1800.0, 420.0" in json.dumps(record)
    with refused("folder-not-empty"):
        sample(made, tmp_path / "a", volumes=(601.0, 300.0))
    with refused("sample-volumes-invalid", "2 structures"):
        sample(made, tmp_path / "c", volumes=(600.0,))
    with refused("sample-volumes-unused", "ac_gan"):
        sample(model(), tmp_path / "c", volumes=(600.0,))


@pytest.mark.parametrize("text", ["1500;1300", "nan", "1500,"])
def test_the_command_refuses_volumes_that_are_no_numbers(text):
    with refused("sample-volumes-invalid"):
        _numbers(text)


def test_models_of_the_other_kind_are_refused(tmp_path):
    generative, scan = model(), write_cohort(tmp_path / "c") / "source/case0.nii.gz"
    with refused("model-generates", names="medgen sample"):
        translate_case(generative, [read_volume(scan)])
    with refused("model-generates"):
        convert(generative, scan, tmp_path / "out")
    with refused("model-generates"):
        synthesize(generative, scan, tmp_path / "out")
    (tmp_path / "vae").mkdir()
    save_model(tmp_path / "vae", generative.generator, generative.info)
    with refused("model-generates"):
        translator(tmp_path / "vae", ())
    with refused("model-translates", names="medgen translate"):
        sample(make_model(), tmp_path / "out")
    with refused("model-no-prior", names="vae"):
        sample(model(method={"name": "autoencoder"}), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("count", [0, -1])
def test_the_command_refuses_a_count_below_one(count, tmp_path):
    from typer.testing import CliRunner

    from medgen.cli import app

    assert CliRunner().invoke(app, ["sample", str(tmp_path), str(tmp_path / "o"), "--count", str(count)]).exit_code == 2
