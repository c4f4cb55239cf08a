"""Label maps under change keep their parts: what was one piece stays one, and what was hollow stays hollow.

A smooth deformation keeps the topology of every structure, but rounding to voxels does not: thin parts break, corners
come loose, narrow gaps close. Each connected part of a structure is therefore moved as an object of its own, and where
an object lost its form afterwards, it is repaired by the voxels that cost least: those of which it has the largest
share beside the winner.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from skimage.graph import MCP
from skimage.segmentation import watershed

FACES, CORNERS = ndimage.generate_binary_structure(3, 1), np.ones((3, 3, 3), bool)
MOST_PARTS = 32  # of a label that are objects of their own; smaller ones are taken for noise
MOST_CAVITIES = 16  # of an object; where there are more they are texture, not form
ROUNDS, JOINS = 5, 20  # at most, over the objects and over the parts of one
REACHES = (3, 8, 20)  # voxels around a part in which another is looked for
TAKEN, TOUCHED = 2.0, 10.0  # extra costs of a voxel of another object, of one beside another part of the same label
THICKER = (0.6, 0.7, 0.8, 0.9, 0.95, 0.99)  # costs up to which voxels are tried as parts of a wall that has holes

Box = tuple[slice, ...]
Cost = Callable[[int, Box], np.ndarray]  # object, part of the volume → what each voxel of it would cost, from 0 on


@dataclass(frozen=True)
class Form:
    """How many parts (voxels joined by corners; by faces) and cavities (closed to faces; even to corners) there are."""

    parts: int
    by_faces: int
    cavities: int
    tight: int


@dataclass(frozen=True)
class Objects:
    """``labels`` with a number for each object, ``value`` of each number; ``forms`` of the objects to be kept.

    ``joined``: the form of all kept objects together.
    """

    numbers: np.ndarray
    value: np.ndarray
    forms: dict[int, Form]
    joined: Form


def form_of(mask: np.ndarray) -> Form:
    """The form of a mask (X, Y, Z) bool; beyond the volume is outside."""
    hollow = np.pad(~mask, 1, constant_values=True)
    counts = [ndimage.label(v, s)[1] for v, s in ((mask, CORNERS), (mask, FACES), (hollow, FACES), (hollow, CORNERS))]
    return Form(counts[0], counts[1], counts[2] - 1, counts[3] - 1)


def objects_of(labels: np.ndarray, keep: Sequence[float]) -> Objects:
    """The connected parts of the values ``keep`` as objects, other values as they are."""
    values = np.unique(labels)
    numbers, value = np.searchsorted(values, labels).astype(np.int32), list(values)
    forms: dict[int, Form] = {}
    for k in keep:
        parts, _ = ndimage.label(labels == k, CORNERS)
        sizes = np.bincount(parts.ravel())
        sizes[0] = 0
        boxes = ndimage.find_objects(parts)
        for part in np.argsort(-sizes, kind="stable")[: min(MOST_PARTS, np.count_nonzero(sizes))].tolist():
            mask = parts[boxes[part - 1]] == part
            numbers[boxes[part - 1]][mask] = len(value)
            forms[len(value)] = form_of(mask)
            value.append(k)
    return Objects(numbers, np.asarray(value, labels.dtype), forms, form_of(np.isin(labels, list(keep))))


def objects_between(
    a: np.ndarray, b: np.ndarray, made: np.ndarray, values: np.ndarray, keep: Sequence[float]
) -> Objects:
    """The structures of a map between two, ``made`` of numbers of ``values``: no more parts than in one of the two.

    A structure that vanished between them stays so: what lies in two places has no place between.
    """
    forms: dict[int, Form] = {}
    for number, value in enumerate(values):
        if value in keep and (made == number).any():
            forms[number] = _limited(form_of(made == number), form_of(a == value), form_of(b == value))
    kept = list(forms)
    together = [form_of(np.isin(v, values[kept])) for v in (a, b)]
    return Objects(made, values, forms, _limited(form_of(np.isin(made, kept)), *together))


def _limited(form: Form, a: Form, b: Form) -> Form:
    """Parts up to those of a or b, cavities from the fewest to the most of the two."""
    low, high = ([pick(x, y) for x, y in ((a.cavities, b.cavities), (a.tight, b.tight))] for pick in (min, max))
    cavities, tight = np.clip((form.cavities, form.tight), low, high).tolist()
    return Form(max(a.parts, b.parts), max(a.by_faces, b.by_faces), cavities, tight)


def repaired(made: np.ndarray, objects: Objects, cost: Cost) -> tuple[np.ndarray, int]:
    """Numbers of objects (X, Y, Z) after a change, brought back to their forms; and how many parts are still loose."""
    made = made.copy()
    whole = tuple(slice(0, n) for n in made.shape)
    kept = list(objects.forms)
    loose = 0
    for n in range(ROUNDS):
        before, taken = made.copy(), TAKEN * 4**n  # else two objects take the same voxels of each other in turn
        boxes = ndimage.find_objects(made + 1, max_label=len(objects.value))
        for number, form in objects.forms.items():
            found = boxes[number]
            if found is None:
                _restore(made, number, cost, whole)
                continue
            box = _wider(found, made.shape)
            if n == 0:  # later it would undo what joins have led past a sibling
                _part_from_siblings(made, number, objects, box)
            _join(made, [number], form, objects, cost, box, taken)
            if n == 0:  # parts come before cavities
                _close(made, number, form, objects, cost, box)
        _join(made, kept, objects.joined, objects, cost, whole, taken)
        loose = _loose(made, objects)
        if not loose or np.array_equal(before, made):
            break
    return made, loose


def _loose(made: np.ndarray, objects: Objects) -> int:
    """How many parts there are beyond those of the forms, see ``_excess``."""
    excess = _excess(_are(made, list(objects.forms), objects), objects.joined)
    boxes = ndimage.find_objects(made + 1, max_label=len(objects.value))
    for number, form in objects.forms.items():
        if boxes[number] is not None:
            excess += _excess(made[boxes[number]] == number, form)
    return excess


def _excess(mask: np.ndarray, form: Form) -> int:
    """Loose parts; those by faces count where there was one, for what hangs together by corners has them anyway."""
    corners, faces = (ndimage.label(mask, s)[1] for s in (CORNERS, FACES))
    return max(0, corners - form.parts) + (max(0, faces - 1) if form.by_faces == 1 else 0)


def _restore(made: np.ndarray, number: int, cost: Cost, whole: Box) -> None:
    """An object that no voxel was left of gets the one where its share is the largest, unless it left the volume."""
    found = cost(number, whole)
    if found.min() < 1:
        made[np.unravel_index(found.argmin(), found.shape)] = number


def _part_from_siblings(made: np.ndarray, number: int, objects: Objects, box: Box) -> None:
    """Where an object came to touch another part of its label, its voxels there become what is nearest beside them."""
    part = made[box]
    siblings, own = _siblings(part, number, objects), part == number
    if not siblings.any():
        return
    touching = own & ndimage.binary_dilation(siblings, CORNERS)
    beside = ~(own | siblings)
    if touching.any() and touching.sum() < own.sum() and beside.any():
        nearest = ndimage.distance_transform_edt(~beside, return_distances=False, return_indices=True)
        part[touching] = part[tuple(nearest[:, touching])]


def _siblings(part: np.ndarray, number: int, objects: Objects) -> np.ndarray:
    return (objects.value[part] == objects.value[number]) & (part != number)


def _join(
    made: np.ndarray, numbers: list[int], form: Form, objects: Objects, cost: Cost, box: Box, taken: float
) -> None:
    """Parts that came loose are joined, the smallest first, along the cheapest way."""
    for structure, most in ((CORNERS, form.parts), (FACES, form.by_faces)):
        for _ in range(JOINS):  # two small parts may have been joined to each other
            found, count = ndimage.label(_are(made[box], numbers, objects), structure)
            if count <= most:
                break
            smallest = np.argsort(np.bincount(found.ravel())[1:], kind="stable")[: count - most]
            boxes = ndimage.find_objects(found)
            for k in smallest.tolist():
                _lead(made, found, k + 1, boxes[k], numbers, objects, cost, box, taken)


def _lead(
    made: np.ndarray,
    found: np.ndarray,
    k: int,
    at: Box,
    numbers: list[int],
    objects: Objects,
    cost: Cost,
    box: Box,
    taken: float,
) -> None:
    """The cheapest way of faces from part ``k`` to any other, looked for near it first."""
    for reach in (*REACHES, max(found.shape)):
        near = tuple(
            slice(max(b.start - reach, 0), min(b.stop + reach, n)) for b, n in zip(at, found.shape, strict=True)
        )
        other = (found[near] > 0) & (found[near] != k)
        if other.any():
            break
    place = tuple(slice(b.start + w.start, b.start + w.stop) for b, w in zip(box, near, strict=True))
    part, start = made[place], np.argwhere(found[near] == k)
    number = int(part[tuple(start[0])])
    price = cost(number, place) + 0.01
    price += taken * (_are(part, list(objects.forms), objects) & ~_are(part, numbers, objects))
    price += TOUCHED * ndimage.binary_dilation(_siblings(part, number, objects), CORNERS)
    price[found[near] > 0] = 1e-3
    way = MCP(price, fully_connected=False)
    costs, _ = way.find_costs(start)
    end = np.unravel_index(np.where(other, costs, np.inf).argmin(), other.shape)
    path = tuple(np.array(way.traceback(end)).T)
    part[path] = np.where(found[near][path] == 0, number, part[path])


def _are(part: np.ndarray, numbers: Sequence[int], objects: Objects) -> np.ndarray:
    """Where one of the objects is."""
    table = np.zeros(len(objects.value), bool)
    table[list(numbers)] = True
    return table[part]


def _close(made: np.ndarray, number: int, form: Form, objects: Objects, cost: Cost, box: Box) -> None:
    """New cavities are filled, the smallest first; walls that let a cavity out are closed, where either can be."""
    if form.cavities > MOST_CAVITIES:
        return
    part = made[box]
    for structure, wanted in ((FACES, form.cavities), (CORNERS, form.tight)):
        found, count = _cavities(part == number, structure)
        if count > wanted:
            _fill(part, number, found, count - wanted, objects)
        elif count < wanted:
            _mend_wall(part, number, structure, wanted, cost(number, box))


def _cavities(mask: np.ndarray, structure: np.ndarray) -> tuple[np.ndarray, int]:
    """(X, Y, Z) numbers of the cavities, 0 elsewhere, and how many there are."""
    found, _ = ndimage.label(np.pad(~mask, 1, constant_values=True), structure)
    found[found == found[0, 0, 0]] = 0
    inside = found[1:-1, 1:-1, 1:-1]
    values, dense = np.unique(inside, return_inverse=True)
    dense = dense.reshape(inside.shape) + (0 if values[0] == 0 else 1)
    return dense, int(dense.max())


def _fill(part: np.ndarray, number: int, found: np.ndarray, excess: int, objects: Objects) -> None:
    sizes = np.bincount(found.ravel())[1:]
    protected = _are(part, list(objects.forms), objects) & (part != number)
    for cavity in (np.argsort(sizes, kind="stable") + 1).tolist():
        inside = found == cavity
        if excess and not protected[inside].any():
            part[inside] = number
            excess -= 1


def _mend_wall(part: np.ndarray, number: int, structure: np.ndarray, wanted: int, price: np.ndarray) -> None:
    """Close the holes of a wall: thickened until it holds its cavities, of which only what parts them is then kept."""
    own = part == number
    for limit in THICKER:
        found, count = _cavities(own | (price < limit), structure)
        if count < wanted:
            continue
        largest = np.argsort(-np.bincount(found.ravel())[1:], kind="stable")[:wanted] + 1
        markers = np.pad(np.where(np.isin(found, largest), found + 1, 0), 1, constant_values=1)
        share = np.pad(1 - price, 1, constant_values=-1.0)  # flooded where it is least, so that the line is the ridge
        flooded = watershed(share, markers, structure, mask=np.pad(~own, 1, constant_values=True), watershed_line=True)
        part[(flooded[1:-1, 1:-1, 1:-1] == 0) & ~own] = number
        return


def _wider(box: Box, shape: tuple[int, ...]) -> Box:
    return tuple(slice(max(b.start - 2, 0), min(b.stop + 2, n)) for b, n in zip(box, shape, strict=True))
