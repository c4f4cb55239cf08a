"""Every shipped config is complete and runs: a tiny training with its own method, on a tiny cohort."""

from pathlib import Path

import pytest
from conftest import write_cohort

from medgen.checkpoint import load_model
from medgen.config import load_settings
from medgen.train import train

CONFIGS = sorted((Path(__file__).parent.parent / "configs").glob("*.yaml"))
TINY = ["train.steps=2", "train.validate_every=2", "sampling.patch=[32,32,32]", "train.validation_cases=1"]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_config_trains_and_loads(path, tmp_path):
    paired = load_settings(path).data.paired
    cohort = write_cohort(tmp_path / "cohort", cases=3 if paired else 6, unpaired=not paired)
    settings = load_settings(path, [f"data.root={cohort}", *TINY, "method.filters=4"])
    best = train(settings, tmp_path / "run")
    assert load_model(best).info.step == 2


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_name_tells_mission_and_method(path):
    method = load_settings(path).method["name"]
    assert path.stem.endswith(method)  # fastcut ends in cut, of which it is a setting
