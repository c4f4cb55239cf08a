"""The record of a cohort run: complete after a kill at any moment, and written incrementally."""

import json
import os
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from programs import run_program
from refusal import refused
from small import make_model

from medgen.inference.cohort.manifest import FORMAT, Manifest, model_description
from medgen.io.hashes import sha256


@dataclass
class Entry:
    output: str
    input_sha256: str = "i"
    status: str = "converted"
    output_sha256: str = ""


def entry(path, text="image"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return Entry(str(path), output_sha256=sha256([path]))


def filled(folder, model, count=3):
    """The manifest of a killed run, which was not closed."""
    manifest = Manifest(folder, model_description(model))
    for n in range(count):
        manifest.add(f"case{n}", entry(folder / f"case{n}.nii"))
    manifest._file.close()
    return manifest


def held(manifest, folder, case):
    expected = {"input_sha256": "i", "output": f"elsewhere/{case}.nii"}
    return manifest.holds(case, expected, [folder / f"{case}.nii"])


def test_records_of_a_killed_run_are_restored_by_the_next(model, tmp_path):
    filled(tmp_path, model)
    assert json.loads((tmp_path / "manifest.json").read_text())["cases"] == {}
    with Manifest(tmp_path, model_description(model)) as manifest:
        assert all(held(manifest, tmp_path, f"case{n}") for n in range(3))
    assert sorted(json.loads((tmp_path / "manifest.json").read_text())["cases"]) == ["case0", "case1", "case2"]
    assert not (tmp_path / "manifest.journal").exists()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(0, 2000), tail=st.binary(max_size=20))
def test_a_journal_truncated_anywhere_keeps_its_complete_lines(model, tmp_path, cut, tail):
    for path in tmp_path.glob("manifest.*"):
        path.unlink()
    filled(tmp_path, model)
    journal = tmp_path / "manifest.journal"
    lines = journal.read_bytes()
    cut = min(cut, len(lines))
    journal.write_bytes(lines[:cut] + b"\x00" + tail)
    whole = {json.loads(line).get("case") for line in lines[:cut].splitlines(True) if line.endswith(b"\n")} - {None}
    with Manifest(tmp_path, model_description(model)) as manifest:
        assert {f"case{n}" for n in range(3) if held(manifest, tmp_path, f"case{n}")} >= whole


def test_records_of_another_model_do_not_count(model, tmp_path):
    filled(tmp_path, model)
    other = make_model(seed=1)
    other.info = other.info.model_copy(update={"sha256": "another"})
    with Manifest(tmp_path, model_description(other)) as manifest:
        assert not manifest.cases
    assert json.loads((tmp_path / "manifest.json").read_text())["model"]["sha256"] == "another"


def test_changed_or_missing_outputs_and_failed_cases_are_repeated(model, tmp_path):
    manifest = filled(tmp_path, model)
    manifest = Manifest(tmp_path, model_description(model))
    (tmp_path / "case0.nii").write_text("other")
    (tmp_path / "case1.nii").unlink()
    manifest.cases["case2"]["status"] = "failed"
    assert not any(held(manifest, tmp_path, f"case{n}") for n in range(3))


def test_the_journal_grows_by_the_same_amount_for_each_case(model, tmp_path):
    with Manifest(tmp_path, model_description(model)) as manifest:
        sizes, made = [], entry(tmp_path / "a.nii")
        for n in range(100, 300):
            manifest.add(f"case{n}", made)
            sizes.append(os.path.getsize(tmp_path / "manifest.journal"))
    steps = {b - a for a, b in zip(sizes, sizes[1:], strict=False)}
    assert len(steps) == 1


@pytest.mark.parametrize(
    "text",
    ["", "[1]", '{"model": 3, "cases": {}}', '{"model": {"sha256": ""}, "cases": [1]}', "[" * 100_000, "\udc80"],
)
def test_invalid_manifests_are_refused(model, tmp_path, text):
    (tmp_path / "manifest.json").write_bytes(text.encode(errors="surrogatepass"))
    with refused("manifest-foreign"):
        Manifest(tmp_path, model_description(model))


def test_another_format_is_refused_by_its_number(model, tmp_path):
    with Manifest(tmp_path, model_description(model)):
        pass
    path = tmp_path / "manifest.json"
    written = json.loads(path.read_text())
    assert written["format"] == FORMAT
    for old, number in (({k: v for k, v in written.items() if k != "format"}, "1"), ({**written, "format": 9}, "9")):
        path.write_text(json.dumps(old))
        with refused("manifest-format", names=f"format {number}"):
            Manifest(tmp_path, model_description(model))


FULL = """
import resource, signal, sys
sys.path[:0] = sys.argv[2:]
from pathlib import Path
from small import make_model
from test_manifest import entry
from medgen.inference.cohort.manifest import Manifest, model_description
folder = Path(sys.argv[1])
made = entry(folder / "a.nii")
manifest = Manifest(folder, model_description(make_model()))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write beyond the limit fails with an error, as on a full disk
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
for n in range(50):
    manifest.add(f"case{n}", made)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print((folder / "manifest.journal").read_bytes()[-1:] == b"\\n")
manifest.__exit__()
"""


def test_a_full_disk_leaves_no_partial_line_and_no_record_is_lost(model, tmp_path):
    run = run_program(FULL, tmp_path, os.path.dirname(__file__))
    assert run.stdout == "True\n", run.stderr
    assert len(json.loads((tmp_path / "manifest.json").read_text())["cases"]) == 50
