"""Tables of optional sections: excluded values of a mean, and the uncertainty of a gain."""

from pathlib import Path

from medgen.evaluation.summary_file import Summary
from medgen.reports.results import System
from medgen.reports.section_tables import comparisons, distribution, downstream, segmentation


def system(**summary):
    return System("a", Path(), Summary(unit="HU", cases=[], **summary), [])


def column(table, head):
    at = [h.text for h in table.heads].index(head)
    return [row[at].text.replace("\u00a0", " ") for row in table.rows]


def row(protocol, **values):
    base = {"protocol": protocol, "label": "liver", "dice_mean": 0.8, "interval": [0.7, 0.9], "n": 44, "hd95": 1.35}
    return base | {"assd": 0.5, "surface_dice": 0.9, "infinite": 0, "distances": 88} | values


def test_a_gain_has_an_interval_and_a_test_and_distances_show_infinite_values():
    gain = {"gain": 0.02, "gain_interval": [-0.01, 0.05], "gain_p": 0.21, "sd_of_runs": 0.0123, "infinite": 12}
    rows = [row("real_to_real", sd_of_runs=0.004), row("both_to_real", **gain)]
    table = downstream([system(downstream={"rows": rows})])
    assert column(table, "gain over real → real") == ["–", "+0.020 [−0.010, 0.050]"]
    assert column(table, "p of the gain") == ["–", "0.210"]
    assert column(table, "HD95 (mm)") == ["1.35", "1.35, 12 of 88 infinite"]
    assert "in Dice with a standard deviation of up to 0.012" in table.note
    assert "Infinite: labels that are only in the truth or only in the segmentation" in table.note
    plain = downstream([system(downstream={"rows": rows[:1]})])
    assert "p of the gain" not in [head.text for head in plain.heads] and "Infinite" not in plain.note


def test_segmentation_says_how_many_labels_have_no_distance():
    stats = {"mean": 4.0, "mean_interval": [3.0, 5.0], "n": 32, "infinite": 12}
    labels = {"liver": {"dice": {"mean": 0.7, "n": 44, "infinite": 0}, "hd95": stats}}
    table = segmentation([system(segmentation={"labels": labels, "tolerance_mm": 2.0})])
    assert column(table, "HD95 (mm)") == ["4.0 [3.0, 5.0], 12 of 44 infinite"] and column(table, "Dice") == ["0.700"]
    assert "within 2 mm" in table.note and table.note.endswith("means exclude them.")


def test_a_comparison_shows_excluded_values_and_the_smallest_p():
    known = {"metric": "psnr", "a": "a", "b": "b", "n": 4, "mean_difference": 1.5, "interval": [1, 2], "wins": 4}
    of = known | {"p": 0.125, "p_holm": 0.125, "effect": 1.0, "infinite_a": 3, "infinite_b": 0, "smallest_p": 0.125}
    table = comparisons([of], [system()])
    assert column(table, "mean of A − B") == ["+1.50 [1.00, 2.00], infinite: A 3, B 0"]
    assert "cannot be smaller than 0.125" in table.note and "identical to the truth" in table.note
    two = comparisons([of, of | {"smallest_p": 0.03}], [system()])
    assert "cannot be smaller than 0.125 in 1 of 2 rows" in two.note
    enough = comparisons([known | {"infinite_a": 0, "infinite_b": 0, "smallest_p": 0.03}], [system()])
    assert column(enough, "mean of A − B") == ["+1.50 [1.00, 2.00]"] and enough.note == ""


def test_the_deviation_of_an_inception_score_is_not_a_standard_error():
    of = {"metric": "Inception Score", "value": 2.5, "standard_error": None, "deviation": 0.0625, "notes": ["little"]}
    table = distribution([system(distribution=[of])])
    assert column(table, "value ± standard error") == ["2.5"]
    assert column(table, "notes") == ["little; standard deviation over its splits 0.0625"]
