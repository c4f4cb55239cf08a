"""One case of a report: its findings, each with its place marked, and pictures that open at the first of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medgen.reports.gaps import Gaps
from medgen.reports.images.case_images import Scene
from medgen.reports.images.figures import draw
from medgen.reports.images.stacks import Stack, stacks

Places = Mapping[int, Mapping[str, Sequence[float]]]  # {number of a finding: {"low", "high"} in mm, RAS}
MOST_MARKS = 9


@dataclass(frozen=True)
class Finding:
    """A reason against a case. ``number``: of its mark, None where it has no single place, which is ``place``."""

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
    still: bool = False,
) -> dict[str, Any]:
    """What the template's macros show of a case; what cannot be made is empty, and a line of ``gaps``.

    Args:
        checked: of each system (its name, or "" for the only one) {"status", "reasons", "findings"}, see
            `medgen.qa.run.judge`.
        make: the scene with these places marked.
        viewer: slices to move through, of `medgen.reports.images.stacks`.
        still: a picture that does not move, of `medgen.reports.images.figures`.
    """
    found = gaps.attempt("Findings", lambda: findings(checked), [], case)
    item: dict[str, Any] = {"case": case, "findings": found, "stacks": None, "picture": None, "jumps": {}}
    before = len(gaps.lines)
    places = {of.number: of.place for of in found if of.number is not None and of.place is not None}
    scene = gaps.attempt("Picture", lambda: make(places), None, case)
    if scene is not None:
        item |= {"window": scene.window, "limit": scene.limit, "hu": any(column.hu for column in scene.columns)}
        if viewer:
            item["stacks"] = gaps.attempt("Slices", lambda: stacks(scene), None, case)
            item["jumps"] = _jumps(item["stacks"] or [])
        if still:
            item["picture"] = gaps.attempt("Picture", lambda: draw(scene), None, case)
    return item | {"error": " ".join(gaps.lines[before:])}


def findings(checked: Sequence[tuple[str, Mapping[str, Any]]]) -> list[Finding]:
    """The reasons of all systems, fails first, those with a place numbered in this order."""
    found = []
    for name, of in checked:
        known = {one["text"]: one for one in of.get("findings") or []}
        for text in map(str, of.get("reasons") or []):
            status, place = (known.get(text, {}).get(key) for key in ("status", "place"))
            found.append(Finding(None, str(status or of.get("status")), f"{name}: {text}" if name else text, place))
    found.sort(key=lambda one: one.status != "fail")
    placed = [one for one in found if one.place][:MOST_MARKS]
    return [Finding(placed.index(one) + 1 if one in placed else None, one.status, one.text, one.place) for one in found]


def _jumps(planes: Sequence[Stack]) -> dict[int, str]:
    """{number of a finding: the slice of each plane that shows it}, of the first the slices shown at first."""
    jumps: dict[int, list[int]] = {}
    for plane in planes:
        for n, mark in enumerate(plane.marks):
            middle = int(mark["first"] + mark["last"]) // 2
            jumps.setdefault(int(mark["number"]), []).append(middle if n else plane.start)
    return {number: ",".join(map(str, slices)) for number, slices in jumps.items()}
