"""Text files given by the user: regular files of limited size with readable text."""

import os
from pathlib import Path

import pytest
from refusal import refused

from medgen.config import load_settings, read_yaml
from medgen.data.cohort.read import read_cohort
from medgen.data.cohort.split import load_split
from medgen.data.labels.names import label_names
from medgen.inference.series import load_rules
from medgen.io import text
from medgen.io.text import read_json, read_text
from medgen.qa.limits import load_thresholds

READERS = [
    load_settings,
    load_rules,
    load_thresholds,
    read_json,
    read_cohort,
    lambda path: load_split(path, []),
    lambda path: label_names(path.parent),
]


def given(folder, read, make):
    path = folder / ("labels.json" if read is READERS[-1] else "given.json")
    make(path)
    return path


@pytest.mark.parametrize("read", READERS[:-1])
@pytest.mark.parametrize(
    "make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero"), lambda path: path.symlink_to("/dev/urandom")]
)
def test_pipes_and_devices_are_refused_at_once(tmp_path, read, make):
    path = given(tmp_path, read, make)
    with refused("file-not-regular"):
        read(path)


@pytest.mark.parametrize("read", READERS)
def test_too_long_and_non_text_files_are_refused(tmp_path, read, monkeypatch):
    path = given(tmp_path, read, lambda path: path.write_bytes(b'{"a": "\xff"}'))
    with refused("file-not-text"):
        read(path)
    path.write_text("[" + "1, " * 3_000_000 + "1]")
    for module in ("config", "qa.limits", "inference.series"):
        monkeypatch.setattr(f"medgen.{module}.MOST_YAML", 2**20)
    monkeypatch.setattr(text.read_text, "__defaults__", (2**20,))
    with refused("file-too-large"):
        read(path)


def test_encodings(tmp_path):
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        (tmp_path / "a").write_text("\u00fcber", encoding=encoding)
        assert read_text(tmp_path / "a") == "\u00fcber"
    with refused("file-is-folder"):
        read_text(tmp_path)
    with refused("path-null-character"):
        read_text(Path("a\0b"))


@pytest.mark.parametrize(
    "content", ['data: {root: "a\\0b"}', '{"a\\0": 1}', '["\\0"]', 'data: {sources: ["a\\u0000"]}']
)
def test_a_null_character_in_yaml_is_refused(tmp_path, content):
    with pytest.raises(ValueError, match="NUL"):
        read_yaml(content)
    path = tmp_path / "a.yaml"
    path.write_text(content)
    for read, code in (
        (load_settings, "config-not-yaml"),
        (load_rules, "rules-not-yaml"),
        (load_thresholds, "limits-not-yaml"),
    ):
        with refused(code, names="NUL"):
            read(path)
