"""Hostile input ends in a correct result or one sentence. The full test, with limits, is benchmarks/hostile.py."""

import os

import nibabel as nib
import numpy as np
import pytest
from hostile import KINDS, run, save_small_model, sentence, write
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from refusal import refused
from small import make_model

from medgen.config import read_yaml
from medgen.errors import InputError
from medgen.inference.cohort.run import convert
from medgen.io.formats.nifti import read_nifti
from medgen.io.names import checked_name, one_line


@pytest.fixture(scope="module")
def given_model(tmp_path_factory):
    model = make_model()
    return model, save_small_model(model, tmp_path_factory.mktemp("model") / "m")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_ends_in_a_result_or_a_sentence(kind, given_model, tmp_path):
    model, folder = given_model
    for seed in range(1 if kind == "bomb" else 5):
        case = tmp_path / str(seed) / "case"
        write(kind, seed, case, folder)
        assert run(kind, case, model)
        assert {p.name for p in case.iterdir()} <= {"in", "out"} and [*case.parent.iterdir()] == [case]


def test_a_header_of_a_trillion_voxels_takes_no_memory(model, tmp_path):
    header = nib.Nifti2Header()
    header.set_data_shape((10**4, 10**4, 10**4))
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.nii").write_bytes(header.binaryblock + bytes(4096))
    (result,) = convert(model, tmp_path / "in", tmp_path / "out")
    assert "10000 x 10000 x 10000" in result.error


def test_header_extensions_of_invalid_length_are_dropped(tmp_path):
    path = tmp_path / "a.nii"
    image = nib.Nifti1Image(np.zeros((4, 4, 4), np.int16), np.eye(4))
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"kept"))
    nib.save(image, path)
    assert [e.get_content() for e in read_nifti(path).header.extensions] == [b"kept"]
    whole = path.read_bytes()
    for length in (0, -16, 2**31 - 1):
        path.write_bytes(whole[:352] + np.int32(length).tobytes() + whole[356:])
        volume = read_nifti(path)
        assert not volume.header.extensions and "invalid length" in volume.warnings[0] and not volume.data.any()


@given(st.text())
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_valid_name_makes_one_file_in_its_folder(tmp_path, name):
    try:
        kept = checked_name(name, tmp_path)
    except InputError as error:
        assert sentence(str(error))
        return
    path = tmp_path / f".part-{kept}.nii.gz"
    path.write_bytes(b"")
    assert path.parent == tmp_path and os.listdir(tmp_path) == [path.name]
    path.unlink()


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../a", "/a", "a\\b", "con", "Lpt1.x", "a\n", "\x1b[2J", "n" * 300, "\udcff"]
)
def test_invalid_names_are_refused(name, tmp_path):
    with refused("case-name-invalid"):
        checked_name(name, tmp_path)


def test_terminal_control_characters_are_escaped():
    assert one_line("a\x1b[2J é\n\udcff") == "a\\x1b[2J é\\n\\udcff"


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.system [ls]",
        "a: &a [*a]",
        "[" * 5000,
        "a: " + "1" * 5000,
        "a: 2001-99-99",
        "l0: &l0 [x]\n" + "".join(f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 9)}]\n" for n in range(1, 9)),
    ],
)
def test_yaml_that_runs_multiplies_or_never_ends(text):
    with pytest.raises(ValueError):
        read_yaml(text)
    assert read_yaml("a: &x [1, 2]\nb: *x") == {"a": [1, 2], "b": [1, 2]}
