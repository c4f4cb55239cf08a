"""Conversions without truth as one self-contained HTML page: what changed, where, and what to be wary of."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from medgen.io.volume import read_geometry, same_geometry
from medgen.reports.figures import conversion_picture
from medgen.reports.pages import write_page
from medgen.types import InputError

MOST_FIGURES = 20


def conversion_report(
    rows: Sequence[Mapping[str, Any]],
    out_html: Path,
    *,
    title: str = "Converted scans",
    notes: Sequence[str] = (),
    warnings: Sequence[str] = (),
    most_figures: int = MOST_FIGURES,
) -> Path:
    """Write a page with input, output and their difference for each converted case.

    Args:
        rows: a mapping for each case: ``case`` (name), ``input`` and ``output`` (paths), ``warnings``
            (sentences, such as "outside the training distribution: ..."), ``seconds``, ``error`` (None or the
            sentence why it was not converted), and of those checked ``verdict`` (pass, review, fail) with ``reasons``.
        out_html: the file to write.
        notes, warnings: sentences about all cases; warnings are shown in red on top.
        most_figures: cases with a picture; failed ones, worse verdicts and those with warnings come first.

    Returns ``out_html``. Raises `InputError` if it cannot be written.
    """
    items = sorted((_item(row) for row in rows), key=_urgency)
    converted = [item for item in items if not item["error"]]
    for item in converted[:most_figures]:
        item |= _shown(item)
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
    )


def _urgency(item: Mapping[str, Any]) -> tuple[bool, int, bool]:
    verdicts = ("fail", "review", None, "pass")
    return not item["error"], verdicts.index(item["verdict"]), not item["warnings"]


def _item(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "case": str(row["case"]),
        "input": row["input"],
        "output": row["output"],
        "warnings": [str(text) for text in row.get("warnings") or ()],
        "verdict": row.get("verdict"),
        "reasons": [str(text) for text in row.get("reasons") or ()],
        "seconds": row.get("seconds"),
        "error": row.get("error"),
        "shown": False,
    }


def _shown(item: Mapping[str, Any]) -> dict[str, Any]:
    """Geometry line and picture of a case; a sentence in place of what cannot be read any more."""
    shown: dict[str, Any] = {"shown": True, "picture": None, "geometry": ""}
    try:
        before, after = read_geometry(item["input"]), read_geometry(item["output"])
        same = "identical in input and output" if same_geometry(before, after) else f"input {before.describe()}"
        shown["geometry"] = f"{after.describe()} ({same})"
        shown["picture"] = conversion_picture(Path(item["input"]), Path(item["output"]))
    except InputError as error:
        shown["picture_error"] = str(error)
    return shown
