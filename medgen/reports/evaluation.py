"""Evaluation report: one self-contained HTML page and the same as PDF, for one system or several side by side."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from medgen.errors import InputError
from medgen.evaluation.metrics.catalogue import headline
from medgen.io.claim import remove
from medgen.reports import overview, section_tables, sections
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

MOST_FIGURES = 4  # at most 3.6 MB each, so that the page can be sent by e-mail
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
    """Write the report of one or more evaluated systems. Pictures are made from the image files, one case at a time.

    Args:
        folders: one output folder of `medgen.evaluation.evaluate.evaluate` per system.
        out_html: the file to write; it can be shown without a network. The PDF has the same name with .pdf.
        pdf: also write a PDF. If WeasyPrint or Pango is missing, ``say`` is called with a message instead.
        title: heading of the report.
        names: display name of each system; by default the name of its folder of converted images.
        notes: paragraphs shown below the study data.
        warnings: shown in red above the warnings of the evaluations.
        comparisons: rows of tests between systems, with the keys metric, a, b, n, mean_difference, interval, p,
            p_holm, effect, wins, ties, losses; None: those of `comparisons.compare`.
        most_figures: maximum number of cases with a picture: the worst ones, the median and the best.
        say: called with messages for the user.

    Returns ``out_html``. Raises `InputError` if a folder has no evaluation or ``out_html`` cannot be written. A
    section, picture or PDF that cannot be made is listed as a line in the report, see `medgen.reports.gaps`.
    """
    systems, gaps = read_systems(folders, names), Gaps()
    gaps.lines += [
        f"{case_numbers.name}: {part}: cannot be shown: {why}"
        for case_numbers in systems
        for part, why in case_numbers.damaged.items()
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
        **{
            key: gaps.attempt(entry.title, partial(entry.make, systems), entry.empty) for key, entry in SECTIONS.items()
        },
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
    """A section of the page: its title, the function that makes it, and the value to use if that fails."""

    title: str
    make: Callable[[Sequence[System]], Any]
    empty: Any = None


SECTIONS = {  # by name in the template
    "verdicts": Section("Verdict", overview.verdicts, []),
    "subject": Section("Study data", overview.subject),
    "main": Section("Main metrics", sections.main_numbers),
    "failures": Section("Cases not evaluated", overview.refused, []),
    "regions": Section("Mean by region", sections.regions),
    "cases": Section("Cases", sections.cases),
    "worst_by": Section("Order of the cases", lambda systems: _worst_by(systems[0]), ""),
    "all_measures": Section("All metrics", sections.all_measures),
    "agreement": Section("Agreement with the truth", section_tables.agreement),
    "plots": Section("Bland–Altman plots", bland_altman, []),
    "structure": Section("Structure and safety", section_tables.structure),
    "segmentation": Section("Segmentation", section_tables.segmentation),
    "segmentation_cases": Section("Segmentation per case", section_tables.segmentation_cases),
    "downstream": Section("Downstream segmentation", section_tables.downstream),
    "distribution": Section("Distribution metrics (FID, KID)", section_tables.distribution),
    "copies": Section("Memorisation", section_tables.copies, []),
    "memorisation": Section("Closest pairs", section_tables.memorisation),
    "settings": Section("Methods and settings", overview.settings),
}


def _worst_by(system: System) -> str:
    return measure(worst_by(system), system).label if worst_by(system) else ""


def _warnings(systems: Sequence[System]) -> list[str]:
    return [*overview.differences(systems), *overview.changed_files(systems), *overview.warned(systems)]


def _comparisons(systems: Sequence[System], comparisons: Sequence[Mapping[str, Any]] | None = None) -> Any:
    return section_tables.comparisons(compare(systems) if comparisons is None else comparisons, systems)


def _print(context: Mapping[str, Any], out: Path, say: Callable[[str], None]) -> None:
    """Write the PDF or report why it is missing. An older PDF is removed first, because it would not match the page."""
    remove(out)
    if reason := missing():
        say(f"no PDF of the report: {reason}")
    else:
        write_pdf(render("evaluation.html.j2", static=True, **context), out)


def _figures(systems: Sequence[System], most: int, printable: bool, gaps: Gaps) -> list[dict[str, Any]]:
    chosen = _chosen(sections.ranked_cases(systems), most)
    return [_figure(case, why, systems, printable, gaps) for case, why in chosen]


def _chosen(cases: Sequence[str], most: int) -> list[tuple[str, str]]:
    """Return up to ``most`` cases to picture, worst first; if not all fit, include the median and the best case."""
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
    return "Median case" if index == count // 2 else f"Rank {index + 1} of {count}, worst first"


def _figure(case: str, why: str, systems: Sequence[System], printable: bool, gaps: Gaps) -> dict[str, Any]:
    several = len(systems) > 1
    found = [(system, case_numbers) for system in systems for case_numbers in system.cases if case_numbers.name == case]
    shown = [entry for entry in found if _same_beside(entry[1].files, found[0][1].files)][:MOST_SYSTEMS]
    not_shown = [entry for entry in found if entry not in shown]
    checked = [(system.name if several else "", _checked(system, case)) for system, _ in shown]
    files = {system.name: case_numbers.files for system, case_numbers in shown}
    status = min((sections.statuses(system).get(case, "") for system, _ in found), key=_rank_of, default="")
    errors = gaps.attempt(
        "Errors", lambda: [_errors(system, case_numbers.metrics, several) for system, case_numbers in shown], [], case
    )
    item = {"why": why, "numbers": [*filter(None, errors)], "beside": [s.name for s, _ in not_shown], "status": status}
    return item | case_item(case, checked, lambda places: _scene(files, places), gaps, static_picture=printable)


def _same_beside(files: Mapping[str, Path], others: Mapping[str, Path]) -> bool:
    """Whether a picture can show two systems' outputs beside one input and one truth."""
    return all(files.get(role) == others.get(role) for role in ("source", "reference"))


def _rank_of(status: str) -> int:
    return sections.RANKS.get(status, len(sections.RANKS))


def _checked(system: System, case: str) -> Mapping[str, Any]:
    """Return the result of the structure check for a case; empty if there is none."""
    found = next((row for row in system.summary.structure.cases if row.case == case), None)
    return {} if found is None else found.model_dump()


def _scene(files: Mapping[str, Mapping[str, Path]], places: Places) -> Scene:
    if without_paths := [name for name, roles in files.items() if "prediction" not in roles]:
        raise InputError(
            "report-images-unknown", f"the results of {without_paths[0]} have no image paths; repeat the evaluation"
        )
    first = next(iter(files.values()))
    several = {name: roles["prediction"] for name, roles in files.items()} if len(files) > 1 else None
    return case_scene(first, several, places)


def _errors(system: System, metrics: Mapping[str, float], several: bool) -> str:
    """Return the errors of a case as one line of text."""
    parts = []
    for name in headline():
        if name.endswith("mae") and name in metrics:
            entry, source = measure(name, system), metrics.get(f"source_{name}")
            text = f"{entry.label} {number(metrics[name], entry.digits)} {entry.unit}".strip()
            parts.append(text + (f" (source {number(source, entry.digits)})" if source is not None else ""))
    return (f"{system.name}: " if several and parts else "") + "; ".join(parts)


def _pairs(systems: Sequence[System], gaps: Gaps) -> list[dict[str, Any]]:
    """Return the closest pairs of synthetic and training volumes for which the summary has both file paths."""

    tested = [system.summary.memorisation for system in systems if system.summary.memorisation is not None]
    closest = [pair for entry in tested for pair in entry.closest if pair.files][:MOST_PAIRS]
    made = []
    for entry in closest:
        names = [entry.synthetic, entry.training]
        panels = gaps.attempt("Picture", partial(_panels, entry.files), [], " and ".join(names))
        made.append({"names": names, "panels": panels})
    return [pair for pair in made if pair["panels"]]


def _panels(files: Mapping[str, Path]) -> list[tuple[str, bytes]]:
    """Return (caption, JPEG) of the middle slices of both volumes."""
    panels = []
    for role in ("synthetic", "training"):
        scene = volume_scene(files[role])
        for plane in PLANES:
            width = plane.size(scene.view, scene.grid.spacing)[0]
            panels.append((f"{role}, {plane.name}", frame(scene.columns[0], plane, scene.at, scene, 200 / width)))
    return panels


def _downloads(system: System, gaps: Gaps) -> list[tuple[str, bytes, str]]:
    """Return (name, content, media type) of the result files that can be downloaded from the page."""
    found = [(name, system.folder / name, kind) for name, kind in FILES.items()]

    def content() -> list[tuple[str, bytes, str]]:
        return [(name, path.read_bytes(), kind) for name, path, kind in found if path.is_file()]

    return gaps.attempt("Files to download", content, [], system.name)
