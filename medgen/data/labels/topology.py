"""Preserve the topology (connected components and cavities) of label maps that are deformed or interpolated.

A smooth deformation preserves the topology of every structure, but rounding to voxels does not: thin parts break,
corners detach, narrow gaps close. Therefore each connected component of a structure is moved as a separate object. If
its topology changed, it is repaired with the voxels of the lowest cost: those where its interpolated weight is largest
after that of the chosen label.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from skimage.graph import MCP
from skimage.segmentation import watershed

FACES, CORNERS = ndimage.generate_binary_structure(3, 1), np.ones((3, 3, 3), bool)
MOST_PARTS = 32  # largest components of a label that become objects; smaller ones count as noise
MOST_CAVITIES = 16  # of an object; more cavities count as texture and are not repaired
ROUNDS, JOINS = 5, 20  # maximum iterations over all objects, and over the fragments of one
REACHES = (3, 8, 20)  # search distances (voxels) from a fragment to the next one
# Extra cost of voxels of another object, and of voxels that touch another component of the same label.
TAKEN, TOUCHED = 2.0, 10.0
THICKER = (0.6, 0.7, 0.8, 0.9, 0.95, 0.99)  # cost limits, in this order, for voxels that may close a hole in a wall

Box = tuple[slice, ...]
Cost = Callable[[int, Box], np.ndarray]  # object number, box → cost of each voxel in the box, at least 0


@dataclass(frozen=True)
class Topology:
    """Topology of a mask.

    parts     connected components, 26-connected (corners)
    by_faces  connected components, 6-connected (faces)
    cavities  components of the enclosed background, 6-connected
    tight     components of the enclosed background, 26-connected
    """

    parts: int
    by_faces: int
    cavities: int
    tight: int


@dataclass(frozen=True)
class Objects:
    """Label map divided into objects.

    numbers  (X, Y, Z) object number of each voxel
    value    label value of each object number
    forms    object number → topology, for the objects to preserve
    joined   topology of all preserved objects together
    """

    numbers: np.ndarray
    value: np.ndarray
    forms: dict[int, Topology]
    joined: Topology


def topology_of(mask: np.ndarray) -> Topology:
    """Return the topology of a mask (X, Y, Z), bool; the region beyond the volume counts as background."""
    hollow = np.pad(~mask, 1, constant_values=True)
    counts = [ndimage.label(v, s)[1] for v, s in ((mask, CORNERS), (mask, FACES), (hollow, FACES), (hollow, CORNERS))]
    return Topology(counts[0], counts[1], counts[2] - 1, counts[3] - 1)


def objects_of(labels: np.ndarray, keep: Sequence[float]) -> Objects:
    """Make each connected component of the values ``keep`` an object; each other value stays one object."""
    values = np.unique(labels)
    numbers, value = np.searchsorted(values, labels).astype(np.int32), list(values)
    forms: dict[int, Topology] = {}
    for k in keep:
        parts, _ = ndimage.label(labels == k, CORNERS)
        sizes = np.bincount(parts.ravel())
        sizes[0] = 0
        boxes = ndimage.find_objects(parts)
        for part in np.argsort(-sizes, kind="stable")[: min(MOST_PARTS, np.count_nonzero(sizes))].tolist():
            mask = parts[boxes[part - 1]] == part
            numbers[boxes[part - 1]][mask] = len(value)
            forms[len(value)] = topology_of(mask)
            value.append(k)
    return Objects(numbers, np.asarray(value, labels.dtype), forms, topology_of(np.isin(labels, list(keep))))


def objects_between(
    a: np.ndarray, b: np.ndarray, made: np.ndarray, values: np.ndarray, keep: Sequence[float]
) -> Objects:
    """Make the structures of an interpolated map objects, with topology limits from the maps ``a`` and ``b``.

    A structure that vanished in the interpolation is not restored: its positions in the two maps do not overlap.

    Args:
        a, b: label maps (X, Y, Z).
        made: interpolated map, as indices into ``values``.
        values: label values.
        keep: values whose topology is preserved.
    """
    forms: dict[int, Topology] = {}
    for number, value in enumerate(values):
        if value in keep and (made == number).any():
            forms[number] = _limited(topology_of(made == number), topology_of(a == value), topology_of(b == value))
    kept = list(forms)
    together = [topology_of(np.isin(v, values[kept])) for v in (a, b)]
    return Objects(made, values, forms, _limited(topology_of(np.isin(made, kept)), *together))


def _limited(form: Topology, a: Topology, b: Topology) -> Topology:
    """Limit a topology: at most as many components as in a or b, and a number of cavities between those of a and b."""
    low, high = ([pick(x, y) for x, y in ((a.cavities, b.cavities), (a.tight, b.tight))] for pick in (min, max))
    cavities, tight = np.clip((form.cavities, form.tight), low, high).tolist()
    return Topology(max(a.parts, b.parts), max(a.by_faces, b.by_faces), cavities, tight)


def repair_topology(made: np.ndarray, objects: Objects, cost: Cost) -> tuple[np.ndarray, int]:
    """Repair object numbers (X, Y, Z) after a change; return them and the number of fragments that remain detached."""
    made = made.copy()
    whole = tuple(slice(0, n) for n in made.shape)
    kept = list(objects.forms)
    fragments = 0
    for n in range(ROUNDS):
        # ``taken`` grows, so that two objects do not take the same voxels from each other in turn.
        before, taken = made.copy(), TAKEN * 4**n
        boxes = ndimage.find_objects(made + 1, max_label=len(objects.value))
        for number, form in objects.forms.items():
            found = boxes[number]
            if found is None:
                _restore(made, number, cost, whole)
                continue
            box = _enlarged(found, made.shape)
            if n == 0:  # only once, because later it would undo paths that join fragments beside a sibling
                _separate_from_siblings(made, number, objects, box)
            _join(made, [number], form, objects, cost, box, taken)
            if n == 0:  # only once: components have priority over cavities
                _close(made, number, form, objects, cost, box)
        _join(made, kept, objects.joined, objects, cost, whole, taken)
        fragments = _count_fragments(made, objects)
        if not fragments or np.array_equal(before, made):
            break
    return made, fragments


def _count_fragments(made: np.ndarray, objects: Objects) -> int:
    """Return the number of excess components of all objects, see ``_excess``."""
    excess = _excess(_mask_of(made, list(objects.forms), objects), objects.joined)
    boxes = ndimage.find_objects(made + 1, max_label=len(objects.value))
    for number, form in objects.forms.items():
        if boxes[number] is not None:
            excess += _excess(made[boxes[number]] == number, form)
    return excess


def _excess(mask: np.ndarray, form: Topology) -> int:
    """Return the number of excess components of a mask.

    6-connected ones count only if there was one before; structures that are connected by corners have several anyway.
    """
    corners, faces = (ndimage.label(mask, s)[1] for s in (CORNERS, FACES))
    return max(0, corners - form.parts) + (max(0, faces - 1) if form.by_faces == 1 else 0)


def _restore(made: np.ndarray, number: int, cost: Cost, whole: Box) -> None:
    """Give an object without voxels the one with the lowest cost, unless the object left the volume."""
    found = cost(number, whole)
    if found.min() < 1:
        made[np.unravel_index(found.argmin(), found.shape)] = number


def _separate_from_siblings(made: np.ndarray, number: int, objects: Objects, box: Box) -> None:
    """Separate an object from other components of its label: touching voxels get the nearest other label."""
    part = made[box]
    siblings, own = _siblings(part, number, objects), part == number
    if not siblings.any():
        return
    touching = own & ndimage.binary_dilation(siblings, CORNERS)
    outside = ~(own | siblings)
    if touching.any() and touching.sum() < own.sum() and outside.any():
        nearest = ndimage.distance_transform_edt(~outside, return_distances=False, return_indices=True)
        part[touching] = part[tuple(nearest[:, touching])]


def _siblings(part: np.ndarray, number: int, objects: Objects) -> np.ndarray:
    return (objects.value[part] == objects.value[number]) & (part != number)


def _join(
    made: np.ndarray, numbers: list[int], form: Topology, objects: Objects, cost: Cost, box: Box, taken: float
) -> None:
    """Join detached fragments, smallest first, along the path of lowest cost."""
    for structure, most in ((CORNERS, form.parts), (FACES, form.by_faces)):
        for _ in range(JOINS):  # repeated, because two fragments may have been joined to each other
            found, count = ndimage.label(_mask_of(made[box], numbers, objects), structure)
            if count <= most:
                break
            smallest = np.argsort(np.bincount(found.ravel())[1:], kind="stable")[: count - most]
            boxes = ndimage.find_objects(found)
            for k in smallest.tolist():
                _connect(made, found, k + 1, boxes[k], numbers, objects, cost, box, taken)


def _connect(
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
    """Add the 6-connected path of lowest cost from fragment ``k`` to any other, searching nearby first."""
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
    voxel_cost = cost(number, place) + 0.01
    voxel_cost += taken * (_mask_of(part, list(objects.forms), objects) & ~_mask_of(part, numbers, objects))
    voxel_cost += TOUCHED * ndimage.binary_dilation(_siblings(part, number, objects), CORNERS)
    voxel_cost[found[near] > 0] = 1e-3
    path_finder = MCP(voxel_cost, fully_connected=False)
    costs, _ = path_finder.find_costs(start)
    end = np.unravel_index(np.where(other, costs, np.inf).argmin(), other.shape)
    path = tuple(np.array(path_finder.traceback(end)).T)
    part[path] = np.where(found[near][path] == 0, number, part[path])


def _mask_of(part: np.ndarray, numbers: Sequence[int], objects: Objects) -> np.ndarray:
    """Return the mask of the voxels that belong to one of the objects ``numbers``."""
    table = np.zeros(len(objects.value), bool)
    table[list(numbers)] = True
    return table[part]


def _close(made: np.ndarray, number: int, form: Topology, objects: Objects, cost: Cost, box: Box) -> None:
    """Fill new cavities, smallest first, and close holes in the walls of lost cavities, where possible."""
    if form.cavities > MOST_CAVITIES:
        return
    part = made[box]
    for structure, expected in ((FACES, form.cavities), (CORNERS, form.tight)):
        found, count = _cavities(part == number, structure)
        if count > expected:
            _fill(part, number, found, count - expected, objects)
        elif count < expected:
            _close_wall(part, number, structure, expected, cost(number, box))


def _cavities(mask: np.ndarray, structure: np.ndarray) -> tuple[np.ndarray, int]:
    """Return the cavity number of each voxel (X, Y, Z), 0 elsewhere, and the number of cavities."""
    found, _ = ndimage.label(np.pad(~mask, 1, constant_values=True), structure)
    found[found == found[0, 0, 0]] = 0
    inside = found[1:-1, 1:-1, 1:-1]
    values, dense = np.unique(inside, return_inverse=True)
    dense = dense.reshape(inside.shape) + (0 if values[0] == 0 else 1)
    return dense, int(dense.max())


def _fill(part: np.ndarray, number: int, found: np.ndarray, excess: int, objects: Objects) -> None:
    sizes = np.bincount(found.ravel())[1:]
    protected = _mask_of(part, list(objects.forms), objects) & (part != number)
    for cavity in (np.argsort(sizes, kind="stable") + 1).tolist():
        inside = found == cavity
        if excess and not protected[inside].any():
            part[inside] = number
            excess -= 1


def _close_wall(part: np.ndarray, number: int, structure: np.ndarray, expected: int, voxel_cost: np.ndarray) -> None:
    """Close holes in a wall: thicken it until it encloses its cavities, then keep only the separating voxels."""
    own = part == number
    for limit in THICKER:
        found, count = _cavities(own | (voxel_cost < limit), structure)
        if count < expected:
            continue
        largest = np.argsort(-np.bincount(found.ravel())[1:], kind="stable")[:expected] + 1
        markers = np.pad(np.where(np.isin(found, largest), found + 1, 0), 1, constant_values=1)
        # Watershed lines follow the ridges, where the weight is largest.
        weight = np.pad(1 - voxel_cost, 1, constant_values=-1.0)
        flooded = watershed(weight, markers, structure, mask=np.pad(~own, 1, constant_values=True), watershed_line=True)
        part[(flooded[1:-1, 1:-1, 1:-1] == 0) & ~own] = number
        return


def _enlarged(box: Box, shape: tuple[int, ...]) -> Box:
    return tuple(slice(max(b.start - 2, 0), min(b.stop + 2, n)) for b, n in zip(box, shape, strict=True))
