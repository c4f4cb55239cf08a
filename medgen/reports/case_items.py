"""One case of a report: its findings with their marked locations, and pictures that start at the first finding."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medgen.reports.gaps import Gaps
from medgen.reports.images.case_images import Scene
from medgen.reports.images.figures import draw
from medgen.reports.images.stacks import Stack, stacks
from medgen.reports.images.volumes import volumes

Places = Mapping[int, Mapping[str, Sequence[float]]]  # {finding number: {"low", "high"} corners in mm, RAS}
MOST_MARKS = 9


@dataclass(frozen=True)
class Finding:
    """A reason why a case did not pass. ``number``: of its mark in the pictures; None if it has no ``place``."""

    number: int | None
    status: str
    text: str
    place: Mapping[str, Sequence[float]] | None


def case_item(
    case: str,
    checked: Sequence[tuple[str, Mapping[str, Any]]],
    make: Callable[[Places], Scene],
    gaps: Gaps,
    *,
    viewer: bool = True,
    static_picture: bool = False,
) -> dict[str, Any]:
    """Return the data of a case for the template's macros; a part that fails is empty and adds a line to ``gaps``.

    Args:
        checked: for each system its name ("" if it is the only one) and {"status", "reasons", "findings"}, see
            `medgen.qa.run.judge`.
        make: returns the scene with the given locations marked.
        viewer: add volumes and slices for the interactive viewer, see `medgen.reports.images.volumes` and
            `medgen.reports.images.stacks`.
        static_picture: add a static picture, see `medgen.reports.images.figures`.
    """
    found = gaps.attempt("Findings", lambda: findings(checked), [], case)
    item: dict[str, Any] = {"case": case, "findings": found, "stacks": None, "picture": None, "jumps": {}}
    item["volumes"] = None
    before = len(gaps.lines)
    places = {entry.number: entry.place for entry in found if entry.number is not None and entry.place is not None}
    scene = gaps.attempt("Picture", lambda: make(places), None, case)
    if scene is not None:
        item |= {"window": scene.window, "limit": scene.limit, "hu": any(column.hu for column in scene.columns)}
        if viewer:
            item["stacks"] = gaps.attempt("Slices", lambda: stacks(scene), None, case)
            item["jumps"] = _jumps(item["stacks"] or [])
            item["volumes"] = gaps.attempt("Linked planes", lambda: volumes(scene), None, case)
        if static_picture:
            item["picture"] = gaps.attempt("Picture", lambda: draw(scene), None, case)
    return item | {"error": " ".join(gaps.lines[before:])}


def findings(checked: Sequence[tuple[str, Mapping[str, Any]]]) -> list[Finding]:
    """Return the findings of all systems, fails first; those with a location are numbered in this order."""
    found = []
    for name, entry in checked:
        known = {finding["text"]: finding for finding in entry.get("findings") or []}
        for text in map(str, entry.get("reasons") or []):
            status, place = (known.get(text, {}).get(key) for key in ("status", "place"))
            found.append(Finding(None, str(status or entry.get("status")), f"{name}: {text}" if name else text, place))
    found.sort(key=lambda finding: finding.status != "fail")
    placed = [finding for finding in found if finding.place][:MOST_MARKS]
    return [
        Finding(placed.index(finding) + 1 if finding in placed else None, finding.status, finding.text, finding.place)
        for finding in found
    ]


def _jumps(planes: Sequence[Stack]) -> dict[int, str]:
    """Return {finding number: comma-separated slice index in each plane}; for the first finding the start slices."""
    jumps: dict[int, list[int]] = {}
    for plane in planes:
        for n, mark in enumerate(plane.marks):
            middle = int(mark["first"] + mark["last"]) // 2
            jumps.setdefault(int(mark["number"]), []).append(middle if n else plane.start)
    return {number: ",".join(map(str, slices)) for number, slices in jumps.items()}
