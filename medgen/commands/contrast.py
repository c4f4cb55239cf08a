"""``medgen simulate-contrast``: contrast CT with known truth from non-contrast CT and label maps."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medgen.commands.json_output import add_result
from medgen.commands.progress import case_bar
from medgen.commands.shared import Overwrite, finish, interruptible, kept_in
from medgen.errors import InputError
from medgen.io.names import print_line

if TYPE_CHECKING:
    from medgen.contrast.cohort import Simulated

ALL_PHASES = "arterial,portal_venous,late"


def simulate_contrast(
    images: Annotated[
        Path, typer.Argument(help="A CT in HU without contrast medium (--reverse: with), or a folder of them.")
    ],
    labels: Annotated[Path, typer.Argument(help="Its label map, or a folder of label maps with the same names.")],
    out: Annotated[Path, typer.Argument(help="Cohort folder to write, for data.root.")],
    phase: Annotated[
        str | None,
        typer.Option(help="Comma-separated phases: arterial, portal_venous, late; default: all of them."),
    ] = None,
    label_table: Annotated[
        str | None,
        typer.Option(
            help="Names of the label values: a JSON file, dataset.json, or totalsegmentator (its numbers in version "
            "2); default: the table in the file, or labels.json or dataset.json beside it."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Random seed of dose, timing and mixing.")] = 0,
    excreted: Annotated[bool, typer.Option("--excreted", help="Dense urine in kidneys and bladder.")] = False,
    oral: Annotated[
        bool, typer.Option("--oral", help="Oral contrast medium in stomach and bowel, in source and target.")
    ] = False,
    reverse: Annotated[
        bool,
        typer.Option(
            "--reverse",
            help="IMAGES are CTs with contrast medium: lower the labelled structures to their usual HU "
            "without it, and write pairs of each CT and this twin.",
        ),
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """Make training pairs of CT and its label map: contrast phases simulated on a scan without contrast medium, whose
    truth is the scan itself; or with --reverse the unenhanced twin of a contrast CT."""
    from medgen.contrast.cohort import simulate_cohort

    if reverse and (excreted or oral or phase is not None):
        raise InputError(
            "option-reverse-conflict", "--phase, --excreted and --oral add contrast medium; omit them with --reverse"
        )
    phases = _phases(ALL_PHASES if phase is None else phase)
    if not phases:
        raise InputError("phase-unknown", "--phase names no phase; give arterial, portal_venous or late")

    def show(result: "Simulated", number: int, total: int) -> None:
        _print_case(result, number, total)
        bar(number, total)

    with interruptible(kept_in(out)), case_bar("simulating") as bar:
        results = simulate_cohort(
            images,
            labels,
            out,
            phases=phases,
            table=label_table,
            seed=seed,
            excreted=excreted,
            oral=oral,
            reverse=reverse,
            overwrite=overwrite,
            done=show,
            warn=lambda text: print_line(f"warning: {text}"),
        )
    add_result(cases=results)
    if enhanced := sorted({name for result in results for name in result.enhanced}):
        print_line(f"labels recognised, with their tissue: {', '.join(enhanced)}")
    if unchanged := sorted({name for result in results for name in result.unchanged}):
        print_line(
            f"labels left unchanged, because they take up no contrast medium or are not known: {', '.join(unchanged)}"
        )
    finish([f"{result.case}: {result.error}" for result in results if result.error], len(results))


def _phases(text: str) -> list[str]:
    """Phases in the order given, each once; case, spaces and hyphens in their names do not matter."""
    names = (name.strip().lower().replace(" ", "_").replace("-", "_") for name in text.split(","))
    return list(dict.fromkeys(name for name in names if name))


def _print_case(result: "Simulated", number: int, total: int) -> None:
    print_line(
        f"[{number}/{total}] {result.case}: {result.error or ', '.join(result.phases) or _twin(result.unknown or {})}"
    )
    for warning in result.warnings:
        print_line(f"  warning: {warning}")


def _twin(record: dict[str, Any]) -> str:
    """What is not known of an unenhanced twin."""
    said = [f"twin of {len(record['removed'])} structures"]
    for key, text in (("unchanged", "unchanged"), ("assumed", "lesions with an assumed HU")):
        if record[key]:
            said.append(f"{text}: {', '.join(record[key])}")
    said.append(f"{record['unlabelled_bright_ml']:g} ml of bright soft tissue without a label stay as they are")
    return "; ".join(said)
