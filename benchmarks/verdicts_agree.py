"""Test that the verdicts of a demo agree with its region tables, for all patients of its cohort.

    python benchmarks/verdicts_agree.py demo/cohort demo/model OUT

Translates every patient and evaluates the results three times: with the source alone, with labels, and with truth and
labels. Checks:

- `medgen translate` and the evaluation with the source alone give the same verdicts and reasons;
- a pass with the truth means that no enhancing structure has a mean beyond its limits, or more than ``organ_error``
  above the truth;
- a pass without the truth means that no enhancing structure has a mean beyond its range.

The exit code is 1 if one of these does not hold.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medgen.api import evaluate
from medgen.checkpoint import load_model
from medgen.evaluation.summary import CaseResult
from medgen.inference.check import checks_for
from medgen.inference.cohort.run import convert
from medgen.terminology import is_enhancing

ABOVE = 12.0  # HU, organ_error of the limits


def beyond(case: CaseResult) -> list[str]:
    """Structures of the region table with a mean beyond their limits, or too far above the truth."""
    return [row["region"] for row in case.regions if is_enhancing(row["region"]) and _beyond(row)]


def _beyond(row: Mapping[str, Any]) -> bool:
    inside = row.get("lowest", float("-inf")) <= row["mean_prediction"] <= row.get("highest", float("inf"))
    return not inside or row.get("error", 0.0) > ABOVE


def table(name: str, cases: Sequence[CaseResult]) -> int:
    """Print one line per case; return the number of passes that disagree with the table."""
    wrong = 0
    for case in cases:
        assert case.structure is not None
        found, status = beyond(case), case.structure["status"]
        wrong += status == "pass" and bool(found)
        print(f"{name} {case.name}: {status}; beyond limits: {', '.join(found) or 'none'}")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cohort", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    a = parser.parse_args()
    model, made = load_model(a.model), a.out / "converted"
    entries = {e.case: e for e in convert(model, a.cohort / "source", made, checks=checks_for(model))}
    inputs = {"source": a.cohort / "source", "labels": a.cohort / "labels"}
    alone = evaluate(made, a.out / "alone", source=inputs["source"])
    labelled = evaluate(made, a.out / "labelled", **inputs)
    truth = evaluate(made, a.out / "truth", reference=a.cohort / "target", **inputs)
    different = [
        case.name
        for case in alone.cases
        if case.structure is None
        or (case.structure["status"], case.structure["reasons"])
        != (entries[case.name].verdict, entries[case.name].reasons)
    ]
    wrong = table("labels", labelled.cases) + table("truth", truth.cases)
    print(
        f"{len(alone.cases)} patients; {len(different)} verdicts differ from those of translate {different}; "
        f"{wrong} passes disagree with the region table"
    )
    return int(bool(different or wrong) or len(truth.cases) != len(entries))


if __name__ == "__main__":
    raise SystemExit(main())
