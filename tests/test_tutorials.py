"""The cells of the Python tutorial run one after the other, and give what the tutorial says."""

import re
from pathlib import Path

from programs import run_program

TUTORIAL = Path(__file__).parents[1] / "docs/tutorials/from_python.md"
START = """
import os, sys
import matplotlib
matplotlib.use("Agg")
os.chdir(sys.argv[1])
"""


def test_cells_of_the_python_tutorial_run(tmp_path):
    cells = re.findall(r"```python\n(.*?)```", TUTORIAL.read_text(), re.DOTALL)
    run = run_program("\n".join([START, *cells]), tmp_path)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "(48, 40, 32)" in run.stdout and "'mae'" in run.stdout and run.stdout.count(" converted ") == 4
    assert (tmp_path / "middle_slice.png").stat().st_size > 10_000 and (tmp_path / "results/cases.csv").is_file()
