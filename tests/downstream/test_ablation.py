"""Arms are compared on the same cases, draws and seeds; intervals against scipy's; each segmenter is trained once."""

import numpy as np
import pytest
from refusal import refused
from scipy import stats

from medgen.downstream import ablation as module
from medgen.downstream.ablation import markdown, run_arms, summarise_arms
from medgen.downstream.summary import Downstream
from medgen.segmentation.train import Example


def row(arm, generator, draw, seed, case, label, dice):
    about = {"arm": arm, "generator": generator, "draw": draw, "seed": seed, "case": f"real/{case}", "patient": case}
    return {**about, "label": label, "dice": dice}


def rows(draws, seeds=2):
    rng = np.random.default_rng(0)
    arms = [("real", ""), ("classical", ""), ("synthetic", "g"), ("both", "g"), ("alone", "g")]
    return [
        row(arm, generator, draw, seed, case, label, rng.uniform(0.5, 0.9))
        for arm, generator in arms
        for draw in range(draws)
        for seed in range(seeds)
        for case in "abc"
        for label in (1, 2)
    ]


def of(found, arm, label="mean"):
    return next(r for r in found if (r["arm"], r["label"]) == (arm, label))


def test_several_draws_have_students_interval_over_the_draws():
    given = rows(5)
    found = summarise_arms(given)
    for arm, other in (("both", "classical"), ("synthetic", "real"), ("alone", "classical"), ("classical", "real")):
        mine, base = ([r for r in given if r["arm"] == a] for a in (arm, other))
        gains = [
            np.mean([a["dice"] - b["dice"] for a, b in zip(mine, base, strict=True) if a["draw"] == draw])
            for draw in range(5)
        ]
        expected = stats.ttest_1samp(gains, 0).confidence_interval(0.95)
        made = of(found, arm)
        assert made["against"] == other and made["gain"] == pytest.approx(np.mean(gains))
        assert made["gain_interval"] == pytest.approx([expected.low, expected.high])
    assert of(found, "real")["gain"] is None and of(found, "real")["gain_interval"] is None
    assert (of(found, "both")["draws"], of(found, "both")["seeds"], of(found, "both")["cases"]) == (5, 2, 3)
    one = [r["dice"] for r in given if r["arm"] == "both" and r["label"] == 2]
    assert of(found, "both", 2)["dice"] == pytest.approx(np.mean(one))


def test_one_draw_has_the_test_patients_interval():
    found = of(summarise_arms(rows(1)), "both")
    low, high = found["interval"]
    assert low <= found["dice"] <= high and found["gain_interval"][0] <= found["gain"] <= found["gain_interval"][1]


def test_an_arm_without_its_counterpart_has_no_gain():
    found = summarise_arms([r for r in rows(1) if r["arm"] == "both"])
    assert all(r["gain"] is None and r["gain_interval"] is None for r in found)
    assert "| both | g | mean |" in markdown(found)


def test_each_segmenter_is_trained_once_with_its_augmentation(tmp_path, monkeypatch):
    calls = []

    def run_protocols(real, synthetic, out, *, protocols, training, folds, **_):
        calls.append((out.relative_to(tmp_path).parts, tuple(protocols), training["augment"], len(synthetic)))
        assert folds == [{"p1"}] and training["steps"] == 3
        return Downstream(
            [{"protocol": p, "seed": 0, "case": "real/a", "label": 1, "dice": 0.5} for p in protocols], []
        )

    monkeypatch.setattr(module, "run_protocols", run_protocols)
    made = [Example("s", "p0", tmp_path, tmp_path)]
    options = {"arms": list(module.ARMS), "training": {"steps": 3}, "draw": 4}
    found, _ = run_arms([], {"g": made, "h": made * 2}, {"p1"}, tmp_path, **options)
    assert calls == [
        (("real", "plain"), ("real_to_real",), False, 0),
        (("real", "classical"), ("real_to_real",), True, 0),
        (("g", "plain"), ("both_to_real",), False, 1),
        (("g", "classical"), ("both_to_real", "synthetic_to_real"), True, 1),
        (("h", "plain"), ("both_to_real",), False, 2),
        (("h", "classical"), ("both_to_real", "synthetic_to_real"), True, 2),
    ]
    assert [(r["arm"], r["generator"]) for r in found][:4] == [
        ("real", ""), ("classical", ""), ("synthetic", "g"), ("both", "g"),
    ]  # fmt: skip
    assert {r["draw"] for r in found} == {4}
    with refused("downstream-arm-unknown", names="bth"):
        run_arms([], {}, {"p1"}, tmp_path, arms=["bth"])
