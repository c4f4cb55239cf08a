import math
from pathlib import Path

from medgen.evaluation.console import console_lines
from medgen.evaluation.summary import CaseResult, Evaluation


def test_verdicts_are_counted_and_the_worst_come_first():
    found = {"a": ("review", ["It differs."]), "b": ("pass", []), "c": ("fail", ["It is flipped.", "More."])}
    cases = [
        CaseResult(name, {}, {"mae": 4.0, "source_mae": 9.0}, structure={"status": s, "reasons": r, "values": {}})
        for name, (s, r) in found.items()
    ]
    shown = console_lines(Evaluation(cases, [], ["careful"], 4095, "", {"tolerance_mm": 2}, 1.0, Path()))
    assert shown[0] == "warning: careful" and "mae             4  (unconverted source 9)" in shown
    assert shown[-3:] == [
        "structure check: 1 pass, 1 review, 1 fail",
        "  c: fail: It is flipped. (and 1 more)",
        "  a: review: It differs.",
    ]


def test_a_mean_says_how_many_infinite_values_it_leaves_out():
    psnr = {"a": (40.0, math.inf), "b": (math.inf, math.inf), "c": (42.0, math.inf)}
    cases = [CaseResult(name, {}, {"psnr": p, "body_psnr": b, "source_psnr": 30.0}) for name, (p, b) in psnr.items()]
    shown = console_lines(Evaluation(cases, [], [], 4095, "", {"tolerance_mm": 2}, 1.0, Path()))
    assert "psnr            41, 1 of 3 infinite  (unconverted source 30)" in shown
    assert "body_psnr       3 of 3 infinite" in shown
