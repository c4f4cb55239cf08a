"""The report of an augmentation: pictures of the right slice, names escaped."""

import io

import nibabel as nib
import numpy as np
from PIL import Image

from medgen.evaluation.summary import Failure
from medgen.reports.augmentation import augmentation_report, gallery
from medgen.segmentation.train import Example


def example(folder, name, lesion):
    """Write an example: slice 6 has most of the organ, slice 2 the lesion, if any."""
    labels = np.zeros((20, 16, 9), np.uint8)
    labels[4:14, 4:12, 5:8] = 1
    labels[6:12, 6:10, 6] = 1
    if lesion:
        labels[2:4, 2:4, 2] = 2
    data = np.random.default_rng(0).normal(100, 5, labels.shape) + 100 * labels
    paths = [folder / f"{name}_{kind}.nii.gz" for kind in ("image", "labels")]
    for path, array in zip(paths, (data.astype(np.float32), labels), strict=True):
        nib.save(nib.Nifti1Image(array, np.diag([1.0, 1, 2, 1])), path)
    return Example(name, name, *paths)


def test_the_gallery_shows_the_new_lesion(tmp_path):
    real, made = example(tmp_path, "real", False), example(tmp_path, "made", True)
    picture = Image.open(io.BytesIO(gallery([(real, [made])])))
    whole = np.asarray(picture.convert("L"), float)
    half = whole.shape[1] // 2
    before, after = whole[40:, : half // 2], whole[40:, half : half + half // 2]
    assert after.max() > before.max() + 20  # the organ is not in this slice, the lesion is the brightest in it


def test_rows_of_unequal_length_and_none_new(tmp_path):
    real = example(tmp_path, "real", False)
    picture = Image.open(io.BytesIO(gallery([(real, [real, real]), (real, [real])])))
    assert picture.width > picture.height > 100


def test_the_page_escapes_text_and_shows_results(tmp_path):
    arm = {"arm": "both", "generator": "<b>g", "label": "tumour", "draws": 5, "seeds": 1, "cases": 4, "dice": 0.5}
    arm |= {"interval": [0.4, 0.6], "against": "classical", "gain": 0.021, "gain_interval": [-0.01, 0.05]}
    sets = [
        {"draw": 0, "generator": "<b>g", "synthetic": 3, "training": 2, "picture": b"jpeg",
         "memorisation": {"flagged": True, "note": "near"}},
    ]  # fmt: skip
    page = augmentation_report(
        [arm], sets, [Failure("c", "<i>no room")], {"minutes": 3}, tmp_path / "r.html"
    ).read_text()
    assert "<b>g" not in page and "<i>no" not in page and "&lt;b&gt;g" in page
    for text in ("+2.1", "−1.0 to +5.0", "0.500", "likely (near)", "5 × 1", "data:image/jpeg"):
        assert text in page, text
