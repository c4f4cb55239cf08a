"""Folders of an evaluation: the names of label values, in the layouts that other commands read."""

import json

import pytest

from medgen.evaluation.folders import label_names
from medgen.types import InputError

NAMES = {1: "aorta", 3: "portal_vein"}


@pytest.mark.parametrize("above", [False, True])
@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("labels.json", {"aorta": 1, "portal_vein": 3}),
        ("labels.json", {"0": "background", "1": "aorta", "3": "portal_vein"}),
        ("dataset.json", {"labels": {"background": 0, "aorta": 1, "portal_vein": 3}, "channel_names": {"0": "CT"}}),
        ("dataset.json", {"labels": {"0": "background", "1": "aorta", "3": "portal_vein"}}),
    ],
)
def test_names_of_labels(tmp_path, above, file, content):
    labels = tmp_path / "labels"
    labels.mkdir()
    ((tmp_path if above else labels) / file).write_text(json.dumps(content))
    assert label_names(labels) == NAMES


def test_two_names_of_one_value_are_refused(tmp_path):
    (tmp_path / "labels.json").write_text('{"aorta": 1, "liver": 1}')
    with pytest.raises(InputError, match="same value 1"):
        label_names(tmp_path)
