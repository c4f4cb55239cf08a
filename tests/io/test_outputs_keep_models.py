"""--overwrite into the folder of a run does not delete the model, split or table that the command needs."""

from pathlib import Path

import pytest
from refusal import refused
from small import make_model, small_settings, write_cohort

from medgen.augmentation.augment import augment
from medgen.augmentation.augmenter import augmenter_for
from medgen.augmentation.read import read_dataset
from medgen.checkpoint import load_model, save_model
from medgen.contrast.cohort import simulate_cohort
from medgen.inference.cohort.run import convert
from medgen.training.loop import train


@pytest.fixture
def run_folder(tmp_path):
    made = make_model()
    for name in ("best", "last"):
        folder = tmp_path / "run" / name
        folder.mkdir(parents=True)
        save_model(folder, made.generator, made.info)
    return tmp_path / "run"


def files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_model_of_a_command_is_not_overwritten_by_its_output(run_folder, tmp_path):
    cohort = write_cohort(tmp_path / "cohort", cases=4, labels=True)
    before = files(run_folder)
    model = load_model(run_folder / "last")
    with refused("output-is-input"):
        convert(model, cohort / "source", run_folder, overwrite=True)
    start = small_settings(data={"root": str(cohort)}, train={"start_from": str(run_folder / "last"), "steps": 1})
    with refused("output-is-input"):
        train(start, run_folder, overwrite=True, say=lambda _: None)
    (run_folder / "split.json").write_text("{}")
    split = small_settings(data={"root": str(cohort), "split": str(run_folder / "split.json")}, train={"steps": 1})
    with refused("output-is-input"):
        train(split, run_folder, overwrite=True, say=lambda _: None)
    (run_folder / "names.json").write_text('{"liver": 7}')
    with refused("output-is-input"):
        simulate_cohort(
            cohort / "source", cohort / "labels", run_folder, table=run_folder / "names.json", overwrite=True
        )
    assert before.items() <= files(run_folder).items()


def test_the_model_of_an_augmentation_is_not_overwritten(run_folder, tmp_path):
    cohort = write_cohort(tmp_path / "cohort", cases=4, labels=True)
    (cohort / "labels.json").write_text('{"body": 3, "organ": 7}')
    dataset, before = read_dataset(cohort), files(run_folder)
    augmenter = augmenter_for(str(run_folder / "last"), dataset)
    with refused("output-is-input"):
        augment(dataset, augmenter, run_folder, overwrite=True)
    assert files(run_folder) == before and Path(augmenter.model["name"]) == run_folder / "last"
