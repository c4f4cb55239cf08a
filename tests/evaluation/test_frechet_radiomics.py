"""The Fréchet radiomics distance ranks what has a known rank: the benchmark of that name, tiny."""

import importlib.util
from pathlib import Path

import pytest

pytest.importorskip("mirp", reason="mirp is absent: pip install 'medgen[radiomics]'")

from medgen.evaluation.features.radiomics import Radiomics
from medgen.io.read import find_volumes

ROOT = Path(__file__).parents[2]
HIPPOCAMPUS = ROOT.parent / "shared/data/hippocampus/images"
SMALL = {"families": ("statistics", "cm"), "workers": 1}


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("frechet_radiomics", ROOT / "benchmarks/frechet_radiomics.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_orders_the_embedded_cohort(benchmark):
    kinds = ("non-contrast", "converted, 30 % of the contrast left", "contrast")
    extractor = Radiomics(window=benchmark.SOFT_TISSUE, patches=3, **SMALL)
    sets = benchmark.embedded(extractor, patients=3, size=(40, 32, 24), spacing=10.0, kinds=kinds)
    made = benchmark.compared(extractor, sets)
    values = [made[kind][0]["value"] for kind in kinds]
    assert values == sorted(values) and values[2] > 1.2 * values[0]


@pytest.mark.skipif(not HIPPOCAMPUS.is_dir(), reason="../shared/data/hippocampus is absent")
def test_it_grows_with_blur_noise_and_bias_on_real_volumes(benchmark):
    extractor = Radiomics(patches=2, **SMALL)
    made = benchmark.degraded(extractor, find_volumes(HIPPOCAMPUS)[:8], levels=(0, 2, 4))
    assert len(made) == 3
    for name, rows in made.items():
        values = [numbers[0]["value"] for numbers in rows.values()]
        assert values == sorted(values), name
