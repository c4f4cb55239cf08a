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
        "labels",
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


GUIDES = ("which_method.md", "coming_from.md", "index.md", "how-to/plan_a_training.md", "how-to/look_at_a_report.md")


@pytest.mark.parametrize("page", GUIDES)
def test_commands_options_keys_and_configs_that_guides_name_exist(page):
    text = (ROOT / "docs" / page).read_text()
    configs = {path.stem for path in (ROOT / "configs").glob("*.yaml")}
    for name in re.findall(r"`((?:ct|mr|hippocampus)_[a-z0-9_]+)`", text):
        assert name in configs, name
    keys = (ROOT / "docs/reference/config.md").read_text()
    for name in re.findall(r"\b((?:data|train|sampling|inference)\.[a-z_]+)\b", text):
        assert f"`{name}`" in keys or f"`{name.split('.')[1]}`" in keys, name
    reference = (ROOT / "docs/reference/cli.md").read_text()
    for command in re.findall(r"medgen (\w[\w-]*) ", " ".join(re.findall(r"`([^`]+)`", text))):
        assert f"medgen {command}" in reference, command
    for option in set(re.findall(r"`(--[a-z][a-z-]+)", text)):
        assert option in reference, option


def test_the_gallery_shows_every_picture_and_a_command_that_exists_for_each():
    text = (ROOT / "docs/gallery.md").read_text()
    shown = set(re.findall(r"\]\(images/([^)]+)\)", text))
    assert shown == {path.name for path in (ROOT / "docs/images").iterdir()}
    sections = text.split("\n## ")[1:]
    assert all("```" in section for section in sections)
    for script in re.findall(r"python (\S+\.py)", text):
        assert (ROOT / script).is_file(), script


def test_the_site_has_every_page_and_a_reference_of_the_python_api():
    settings = (ROOT / "mkdocs.yml").read_text()
    assert "mkdocstrings" in settings
    in_menu = re.findall(r"^ +- (\S+\.md)$", settings, re.MULTILINE)
    assert sorted(in_menu) == sorted(p.relative_to(ROOT / "docs").as_posix() for p in (ROOT / "docs").rglob("*.md"))
    assert "::: medgen.api" in (ROOT / "docs/reference/python.md").read_text()
