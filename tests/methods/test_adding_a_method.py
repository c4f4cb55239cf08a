"""A new method needs one file and one config: the example of CONTRIBUTING.md, run in a copy of medgen."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from small import write_cohort

import medgen

ROOT = Path(__file__).parents[2]
EXAMPLE = (ROOT / "CONTRIBUTING.md").read_text().partition("## Example: add a method")[2].partition("\n## ")[0]
METHOD, CONFIG = (re.search(rf"```{kind}\n(.*?)```", EXAMPLE, re.S)[1] for kind in ("python", "yaml"))

PROGRAM = """
from pathlib import Path
import medgen
from medgen.config import configs

assert Path(medgen.__file__).is_relative_to(Path.cwd())
assert configs()["ct_contrast_charbonnier"].startswith("Contrast CT")
options = ["data.root=cohort", "sampling.patch=[16,16,16]", "train.steps=2", "train.log_every=1"]
best = medgen.train("ct_contrast_charbonnier", "run", options)
model = medgen.load(best)
scan = medgen.read("cohort/source/case0.nii.gz")
assert type(model.method).__name__ == "Charbonnier" and model.info.step == 2
assert medgen.translate(model, scan).data.shape == scan.data.shape
"""


def test_the_example_of_contributing_trains_and_translates(tmp_path):
    shutil.copytree(Path(medgen.__file__).parent, tmp_path / "medgen", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    (tmp_path / "medgen/methods/charbonnier.py").write_text(METHOD)
    (tmp_path / "configs/ct_contrast_charbonnier.yaml").write_text(CONFIG)
    write_cohort(tmp_path / "cohort", cases=3)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path[1:]])}
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 0, run.stdout + run.stderr
    rows = (tmp_path / "run/log.csv").read_text().splitlines()
    assert len(rows) == 3 and "G_charbonnier" in rows[0]
