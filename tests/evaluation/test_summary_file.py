"""summary.json: what is written is what is read, and a damaged part does not hide the others."""

import json
import math
from pathlib import Path

import pytest

from medgen.evaluation.summary_file import Summary, read_parts

CONTENT = {
    "unit": "HU",
    "metrics": {"psnr": {"mean": 40.0, "median": math.inf, "n": 1, "infinite": 1}},
    "structure": {"counts": {"pass": 1}, "cases": [{"case": "a", "status": "pass", "values": {"lesions": 2}}]},
    "distribution": [{"metric": "FID", "value": math.nan, "notes": []}],
    "warnings": [],
    "cases": [{"case": "a", "patient": "p", "files": {"prediction": Path("made/a.nii.gz")}, "psnr": math.inf}],
}


def test_json_holds_what_was_set_and_no_number_that_json_does_not_know():
    written = json.loads(Summary.model_validate(CONTENT).to_json(), parse_constant=pytest.fail)
    assert written["metrics"]["psnr"] == {"mean": 40.0, "median": None, "n": 1, "infinite": 1}
    assert written["cases"] == [{"case": "a", "patient": "p", "files": {"prediction": "made/a.nii.gz"}, "psnr": None}]
    assert written["distribution"] == [{"metric": "FID", "value": None, "notes": []}] and set(written) == set(CONTENT)
    found, faults = read_parts(written)
    assert not faults and json.loads(found.to_json()) == written
    assert found.cases[0].number("psnr") is None and found.structure.cases[0].values == {"lesions": 2}


@pytest.mark.parametrize("part", ["metrics", "structure", "distribution", "warnings"])
def test_a_damaged_part_is_named_and_the_others_are_read(part):
    found, faults = read_parts(CONTENT | {part: 7})
    assert list(faults) == [part] and found.unit == "HU" and found.cases[0].case == "a"
    assert read_parts(CONTENT | {part: None})[1] == {}


@pytest.mark.parametrize("cases", [{}, {"cases": 3}, {"cases": [{"name": "a"}]}])
def test_without_cases_it_is_no_summary(cases):
    with pytest.raises(ValueError, match="cases"):
        read_parts(cases)
