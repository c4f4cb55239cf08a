"""Pairs for training from unpaired CTs and their label maps: contrast phases simulated on non-contrast CTs, with known
truth, and the unenhanced twins of contrast CTs."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medgen import __version__
from medgen.contrast.enhancement import PHASES, uptake_of
from medgen.contrast.label_names import names_of_labels
from medgen.contrast.simulate import simulate
from medgen.contrast.unenhanced import unenhanced
from medgen.data.body_mask import looks_like_hu
from medgen.data.cohort.patients import PROVENANCE
from medgen.errors import InputError, reason
from medgen.io.atomic import write_text
from medgen.io.claim import check_output_is_not_input, claimed
from medgen.io.grids import same_grid
from medgen.io.hashes import sha256
from medgen.io.paths import case_name, require_path
from medgen.io.read import find_volumes, read_volume
from medgen.io.volume import Volume, to_canonical
from medgen.io.write import write_volume


@dataclass
class Simulated:
    """Result of one case: the phases that were written, or the error."""

    case: str
    phases: tuple[str, ...] = ()
    unchanged: tuple[str, ...] = ()  # labels whose structure takes up no contrast medium, or is not known
    unknown: dict[str, Any] | None = None  # with ``reverse``: the record of `unenhanced`
    error: str | None = None


def simulate_cohort(
    images: Path,
    labels: Path,
    out: Path,
    *,
    phases: Sequence[str] = PHASES,
    table: Path | str | None = None,
    seed: int = 0,
    excreted: bool = False,
    oral: bool = False,
    reverse: bool = False,
    overwrite: bool = False,
    done: Callable[[Simulated, int, int], None] = lambda *_: None,
) -> list[Simulated]:
    """Write ``source/CASE_PHASE.nii.gz`` (with contrast medium), ``target/`` (the CT) and ``labels/`` for each CT.

    Args:
        images: a CT in HU without contrast medium, or a folder of them; with ``reverse``, with contrast medium.
        labels: the label map on the same grid, or a folder of label maps with the names of the images.
        out: cohort folder for ``data.root``; ``provenance.json`` keeps all phases of a patient on one side of a split.
        phases: of `PHASES`.
        table: names of the label values, see `label_names.names_of_labels`.
        seed: of all draws; a case depends on the seed and its name alone.
        excreted, oral: see `simulate`.
        reverse: the images are CTs with contrast medium; write ``source/CASE.nii.gz`` (the CT itself) and ``target/``
            (its twin without contrast medium, see `unenhanced`) instead.
        overwrite: replace the result of another call.

    Returns:
        One entry per image. A case that fails stops no other.

    Raises:
        InputError: unknown phase, no images, or a folder that cannot be used.
    """
    for phase in phases:
        if phase not in PHASES:
            raise InputError("phase-unknown", f"phase {phase!r} is unknown; choose from {', '.join(PHASES)}")
    pairs = _pairs(images, labels)
    check_output_is_not_input(out, images, labels)
    settings = {"command": "simulate-contrast", "images": images, "labels": labels, "reverse": reverse}
    if not reverse:
        settings |= {"phases": list(phases), "seed": seed, "excreted": excreted, "oral": oral}
    results: list[Simulated] = []
    records: dict[str, Any] = {}
    with claimed(out, settings, overwrite=overwrite):
        for number, (case, image, label_map) in enumerate(pairs, start=1):
            result = Simulated(case)
            try:
                ct, values, present = _read(image, label_map, table)
                _add_names(out / "labels.json", label_map, {name: value for value, name in present.items()})
                result.unchanged = tuple(name for name in present.values() if uptake_of(name) is None)
                if reverse:
                    twin = unenhanced(ct.data, values, present, ct.spacing)
                    pairs_of = {case: (ct.data, twin.plain, {"name": "unenhanced", **twin.record})}
                    result.unknown = twin.record
                else:
                    pairs_of = _simulated(case, ct, values, present, phases, seed, excreted, oral)
                    result.phases = tuple(phases)
                for name, (source, target, operation) in pairs_of.items():
                    records[name] = _written(out, name, case, source, target, values, ct.affine, operation)
            except (InputError, ArithmeticError, MemoryError) as error:
                result.error = reason(error)
            results.append(result)
            write_text(
                out / PROVENANCE,
                json.dumps({"medgen": __version__, "real": records, "synthetic": {}}, indent=1) + "\n",
            )
            done(result, number, len(pairs))
    return results


Pairs = dict[str, tuple[np.ndarray, np.ndarray, dict[str, Any]]]  # name → source, target (HU), operation


def _read(image: Path, label_map: Path, table: Path | str | None) -> tuple[Volume, np.ndarray, dict[int, str]]:
    """CT and label values in canonical axes, and the names of the values that occur. Raises InputError."""
    ct, labels = to_canonical(read_volume(image)), to_canonical(read_volume(label_map))
    if not looks_like_hu(ct.data):
        raise InputError("metric-not-hu", f"{image} is not CT in HU; contrast medium is added or removed in HU only")
    if not same_grid(ct.geometry, labels.geometry):
        raise InputError("pair-grid-differs", f"{label_map} is on another grid than {image}; resample it")
    values = np.rint(labels.data).astype(np.int32)
    names = names_of_labels(label_map, table)
    present = {int(value): names[int(value)] for value in np.unique(values) if int(value) in names}
    if not present:
        raise InputError("labels-table-foreign", f"{label_map} holds none of the values of its table of names")
    return ct, values, present


def _simulated(
    case: str,
    ct: Volume,
    values: np.ndarray,
    names: dict[int, str],
    phases: Sequence[str],
    seed: int,
    excreted: bool,
    oral: bool,
) -> Pairs:
    """A pair for each phase."""
    case_seed = int.from_bytes(case.encode()[-8:].rjust(8, b"\0"), "little") ^ seed
    found: Pairs = {}
    for phase in phases:
        simulation = simulate(ct.data, values, names, ct.spacing, phase, abs(case_seed), excreted=excreted, oral=oral)
        operation = {"name": "simulate-contrast", **simulation.record}
        found[f"{case}_{phase}"] = simulation.contrast, simulation.contrast - simulation.iodine, operation
    return found


def _written(
    out: Path,
    name: str,
    case: str,
    source: np.ndarray,
    target: np.ndarray,
    labels: np.ndarray,
    affine: np.ndarray,
    operation: dict[str, Any],
) -> dict[str, Any]:
    """Write a pair with its labels; returns its record."""
    for part, data in (("source", source), ("target", target), ("labels", labels)):
        kind = np.uint8 if part == "labels" and labels.max() < 256 else np.int16
        write_volume(out / part / f"{name}.nii.gz", Volume(np.rint(data).astype(kind), affine))
    files = [out / part / f"{name}.nii.gz" for part in ("source", "target", "labels")]
    return {
        "patient": case,
        "source": case,
        "operations": [operation],
        "files": {str(f.relative_to(out)): sha256([f]) for f in files},
    }


def _add_names(table: Path, label_map: Path, names: dict[str, int]) -> None:
    """Add the structures of a case to the cohort's table. Raises InputError if it has a name under another value."""
    known: dict[str, int] = json.loads(table.read_text()) if table.is_file() else {}
    differing = [name for name, value in names.items() if known.get(name, value) != value]
    if differing:
        raise InputError(
            "labels-table-differs",
            f"{label_map}: {differing[0]} is {names[differing[0]]} here and {known[differing[0]]} in the cohort's "
            "other label maps; give all of them one table",
        )
    write_text(table, json.dumps(known | names, indent=1) + "\n")


def _pairs(images: Path, labels: Path) -> list[tuple[str, Path, Path]]:
    """Case, image and label map; by name where both are folders. Raises InputError."""
    images, labels = require_path(images), require_path(labels)
    if images.is_file() and labels.is_file():
        return [(case_name(images), images, labels)]
    found = {case_name(path): path for path in (find_volumes(images) if images.is_dir() else [images])}
    maps = {case_name(path): path for path in (find_volumes(labels) if labels.is_dir() else [labels])}
    if not found:
        raise InputError("folder-no-volumes", f"{images} holds no volumes")
    if missing := sorted(found.keys() - maps.keys()):
        raise InputError("pair-partner-missing", f"{labels} has no label map for {', '.join(missing[:5])}")
    return [(case, found[case], maps[case]) for case in sorted(found)]
