import json

from refusal import refused

from medgen.data.labels.names import label_named, label_names, refuse_other_names


def test_case_does_not_matter_unless_it_is_all_that_differs():
    assert label_named("liver", ["Liver", "LESION"]) == "Liver" and label_named("Lesion", {"LESION": 1}) == "LESION"
    assert label_named("liver", ["Liver", "liver"]) == "liver" and label_named("LIVER", ["Liver", "liver"]) is None
    assert label_named("kidney", ["liver"]) is None
    assert label_named("La\u0308sion", ["L\u00e4sion"]) == "L\u00e4sion"  # accents as macOS writes them
    refuse_other_names({1: "Gef\u00e4\u00df"}, "a", {1: "Gefa\u0308\u00df"}, "b")


def test_tables_of_one_folder_must_agree(tmp_path):
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels.json").write_text('{"liver": 1, "Spleen": 2}')
    table = {"labels": {"background": 0, "Liver": 1, "spleen": 2, "kidney": 3}}
    (tmp_path / "dataset.json").write_text(json.dumps(table))
    assert label_names(tmp_path / "labels") == {1: "liver", 2: "Spleen"}
    table["labels"] |= {"Liver": 2, "spleen": 1}
    (tmp_path / "dataset.json").write_text(json.dumps(table))
    with refused("labels-tables-disagree", names="label 1 liver"):
        label_names(tmp_path / "labels")
    (tmp_path / "labels/labels.json").write_text('{"heart": 1}')
    assert label_names(tmp_path / "labels") == {1: "heart"}  # the nearest table
