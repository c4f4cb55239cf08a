"""A new method takes one file and one config: the example of CONTRIBUTING.md is trained and translates."""

import re
from pathlib import Path

from programs import run_program
from small import write_cohort

EXAMPLE = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text()
EXAMPLE = EXAMPLE.partition("## Example: add a method")[2].partition("\n## ")[0]
METHOD, CONFIG = (re.search(rf"```{kind}\n(.*?)```", EXAMPLE, re.S)[1] for kind in ("python", "yaml"))

# The folder of the new method is added to those of medgen.methods, as if its file were there.
PROGRAM = """
import sys
from pathlib import Path
import medgen
import medgen.methods

folder = Path(sys.argv[1])
medgen.methods.__path__.append(str(folder / "methods"))
options = [f"data.root={folder / 'cohort'}", "sampling.patch=[16,16,16]", "train.steps=2", "train.log_every=1"]
best = medgen.train(folder / "ct_contrast_charbonnier.yaml", folder / "run", options)
model = medgen.load(best)
scan = medgen.read(folder / "cohort/source/case0.nii.gz")
assert type(model.method).__name__ == "Charbonnier" and model.info.step == 2
assert medgen.translate(model, scan).data.shape == scan.data.shape
"""


def test_the_example_of_contributing_trains_and_translates(tmp_path):
    (tmp_path / "methods").mkdir()
    (tmp_path / "methods/charbonnier.py").write_text(METHOD)
    (tmp_path / "ct_contrast_charbonnier.yaml").write_text(CONFIG)
    write_cohort(tmp_path / "cohort", cases=3)
    run = run_program(PROGRAM, tmp_path)
    assert run.returncode == 0, run.stdout + run.stderr
    rows = (tmp_path / "run/log.csv").read_text().splitlines()
    assert len(rows) == 3 and "G_charbonnier" in rows[0]
