"""The score that selects the best checkpoint: the error if there are true targets, else appearance and structure."""

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from small import make_model, small_settings, write_cohort

from medgen.data.prepare import prepare
from medgen.training.validation import Validator

CYCLEGAN = {"name": "cyclegan", "generator": {"name": "unet", "filters": 4, "levels": 2}}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """Scans with structure beside the enhancing organ, as in a real body."""
    root = write_cohort(tmp_path_factory.mktemp("cohort"), cases=8, shape=(32, 32, 24), unpaired=True)
    for path in root.rglob("*.nii.gz"):
        image = nib.load(path)
        data = np.asarray(image.dataobj).copy()
        data[14:24, 8:24, 6:18] -= 140
        data[17:20, 11:20, 9:14] += 180
        if path.parent.name == "source":
            data[6:14, 14:26, 5:19] += 120
        nib.save(nib.Nifti1Image(data, image.affine), path)
    return root


@pytest.fixture
def score(cohort, tmp_path, monkeypatch):
    """Trade-off of a conversion given as a function of HU."""
    intensity = {"source": {"low": -150, "high": 250}, "target": {"low": -150, "high": 250}}
    data = {"root": str(cohort), "paired": False, "validation": 0.25}
    settings = small_settings(data=data, intensity=intensity, method=CYCLEGAN)
    prepared = prepare(settings, tmp_path / "run", say=lambda _: None)
    model = make_model(settings)
    model.info.target_range[0] = model.info.target_range[0].model_copy(update={"low": -150, "high": 250})
    validator = Validator(prepared.validation)

    def run(change):
        monkeypatch.setattr("medgen.training.validation._translated", lambda m, s, x, d, c: [change(x[0])])
        return validator(model, tmp_path / "panel.png")

    return run


def without_contrast(x):
    return np.where(x > 100, x - 120, x)


def test_without_pairs_a_true_conversion_scores_best(score, tmp_path):
    scores = {
        "identity": score(lambda x: x),
        "half": score(lambda x: np.where(x > 100, x - 60, x)),
        "whole": score(without_contrast),
        "moved": score(lambda x: np.roll(without_contrast(x), 5, 0)),
        "flat": score(lambda x: np.full_like(x, 40.0)),
    }
    assert scores["identity"].values["edge_correlation"] == pytest.approx(1, abs=1e-5)
    assert scores["identity"].objective == pytest.approx(1, abs=1e-5)
    objective = {k: v.objective for k, v in scores.items()}
    assert min(objective, key=objective.get) == "whole"
    assert objective["whole"] < objective["half"] < objective["identity"]
    assert objective["moved"] > objective["whole"] + 0.1
    assert Image.open(tmp_path / "panel.png").size[0] > 0


def test_with_pairs_the_objective_is_the_error(tmp_path):
    root = write_cohort(tmp_path / "cohort")
    settings = small_settings(data={"root": str(root), "validation": 0.25})
    prepared = prepare(settings, tmp_path / "run", say=lambda _: None)
    found = Validator(prepared.validation)(make_model(settings, train=False), tmp_path / "panel.png")
    assert found.objective == found.values["mae"] == pytest.approx(found.values["source_mae"], rel=0.02)
    assert set(found.values) == {"mae", "source_mae"}


LESION_GAN = {
    "name": "lesion_gan", "generator": {"filters": 4, "levels": 2, "norm": "none"}, "adversary": {"filters": 4}
}  # fmt: skip


def test_lesion_painting_is_scored_by_the_error_inside_lesions(tmp_path, monkeypatch):
    root = write_cohort(tmp_path / "cohort", labels=True)
    structures = {"body": ["body"], "organ": ["organ"]}
    data = {"root": str(root), "targets": ["source"], "labels": True, "class_groups": structures, "validation": 0.25}
    intensity = {"source": {"low": -150, "high": 250}, "target": {"low": -150, "high": 250}}
    settings = small_settings(data=data, intensity=intensity, method=LESION_GAN)
    validator = Validator(prepare(settings, tmp_path / "run", say=lambda _: None).validation)
    model = make_model(settings, train=False)
    model.info.target_range[0] = model.info.target_range[0].model_copy(update={"low": -150, "high": 250})
    untrained = validator(model, tmp_path / "panel.png")
    assert untrained.idle == pytest.approx(100, abs=30)  # the organ's 120 HU less what its edge loses to the mean
    assert untrained.objective == pytest.approx(
        untrained.idle, rel=0.2
    )  # an untrained residual generator paints host tissue
    with monkeypatch.context() as patched:
        patched.setattr("medgen.training.validation._translated", lambda m, s, x, d, c: [x[0] + 10.0 * (c == 1)])
        elsewhere = validator(model, tmp_path / "panel.png")
    assert elsewhere.objective < 5  # changes outside the lesions do not count here
    assert not elsewhere.objective >= elsewhere.idle
