"""The container's files, as far as they can be checked without a Docker daemon, and the wheel that it installs."""

import fnmatch
import os
import re
import subprocess
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ENTRY = ROOT / "container/translate"
INSTRUCTIONS = {"ARG", "FROM", "ENV", "RUN", "WORKDIR", "COPY", "USER", "ENTRYPOINT"}


def dockerfile():
    """[(instruction, rest)], with continued lines joined."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [tuple(line.split(maxsplit=1)) for line in text.splitlines() if line.strip()]


def ignored(path):
    """Whether .dockerignore leaves a path out: the last pattern that matches it or a parent decides."""
    out, parents = False, [path, *Path(path).parents]
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern, leaves_out = line.lstrip("!").removeprefix("**/"), not line.startswith("!")
        names = [part for parent in parents for part in (str(parent), Path(parent).name)] if "**" in line else parents
        if line and not line.startswith("#") and any(fnmatch.fnmatch(str(name), pattern) for name in names):
            out = leaves_out
    return out


def test_the_dockerfile_parses_and_each_stage_has_its_arguments():
    known, base = {"PATH"}, set()
    for instruction, rest in dockerfile():
        assert instruction in INSTRUCTIONS, instruction
        if instruction == "FROM":
            base = base or known - {"PATH"}
            known = {"PATH"} | base
        for name in re.findall(r"\$\{?([A-Z_]+)", rest):
            assert name in known, f"{name} is not set before: {instruction} {rest}"
        if instruction in ("ARG", "ENV"):
            known |= set(re.findall(r"([A-Z_]+)=", rest))
        if instruction == "FROM":
            known -= base  # an argument before FROM is known to FROM only


def test_what_the_dockerfile_copies_is_there_and_not_ignored():
    for instruction, rest in dockerfile():
        if instruction == "COPY" and "--from" not in rest:
            *sources, _ = [word for word in rest.split() if not word.startswith("--")]
            for source in sources:
                assert (ROOT / source).exists() and not ignored(source), source
    for path in ("medgen/server/page.html", "medgen/models/ct-noncontrast/model.json", "configs/paper/cut.yaml"):
        assert (ROOT / path).is_file() and not ignored(path)
    for path in ("demo/scan.nii.gz", ".git/config", "runs/model.json", "tests/small.py", "medgen/__pycache__/x.pyc"):
        assert ignored(path), path


def test_the_container_runs_as_a_user_and_starts_the_entry():
    found = dockerfile()
    assert found[-1] == ("ENTRYPOINT", '["translate"]')
    assert [rest for instruction, rest in found if instruction == "USER"] == ["1000:1000"]
    assert any("container/translate /usr/local/bin/translate" in rest for _, rest in found)
    assert os.access(ENTRY, os.X_OK)


def test_the_dockerfile_names_versions_and_extras_that_exist():
    text = (ROOT / "Dockerfile").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = re.search(r"^ARG EXTRAS=(.*)$", text, re.MULTILINE)[1].split(",")
    assert set(extras) <= set(project["optional-dependencies"])
    pinned = re.findall(r"^torch==.*$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert len(pinned) == 1, "the Dockerfile installs the line that starts with torch=="
    assert re.search(r"^ARG PYTHON=3\.(\d+)$", text, re.MULTILINE)[1] >= project["requires-python"].rpartition(".")[2]


@pytest.fixture
def entry(tmp_path):
    """Run the entry with a ``medgen`` that prints its arguments."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "model").mkdir()
    program = tmp_path / "bin/medgen"
    program.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\nexit 3\n')
    program.chmod(0o755)

    def run(*words, **environment):
        given = {"PATH": f"{program.parent}:/usr/bin:/bin", "MEDGEN_MOUNTED_MODEL": str(tmp_path / "model")}
        return subprocess.run([ENTRY, *words], env=given | environment, capture_output=True, text=True, cwd="/")

    return run


def test_the_entry_translates_input_to_output_and_keeps_the_exit_code(entry):
    done = entry()
    assert done.stdout.splitlines() == ["translate", "ct-noncontrast", "/input", "/output"] and done.returncode == 3
    done = entry("--device", "a b", MEDGEN_MODEL="x", MEDGEN_INPUT="/input/images/ct", MEDGEN_OUTPUT="/output/o p")
    assert done.stdout.splitlines() == ["translate", "x", "/input/images/ct", "/output/o p", "--device", "a b"]


def test_a_mounted_model_is_used_and_another_folder_is_refused(entry, tmp_path):
    (tmp_path / "model/other.txt").write_text("")
    done = entry()
    assert done.returncode == 2 and "has no model.json" in done.stderr and not done.stdout
    (tmp_path / "model/model.json").write_text("{}")
    assert entry(MEDGEN_MODEL="x").stdout.splitlines()[:2] == ["translate", str(tmp_path / "model")]


def test_the_wheel_has_configs_models_and_pages(tmp_path):
    builder = pytest.importorskip("hatchling.builders.wheel").WheelBuilder(str(ROOT))
    (wheel,) = builder.build(directory=str(tmp_path), versions=["standard"])
    with zipfile.ZipFile(wheel) as found:
        names = set(found.namelist())
        assert b"medgen = medgen.cli:main" in found.read(next(n for n in names if n.endswith("entry_points.txt")))
    for folder, inside in ((ROOT / "medgen", "medgen"), (ROOT / "configs", "medgen/configs")):
        files = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
        files = [path for path in files if "__pycache__" not in path.parts and "configs" not in path.parts]
        assert len(files) > 40
        assert {f"{inside}/{path.as_posix()}" for path in files} <= names
    assert all(name.startswith(("medgen/", "medgen-")) for name in names)
