import json

import numpy as np
import pytest
from lesion_cases import AFFINE, CONTRAST, KINDS, NAMES, ball, case, library
from refusal import refused

from medgen.augmentation.lesions.library import build_library, diameter, load_library, measure_lesions
from medgen.io.volume import Volume, to_canonical


def test_measures_are_those_of_the_phantom():
    image, label = case()
    found = measure_lesions([image], label, NAMES, lesions=KINDS, host="organ", case="a")
    assert [lesion.kind for lesion in found] == KINDS
    for lesion in found:
        volume = (label.data == NAMES[lesion.kind]).sum() * 2.0 * 2.0 * 2.5 / 1000
        assert lesion.volume_ml == pytest.approx(volume)
        assert 4 / 3 * np.pi * (lesion.diameter_mm / 2) ** 3 / 1000 == pytest.approx(volume)
        assert lesion.contrast[0] == pytest.approx(CONTRAST[lesion.kind], abs=4)
        assert lesion.host_mean[0] == pytest.approx(100, abs=3)
        assert lesion.host_sd[0] == pytest.approx(8, rel=0.35)
        assert lesion.relative[0] == pytest.approx(lesion.contrast[0] / lesion.host_sd[0])
        assert lesion.sd[0] == pytest.approx(8, rel=0.5) and abs(lesion.skewness[0]) < 1.5
        assert lesion.grain_mm[0] < 1.2  # white noise
        assert lesion.host == "organ" and lesion.case == "a"
        assert lesion.mask.shape == lesion.image.shape[1:]


def test_position_is_that_in_the_hosts_box_in_ras():
    image, label = case()
    upright = to_canonical(label).data
    inside = np.argwhere(np.isin(upright, [NAMES[n] for n in ("organ", *KINDS)]))
    for lesion in measure_lesions([image], label, NAMES, lesions=KINDS, host="organ"):
        centre = np.argwhere(upright == NAMES[lesion.kind]).mean(0)
        expected = (centre - inside.min(0)) / (inside.max(0) - inside.min(0))
        assert lesion.position == pytest.approx(expected, abs=0.02)


def test_grain_of_blurred_noise_is_its_sigma():
    from scipy import ndimage

    rng = np.random.default_rng(0)
    smooth = ndimage.gaussian_filter(rng.normal(size=(40, 40, 40)), 1.5) * 100
    label = ball(smooth.shape, (20, 20, 20), 12).astype(float)
    (lesion,) = measure_lesions([Volume(smooth, np.eye(4))], Volume(label, np.eye(4)), {"x": 1}, lesions=["x"])
    assert lesion.grain_mm[0] == pytest.approx(1.5, rel=0.25)


def test_what_is_neither_lesion_nor_host_is_left_out_of_the_crop():
    image, label = case()
    data, values = image.data.copy(), label.data.copy()
    data[12:14, 18:20, 11:13], values[12:14, 18:20, 11:13] = 3000, NAMES["body"]  # metal beside the dark lesion
    found = measure_lesions([image.replaced(data)], label.replaced(values), NAMES, lesions=["dark"])
    assert found[0].image.max() < 200


def test_only_lesions_of_the_host_are_taken():
    image, label = case()
    assert not measure_lesions([image], label, NAMES, lesions=KINDS, host="body")
    assert len(measure_lesions([image], label, NAMES, lesions=KINDS, host=None)) == 2
    with refused("lesions-none-found", names=("dark", "bright", "body")):
        build_library([([image], label, "a")], NAMES, lesions=KINDS, host="body")


def test_specks_are_left_out():
    image, label = case()
    values = label.data.copy()
    values[20, 20, 10] = NAMES["dark"]
    assert len(measure_lesions([image], label.replaced(values), NAMES, lesions=["dark"])) == 1


def test_unknown_lesion_and_other_grid_are_refused():
    image, label = case()
    with refused("labels-name-unknown", names=("tumor", "dark")):
        build_library([([image], label, "a")], NAMES, lesions=["tumor"])
    moved = Volume(image.data, AFFINE + np.eye(4)[:, [3, 0, 1, 2]] * 0 + np.diag([0.5, 0, 0, 0]))
    with refused("labels-grid-differs"):
        measure_lesions([moved], label, NAMES, lesions=KINDS)


def test_saved_and_loaded_is_the_same(tmp_path):
    made = library()
    made.save(tmp_path / "lib")
    assert {p.name for p in (tmp_path / "lib").iterdir()} == {"library.json", "lesions.npz"}
    loaded = load_library(tmp_path / "lib")
    assert loaded.absolute == made.absolute == [True]
    for a, b in zip(made.lesions, loaded.lesions, strict=True):
        assert np.array_equal(a.mask, b.mask) and np.array_equal(a.image, b.image)
        assert {k: v for k, v in vars(a).items() if k not in ("mask", "image")} == {
            k: v for k, v in vars(b).items() if k not in ("mask", "image")
        }


def test_a_damaged_library_is_refused(tmp_path):
    library(1).save(tmp_path / "lib")
    (tmp_path / "lib" / "lesions.npz").write_bytes(b"not a zip")
    with refused("lesions-library-damaged", names="lib "):
        load_library(tmp_path / "lib")
    library(1).save(tmp_path / "old")
    content = json.loads((tmp_path / "old" / "library.json").read_text())
    (tmp_path / "old" / "library.json").write_text(json.dumps({**content, "format": 99}))
    with refused("lesions-library-damaged", names="format 99"):
        load_library(tmp_path / "old")
    with refused("file-missing"):
        load_library(tmp_path / "none")


def test_pickles_are_not_loaded(tmp_path):
    library(1).save(tmp_path / "lib")
    arrays = dict(np.load(tmp_path / "lib" / "lesions.npz"))
    np.savez(tmp_path / "lib" / "lesions.npz", **{**arrays, "image_0": np.array([{"a": 1}], dtype=object)})
    with refused("lesions-library-damaged"):
        load_library(tmp_path / "lib")


def test_kinds_are_chosen_by_name():
    made = library()
    assert {lesion.kind for lesion in made.of("dark")} == {"dark"} and len(made.of(None)) == 8
    with refused("lesions-kind-unknown", names="cyst"):
        made.of("cyst")


def test_diameter_of_a_ball():
    assert diameter(4 / 3 * np.pi * 1000 / 1000) == pytest.approx(20)
