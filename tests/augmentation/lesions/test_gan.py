"""The painter of a trained model: windows, spacings and kinds. Image quality is not tested here."""

import numpy as np
import pytest
import torch
from lesion_cases import NAMES, case, library
from refusal import refused
from small import make_model, small_settings

from medgen.augmentation.lesions import insert
from medgen.augmentation.lesions.gan import GAN, load_gan
from medgen.augmentation.lesions.insert import insert_lesion, lesion_augmenter
from medgen.checkpoint import save_model
from medgen.io.volume import Volume, to_canonical

LIBRARY = library()
STRUCTURES = {"organ": ["organ"], "dark": ["dark"], "bright": ["bright"]}


def model_of(spacing=(2.0, 2.5, 2.0), noise=2, patch=(16, 16, 16), sources=("source",), **method):
    sections = {"generator": {"filters": 4, "levels": 2, "norm": "none"}, "adversary": {"filters": 4, "layers": 1}}
    window = {"kind": "window", "low": -150, "high": 250}
    settings = small_settings(
        data={"sources": sources, "targets": sources, "labels": True, "class_groups": STRUCTURES},
        intensity={"source": window, "target": window},
        sampling={"patch": list(patch)},
        method={"name": "lesion_gan", "noise": noise, **sections, **method},
    )
    return make_model(settings, spacing=spacing)


def inserted(painter, seed=0, kind="dark", images=None):
    image, label = case(9, lesions=False)
    options = {"library": LIBRARY, "kind": kind, "host": "organ", "painter": painter}
    return label, *insert_lesion(images or [image], label, NAMES, rng=seed, **options)


@pytest.mark.parametrize("spacing", [(2.0, 2.5, 2.0), (3.0, 3.0, 1.5)], ids=["the image's", "another"])
def test_lesions_differ_with_the_noise_and_repeat_with_the_seed(spacing):
    painter = GAN(model_of(spacing))
    _, (a,), made, _ = inserted(painter, 0)
    _, (b,), _, _ = inserted(painter, 0)
    assert np.array_equal(a.data, b.data)
    image = case(9, lesions=False)[0]
    label, _, made, _ = inserted(painter, 0)
    changed = made.data != label.data
    assert (a.data[changed] != image.data[changed]).mean() > 0.5


def test_the_model_sees_the_site_and_its_lesion_in_place(monkeypatch):
    """The method receives the window of the image and the mask at its position in it."""
    model = model_of(spacing=to_canonical(case()[0]).spacing, patch=(24, 24, 24))
    seen = {}

    def paint(x, labels, z, *, fresh):
        seen.update(x=x, labels=labels, z=z, fresh=fresh)
        return torch.where(labels == 2, x - 0.25, x)  # 50 HU of 400

    monkeypatch.setattr(model.method, "paint", paint)
    label, (new,), made, _ = inserted(GAN(model))
    image = case(9, lesions=False)[0]
    inside = made.data != label.data
    assert int((seen["labels"] == 2).sum()) == inside.sum() and seen["fresh"]
    assert seen["z"].shape == (1, 2, 1, 1, 1)
    assert (new.data - image.data)[inside] == pytest.approx(-50, abs=0.51)
    assert np.array_equal(new.data[~inside], image.data[~inside])
    codes = (seen["x"][seen["labels"] == 2].numpy() + 1) * 200 - 150
    assert np.sort(codes) == pytest.approx(np.sort(image.data[inside]), abs=0.01)


def test_on_another_grid_the_change_is_brought_back(monkeypatch):
    model = model_of(spacing=(1.25, 1.0, 1.0))
    monkeypatch.setattr(model.method, "paint", lambda x, labels, z, fresh: torch.where(labels == 2, x - 0.25, x))
    label, (new,), made, _ = inserted(GAN(model))
    image = case(9, lesions=False)[0]
    inside = made.data != label.data
    assert (new.data - image.data)[inside].mean() == pytest.approx(-50, abs=8)


def test_a_model_of_slices_paints_slice_by_slice_with_one_noise(monkeypatch):
    model = model_of(spacing=(2.5, 2.0, 2.0), patch=(32, 32, 1), spatial_dims=2)
    seen = {}
    paint = model.method.paint

    def watched(x, labels, z, *, fresh):
        seen.update(x=x, z=z)
        return paint(x, labels, z, fresh=fresh)

    monkeypatch.setattr(model.method, "paint", watched)
    _, (new,), _, _ = inserted(GAN(model))
    assert seen["x"].ndim == 4 and len(seen["x"]) > 3 and (seen["z"] == seen["z"][0]).all()
    assert np.isfinite(new.data).all()


def test_a_model_folder_is_a_painter_and_what_it_cannot_paint_yet_is_refused(tmp_path, monkeypatch):
    model = model_of()
    save_model(tmp_path, model.generator, model.info)
    augment = lesion_augmenter(tmp_path, LIBRARY, host="organ", per_case=(1, 1))
    image, label = case(9, lesions=False)
    with refused("lesions-not-realistic", names="contrast"):
        augment([image], label, NAMES, np.random.default_rng(0))
    monkeypatch.setattr(insert, "appearance_outliers", lambda *given: [])
    _, made, (record,) = augment([image], label, NAMES, np.random.default_rng(0))
    assert record["painter"] == str(tmp_path) and (made.data != label.data).any()


def test_other_models_kinds_and_contrasts_are_refused(tmp_path):
    other = make_model()
    save_model(tmp_path, other.generator, other.info)
    with refused("model-method-unsuitable", names="pix2pix"):
        load_gan(tmp_path)
    image, label = case(9, lesions=False)
    with refused("model-image-count-differs"):
        inserted(GAN(model_of()), images=[image, image])
    model = model_of()
    model.settings.data.class_groups.pop("dark")
    with refused("model-lesion-unknown", names=("dark", "bright")):
        inserted(GAN(model))


def test_translating_with_it_is_refused():
    from medgen.inference.predict import translate_volume

    with refused("model-needs-label-maps"):
        translate_volume(model_of(), Volume(np.zeros((16, 16, 16)), np.eye(4)))
