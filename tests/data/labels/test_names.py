import json

import numpy as np
import pytest
from labelled import save
from refusal import refused

from medgen.contrast.label_names import names_of_labels
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


@pytest.mark.parametrize("read", [label_names, names_of_labels])
@pytest.mark.parametrize("folder", ["labels", "labelsTr", "segmentations"])
def test_tables_in_a_folder_and_above_it_must_agree_if_it_belongs_to_the_data_set_above(tmp_path, folder, read):
    label_map = tmp_path / folder / "p1.nii.gz"
    label_map.parent.mkdir()
    save(label_map, np.ones((4, 4, 4)))
    (tmp_path / "labels.json").write_text('{"aorta": 1, "liver": 2}')
    (label_map.parent / "labels.json").write_text('{"Aorta": 1}')
    assert read(label_map) == {1: "Aorta"}
    (label_map.parent / "labels.json").write_text('{"heart": 1}')
    if folder == "segmentations":
        assert read(label_map) == {1: "heart"}  # the nearest table
    else:
        with refused("labels-tables-disagree", names="label 1 heart"):
            read(label_map)
