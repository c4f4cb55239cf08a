"""An evaluation over two local workers has the numbers of one process."""

import json

import nibabel as nib
import numpy as np
import pytest
from evaluating import evaluate
from refusal import refused

from medgen.cluster import Cluster, WorkerLost
from medgen.evaluation import outcomes as module
from medgen.qa.run import Checks
from medgen.segmentation.load import NamedSegmenter

NAMES = {"liver": 1, "aorta": 2}


@pytest.fixture
def cohort(tmp_path):
    """Five cases: c has no prediction, d is no image, b no labels."""
    for seed, case in enumerate("abcde"):
        rng, labels = np.random.default_rng(seed), np.zeros((20, 18, 16), np.uint8)
        labels[5:10, 5:10, 4:10], labels[12:15, 5:8, 4:10] = 1, 2
        truth = np.full(labels.shape, -1000.0, np.float32)
        truth[3:17, 3:15, 2:14] = 40 + rng.normal(0, 5, (14, 12, 12))
        found = {"target": truth, "source": truth + 100 * (labels > 0), "made": truth + 10 * (labels > 0)}
        for role, data in {**found, "labels": labels}.items():
            (tmp_path / role).mkdir(exist_ok=True)
            nib.save(nib.Nifti1Image(data, np.diag([2.0, 2, 3, 1])), tmp_path / role / f"{case}.nii.gz")
    (tmp_path / "labels.json").write_text(json.dumps(NAMES))
    (tmp_path / "made/c.nii.gz").unlink()
    (tmp_path / "made/d.nii.gz").write_text("no image")
    (tmp_path / "labels/b.nii.gz").unlink()
    return tmp_path


def run(cohort, out, **options):
    given = {"source": cohort / "source", "labels": cohort / "labels", **options}
    return evaluate(cohort / "target", cohort / "made", cohort / out, **given)


def written(folder):
    """Return the tables as written, and the summary without its times."""
    summary = json.loads((folder / "summary.json").read_text())
    summary_text = json.dumps({key: value for key, value in summary.items() if key not in ("seconds", "finished")})
    return [(folder / name).read_bytes() for name in ("cases.csv", "regions.csv")], summary_text


def test_two_workers_find_the_numbers_of_one_process(local_ray, cohort):
    alone, steps = run(cohort, "alone"), []
    spread = run(cohort, "spread", cluster=Cluster(workers=2), progress=lambda i, n, case: steps.append((i, n, case)))
    assert [case.name for case in spread.cases] == ["a", "b", "e"]
    assert steps == [(i + 1, 5, c) for i, c in enumerate("abcde")]
    assert spread.failures == alone.failures and [failure.case for failure in spread.failures] == ["c", "d"]
    assert spread.warnings == alone.warnings and any("b: no labels" in text for text in spread.warnings)
    assert written(cohort / "spread") == written(cohort / "alone")


def test_an_unexpected_error_fails_only_its_case(cohort, monkeypatch):
    """An unexpected error in one case, and in one section: the rest is measured and written."""
    real = module.measure_case

    def odd(case, *arguments):
        return 1 / 0 if case == "a" else real(case, *arguments)

    monkeypatch.setattr(module, "measure_case", odd)
    monkeypatch.setattr("medgen.evaluation.evaluate.memorisation_section", lambda *_: {}["x"])
    found = run(cohort, "out", training_images=cohort / "target")
    assert [case.name for case in found.cases] == ["b", "e"]
    errors = {failure.case: failure.error for failure in found.failures}
    assert "ZeroDivisionError in test_outcomes.py, line" in errors["a"] and "KeyError" in errors["memorisation"]
    assert json.loads((cohort / "out/summary.json").read_text())["number_of_failures"] == len(errors) == 4


def test_a_worker_loads_its_own_segmenter_and_a_lost_case_is_a_failure(local_ray, cohort, monkeypatch):
    loaded = []

    def named(text, device):
        loaded.append((text, device))
        return NamedSegmenter(text, lambda volume: np.rint(volume.data > 100).astype(np.int32), {1: "bright"})

    def faked(items, make, share):
        work = make()
        return [(item, WorkerLost() if item == "b" else work(item)) for item in items][::-1]

    monkeypatch.setattr(module, "named_segmenter", named)
    checks = Checks(segmenter=named("its name", "cpu"))
    alone = run(cohort, "alone", checks=checks)
    monkeypatch.setattr(module, "spread", faked)
    spread = run(cohort, "spread", checks=checks, cluster=Cluster())
    assert loaded == [("its name", "cpu")] * 2
    assert [(failure.case, failure.error[:10]) for failure in spread.failures][0] == ("b", "its worker")
    assert [repr(case) for case in spread.cases] == [repr(case) for case in alone.cases if case.name != "b"]


def test_images_that_need_a_range_end_the_evaluation_at_once(local_ray, cohort, monkeypatch):
    for path in (cohort / "target").iterdir():
        image = nib.load(path)
        nib.save(nib.Nifti1Image(np.abs(image.get_fdata()).astype(np.float32), image.affine), path)
    monkeypatch.setattr(module, "spread", lambda items, make, share: [(item, make()(item)) for item in items])
    with refused("metric-data-range-missing", names="--data-range"):
        run(cohort, "out", cluster=Cluster())
