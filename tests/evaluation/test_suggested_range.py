import nibabel as nib
import numpy as np
import pytest
from evaluating import evaluate
from refusal import refused

from medgen.data.body_mask import foreground_mask
from medgen.evaluation.suggested_range import range_warnings, round_up, suggested_range

SHAPE = (40, 36, 30)


def brain(seed, *, stripped=True):
    """MR: an ellipsoid of about 600, around it zeros, or noise where it is not ``stripped``."""
    rng = np.random.default_rng(seed)
    grids = np.meshgrid(*[np.linspace(-1, 1, n) for n in SHAPE], indexing="ij")
    inside = sum(g**2 for g in grids) < 0.6
    data = np.where(inside, 600 + 80 * np.sin(9 * grids[0]) + rng.normal(0, 20, SHAPE), 0)
    return (data if stripped else data + np.abs(rng.normal(0, 12, SHAPE))).astype(np.float32), inside


def save(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(data, np.eye(4)), path)


@pytest.mark.parametrize("stripped", [True, False])
def test_the_foreground_is_the_head_and_not_the_zeros(stripped):
    data, inside = brain(0, stripped=stripped)
    found = foreground_mask(data)
    assert (found ^ inside).sum() < 0.03 * inside.sum()


def test_dark_tissue_of_a_stripped_brain_is_foreground():
    data, inside = brain(0)
    data[18:22, 16:20, 13:17] = 30  # fluid in T1, below the mean of the volume
    data[inside & (np.indices(SHAPE)[0] > 28)] = 40
    assert (foreground_mask(data) == inside).mean() > 0.99


def test_without_a_mask_mr_is_measured_in_the_foreground(tmp_path):
    data, inside = brain(1)
    save(tmp_path / "truth/a.nii.gz", data)
    save(tmp_path / "made/a.nii.gz", data + np.where(inside, 30, 0).astype(np.float32))
    result = evaluate(tmp_path / "truth", tmp_path / "made", tmp_path / "out", data_range=800)
    metrics = result.cases[0].metrics
    assert metrics["mae"] == pytest.approx(30, rel=0.02)  # with the zeros it would be 10
    assert metrics["volume_mae"] == pytest.approx(30 * inside.mean(), rel=0.02)
    assert metrics["psnr"] == pytest.approx(20 * np.log10(800 / 30), abs=0.3)
    assert result.settings["measured_in"] == "the foreground of the reference"
    assert [row["region"] for row in result.cases[0].regions] == ["foreground"]


def test_the_data_range_is_suggested_with_its_reason_over_all_references(tmp_path):
    for n, gain in enumerate((1.0, 1.6)):
        save(tmp_path / f"truth/{n}.nii.gz", brain(n)[0] * gain)
        save(tmp_path / f"made/{n}.nii.gz", brain(n)[0])
    with refused("metric-data-range-missing") as error:
        evaluate(tmp_path / "truth", tmp_path / "made", tmp_path / "out")
    value = float(str(error.value).split("--data-range ")[-1].split()[0])
    assert evaluate(tmp_path / "truth", tmp_path / "made", tmp_path / "out", data_range=value).cases
    assert suggested_range([]) == ""


@pytest.mark.parametrize(("value", "rounded"), [(1013, 1100), (0.0123, 0.013), (255, 260), (4000, 4000), (1, 1)])
def test_rounding(value, rounded):
    assert round_up(value) == pytest.approx(rounded)


@pytest.mark.parametrize(("data_range", "fits"), [(1.0, False), (255, False), (500, True), (700, True), (65535, False)])
def test_a_range_that_does_not_fit_the_images_is_told(tmp_path, data_range, fits):
    save(tmp_path / "a.nii.gz", brain(0)[0])
    assert (range_warnings(data_range, [tmp_path / "a.nii.gz"]) == []) == fits
