from pathlib import Path

import pytest
from refusal import refused

from medgen.qa.limits import Thresholds, load_thresholds

CONFIG = Path(__file__).parent.parent.parent / "configs" / "checks" / "ct_contrast.yaml"


def test_shipped_file_shows_the_defaults_and_every_key():
    assert load_thresholds(CONFIG) == Thresholds()
    text = CONFIG.read_text()
    assert all(f"\n{key}:" in text for key in Thresholds.model_fields)


def test_a_file_changes_what_it_names(tmp_path):
    (tmp_path / "mr.yaml").write_text("hounsfield: false\nedge_correlation: 0.5\n")
    limits = load_thresholds(tmp_path / "mr.yaml")
    assert (limits.hounsfield, limits.edge_correlation, limits.fat_offset) == (False, 0.5, 8.0)
    (tmp_path / "empty.yaml").write_text("")
    assert load_thresholds(tmp_path / "empty.yaml") == Thresholds()


@pytest.mark.parametrize(
    "text, code, name",
    [
        ("fat_ofset: 3", "config-unknown-key", "fat_ofset"),
        ("fat_offset: -1", "config-invalid-value", "fat_offset"),
        ("- 3", "limits-wrong-type", "list"),
        ("fat_offset: [", "limits-not-yaml", "line 1"),
        ("shift_voxels: .nan", "config-invalid-value", "shift_voxels"),
        ("organ_ranges: {liver: [90, 10]}", "config-invalid-value", "organ_ranges"),
    ],
)
def test_a_wrong_limits_file_is_refused(tmp_path, text, code, name):
    (tmp_path / "bad.yaml").write_text(text)
    with refused(code, names=("bad.yaml", name)):
        load_thresholds(tmp_path / "bad.yaml")
    with refused("limits-unreadable", names="absent.yaml"):
        load_thresholds(tmp_path / "absent.yaml")
