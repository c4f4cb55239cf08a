"""Protocols separate patients, are not repeated, continue after bad cases, and are summarised correctly."""

import csv
import json
import math
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from refusal import refused
from scipy import stats

from medgen.downstream import protocols as downstream
from medgen.downstream.protocols import PROTOCOLS, patient_folds, read_examples, run_protocols, score
from medgen.downstream.summary import markdown, summarise
from medgen.evaluation.statistics import bootstrap_interval
from medgen.io.read import read_volume
from medgen.segmentation.train import Example, train_segmenter

SHAPE = (10, 9, 8)


def write_case(folder, name, patient, *, contrast=100.0, seed=0):
    """A box (label 1) that is brighter than the rest by ``contrast``."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(SHAPE, np.uint8)
    x, y, z = rng.integers(1, 4, 3)
    labels[x : x + 4, y : y + 4, z : z + 3] = 1
    data = contrast * labels + rng.normal(0, 1, SHAPE)
    paths = folder / "images" / f"{name}.nii.gz", folder / "labels" / f"{name}.nii.gz"
    for path, array in zip(paths, (data.astype(np.float32), labels), strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(array, np.diag([2.0, 1.0, 1.0, 1.0])), path)
    return Example(name, patient, *paths)


class Trainer:
    """Learn a threshold halfway between label and background, and record the training cases."""

    def __init__(self):
        self.seen = []

    def __call__(self, examples, folder, *, values, seed, cache, say, **training):
        self.seen.append((folder.name, examples))
        inside = np.mean([read_volume(e.image).data[read_volume(e.labels).data > 0].mean() for e in examples])
        return lambda volume: (volume.data > inside / 2).astype(int)


@pytest.fixture
def real(tmp_path):
    return [write_case(tmp_path / "real", f"c{i}", f"p{i // 2}", seed=i) for i in range(8)]  # 4 patients


@pytest.fixture
def synthetic(tmp_path):
    """Synthetic images at half the intensity, of three real patients and another one."""
    return [write_case(tmp_path / "syn", f"c{i}", f"p{i // 2}", contrast=30.0, seed=i) for i in range(2, 10)]


def run(tmp_path, real, synthetic, train=None, **options):
    options = {"folds": 2, "say": lambda _: None} | options
    return run_protocols(real, synthetic, tmp_path / "out", train=train or Trainer(), **options)


def test_synthetic_images_of_tested_patients_are_refused_unless_patients_are_given(tmp_path):
    def examples(names, patient=str):
        return [Example(name, patient(name), Path("absent"), Path("absent")) for name in names]

    real = [f"p{i}" for i in (1, 2, 3, 10)]
    with refused("downstream-synthetic-patient", names="p3_s0"):
        run(tmp_path, examples(real), examples(["p1", "new_1", "p3_s0"]))
    by_patient = {"patient": lambda name: name.partition("_")[0]}
    for others, options in ((["p1", "p20", "p100"], {}), (["p1_s0", "p3_s0"], by_patient)):
        downstream._check_patients(examples(real, **options), examples(others, **options))


names = st.lists(st.integers(0, 12), min_size=2, max_size=30)


@settings(deadline=None)
@given(names, names, st.integers(2, 6), st.integers(0, 3))
def test_each_patient_is_tested_once_and_never_trained_on_then(real, synthetic, folds, seed):
    real = [Example(f"r{i}", f"p{p}", Path(), Path()) for i, p in enumerate(real)]
    synthetic = [Example(f"s{i}", f"p{p}", Path(), Path()) for i, p in enumerate(synthetic)]
    patients = {e.patient for e in real}
    if len(patients) < folds:
        with refused("downstream-fold-count"):
            patient_folds(real, synthetic, folds, seed=seed)
        return
    made = patient_folds(real, synthetic, folds, seed=seed)
    assert sorted(p for fold in made for p in fold) == sorted(patients | {e.patient for e in synthetic})
    sizes = [len(fold & patients) for fold in made]
    assert len(made) == folds and min(sizes) >= 1 and max(sizes) - min(sizes) <= 1
    assert made == patient_folds(real[::-1], synthetic, folds, seed=seed)


def test_no_protocol_trains_on_a_patient_that_it_tests(tmp_path, real, synthetic):
    trainer = Trainer()
    found = run(tmp_path, real, synthetic, trainer, seeds=(0, 1))
    assert not found.failures and {row["protocol"] for row in found.rows} == set(PROTOCOLS)
    folds = json.loads((tmp_path / "out/summary.json").read_text())["folds"]
    assert sorted(name for name, _ in trainer.seen) == sorted(
        f"{pool}-fold{fold}-seed{seed}" for pool in ("real", "synthetic", "both") for fold in (0, 1) for seed in (0, 1)
    )
    for name, examples in trainer.seen:
        pool, fold, _ = name.split("-")
        assert {e.name.split("/")[0] for e in examples} == ({"real", "synthetic"} if pool == "both" else {pool})
        assert not {e.patient for e in examples} & set(folds[int(fold[-1])])
    for protocol, (_, tested) in PROTOCOLS.items():
        rows = [row for row in found.rows if row["protocol"] == protocol and row["seed"] == 0]
        first = 0 if tested == "real" else 2
        assert sorted(row["case"] for row in rows) == [f"{tested}/c{i}" for i in range(first, first + 8)]
        assert all(row["patient"] in folds[row["fold"]] for row in rows)


def test_scores_reflect_the_segmenters(tmp_path, real, synthetic):
    summary = {row["protocol"]: row for row in summarise(run(tmp_path, real, synthetic).rows) if row["label"] == 1}
    assert summary["real_to_real"]["dice"] == 1 and summary["real_to_real"]["gain"] is None
    assert summary["real_to_synthetic"]["dice"] == 0 and summary["real_to_synthetic"]["infinite"] == 8
    assert summary["real_to_synthetic"]["gain"] == -1 and summary["real_to_synthetic"]["hd95"] is None
    assert summary["synthetic_to_real"]["dice"] == 1 and summary["both_to_real"]["gain"] == 0
    with open(tmp_path / "out/scores.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 32 and {row["hd95"] for row in rows} == {"0", "inf"}
    assert float(rows[0]["volume_reference"]) == pytest.approx(48 * 2 / 1000)


def test_finished_runs_are_not_repeated(tmp_path, real, synthetic):
    first = run(tmp_path, real, synthetic, only=[0])
    trainer = Trainer()
    again = run(tmp_path, real, synthetic, trainer)
    assert [name for name, _ in trainer.seen] == [f"{pool}-fold1-seed0" for pool in ("real", "synthetic", "both")]
    assert again.rows[: len(first.rows)] == first.rows
    trainer = Trainer()
    assert run(tmp_path, real, synthetic, trainer).rows == again.rows and not trainer.seen
    (tmp_path / "out/results/both_to_real-fold1-seed0.json").write_text('{"rows": [')  # truncated, as on a full disk
    assert run(tmp_path, real, synthetic, trainer).rows == again.rows
    assert [name for name, _ in trainer.seen] == ["both-fold1-seed0"]
    run(tmp_path, real[:-1], synthetic, trainer)  # other files
    assert len(trainer.seen) > 3


def test_medgens_own_segmenter_is_trained_and_after_a_kill_loaded(tmp_path, real):
    training = {"steps": 2, "filters": 2, "voxels": 8**3}
    messages = []
    real[0].image.write_bytes(b"")
    options = {"train": train_segmenter, "training": training, "only": [0], "values": (1,), "say": messages.append}
    found = run(tmp_path, real, [], **options)
    folder = tmp_path / "out/segmenters/real-fold0-seed0"
    weights = folder / "weights.safetensors"
    written = weights.stat().st_mtime_ns
    assert found.rows and [failure.case for failure in found.failures] == ["real/c0"]
    assert all(row["label"] == 1 and 0 <= row["dice"] <= 1 for row in found.rows)
    (tmp_path / "out/results/real_to_real-fold0-seed0.json").unlink()
    again = run(tmp_path, real, [], **options)
    assert again.rows == found.rows and again.failures == found.failures
    assert weights.stat().st_mtime_ns == written


def test_another_system_finds_the_segmenters_of_real_images_trained(tmp_path, real, synthetic):
    training = {"steps": 2, "filters": 2, "voxels": 8**3}
    options = {"training": training, "only": [0], "shared": tmp_path / "shared", "say": lambda _: None}
    written = set()
    for system in ("a", "b"):
        run_protocols(real, synthetic, tmp_path / system, folds=2, **options)
        own = sorted(folder.name for folder in (tmp_path / system / "segmenters").iterdir())
        assert own == ["both-fold0-seed0", "synthetic-fold0-seed0"]
        written.add((tmp_path / "shared/real-fold0-seed0/weights.safetensors").stat().st_mtime_ns)
    assert len(written) == 1


def test_a_bad_case_is_reported_and_the_others_are_scored(tmp_path, real, synthetic):
    bad = real[3]
    good = bad.image.read_bytes()
    bad.image.write_bytes(good[:100])

    class Careful(Trainer):
        def __call__(self, examples, folder, **options):
            return super().__call__([e for e in examples if not e.image == bad.image], folder, **options)

    found = run(tmp_path, real, synthetic, Careful())
    assert {failure.case for failure in found.failures} == {"real/c3"}
    assert len({row["case"] for row in found.rows if row["protocol"] == "real_to_real"}) == 7
    assert json.loads((tmp_path / "out/summary.json").read_text())["failures"][0]["case"] == "real/c3"
    bad.image.write_bytes(good)
    assert not run(tmp_path, real, synthetic).failures


def test_a_failed_training_loses_only_its_protocols(tmp_path, real, synthetic):
    class Failing(Trainer):
        def __call__(self, examples, folder, **options):
            if folder.name.startswith("synthetic"):
                raise RuntimeError("out of memory")
            return super().__call__(examples, folder, **options)

    found = run(tmp_path, real, synthetic, Failing(), only=[0])
    assert [f.case for f in found.failures] == ["segmenter synthetic-fold0-seed0"]
    assert "out of memory" in found.failures[0].error
    assert {row["protocol"] for row in found.rows} == {"real_to_real", "real_to_synthetic", "both_to_real"}
    assert not run(tmp_path, real, synthetic, only=[0]).failures  # tried again


def test_the_translators_own_test_patients_may_be_the_fold(tmp_path, real, synthetic):
    trainer = Trainer()
    run(tmp_path, real, synthetic, trainer, folds=[["p1", "p2"]])
    assert {e.patient for name, examples in trainer.seen for e in examples} == {"p0", "p3", "p4"}


def test_labels_on_another_grid_are_scored_there(tmp_path):
    example = write_case(tmp_path, "c", "p")
    image = read_volume(example.image)
    fine = nib.Nifti1Image(np.repeat(image.data, 2, 0), np.diag([1.0, 1.0, 1.0, 1.0]))
    fine.affine[0, 3] = -0.5
    nib.save(nib.Nifti1Image(fine.get_fdata().astype(np.float32), fine.affine), tmp_path / "fine.nii.gz")
    finer = example._replace(image=tmp_path / "fine.nii.gz")
    rows, failures = score(lambda volume: volume.data > 50, [finer], (0, 1))
    assert not failures and rows[0]["dice"] == 1 and rows[0]["volume_reference"] == pytest.approx(0.096)
    _, failures = score(lambda volume: volume.data[1:] > 50, [finer], (0, 1))
    assert "voxels" in failures[0].error


def row(protocol, case, label, dice, *, hd95=1.0, fold=0, seed=0):
    values = {"hd95": hd95, "assd": hd95, "surface_dice": dice, "patient": case}
    return {"protocol": protocol, "fold": fold, "seed": seed, "case": case, "label": label, "dice": dice, **values}


def test_a_summary_is_the_mean_of_its_rows():
    rows = [
        row("real_to_real", "real/a", 1, 0.8, hd95=2.0),
        row("real_to_real", "real/b", 1, 0.0, hd95=math.inf, seed=1),
        row("real_to_real", "real/a", 2, math.nan, hd95=math.nan),
        row("both_to_real", "real/a", 1, 0.9),
        row("both_to_real", "real/b", 1, 0.3, seed=1),
    ]
    base, absent, base_all, both, _ = summarise(rows)
    assert (base["cases"], base["dice"], base["hd95"]) == (2, pytest.approx(0.4), 2.0)
    assert [(row["infinite"], row["distances"]) for row in (base, absent, both)] == [(1, 2), (0, 0), (0, 2)]
    assert base["sd_of_runs"] == pytest.approx(np.std([0.8, 0.0], ddof=1))
    assert absent["dice"] is None and base_all["dice"] == pytest.approx(0.4)
    assert both["gain"] == pytest.approx(0.2)
    table = markdown([base, both]).splitlines()
    assert len(table) == 4 and len({line.count("|") for line in table}) == 1 and "| 0.400 | 2.000 |" in table[2]


def test_folders_give_examples_by_name(tmp_path, real):
    (tmp_path / "real/labels/c7.nii.gz").unlink()
    found = read_examples(tmp_path / "real/images", tmp_path / "real/labels", lambda name: name[:1])
    assert [e.name for e in found] == [f"c{i}" for i in range(7)] and {e.patient for e in found} == {"c"}
    with refused("folder-names-unmatched"):
        read_examples(tmp_path / "real/images", tmp_path)


@pytest.mark.parametrize(
    "options, code",
    [
        ({"protocols": ["real_to_reel"]}, "downstream-protocol-unknown"),
        ({"only": [2]}, "downstream-fold-unknown"),
        ({"folds": [["nobody"]]}, "downstream-fold-empty"),
        ({"folds": 5}, "downstream-fold-count"),
    ],
)
def test_bad_arguments_are_refused(tmp_path, real, synthetic, options, code):
    with refused(code):
        run(tmp_path, real, synthetic, **options)


def test_without_synthetic_images_only_the_baseline_runs(tmp_path, real):
    assert {row["protocol"] for row in run(tmp_path, real, []).rows} == {"real_to_real"}
    with refused("downstream-synthetic-missing"):
        run(tmp_path, real, [], protocols=["both_to_real"])


def test_a_gain_has_an_interval_over_patients_and_a_paired_test():
    rng = np.random.default_rng(0)
    gains = 0.7 + rng.normal(0.05, 0.03, 12) - 0.7  # rounded as the difference of two scores is
    rows = []
    for i, gain in enumerate(gains):
        for protocol, kind, dice in (("real_to_real", "real", 0.7), ("both_to_real", "real", 0.7 + gain)):
            row = dict.fromkeys(("hd95", "assd", "surface_dice"), 1.0) | {"fold": 0, "seed": 0, "label": 1}
            rows.append(row | {"protocol": protocol, "case": f"{kind}/c{i}", "patient": f"p{i // 2}", "dice": dice})
    base, _, both, _ = summarise(rows)
    patients = [f"p{i // 2}" for i in range(12)]
    interval = bootstrap_interval(gains, patients=patients)
    assert both["gain"] == pytest.approx(gains.mean())
    assert both["gain_interval"] == pytest.approx([interval.low, interval.high])
    means = gains.reshape(6, 2).mean(1)
    assert both["gain_p"] == pytest.approx(stats.wilcoxon(means, method="exact").pvalue)
    assert (base["gain"], base["gain_interval"], base["gain_p"]) == (None, None, None)
