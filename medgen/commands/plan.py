"""``medgen plan``: a config for a cohort."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medgen.commands.json_output import add_result
from medgen.commands.shared import Overwrite, names_of
from medgen.errors import InputError
from medgen.io.names import print_line

if TYPE_CHECKING:
    from medgen.settings import Settings


def plan(
    cohort: Annotated[Path, typer.Argument(help="Cohort folder, or datalist JSON.")],
    out: Annotated[Path, typer.Option(help="Config to write, such as plan.yaml.")],
    sources: Annotated[str, typer.Option(help="Comma-separated source contrasts, as data.sources.")] = "source",
    targets: Annotated[str, typer.Option(help="Comma-separated target contrasts, as data.targets.")] = "target",
    hours: Annotated[
        float | None, typer.Option(min=0.01, help="Time for training; default: the config's steps.")
    ] = None,
    folds: Annotated[
        int | None, typer.Option(min=2, help="Cross-validate: parts of the patients, and trainings; 5 is usual.")
    ] = None,
    gpu: Annotated[
        bool | None, typer.Option("--gpu/--cpu", help="Plan for a machine with or without GPU; default: this one.")
    ] = None,
    memory_gb: Annotated[
        float | None, typer.Option(min=0.1, help="Its memory, of the GPU if it has one; default: of this machine.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Look at a cohort and write a config for it, with the reason for each choice as a comment."""
    from medgen.io.atomic import write_text
    from medgen.io.claim import claimed_file
    from medgen.training.plan import look
    from medgen.training.plan import plan as planned
    from medgen.training.plan_size import this_machine

    if out.suffix.lower() not in (".yaml", ".yml"):
        raise InputError("plan-name", f"{out} is not the name of a config; end it in .yaml")
    facts = look(cohort, names_of(sources, "--sources"), names_of(targets, "--targets"))
    with claimed_file(out, overwrite=overwrite):
        write_text(out, planned(facts, hours, folds=folds, machine=this_machine(gpu, memory_gb)))
    add_result(plan=out, found=facts)
    for line in facts.lines():
        print_line(line)
    print_line(f"plan: {out}; train with: medgen train {out} --out RUN")


def settings_for(
    overrides: Sequence[str], earlier: Path | None, *, hours: float | None = None, folds: int | None = None
) -> "Settings":
    """Settings planned for the cohort that the overrides name, and changed by the other overrides.

    Args:
        overrides: section.key=value; data.root is required.
        hours, folds: see `medgen.training.plan.plan`.
        earlier: config of the run that is resumed, which is used as it is if it exists.

    Raises:
        InputError: no data.root, or an error of the plan.
    """
    from medgen.config import load_settings
    from medgen.training.plan import look
    from medgen.training.plan import plan as planned

    if earlier is not None and earlier.is_file():
        return load_settings(earlier, list(overrides))
    given = dict(text.partition("=")[::2] for text in overrides)
    if not given.get("data.root"):
        raise InputError("plan-without-root", "medgen train auto needs the cohort: data.root=COHORT")
    contrasts = [
        names_of(given.get(f"data.{side}", side.removesuffix("s")).strip("[]"), f"data.{side}")
        for side in ("sources", "targets")
    ]
    facts = look(Path(given["data.root"]), *contrasts)
    for line in facts.lines():
        print_line(line)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "plan.yaml"
        file.write_text(text := planned(facts, hours, folds=folds), encoding="utf-8")
        for line in text[text.index("data:") :].splitlines():
            print_line(line)
        return load_settings(file, list(overrides))
