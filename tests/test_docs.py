"""The documentation matches the code."""

import importlib.util
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from medgen.cli import app

ROOT = Path(__file__).parent.parent


def test_config_and_metrics_references_are_generated_from_the_code():
    path = ROOT / "docs/reference/generate.py"
    spec = importlib.util.spec_from_file_location("generate", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (ROOT / "docs/reference/config.md").read_text() == module.text(), f"run: python {path}"
    assert (ROOT / "docs/reference/metrics.md").read_text() == module.metrics_text(), f"run: python {path}"


def test_command_reference_names_every_command_and_option():
    page = (ROOT / "docs/reference/cli.md").read_text()
    for command in (
        "phantom",
        "simulate-contrast",
        "models",
        "train",
        "translate",
        "augment",
        "synthesize",
        "sample",
        "segment",
        "evaluate",
        "report",
        "doctor",
        "export",
        "serve",
        "pack",
        "unpack",
    ):
        assert f"medgen {command}" in page
        shown = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"}).output
        for option in set(re.findall(r"--[a-z][a-z-]+", shown)) - {"--help", "--no-report"}:
            assert option in page, f"{command} {option}"


@pytest.mark.parametrize("page", sorted(ROOT.glob("**/*.md")), ids=lambda p: p.name)
def test_link_targets_exist(page):
    if ".venv" in page.parts or "demo" in page.parts:
        pytest.skip("not ours")
    prose = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#]+)", prose):
        assert (page.parent / target).exists(), f"{page}: {target}"
