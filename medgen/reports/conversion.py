"""HTML report on conversions without truth: what changed, where, and which warnings there are."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from medgen.io.read import read_geometry
from medgen.io.volume import same_geometry
from medgen.reports.case_items import case_item
from medgen.reports.gaps import Gaps
from medgen.reports.images.case_images import conversion_scene
from medgen.reports.images.windows import filters
from medgen.reports.pages import write_page

MOST_FIGURES = 20
MOST_VIEWERS = 3  # at most 3.6 MB per case


def conversion_report(
    rows: Sequence[Mapping[str, Any]],
    out_html: Path,
    *,
    title: str = "Converted scans",
    notes: Sequence[str] = (),
    warnings: Sequence[str] = (),
    most_figures: int = MOST_FIGURES,
) -> Path:
    """Write a self-contained page with input, output and their difference for each converted case.

    Args:
        rows: one mapping per case with ``case`` (name), ``input`` and ``output`` (paths), ``warnings`` (sentences,
            such as "outside the training distribution: ..."), ``seconds``, ``error`` (None, or the reason why it was
            not converted); for DICOM ``picked`` or ``series`` (the series of the input); if checked, ``verdict``
            (pass, review, fail) with ``reasons`` and optionally ``findings`` with their locations
            (`medgen.qa.run.judge`).
        out_html: the file to write.
        notes, warnings: sentences about all cases; warnings are shown in red at the top.
        most_figures: maximum number of cases with a picture. Failed cases, then worse verdicts, then cases with
            warnings come first; the first `MOST_VIEWERS` have an interactive slice viewer.

    Returns ``out_html``. Raises `InputError` if it cannot be written. A picture that cannot be made is listed as a line
    in the report.
    """
    items, gaps = sorted((_item(row) for row in rows), key=_urgency), Gaps()
    converted = [item for item in items if not item["failed"]]
    for n, item in enumerate(converted[:most_figures]):
        item |= _shown(item, gaps, viewer=n < MOST_VIEWERS)
    alarms: dict[str, list[str]] = {}
    for item in converted:
        for text in item["warnings"]:
            alarms.setdefault(text, []).append(item["case"])
    return write_page(
        "conversion.html.j2",
        out_html,
        title=title,
        now=datetime.now(UTC),
        notes=list(notes),
        warnings=list(warnings),
        alarms=list(alarms.items()),
        items=items,
        done=len(converted),
        failed=len(items) - len(converted),
        verdicts=Counter(item["verdict"] for item in converted if item["verdict"]),
        hidden=max(0, len(converted) - most_figures),
        windows=filters(),
        gaps=gaps.lines,
    )


def _urgency(item: Mapping[str, Any]) -> tuple[bool, int, bool]:
    verdicts = ("fail", "review", None, "pass")
    return not item["failed"], verdicts.index(item["verdict"]), not item["warnings"]


def _item(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "case": str(row["case"]),
        "input": row["input"],
        "output": row["output"],
        "series": row.get("picked") or row.get("series"),
        "warnings": [str(text) for text in row.get("warnings") or ()],
        "verdict": row.get("verdict"),
        "reasons": [str(text) for text in row.get("reasons") or ()],
        "places": row.get("findings") or [],
        "seconds": row.get("seconds"),
        "failed": row.get("error"),
        "shown": False,
    }


def _shown(item: Mapping[str, Any], gaps: Gaps, *, viewer: bool) -> dict[str, Any]:
    """Return the geometry line, the findings and the picture of a case; a part that fails adds a line to ``gaps``."""
    input_path, output_path = Path(item["input"]), Path(item["output"])
    checked = {"status": item["verdict"], "reasons": item["reasons"], "findings": item["places"]}
    shown = case_item(
        item["case"],
        [("", checked)],
        lambda places: conversion_scene(input_path, output_path, places, item["series"]),
        gaps,
        viewer=viewer,
        static_picture=not viewer,
    )
    return shown | {
        "shown": True,
        "geometry": gaps.attempt("Grid", lambda: _geometry(input_path, output_path, item["series"]), "", item["case"]),
    }


def _geometry(input_path: Path, output_path: Path, series: str | None) -> str:
    input_geometry, output_geometry = read_geometry(input_path, series=series), read_geometry(output_path)
    same = (
        "identical in input and output"
        if same_geometry(input_geometry, output_geometry)
        else f"input {input_geometry.describe()}"
    )
    return f"{output_geometry.describe()} ({same})"
