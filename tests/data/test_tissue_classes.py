import numpy as np

from medgen.data.tissue_classes import class_thresholds, tissue_classes


def image(seed=0):
    rng = np.random.default_rng(seed)
    truth = np.zeros((24, 24, 24), np.uint8)
    truth[6:18, 4:20, 8:16], truth[:, :3] = 1, 2
    return truth, (np.array([20.0, 90, 160])[truth] + rng.normal(0, 4, truth.shape)).astype(np.float32)


def test_tissue_classes_ascend_from_dark_to_bright():
    truth, data = image()
    found = tissue_classes(data, np.ones(truth.shape, bool), 3, (1, 1, 1), smoothing=0)
    assert (found == truth).mean() > 0.999


def test_smoothing_removes_noise_and_keeps_tissue():
    truth, data = image()
    noisy = data + np.random.default_rng(1).normal(0, 40, truth.shape)
    everywhere = np.ones(truth.shape, bool)
    rough, smooth = (tissue_classes(noisy, everywhere, 3, (1, 1, 1), smoothing=s) for s in (0, 1.0))
    assert (smooth == truth).mean() > 0.85 > (rough == truth).mean()


def test_classes_are_independent_of_scale_and_offset_and_stay_in_the_mask():
    _, data = image()
    mask = np.zeros(data.shape, bool)
    mask[2:22] = True
    a = tissue_classes(data, mask, 4, (1, 1, 2))
    assert (a != tissue_classes(data * 1e4 - 7, mask, 4, (1, 1, 2))).mean() < 1e-3
    assert (a[~mask] == 0).all() and set(np.unique(a[mask])) == {0, 1, 2, 3}


def test_a_constant_image_and_an_empty_mask_are_one_class():
    flat = np.full((8, 8, 8), 5, np.float32)
    assert len(np.unique(tissue_classes(flat, flat > 0, 4, (1, 1, 1)))) == 1
    assert not tissue_classes(flat, flat < 0, 4, (1, 1, 1)).any()


def test_class_thresholds_minimise_the_variance_within_classes():
    values = np.sort(np.random.default_rng(0).gamma(1.0, size=60))

    def within(places):
        parts = np.split(values, np.searchsorted(values, places))
        return sum(((part - part.mean()) ** 2).sum() for part in parts if len(part))

    tried = [within([a, b]) for i, a in enumerate(values) for b in values[i + 1 :]]
    assert within(class_thresholds(values, 3)) <= min(tried) * 1.02  # the histogram's width
