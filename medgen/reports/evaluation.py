"""Evaluation folders → one self-contained HTML page and the same as PDF; several systems side by side."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from medgen.reports import further, sections, verdict
from medgen.reports.comparisons import compare
from medgen.reports.figures import draw
from medgen.reports.measures import HEADLINE, measure, worst_by
from medgen.reports.pages import render, save_page
from medgen.reports.pdf import missing, write_pdf
from medgen.reports.plots import bland_altman
from medgen.reports.results import System, read_systems
from medgen.reports.scene import Scene, case_scene, volume_scene
from medgen.reports.slices import PLANES
from medgen.reports.stacks import frame, stacks
from medgen.reports.tables import number
from medgen.types import InputError

MOST_FIGURES = 4  # about 2 MB each: the page stays a mail attachment
MOST_SYSTEMS = 3  # in one picture
MOST_PAIRS = 3  # of a synthetic volume and its nearest training volume
CSV = "text/csv"
FILES = {"cases.csv": CSV, "regions.csv": CSV, "segmentation.csv": CSV, "summary.json": "application/json"}


def write_report(
    folders: Sequence[Path],
    out_html: Path,
    *,
    pdf: bool = True,
    title: str = "Evaluation of converted scans",
    names: Sequence[str] | None = None,
    notes: Sequence[str] = (),
    warnings: Sequence[str] = (),
    comparisons: Sequence[Mapping[str, Any]] | None = None,
    most_figures: int = MOST_FIGURES,
    say: Callable[[str], None] = print,
) -> Path:
    """Write the report of one or more evaluated systems; pictures are made from the case files, one at a time.

    Args:
        folders: what `medgen.evaluation.evaluate.evaluate` wrote, a folder a system.
        out_html: the file to write; one file, no network needed to show it. The PDF gets its name with .pdf.
        pdf: print the page too, where WeasyPrint and Pango are installed; else ``say`` a line that it is missing.
        names: what each system is called; by default the folder it converted into.
        notes: paragraphs put below the verdict.
        warnings: shown in red above the evaluations' own warnings.
        comparisons: rows of tests between systems, with the keys metric, a, b, n, mean_difference, interval, p,
            p_holm, effect, wins, ties, losses; None: those of `comparisons.compare`.
        most_figures: cases with a picture: the worst, then the median and the best one.

    Returns ``out_html``. Raises `InputError` for a folder that is no evaluation, or if ``out_html`` cannot be
    written; a case whose files have gone since gets a sentence in place of its picture.
    """
    systems = read_systems(folders, names)
    context = {
        "title": title,
        "now": datetime.now(UTC),
        "systems": systems,
        "notes": list(notes),
        "warnings": [*warnings, *verdict.differences(systems), *verdict.warned(systems)],
        "comparisons": further.comparisons(compare(systems) if comparisons is None else comparisons, systems),
        **_tables(systems),
        "pairs": _pairs(systems),
        "figures": [
            _figure(case, why, systems, pdf) for case, why in _chosen(sections.ranked_cases(systems), most_figures)
        ],
        "downloads": [(system, _downloads(system)) for system in systems],
    }
    out_html = save_page(render("evaluation.html.j2", **context), Path(out_html))
    if pdf:
        _print(context, out_html.with_suffix(".pdf"), say)
    return out_html


def _tables(systems: Sequence[System]) -> dict[str, Any]:
    """The parts of the page that are words and numbers, by their name in the template."""
    return {
        "verdicts": verdict.verdicts(systems),
        "subject": verdict.subject(systems),
        "main": sections.main_numbers(systems),
        "failures": verdict.refused(systems),
        "regions": sections.regions(systems),
        "cases": sections.cases(systems),
        "worst_by": measure(worst_by(systems[0]), systems[0]).label if worst_by(systems[0]) else "",
        "all_measures": sections.all_measures(systems),
        "agreement": further.agreement(systems),
        "plots": bland_altman(systems),
        "structure": further.structure(systems),
        "segmentation": further.segmentation(systems),
        "segmentation_cases": further.segmentation_cases(systems),
        "downstream": further.downstream(systems),
        "distribution": further.distribution(systems),
        "memorisation": further.memorisation(systems),
        "settings": verdict.settings(systems),
    }


def _print(context: Mapping[str, Any], out: Path, say: Callable[[str], None]) -> None:
    """The PDF, or a sentence why there is none; an older one would contradict the page and is removed."""
    if reason := missing():
        out.unlink(missing_ok=True)
        say(f"no PDF of the report: {reason}")
    else:
        write_pdf(render("evaluation.html.j2", static=True, **context), out)


def _chosen(cases: Sequence[str], most: int) -> list[tuple[str, str]]:
    """The cases to picture, worst first: all if few, else the worst, the median and the best."""
    count = len(cases)
    if count <= most:
        return [(case, _rank(index, count)) for index, case in enumerate(cases)]
    extra = [count // 2, count - 1] if most > 2 else []
    return [(cases[index], _rank(index, count)) for index in [*range(most - len(extra)), *extra]]


def _rank(index: int, count: int) -> str:
    if count == 1:
        return "The only case"
    if index in (0, count - 1):
        return "Worst case" if index == 0 else "Best case"
    return "Median case" if index == count // 2 else f"Number {index + 1} of {count} from the worst"


def _figure(case: str, why: str, systems: Sequence[System], on_paper: bool) -> dict[str, Any]:
    found = [(system, one) for system in systems for one in system.cases if one.name == case]
    shown, rest = found[:MOST_SYSTEMS], found[MOST_SYSTEMS:]
    numbers = [_errors(system, one.metrics, len(systems) > 1) for system, one in shown]
    item: dict[str, Any] = {"case": case, "why": why, "numbers": [text for text in numbers if text], "error": None}
    item["beside"] = [system.name for system, _ in rest]
    try:
        scene = _scene({system.name: one.files for system, one in shown})
    except InputError as error:
        return item | {"error": str(error)}
    item |= {"window": scene.window, "limit": scene.limit, "stacks": stacks(scene)}
    return item | {"picture": draw(scene) if on_paper else None}


def _scene(files: Mapping[str, Mapping[str, Path]]) -> Scene:
    if gone := [name for name, roles in files.items() if "prediction" not in roles]:
        raise InputError(f"the results of {gone[0]} do not say where the images are")
    first = next(iter(files.values()))
    if len(files) == 1:
        return case_scene(first)
    return case_scene(first, {name: roles["prediction"] for name, roles in files.items()})


def _errors(system: System, metrics: Mapping[str, float], several: bool) -> str:
    """The errors of a case in a line."""
    parts = []
    for name in HEADLINE:
        if name.endswith("mae") and name in metrics:
            of, source = measure(name, system), metrics.get(f"source_{name}")
            text = f"{of.label} {number(metrics[name], of.digits)} {of.unit}".strip()
            parts.append(text + (f" (source {number(source, of.digits)})" if source is not None else ""))
    return (f"{system.name}: " if several and parts else "") + "; ".join(parts)


def _pairs(systems: Sequence[System]) -> list[dict[str, Any]]:
    """The synthetic volumes nearest to a training volume, where the summary says where both files are."""
    closest = [
        of for system in systems for of in system.section("memorisation").get("closest") or [] if of.get("files")
    ]
    return [of | {"panels": panels} for of in closest[:MOST_PAIRS] if (panels := _panels(of["files"]))]


def _panels(files: Mapping[str, str]) -> list[tuple[str, bytes]]:
    """(caption, JPEG) of the middle slices of both volumes; empty if one cannot be read any more."""
    panels = []
    for role in ("synthetic", "training"):
        try:
            scene = volume_scene(Path(files[role]))
        except (InputError, KeyError):
            return []
        for plane in PLANES:
            width = plane.size(scene.view, scene.grid.spacing)[0]
            panels.append((f"{role}, {plane.name}", frame(scene.columns[0], plane, scene.at, scene, 200 / width)))
    return panels


def _downloads(system: System) -> list[tuple[str, bytes, str]]:
    """(name, content, media type) of the files with all numbers, to be saved from the page."""
    found = [(name, system.folder / name, kind) for name, kind in FILES.items()]
    return [(name, path.read_bytes(), kind) for name, path, kind in found if path.is_file()]
