"""Imports run one way: a package imports only from rows below its own, and no two modules import each other."""

import ast
import functools
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import medgen

ROOT = Path(medgen.__file__).parent
# From top to bottom, as CONTRIBUTING shows them. Packages of one row do not import each other.
LAYERS = (
    {"__main__"},
    {"cli", "api"},
    {"commands"},
    {"server"},
    {"reports", "pacs"},
    {"training", "downstream", "augmentation", "contrast", "export"},
    {"inference", "evaluation"},
    {"qa"},
    {"segmentation"},
    {"checkpoint"},
    {"models", "onnx_file", "model_card"},
    {"model_info"},
    {"data"},
    {"config"},
    {"settings"},
    {"methods", "phantom"},
    {"losses"},
    {"networks"},
    {"io", "cluster"},
    {"types", "terminology", "environment"},
    {"errors", ""},
)
ROW = {package: len(LAYERS) - n for n, layer in enumerate(LAYERS) for package in layer}
NO_TRAINING = ("training", "segmentation.train", "downstream")


def modules():
    """{dotted name below medgen: file}; a package has its own name."""
    found = {}
    for path in ROOT.rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


@functools.cache
def imports(name):
    """Modules of medgen that a module imports, also those imported inside functions."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[name].read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for full in names:
            if full.split(".")[0] == "medgen":
                inner = full.removeprefix("medgen").removeprefix(".")
                found.add(inner if inner in MODULES else inner.rpartition(".")[0])
    return found - {name, ""}


def test_every_package_has_a_row():
    assert {name.split(".")[0] for name in MODULES} == set(ROW)


@pytest.mark.parametrize("name", sorted(set(MODULES) - {""}))
def test_a_module_imports_only_from_rows_below(name):
    package = name.split(".")[0]
    others = {found for found in imports(name) if found.split(".")[0] != package}
    assert [found for found in sorted(others) if ROW[found.split(".")[0]] >= ROW[package]] == []


def test_no_circles_between_modules():
    TopologicalSorter({name: imports(name) for name in MODULES if name}).prepare()


def reached(start):
    """All modules that importing one brings along."""
    found, left = set(), [start]
    while left:
        for name in imports(left.pop()) - found:
            found.add(name)
            left.append(name)
    return found


@pytest.mark.parametrize("package", ["qa", "evaluation.metrics"])
def test_checks_and_metrics_import_no_training_code(package):
    inside = [name for name in MODULES if name.startswith(package)]
    brought = set().union(*(reached(name) for name in inside))
    assert [name for name in sorted(brought) if name.startswith(NO_TRAINING)] == []
