"""Evaluation folders → one self-contained HTML page and the same as PDF; several systems side by side."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from medgen.errors import InputError
from medgen.evaluation.metrics.catalogue import headline
from medgen.io.claim import remove
from medgen.reports import overview as verdict
from medgen.reports import section_tables as further
from medgen.reports import sections
from medgen.reports.case_items import Places, case_item
from medgen.reports.comparisons import compare
from medgen.reports.gaps import Gaps
from medgen.reports.images.case_images import Scene, case_scene, volume_scene
from medgen.reports.images.plots import bland_altman
from medgen.reports.images.slices import PLANES
from medgen.reports.images.stacks import frame
from medgen.reports.images.windows import filters
from medgen.reports.metric_display import measure, worst_by
from medgen.reports.pages import render, save_page
from medgen.reports.pdf import missing, write_pdf
from medgen.reports.results import System, read_systems
from medgen.reports.tables import number

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
    written. A section, a picture or a PDF that cannot be made is a line in the report, see `medgen.reports.gaps`.
    """
    systems, gaps = read_systems(folders, names), Gaps()
    gaps.lines += [
        f"{one.name}: {part}: cannot be shown: {why}" for one in systems for part, why in one.damaged.items()
    ]
    found = {"comparisons": comparisons} if comparisons is not None else {}
    context = {
        "title": title,
        "now": datetime.now(UTC),
        "unit": systems[0].unit,
        "counts": [(system.name, len(system.cases), len(system.summary.failures)) for system in systems],
        "notes": list(notes),
        "warnings": [*warnings, *gaps.attempt("Warnings", lambda: _warnings(systems), [])],
        "comparisons": gaps.attempt("Paired comparison", lambda: _comparisons(systems, **found), None),
        **{key: gaps.attempt(of.title, partial(of.make, systems), of.empty) for key, of in SECTIONS.items()},
        "pairs": _pairs(systems, gaps),
        "figures": gaps.attempt("Pictures", lambda: _figures(systems, most_figures, pdf, gaps), []),
        "downloads": [(system.name, _downloads(system, gaps)) for system in systems],
        "windows": filters(),
        "gaps": gaps.lines,
    }
    out_html = Path(out_html)
    if pdf:
        gaps.attempt("PDF", lambda: _print(context, out_html.with_suffix(".pdf"), say), None)
    return save_page(render("evaluation.html.j2", **context), out_html)


@dataclass(frozen=True)
class Section:
    """A part of the page: its title, what makes it of the systems, and what stands in its place where that fails."""

    title: str
    make: Callable[[Sequence[System]], Any]
    empty: Any = None


SECTIONS = {  # by their name in the template
    "verdicts": Section("Verdict", verdict.verdicts, []),
    "subject": Section("Study data", verdict.subject),
    "main": Section("Main numbers", sections.main_numbers),
    "failures": Section("Not measured", verdict.refused, []),
    "regions": Section("Mean by region", sections.regions),
    "cases": Section("Cases", sections.cases),
    "worst_by": Section("Order of the cases", lambda systems: _worst_by(systems[0]), ""),
    "all_measures": Section("All measures", sections.all_measures),
    "agreement": Section("Agreement with the truth", further.agreement),
    "plots": Section("Bland–Altman plots", bland_altman, []),
    "structure": Section("Structure and safety", further.structure),
    "segmentation": Section("Segmentation", further.segmentation),
    "segmentation_cases": Section("Segmentation of each case", further.segmentation_cases),
    "downstream": Section("Downstream segmentation", further.downstream),
    "distribution": Section("Distribution metrics (FID, KID)", further.distribution),
    "copies": Section("Memorisation", further.copies, []),
    "memorisation": Section("Closest pairs", further.memorisation),
    "settings": Section("How this was measured", verdict.settings),
}


def _worst_by(system: System) -> str:
    return measure(worst_by(system), system).label if worst_by(system) else ""


def _warnings(systems: Sequence[System]) -> list[str]:
    return [*verdict.differences(systems), *verdict.warned(systems)]


def _comparisons(systems: Sequence[System], comparisons: Sequence[Mapping[str, Any]] | None = None) -> Any:
    return further.comparisons(compare(systems) if comparisons is None else comparisons, systems)


def _print(context: Mapping[str, Any], out: Path, say: Callable[[str], None]) -> None:
    """The PDF, or a sentence why there is none; an older one would contradict the page and is removed."""
    remove(out)
    if reason := missing():
        say(f"no PDF of the report: {reason}")
    else:
        write_pdf(render("evaluation.html.j2", static=True, **context), out)


def _figures(systems: Sequence[System], most: int, on_paper: bool, gaps: Gaps) -> list[dict[str, Any]]:
    chosen = _chosen(sections.ranked_cases(systems), most)
    return [_figure(case, why, systems, on_paper, gaps) for case, why in chosen]


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


def _figure(case: str, why: str, systems: Sequence[System], on_paper: bool, gaps: Gaps) -> dict[str, Any]:
    several = len(systems) > 1
    found = [(system, one) for system in systems for one in system.cases if one.name == case]
    shown, rest = found[:MOST_SYSTEMS], found[MOST_SYSTEMS:]
    checked = [(system.name if several else "", _checked(system, case)) for system, _ in shown]
    files = {system.name: one.files for system, one in shown}
    status = min((sections.statuses(system).get(case, "") for system, _ in found), key=_rank_of, default="")
    errors = gaps.attempt("Errors", lambda: [_errors(system, one.metrics, several) for system, one in shown], [], case)
    item = {"why": why, "numbers": [*filter(None, errors)], "beside": [s.name for s, _ in rest], "status": status}
    return item | case_item(case, checked, lambda places: _scene(files, places), gaps, still=on_paper)


def _rank_of(status: str) -> int:
    return sections.RANKS.get(status, len(sections.RANKS))


def _checked(system: System, case: str) -> Mapping[str, Any]:
    """The row of the structure check for a case; empty without any."""
    found = next((row for row in system.summary.structure.cases if row.case == case), None)
    return {} if found is None else found.model_dump()


def _scene(files: Mapping[str, Mapping[str, Path]], places: Places) -> Scene:
    if gone := [name for name, roles in files.items() if "prediction" not in roles]:
        raise InputError("report-images-unknown", f"the results of {gone[0]} do not say where the images are")
    first = next(iter(files.values()))
    several = {name: roles["prediction"] for name, roles in files.items()} if len(files) > 1 else None
    return case_scene(first, several, places)


def _errors(system: System, metrics: Mapping[str, float], several: bool) -> str:
    """The errors of a case in a line."""
    parts = []
    for name in headline():
        if name.endswith("mae") and name in metrics:
            of, source = measure(name, system), metrics.get(f"source_{name}")
            text = f"{of.label} {number(metrics[name], of.digits)} {of.unit}".strip()
            parts.append(text + (f" (source {number(source, of.digits)})" if source is not None else ""))
    return (f"{system.name}: " if several and parts else "") + "; ".join(parts)


def _pairs(systems: Sequence[System], gaps: Gaps) -> list[dict[str, Any]]:
    """The synthetic volumes nearest to a training volume, where the summary says where both files are."""

    tested = [system.summary.memorisation for system in systems if system.summary.memorisation is not None]
    closest = [pair for of in tested for pair in of.closest if pair.files][:MOST_PAIRS]
    made = []
    for of in closest:
        names = [of.synthetic, of.training]
        panels = gaps.attempt("Picture", partial(_panels, of.files), [], " and ".join(names))
        made.append({"names": names, "panels": panels})
    return [pair for pair in made if pair["panels"]]


def _panels(files: Mapping[str, Path]) -> list[tuple[str, bytes]]:
    """(caption, JPEG) of the middle slices of both volumes."""
    panels = []
    for role in ("synthetic", "training"):
        scene = volume_scene(files[role])
        for plane in PLANES:
            width = plane.size(scene.view, scene.grid.spacing)[0]
            panels.append((f"{role}, {plane.name}", frame(scene.columns[0], plane, scene.at, scene, 200 / width)))
    return panels


def _downloads(system: System, gaps: Gaps) -> list[tuple[str, bytes, str]]:
    """(name, content, media type) of the files with all numbers, to be saved from the page."""
    found = [(name, system.folder / name, kind) for name, kind in FILES.items()]

    def content() -> list[tuple[str, bytes, str]]:
        return [(name, path.read_bytes(), kind) for name, path, kind in found if path.is_file()]

    return gaps.attempt("Files to save", content, [], system.name)
